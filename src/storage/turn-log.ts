import type { Histogram } from "../histogram.ts";
import type { MappedRegion } from "./journal-entry.ts";

/**
 * The port between the store and the log of its turns: one record a turn, numbered without gaps. The store does not
 * know where the records are: in the data folder (journal.ts), or in the log that the processes of a cluster share.
 *
 * The log is divided into segments, of which the store frees the oldest ones. What is in a record, and when it is
 * needed no more, is decided by the store (turn-record.ts, compaction.ts).
 */
export interface TurnLog {
  /** Number of the last record. */
  readonly sequence: number;
  /** Bytes of the records since the start. */
  readonly bytesWritten: number;
  /** Durations of `sync` and `syncNow`. */
  readonly syncSeconds: Histogram;

  /** How many bytes the next record can have without `makeRoom`, and without use of the reserve. */
  readonly room: number;
  /** Bytes that `room` does not count: for entries that promise nothing. */
  readonly reserveBytes: number;
  /** Why there is no room; null when nothing prevents it. `prepare` tries again. */
  readonly fault: unknown;
  /** Tries to make `room` at least `bytes`; false when that is refused. */
  makeRoom(bytes: number): boolean;
  /** Called once a turn: prepares room for the next turns. */
  prepare(): void;

  /**
   * A record takes so long to become durable that one with nothing but acknowledgements waits for the next turn, which
   * often has more to record and would have to wait for it: with PostgreSQL this halves the latency of `ok` for a user
   * who sends one message after another.
   */
  readonly acksWait: boolean;
  /** Where the next record is best written to at `bodyStart`, if it fits; null where it makes no difference. */
  readonly region: MappedRegion | null;
  readonly bodyStart: number;
  /**
   * Appends the record body[start..start + length). The caller may use these bytes again. `number` is the highest
   * message number before the record. Throws when there is no room for it.
   */
  append(body: Buffer, start: number, length: number, number: number): void;
  /** Records up to `sequence`, the last one by default, are complete: a recovery that does not find them says so. */
  announce(sequence?: number): void;

  /** Whether all records are durable, and nothing else has to be confirmed before the turn's output may leave. */
  readonly isSynced: boolean;
  /** The promise resolves when `isSynced` holds for all records so far. Once it rejects, later ones reject too. */
  sync(): Promise<void>;
  /** Makes all records durable before it returns, if what is stored next to the log must not be ahead of it. */
  syncNow(): void;

  /** A sync takes so long that no request should be accepted until it is over. */
  readonly isSlow: boolean;
  /** While accepted texts of more bytes wait for the end of a sync, no request should be accepted either. */
  readonly waitingBytesMax: number;

  /** The number of the first record in the newest segment; 0 when there is none. */
  readonly newest: number;
  /** The segments that should be freed: the highest message number and the last record in them. Null without any. */
  readonly old: { number: number; sequence: number } | null;
  /** Records up to `sequence` are needed no more. */
  free(sequence: number): void;
}
