/**
 * The port between a cluster's processes and the engine that keeps their log: PostgreSQL or NATS JetStream. A shard's
 * log is a sequence of records numbered from 1 without gaps, and a snapshot that replaces its beginning. The engine
 * compares before it appends; everything that is built on that (the owner, unknown outcomes, replay) is not here.
 *
 * All methods reject with ClusterError when repeating cannot help (no permission, another cluster, an unsafe version).
 * Any other error means that the outcome is unknown: the engine may or may not have done it, now or later.
 */

/** An error that an operator must solve; its message is one line that says how. */
export class ClusterError extends Error {}

/** The engine has lost records that it had acknowledged. A process that starts afterwards cannot know of them. */
export class LostRecordsError extends ClusterError {
  /** See `lostRecords`. */
  constructor(shard: number, head: number, acknowledged: number) {
    super(lostRecords(shard, head, acknowledged));
  }
}

/** A log that ends with record `head` although a later one was acknowledged: a text for operators. */
export function lostRecords(shard: number, head: number, acknowledged: number): string {
  return (
    `the engine has lost records of shard ${shard}: its last one is ${head}, and ${acknowledged} was acknowledged; ` +
    "make the engine continue with the server that has them, or restore a backup"
  );
}

/** What an owner says of itself: shown to operators and compared by other processes. Not secret. */
export interface OwnerInfo {
  /** `host:port` of `--cluster-listen`; empty when the owner has released the shard. */
  address: string;
  /** Version of the program. */
  version: string;
  /** Fingerprint of the credentials file in use. */
  credentials: string;
  /**
   * Only of an import (import.ts), which owns a shard without an address: whether it is complete. Before that no server
   * may own a shard. Then the shard is free, and has this until a server claims it.
   */
  imported?: boolean;
}

/** A shard as the engine has it at one moment. */
export interface ShardState {
  /** Number of the last record; 0 for an empty log. */
  head: number;
  /** Number of the newest `Opened` record, which fences all earlier owners; 0 when there was no owner. */
  epoch: number;
  /** Null before the first owner. */
  owner: OwnerInfo | null;
  /** Changes with each beat. */
  beat: number;
  /** The last record that the current snapshot contains; 0 without one. Earlier records may be trimmed. */
  snapshot: number;
}

/** `stored`: the record has the number expected + 1. Otherwise it was refused, and nothing was stored. */
export type AppendResult = { stored: true } | { stored: false; head: number };

/** Identifies a snapshot: a deposed owner may publish an older one late, which must not replace a newer one. */
export interface SnapshotLabel {
  /** Of the owner that wrote it. */
  epoch: number;
  /** The last record that it contains. */
  sequence: number;
}

export interface SharedLog {
  /** Engine, version and server, for people; the server may change. */
  readonly engine: string;
  /** Number of shards of the cluster. */
  readonly shards: number;
  /** What only processes of this cluster know: they prove it to each other, and it is never sent or printed. */
  readonly secret: Uint8Array;
  /** What an operator should change at the engine, one line each; known when the log is open. */
  readonly warnings: readonly string[];
  /** The most bytes of one record; a longer one is a ClusterError. */
  readonly recordBytesMax: number;

  /** Reads the state of a shard, from the server that accepts writes. */
  state(shard: number): Promise<ShardState>;

  /** The same for all shards, by number. Every process calls it several times a second. */
  states(): Promise<ShardState[]>;

  /**
   * Appends a record as number expected + 1 if the last record is number `expected`, and resolves when the engine's
   * acknowledgement promises that it is durable. Repeating the call with the same values is harmless, whatever became
   * of the earlier calls: a record that is there already is refused. The bytes must not change until it settles.
   */
  append(shard: number, expected: number, record: Uint8Array): Promise<AppendResult>;

  /** The same for an `Opened` record: when it is stored, `epoch` is its number and `owner` is `info`. */
  claim(shard: number, expected: number, record: Uint8Array, info: OwnerInfo): Promise<AppendResult>;

  /** A sign of life, and the owner's information. False when `epoch` is not the newest: the owner is deposed. */
  beat(shard: number, epoch: number, info: OwnerInfo): Promise<boolean>;

  /**
   * Records `from` and on, in order without a gap, up to record `upTo`, which exists. Rejects with ClusterError when
   * one of them is missing: it was trimmed, and then the current snapshot is newer, or the engine has lost it.
   */
  read(shard: number, from: number, upTo: number): AsyncIterable<{ sequence: number; record: Uint8Array }>;

  /**
   * Stores the parts, and makes them the current snapshot in one step if `label` is newer than the current one and
   * `label.epoch` is the newest epoch; false when it is not. When it is the current one already, the result is true and
   * nothing changes. Each part has at most `recordBytesMax` bytes.
   */
  publishSnapshot(shard: number, label: SnapshotLabel, parts: AsyncIterable<Uint8Array>): Promise<boolean>;

  /**
   * The current snapshot; null without one. The parts are checked: their count, order and checksums. One that is
   * missing or damaged is a ClusterError: it was trimmed, and then the current snapshot is newer, or it is lost.
   */
  snapshot(shard: number): Promise<{ label: SnapshotLabel; parts: AsyncIterable<Uint8Array> } | null>;

  /**
   * Deletes, in batches, records that the current snapshot contains, and parts of older snapshots. A deposed owner may
   * call it late: it leaves the parts that the next owner is uploading.
   */
  trim(shard: number): Promise<void>;

  close(): Promise<void>;
}

/** Opens the log that `heartline cluster init` has created. Rejects with ConfigError for an invalid URL. */
export type OpenLog = (urls: string) => Promise<SharedLog>;
