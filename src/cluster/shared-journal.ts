/**
 * The log of turns of a cluster's owner: what the store sees in place of the journal of its data folder. A record is
 * kept until `sync`, which appends it to the shared log. The local database, and so `syncNow`, has no meaning after the
 * end of the process: another one begins from the shared log.
 */
import { Histogram } from "../histogram.ts";
import { APPEND_SLOW_MS, SHARED_SEGMENTS_KEPT, SHARED_SEGMENT_BYTES } from "../limits.ts";
import { SHARED_SEGMENT_RECORDS, WAITING_BYTES_MAX } from "../limits.ts";
import type { TurnLog } from "../storage/turn-log.ts";
import type { Appender } from "./appender.ts";

/** A part of the log that is freed as a whole; the shared log itself knows nothing of it. */
interface VirtualSegment {
  /** Number of its first record. */
  sequence: number;
  /** The highest message number before that. */
  number: number;
}

export class SharedJournal implements TurnLog {
  /** A turn's last record has this number, known before it is appended: only this process appends. */
  sequence: number;
  bytesWritten = 0;
  readonly syncSeconds = new Histogram();
  readonly room = Number.MAX_SAFE_INTEGER;
  readonly reserveBytes = 0;
  readonly fault = null;
  readonly acksWait = true;
  /** The records are kept as they are until they are stored, so each one has memory of its own. */
  readonly region = null;
  readonly bodyStart = 0;
  readonly waitingBytesMax = WAITING_BYTES_MAX;
  readonly #appender: Appender;
  readonly #nowMs: () => number;
  readonly #segmentBytes: number;
  readonly #segmentsKept: number;
  /** Records that no `sync` has taken. */
  #unsynced: Buffer[] = [];
  readonly #segments: VirtualSegment[] = [];
  /** Bytes of the newest segment. */
  #newestBytes = 0;
  /** When the first of the running syncs began; null while there is none. */
  #syncingSinceMs: number | null = null;
  #syncs = 0;

  /** `appender` has claimed the shard, and everything before its `Opened` is in the local database. */
  constructor(
    appender: Appender,
    nowMs = () => performance.now(),
    segmentBytes = SHARED_SEGMENT_BYTES,
    segmentsKept = SHARED_SEGMENTS_KEPT,
  ) {
    this.#appender = appender;
    this.#nowMs = nowMs;
    this.#segmentBytes = segmentBytes;
    this.#segmentsKept = segmentsKept;
    this.sequence = appender.head;
  }

  makeRoom(): boolean {
    return true;
  }

  prepare(): void {}

  append(body: Buffer, start: number, length: number, number: number): void {
    const records = this.#appender.encode(body.subarray(start, start + length));
    const isFull =
      this.#segments.length === 0 ||
      this.#newestBytes + length > this.#segmentBytes ||
      this.sequence + 1 - this.newest >= SHARED_SEGMENT_RECORDS;
    if (isFull) {
      this.#segments.push({ sequence: this.sequence + 1, number });
      this.#newestBytes = 0;
    }
    this.#unsynced.push(...records);
    this.sequence += records.length;
    this.#newestBytes += length;
    this.bytesWritten += records.reduce((sum, record) => sum + record.length, 0);
  }

  announce(): void {}

  /** False also while this process has not proven for too long that it is the owner: it must not answer then. */
  get isSynced(): boolean {
    return this.#unsynced.length === 0 && this.#syncs === 0 && this.#appender.isProven;
  }

  async sync(): Promise<void> {
    const records = this.#unsynced;
    this.#unsynced = [];
    const beganMs = this.#nowMs();
    this.#syncingSinceMs ??= beganMs;
    this.#syncs++;
    await this.#appender.append(records);
    while (!this.#appender.isProven) await this.#appender.beat();
    this.syncSeconds.add((this.#nowMs() - beganMs) / 1000);
    if (--this.#syncs === 0) this.#syncingSinceMs = null;
  }

  syncNow(): void {}

  get isSlow(): boolean {
    return this.#syncingSinceMs !== null && this.#nowMs() - this.#syncingSinceMs > APPEND_SLOW_MS;
  }

  get newest(): number {
    return this.#segments.at(-1)?.sequence ?? 0;
  }

  get old(): { number: number; sequence: number } | null {
    const first = this.#segments.at(-this.#segmentsKept);
    if (first === undefined || first === this.#segments[0]) return null;
    return { number: first.number, sequence: first.sequence - 1 };
  }

  free(sequence: number): void {
    while (this.#segments.length > 1 && this.#segments[1]!.sequence <= sequence + 1) this.#segments.shift();
  }
}
