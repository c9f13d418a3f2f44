import {
  type AppendResult,
  ClusterError,
  type OwnerInfo,
  type ShardState,
  type SharedLog,
  type SnapshotLabel,
} from "../../src/cluster/shared-log.ts";

/**
 * What becomes of a write: it is done; it is done and the answer is lost; it is lost; or it is late: the caller receives
 * an error, and the engine executes the write later, perhaps after the caller has repeated it.
 */
export const OUTCOMES = ["done", "answer lost", "lost", "late"] as const;
export type Outcome = (typeof OUTCOMES)[number];
export type Write = "append" | "claim" | "beat" | "publish" | "trim";

interface Snapshot {
  label: SnapshotLabel;
  parts: Uint8Array[];
}

/** What the engine has of one shard. */
class ModelledShard {
  records = new Map<number, Uint8Array>();
  head = 0;
  epoch = 0;
  owner: OwnerInfo | null = null;
  beat = 0;
  snapshot: Snapshot | null = null;

  get state(): ShardState {
    const { head, epoch, owner, beat } = this;
    return { head, epoch, owner: owner && { ...owner }, beat, snapshot: this.snapshot?.label.sequence ?? 0 };
  }

  append(expected: number, record: Uint8Array): AppendResult {
    if (this.head !== expected) return { stored: false, head: this.head };
    this.records.set(++this.head, record);
    return { stored: true };
  }

  claim(expected: number, record: Uint8Array, info: OwnerInfo): AppendResult {
    const result = this.append(expected, record);
    if (result.stored) [this.epoch, this.owner] = [this.head, { ...info }];
    return result;
  }

  signOfLife(epoch: number, info: OwnerInfo): boolean {
    if (epoch !== this.epoch || this.owner === null) return false;
    this.owner = { ...info };
    this.beat++;
    return true;
  }

  publish(snapshot: Snapshot): boolean {
    const { epoch, sequence } = snapshot.label;
    const current = this.snapshot?.label;
    if (current?.epoch === epoch && current.sequence === sequence) return true;
    if (epoch !== this.epoch || sequence <= (current?.sequence ?? 0)) return false;
    this.snapshot = snapshot;
    return true;
  }

  trim(): void {
    for (const sequence of this.records.keys()) {
      if (sequence <= (this.snapshot?.label.sequence ?? 0)) this.records.delete(sequence);
    }
  }
}

/** The engine, which survives the processes. A test may break what it has. */
export class ModelledEngine {
  readonly shards: ModelledShard[];
  readonly secret = crypto.getRandomValues(new Uint8Array(32));

  constructor(shards = 1) {
    this.shards = Array.from({ length: shards }, () => new ModelledShard());
  }

  /** The records of a shard that are not trimmed, by number. */
  records(shard = 0): ReadonlyMap<number, Uint8Array> {
    return this.shards[shard]!.records;
  }

  /** A failover to a standby without the records after `head`. */
  lose(head: number, shard = 0): void {
    const it = this.shards[shard]!;
    for (let sequence = it.head; sequence > head; sequence--) it.records.delete(sequence);
    it.head = head;
  }
}

/**
 * A shared log in memory: the connection of one process to a `ModelledEngine`, and everything that can happen to its
 * calls. It uses no timer: a call proceeds at once, or when the test lets it.
 */
export class ModelledLog implements SharedLog {
  readonly engine = "modelled engine 1";
  readonly warnings = [];
  readonly recordBytesMax: number;
  /** Of a snapshot. */
  readonly partBytesMax: number;
  readonly data: ModelledEngine;
  /** Chooses what becomes of each write. */
  outcome: (write: Write) => Outcome = () => "done";
  /** Every call fails, and nothing is executed. */
  isAway = false;
  #isClosed = false;
  /** Calls of each kind that reached the engine. */
  readonly calls = { append: 0, claim: 0, beat: 0, publish: 0, trim: 0 };
  /** Writes that the engine has received and not executed. */
  readonly #late: (() => unknown)[] = [];
  /** Calls and answers that wait for `resume`; null while nothing has to wait. */
  #waiting: (() => void)[] | null = null;
  /** What reads see, by shard; null while they see the newest. */
  #stale: { state: ShardState; records: Map<number, Uint8Array> }[] | null = null;

  constructor(data = new ModelledEngine(), recordBytesMax = 1 << 20, partBytesMax = recordBytesMax) {
    this.data = data;
    this.recordBytesMax = recordBytesMax;
    this.partBytesMax = partBytesMax;
  }

  get shards(): number {
    return this.data.shards.length;
  }

  get secret(): Uint8Array {
    return this.data.secret;
  }

