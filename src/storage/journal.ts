import { JOURNAL_SEGMENTS_KEPT, JOURNAL_SEGMENT_BYTES } from "../limits.ts";
import { Histogram } from "../histogram.ts";
import { MappedRegion } from "./journal-entry.ts";
import { HEAD, LAST_BYTES, LAST_NAME, aligned, writeHead } from "./record.ts";
import type { Preallocation, Segment, SegmentFolder } from "./segment.ts";
import { SpareSegments } from "./spare-segments.ts";
import type { TurnLog } from "./turn-log.ts";

const SEGMENT_NAME = /^\d{16}$/;
/** The reserve is a quarter of a segment. A shift keeps it an integer, and integers are compared faster. */
const RESERVE_SHIFT = 2;

/** A segment with records. */
interface UsedSegment {
  segment: Segment;
  /** The highest message number before its first record. */
  number: number;
}

/** Records for a backup: those after some record. The first `recordBytes` bytes of the segments do not change. */
export interface JournalCopy {
  path: string;
  segments: { name: string; bytes: number; recordBytes: number }[];
  /** The last record. */
  sequence: number;
  seed: number;
}

/** A segment is named by the sequence number of its first record. */
export function segmentName(sequence: number): string {
  return String(sequence).padStart(16, "0");
}

/** The sequence numbers of the first records of all segments in a folder, in order. */
export function segmentsOf(folder: Pick<SegmentFolder, "names">): number[] {
  const sequences = folder
    .names()
    .filter((name) => SEGMENT_NAME.test(name))
    .map(Number);
  // A name of 16 digits above 2 ** 53 is not of this program.
  return sequences.filter(Number.isSafeInteger).sort((a, b) => a - b);
}

/**
 * A write-ahead log in mapped files, with segments like Kafka's. One record is one turn. A reader accepts records while
 * their sequence numbers are consecutive and their checksums are valid. Freed segments become spares and stay mapped.
 *
 * What is in a record, and when it is needed no more, is decided elsewhere (turn-record.ts, compaction.ts).
 */
export class Journal implements TurnLog {
  sequence: number;
  bytesWritten = 0;
  readonly syncSeconds = new Histogram();
  readonly acksWait = false;
  /** No request waits for the disk. */
  readonly isSlow = false;
  readonly waitingBytesMax = Number.MAX_SAFE_INTEGER;
  readonly reserveBytes: number;
  readonly #folder: SegmentFolder;
  /** Of the checksums. */
  readonly #seed: number;
  /** The file `last`, and its numbers. */
  readonly #lastFile: Segment;
  readonly #last: Float64Array;
  readonly #segmentsKept: number;
  readonly #used: UsedSegment[] = [];
  readonly #spares: SpareSegments;
  /** Where the next record begins in the newest segment, and that segment's memory. */
  #at = 0;
  #region: MappedRegion | null = null;
  /** Segments with records since the last sync. */
  readonly #unsynced = new Set<Segment>();
  /** A segment got its name since the last sync. */
  #renamed = false;
  /** A backup copies segments: freed ones stay. */
  #isHeld = false;
  /** Records up to this one are needed no more. */
  #freedSequence = 0;
  /** Why a sync failed. Linux reports a failure once: the next sync may succeed although the bytes are lost. */
  #syncError: unknown = null;

