/**
 * The shared log on NATS JetStream. A cluster is a stream with its description, and for each shard a stream with its
 * state (jetstream-state.ts), a chain of streams with its records (jetstream-chain.ts), and streams with snapshots
 * (jetstream-snapshots.ts).
 *
 * A claim first appends its record, which fences the appends of earlier owners, and then writes its epoch to the state,
 * which fences their beats and snapshots; it is reported after both. A claimer that ends in between has fenced the
 * appends. Nothing follows its record then, except the record of another claim: so the last record of the log tells
 * whether the state is behind.
 */
import { typed } from "../runtime/invocation.ts";
import { Chain } from "./jetstream-chain.ts";
import { StreamMissing } from "./jetstream-errors.ts";
import { clusterStream, clusterSubject, kindOf, ShardNames } from "./jetstream-names.ts";
import { Snapshots } from "./jetstream-snapshots.ts";
import { type ShardRecord, ShardRecords } from "./jetstream-state.ts";
import { Streams } from "./jetstream-streams.ts";
import { type NatsUrl, parseNatsUrl } from "./nats-url.ts";
import { type AppendResult, ClusterError, type OwnerInfo, type SharedLog } from "./shared-log.ts";
import type { ShardState, SnapshotLabel } from "./shared-log.ts";

/** Version of everything that is stored. */
const FORMAT = 1;
/** A larger stream of the log is closed; a whole stream is the least that `trim` deletes. */
const STREAM_BYTES_MAX = 64 << 20;
/** Copies of a stream when the servers are a cluster. */
const REPLICAS = 3;

/** A new leader is there within this time after the death of the old one. */
const ELECTION_MS = 12_000;
const REPEAT_MS = 200;
/** The answers for that many shards keep the event loop busy for about a millisecond. */
const STATES_AT_ONCE = 8;

interface ClusterRecord {
  format: number;
  shards: number;
  replicas: number;
  id: string;
  /** The processes of the cluster prove to each other that they know it. */
  secret: string;
}

/** For tests. */
export interface JetStreamOptions {
  streamBytesMax?: number;
  /** The server refuses to delete single messages and to purge streams. */
  isProtected?: boolean;
}

interface Shard {
  records: ShardRecords;
  chain: Chain;
  snapshots: Snapshots;
}

/** Creates a cluster. An interrupted call may be repeated: the description of the cluster is written last. */
export async function initJetStream(url: string, shards: number, options: JetStreamOptions = {}): Promise<void> {
  const address = parseNatsUrl(url);
  const { cluster } = address;
  const streams = await Streams.connect(address, options.isProtected);
  try {
    const found = await findCluster(streams, cluster);
    if (found !== null)
      throw new ClusterError(
        `cannot create the cluster: NATS has one named ${cluster} already (shards: ${found.shards}); ` +
          "use it, or write another name after the last / of the URL",
      );
    streams.replicas = streams.isClustered ? REPLICAS : 1;
    await createStreams(streams, address, shards, options);
    const secret = Buffer.from(crypto.getRandomValues(new Uint8Array(32))).toString("base64");
    const { replicas } = streams;
    const record: ClusterRecord = { format: FORMAT, shards, replicas, id: crypto.randomUUID(), secret };
    const data = Buffer.from(JSON.stringify(record));
    const { stored } = await streams.publish(clusterStream(cluster), clusterSubject(cluster), 0, data);
    if (!stored)
      throw new ClusterError(`cannot create the cluster: another process created ${cluster} just now; use it`);
  } catch (error) {
    throw error instanceof ClusterError
      ? error
      : new ClusterError(`cannot create the cluster: ${(error as Error).message}; repeat the command`);
  } finally {
    await streams.close();
  }
}

export async function openJetStream(url: string, options: JetStreamOptions = {}): Promise<SharedLog> {
  const address = parseNatsUrl(url);
  const streams = await Streams.connect(address, options.isProtected);
  try {
    const found = await findCluster(streams, address.cluster);
    if (found === null)
      throw new ClusterError(
        `cannot open the cluster: NATS has none with the name ${address.cluster}; ` +
          `create it with ${typed("cluster", "init <url>")}, or correct the URL`,
      );
    streams.replicas = found.replicas;
    return new JetStreamLog(streams, address.cluster, found, options);
  } catch (error) {
    await streams.close();
    throw error instanceof ClusterError
      ? error
      : new ClusterError(`cannot open the cluster: ${(error as Error).message}; repair NATS and try again`);
  }
}