  /** The engine, or the way to it, stops: calls and answers wait. */
  stop(): void {
    this.#waiting ??= [];
  }

  resume(): void {
    const waiting = this.#waiting ?? [];
    this.#waiting = null;
    for (const go of waiting) go();
  }

  /** Calls and answers that wait. */
  get waiting(): number {
    return this.#waiting?.length ?? 0;
  }

  /** The engine executes the late writes, in their order. */
  executeLate(): void {
    for (const execute of this.#late.splice(0)) execute();
  }

  get late(): number {
    return this.#late.length;
  }

  /** Reads return what the engine has now, whatever is written later, until `readFresh`. */
  readStale(): void {
    this.#stale = this.data.shards.map(({ state, records }) => ({ state, records: new Map(records) }));
  }

  readFresh(): void {
    this.#stale = null;
  }

  async state(shard: number): Promise<ShardState> {
    await this.#travel();
    const { state } = this.#stale?.[shard] ?? this.data.shards[shard]!;
    await this.#travel();
    return state;
  }

  async states(): Promise<ShardState[]> {
    await this.#travel();
    const states = (this.#stale ?? this.data.shards).map(({ state }) => state);
    await this.#travel();
    return states;
  }

  async append(shard: number, expected: number, record: Uint8Array): Promise<AppendResult> {
    const copy = this.#copied(record);
    return this.#write("append", () => this.data.shards[shard]!.append(expected, copy));
  }

  async claim(shard: number, expected: number, record: Uint8Array, info: OwnerInfo): Promise<AppendResult> {
    const copy = this.#copied(record);
    return this.#write("claim", () => this.data.shards[shard]!.claim(expected, copy, info));
  }

  beat(shard: number, epoch: number, info: OwnerInfo): Promise<boolean> {
    return this.#write("beat", () => this.data.shards[shard]!.signOfLife(epoch, info));
  }

  async *read(shard: number, from: number, upTo: number): AsyncIterable<{ sequence: number; record: Uint8Array }> {
    for (let sequence = from; sequence <= upTo; sequence++) {
      await this.#travel();
      const record = (this.#stale?.[shard] ?? this.data.shards[shard]!).records.get(sequence);
      if (record === undefined && this.data.records(shard).has(sequence)) throw new Error("a stale read");
      if (record === undefined) throw new ClusterError(`record ${sequence} is missing`);
      yield { sequence, record: Buffer.from(record) };
    }
  }

  async publishSnapshot(shard: number, label: SnapshotLabel, parts: AsyncIterable<Uint8Array>): Promise<boolean> {
    const copies: Uint8Array[] = [];
    for await (const part of parts) {
      await this.#travel();
      copies.push(this.#copied(part, this.partBytesMax));
    }
    return this.#write("publish", () => this.data.shards[shard]!.publish({ label: { ...label }, parts: copies }));
  }

  async snapshot(shard: number): Promise<{ label: SnapshotLabel; parts: AsyncIterable<Uint8Array> } | null> {
    await this.#travel();
    const snapshot = this.data.shards[shard]!.snapshot;
    if (snapshot === null) return null;
    const travel = (): Promise<void> => this.#travel();
    const { label, parts } = snapshot;
    const read = async function* (): AsyncIterable<Uint8Array> {
      for (const part of parts) {
        await travel();
        yield Buffer.from(part);
      }
    };
    return { label: { ...label }, parts: read() };
  }

  async trim(shard: number): Promise<void> {
    await this.#write("trim", () => this.data.shards[shard]!.trim());
  }

  async close(): Promise<void> {
    this.#isClosed = true;
  }

  /** A call on its way to the engine, or an answer on its way back. */
  async #travel(): Promise<void> {
    if (this.#waiting !== null) await new Promise<void>((resolve) => this.#waiting!.push(resolve));
    if (this.isAway) throw new Error("the engine is away");
    if (this.#isClosed) throw new Error("the log is closed");
  }

  async #write<Result>(write: Write, execute: () => Result): Promise<Result> {
    await this.#travel();
    this.calls[write]++;
    const outcome = this.outcome(write);
    if (outcome === "lost") throw new Error("the connection is lost");
    if (outcome === "late") {
      this.#late.push(execute);
      throw new Error("no answer in time");
    }
    const result = execute();
    await this.#travel();
    if (outcome === "answer lost") throw new Error("the connection is lost after the write");
    return result;
  }

  /** The caller may use its buffer again. */
  #copied(record: Uint8Array, bytesMax = this.recordBytesMax): Buffer {
    if (record.length > bytesMax) throw new ClusterError(`a record of ${record.length} bytes`);
    return Buffer.from(record);
  }
}