  /**
   * Continues after record `sequence`, with checksums that begin with `seed`. Old segments in the folder become spares.
   * Throws when the disk refuses.
   */
  constructor(
    folder: SegmentFolder,
    sequence: number,
    seed: number,
    segmentBytes = JOURNAL_SEGMENT_BYTES,
    segmentsKept = JOURNAL_SEGMENTS_KEPT,
  ) {
    this.#folder = folder;
    this.reserveBytes = segmentBytes >> RESERVE_SHIFT;
    this.#segmentsKept = segmentsKept;
    this.#seed = seed;
    this.sequence = sequence;
    this.#spares = new SpareSegments(folder, segmentBytes);
    for (const name of folder.names()) if (SEGMENT_NAME.test(name)) this.#spares.recycle(folder.open(name));
    this.#lastFile = this.#openLast();
    this.#last = new MappedRegion(this.#lastFile.bytes).numbers;
    this.#last.set([sequence, seed, -seed]);
    while (this.#spares.isEmpty) this.#spares.fill();
  }

  #openLast(): Segment {
    if (this.#folder.names().includes(LAST_NAME)) {
      const segment = this.#folder.open(LAST_NAME);
      if (segment.bytes.length === LAST_BYTES) return segment;
      segment.remove();
    }
    const segment = filled(this.#folder.fill(this.#spares.newName(), LAST_BYTES));
    new MappedRegion(segment.bytes).numbers.set([this.sequence, this.#seed, -this.#seed]);
    segment.syncNow();
    segment.rename(LAST_NAME); // Renamed when complete: even after a power cut it is never half written.
    return segment;
  }

  /** Why the disk refused a new segment; null when it did not. `prepare` tries again. */
  get fault(): unknown {
    return this.#spares.fault;
  }

  /** Records up to `sequence` are complete: a recovery that does not find them reports damage. */
  announce(sequence = this.sequence): void {
    this.#last[0] = sequence;
  }

  /** The number of the first record in the newest segment; 0 when there is none. */
  get newest(): number {
    return Number(this.#used.at(-1)?.segment.name ?? 0);
  }

  /** Whether all files are still in the folder. */
  get isWhole(): boolean {
    const files = [this.#lastFile, ...this.#used.map(({ segment }) => segment), ...this.#spares.all];
    return files.every((file) => file.isThere());
  }

  /** Whether all records are synced to the disk. */
  get isSynced(): boolean {
    return this.#unsynced.size === 0 && !this.#renamed;
  }

  /** How many bytes the next record can have without a new file, and without use of the reserve. */
  get room(): number {
    const leftBytes = (this.#region?.bytes.length ?? 0) - this.#at;
    return Math.max(leftBytes, this.#spares.lastBytes) - HEAD - this.reserveBytes;
  }

  /** Fills spares synchronously until `room` is at least `bytes`. False when the disk refuses. */
  makeRoom(bytes: number): boolean {
    try {
      while (this.room < bytes) this.#spares.fill(bytes + HEAD + this.reserveBytes);
      return true;
    } catch {
      return false; // `fault` has the reason.
    }
  }

  /** The newest segment: the body of the next record goes to `bodyStart` if it fits. Null before the first record. */
  get region(): MappedRegion | null {
    return this.#region;
  }

  get bodyStart(): number {
    return this.#at + HEAD;
  }

  /**
   * Appends the record body[start..start + length), which may be at its final place already: see `bodyStart`. `number`
   * is the highest message number before the record. Throws when there is no room for it.
   */
  append(body: Buffer, start: number, length: number, number: number): void {
    const bytes = HEAD + aligned(length);
    let used = this.#used.at(-1);
    if (used === undefined || this.#at + bytes > used.segment.bytes.length) {
      used = { segment: this.#spares.take(bytes, segmentName(this.sequence + 1)), number };
      this.#used.push(used);
      this.#renamed = true;
      this.#region = new MappedRegion(used.segment.bytes);
      this.#at = 0;
    }
    const { segment } = used;
    const target = segment.bytes;
    const at = this.#at;
    if (body !== target || start !== at + HEAD) body.copy(target, at + HEAD, start, start + length);
    writeHead(target, at, this.sequence + 1, length, this.#seed);
    this.sequence++;
    this.#at += bytes;
    this.bytesWritten += bytes;
    this.#unsynced.add(segment);
  }

  /**
   * Called once a turn: without a spare, it fills the next piece of one, so that no turn waits for a whole one. When
   * little room is left it fills all of it: a full disk must be found before that room is used.
   */
  prepare(): void {
    if (!this.#spares.isEmpty) {
      this.#spares.fault = null; // The disk refused a segment of more than the usual size.
      return;
    }
    try {
      this.#spares.fill();
      while (this.room <= 0) this.#spares.fill();
    } catch {
      // `fault` has the reason.
    }
  }

  /**
   * The segments that should be freed: the highest message number and the last record in them. Null without any. While
   * the disk is full, all but the newest segment are old.
   */
  get old(): { number: number; sequence: number } | null {
    const kept = this.fault === null ? this.#segmentsKept : 1;
    const first = this.#used.at(-kept);
    if (first === undefined || first === this.#used[0]) return null;
    return { number: first.number, sequence: Number(first.segment.name) - 1 };
  }

  /** Records up to `sequence` are needed no more: their segments become spares or are removed. */
  free(sequence: number): void {
    this.#freedSequence = sequence;
    if (this.#isHeld) return;
    while (this.#used.length > 1 && Number(this.#used[1]!.segment.name) <= sequence + 1) {
      this.#unsynced.delete(this.#used[0]!.segment);
      this.#spares.recycle(this.#used[0]!.segment);
      this.#used.shift();
    }
  }

  /** All segments stay as they are up to their last record, until `release`. */
  hold(): void {
    this.#isHeld = true;
  }

  release(): void {
    this.#isHeld = false;
    this.free(this.#freedSequence);
  }

  /** The segments with records after `sequence`, which is the last record of a segment, and what a copy needs. */
  after(sequence: number): JournalCopy {
    const segments = this.#used
      .map(({ segment: { name, bytes } }) => ({ name, bytes: bytes.length, recordBytes: bytes.length }))
      .filter(({ name }) => Number(name) > sequence);
    const newest = segments.at(-1);
    if (newest !== undefined) newest.recordBytes = this.#at;
    return { path: this.#folder.path, segments, sequence: this.sequence, seed: this.#seed };
  }

  /**
   * The promise resolves when all records so far are on the disk: the bytes, then the names of their files. Once a sync
   * has failed, this and every later one rejects.
   */
  async sync(): Promise<void> {
    const unsynced = [...this.#unsynced];
    const { sequence } = this;
    const renamed = this.#renamed;
    this.#unsynced.clear();
    this.#renamed = false;
    const beganMs = performance.now();
    try {
      if (this.#syncError !== null) throw this.#syncError;
      await Promise.all(unsynced.map((segment) => segment.sync()));
      if (renamed) await this.#folder.sync();
    } catch (error) {
      this.#syncError ??= error;
      throw error;
    }
    this.syncSeconds.add((performance.now() - beganMs) / 1000);
    this.announce(sequence);
  }

  /** The same, synchronously. */
  syncNow(): void {
    const beganMs = performance.now();
    try {
      if (this.#syncError !== null) throw this.#syncError;
      for (const segment of this.#unsynced) segment.syncNow();
      if (this.#renamed) this.#folder.syncNow();
    } catch (error) {
      this.#syncError ??= error;
      throw error;
    }
    this.syncSeconds.add((performance.now() - beganMs) / 1000);
    this.#unsynced.clear();
    this.#renamed = false;
    this.announce();
  }
}

/** Fills all pieces at once. */
function filled(preallocation: Preallocation): Segment {
  for (;;) {
    const segment = preallocation.step();
    if (segment !== null) return segment;
  }
}