class JetStreamLog implements SharedLog {
  readonly engine: string;
  readonly shards: number;
  readonly secret: Uint8Array;
  readonly recordBytesMax: number;
  readonly warnings: readonly string[];
  readonly #streams: Streams;
  readonly #shards: Shard[];

  constructor(streams: Streams, cluster: string, record: ClusterRecord, options: JetStreamOptions) {
    const { shards, replicas, secret } = record;
    this.engine = streams.engine;
    this.shards = shards;
    this.secret = Buffer.from(secret, "base64");
    this.recordBytesMax = streams.recordBytesMax;
    this.warnings = [...streams.warnings, ...(replicas === 1 ? [ONE_COPY] : [])];
    this.#streams = streams;
    this.#shards = Array.from({ length: shards }, (_, shard) => openShard(streams, cluster, shard, options));
  }

  async state(shard: number): Promise<ShardState> {
    const { chain, records } = this.#shard(shard);
    for (let before = -1; ;) {
      // In this order: a stream is closed by an owner only, whose epoch is in the state by then.
      const { head, last } = await chain.tail();
      const { epoch, owner, beat, snapshot } = await records.read();
      if (epoch > head) {
        // A claim in between has appended its record: the end of the log is read again.
        if (head === before) throw new Error(`the log ends with record ${head}, before record ${epoch} of its owner`);
        before = head;
        continue;
      }
      const state: ShardState = { head, epoch, owner, beat, snapshot: snapshot?.sequence ?? 0 };
      if (last === null || kindOf(last.subject) !== "opened" || head <= epoch) return state;
      return { ...state, epoch: head, owner: JSON.parse(last.info) as OwnerInfo };
    }
  }

  async states(): Promise<ShardState[]> {
    const states: ShardState[] = [];
    while (states.length < this.shards) {
      const shards = this.#shards.slice(states.length, states.length + STATES_AT_ONCE);
      states.push(...(await Promise.all(shards.map((_, i) => this.state(states.length + i)))));
    }
    return states;
  }

  append(shard: number, expected: number, record: Uint8Array): Promise<AppendResult> {
    return this.#shard(shard).chain.append("turn", expected, record);
  }

  async claim(shard: number, expected: number, record: Uint8Array, info: OwnerInfo): Promise<AppendResult> {
    const { chain, records } = this.#shard(shard);
    const result = await chain.append("opened", expected, record, JSON.stringify(info));
    if (!result.stored && !(await isStored(chain, expected + 1, result.head, record))) return result;
    const epoch = expected + 1;
    await records.change((state) =>
      state.epoch < epoch ? { ...state, epoch, owner: info, beat: state.beat + 1 } : null,
    );
    return result;
  }

  async beat(shard: number, epoch: number, info: OwnerInfo): Promise<boolean> {
    const update = (state: ShardRecord) =>
      state.epoch === epoch && state.owner !== null ? { ...state, owner: info, beat: state.beat + 1 } : null;
    return (await this.#shard(shard).records.change(update)) !== null;
  }

  read(shard: number, from: number, upTo: number): AsyncIterable<{ sequence: number; record: Uint8Array }> {
    return this.#shard(shard).chain.read(from, upTo);
  }

  publishSnapshot(shard: number, label: SnapshotLabel, parts: AsyncIterable<Uint8Array>): Promise<boolean> {
    return this.#shard(shard).snapshots.publish(label, parts);
  }

  snapshot(shard: number): Promise<{ label: SnapshotLabel; parts: AsyncIterable<Uint8Array> } | null> {
    return this.#shard(shard).snapshots.current();
  }

  async trim(shard: number): Promise<void> {
    const { chain, records, snapshots } = this.#shard(shard);
    const { first, snapshot } = await records.read();
    if (snapshot === null) return;
    await chain.trim(first);
    await snapshots.trim(snapshot);
  }

  close(): Promise<void> {
    return this.#streams.close();
  }

  #shard(shard: number): Shard {
    const found = this.#shards[shard];
    if (found === undefined)
      throw new ClusterError(`the cluster has ${this.shards} shards, and none with number ${shard}`);
    return found;
  }
}

