/**
 * The state of a shard: the last message of a small stream, changed by compare. The comparison is that of the stream's
 * last sequence number. That of a subject (Nats-Expected-Last-Subject-Sequence), which would let all shards share one
 * stream, is checked before replication only by clustered servers up to 2.11: two racing writers both succeed there.
 */
import type { ShardNames } from "./jetstream-names.ts";
import type { Streams } from "./jetstream-streams.ts";
import { ClusterError, type OwnerInfo, type SnapshotLabel } from "./shared-log.ts";

export interface SnapshotRecord extends SnapshotLabel {
  stream: string;
  parts: number;
  /** CRC-32 of all parts. */
  checksum: number;
}

export interface ShardRecord {
  /** Of the newest claim that was finished. A claimer that ended before has its epoch in the log only. */
  epoch: number;
  owner: OwnerInfo | null;
  beat: number;
  /** The first stream of the log. All streams that do not begin after it, except itself, may be deleted. */
  first: string;
  snapshot: SnapshotRecord | null;
}

/** Messages that the stream keeps: one would do, the others are for people who look for the cause of something. */
const KEPT = 16;
/** Refusals in a row after which the caller must repeat. */
const ATTEMPTS_MAX = 10;

interface Stored {
  sequence: number;
  record: ShardRecord;
}

export class ShardRecords {
  readonly #streams: Streams;
  readonly #names: ShardNames;
  /** What was last read or written. */
  #last: Stored | null = null;

  constructor(streams: Streams, names: ShardNames) {
    this.#streams = streams;
    this.#names = names;
  }

  /** Creates the stream and its first record, with `newFirst` as the log; nothing happens when it has a record. */
  async init(newFirst: () => Promise<string>): Promise<void> {
    const { state, stateSubject } = this.#names;
    await this.#streams.create(state, stateSubject, { max_msgs: KEPT, discard: "old" });
    if ((await this.#streams.latest(state, stateSubject)) !== null) return;
    const first = await newFirst();
    await this.#write({ epoch: 0, owner: null, beat: 0, first, snapshot: null }, 0);
  }

  async read(): Promise<ShardRecord> {
    return (await this.#read()).record;
  }

  /**
   * Replaces the record by what `update` makes of it; null when `update` returns null for the current one. Rejects when
   * the outcome is unknown.
   */
  async change(update: (record: ShardRecord) => ShardRecord | null): Promise<ShardRecord | null> {
    const cached = this.#last;
    let current = cached ?? (await this.#read());
    for (let i = 0; i < ATTEMPTS_MAX; i++) {
      const next = update(current.record);
      if (next !== null && (await this.#write(next, current.sequence))) return next;
      if (next === null && current !== cached) return null;
      const { sequence } = current;
      current = await this.#read();
      if (next !== null && current.sequence === sequence)
        throw new Error("a change of the shard's state by another process is not finished");
    }
    throw new Error("other processes change the shard's state all the time");
  }

  /** False when another process was first. */
  async #write(record: ShardRecord, expected: number): Promise<boolean> {
    const { state, stateSubject } = this.#names;
    const { stored } = await this.#streams.publish(state, stateSubject, expected, Buffer.from(JSON.stringify(record)));
    if (stored) this.#last = { sequence: expected + 1, record };
    return stored;
  }

  async #read(): Promise<Stored> {
    const { state, stateSubject } = this.#names;
    const message = await this.#streams.latest(state, stateSubject);
    if (message === null) throw new ClusterError(`the stream ${state} is empty: its state is lost; restore a backup`);
    this.#last = { sequence: message.sequence, record: parse(message.data, state) };
    return this.#last;
  }
}

function parse(data: Uint8Array, stream: string): ShardRecord {
  try {
    const record = JSON.parse(Buffer.from(data).toString()) as ShardRecord;
    if (Number.isSafeInteger(record.epoch) && typeof record.first === "string") return record;
  } catch {
    // It is reported below.
  }
  throw new ClusterError(
    `the stream ${stream} has a message that is not the state of a shard; another program wrote it`,
  );
}