const ONE_COPY =
  "NATS keeps one copy of the log: the server is not part of a cluster; a lost disk loses all messages; " +
  "create the cluster on three servers";

/** The record of a claim was stored by an earlier call whose outcome was unknown: then it must be finished. */
async function isStored(chain: Chain, sequence: number, head: number, record: Uint8Array): Promise<boolean> {
  if (head < sequence) return false;
  try {
    for await (const found of chain.read(sequence, sequence)) return Buffer.compare(found.record, record) === 0;
  } catch (error) {
    if (!(error instanceof ClusterError)) throw error; // It was trimmed, long after another claim.
  }
  return false;
}

async function createStreams(
  streams: Streams,
  { cluster }: NatsUrl,
  shards: number,
  options: JetStreamOptions,
): Promise<void> {
  await checkPermissions(streams, cluster);
  await streams.create(clusterStream(cluster), clusterSubject(cluster));
  for (let shard = 0; shard < shards; shard++) {
    const { records, chain } = openShard(streams, cluster, shard, options);
    await records.init(() => chain.create(0));
  }
}

/** Creates nothing when the user may create streams, but not write to them. */
async function checkPermissions(streams: Streams, cluster: string): Promise<void> {
  const names = new ShardNames(cluster, 0);
  const log = names.newLog(0);
  const snapshot = names.newSnapshot(0);
  await Promise.all([
    streams.checkPublish(clusterStream(cluster), clusterSubject(cluster)),
    streams.checkPublish(names.state, names.stateSubject),
    streams.checkPublish(log, names.logSubject(log, "turn")),
    streams.checkPublish(snapshot, names.snapshotSubject(snapshot)),
  ]);
}

function openShard(streams: Streams, cluster: string, shard: number, options: JetStreamOptions): Shard {
  const names = new ShardNames(cluster, shard);
  const records = new ShardRecords(streams, names);
  const chain = new Chain(streams, names, records, options.streamBytesMax ?? STREAM_BYTES_MAX);
  return { records, chain, snapshots: new Snapshots(streams, names, records, chain) };
}

/** As `readCluster`, with more patience: calls are lost while the servers elect a leader. */
async function findCluster(streams: Streams, cluster: string): Promise<ClusterRecord | null> {
  for (const end = performance.now() + ELECTION_MS; ;) {
    try {
      await streams.checkJetStream();
      return await readCluster(streams, cluster);
    } catch (error) {
      if (error instanceof ClusterError || performance.now() > end) throw error;
      await Bun.sleep(REPEAT_MS);
    }
  }
}

/** The description of a cluster; null when there is none. */
async function readCluster(streams: Streams, cluster: string): Promise<ClusterRecord | null> {
  const stream = clusterStream(cluster);
  const foreign = new ClusterError(
    `cannot use the stream ${stream} of NATS: another program wrote to it; ` +
      "write another name of the cluster after the last / of the URL",
  );
  let data: Uint8Array;
  try {
    const message = await streams.get(stream, 1);
    if (message === null) return null;
    if (message.subject !== clusterSubject(cluster)) throw foreign;
    data = message.data;
  } catch (error) {
    if (error instanceof StreamMissing) return null;
    throw error;
  }
  let record: Partial<ClusterRecord>;
  try {
    record = JSON.parse(Buffer.from(data).toString()) as Partial<ClusterRecord>;
  } catch {
    throw foreign;
  }
  if (!Number.isSafeInteger(record.format) || !Number.isSafeInteger(record.shards)) throw foreign;
  if (record.format !== FORMAT)
    throw new ClusterError(
      `cannot open the cluster: its streams have format ${record.format}, and this version reads ${FORMAT}; ` +
        "use the version that wrote them",
    );
  return record as ClusterRecord;
}
