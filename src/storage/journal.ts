import { JOURNAL_SEGMENTS_KEPT, JOURNAL_SEGMENT_BYTES, JOURNAL_SPARES_MAX } from "../limits.ts";
import { MappedRegion } from "./journal-entry.ts";
import { HEAD, LAST_BYTES, LAST_NAME, LENGTH, SEQUENCE, aligned } from "./record.ts";
import type { Preallocation, Segment, SegmentFolder } from "./segment.ts";

const SEGMENT_NAME = /^\d{16}$/;
const SPARE_NAME = /^spare-(\d+)$/;
/** The reserve is a quarter of a segment; as a shift, since that stays an integer, which are compared faster. */
const RESERVE_SHIFT = 2;

/** A segment in use. */
interface Used {
  segment: Segment;
  /** The highest message number before it. */
  number: number;
}

/** A segment's name is the sequence number of its first record; any other file of the folder is a spare. */
export function segmentName(sequence: number): string {
  return String(sequence).padStart(16, "0");
}

/** Sequence numbers of the segments' first records, in order. */
export function segmentsOf(folder: SegmentFolder): number[] {
  const sequences = folder
    .names()
    .filter((name) => SEGMENT_NAME.test(name))
    .map(Number);
  // A number of 16 digits may be one that cannot be told from its neighbours: that file is somebody else's.
  return sequences.filter(Number.isSafeInteger).sort((a, b) => a - b);
}

/**
 * What must survive a crash, appended record by record to mapped files (a write-ahead log, after Kafka's segments): one
 * record is one turn, and whoever reads them takes them while their numbers go on and their checksums fit. Segments
 * that are not needed any more become spares again, mapped as they are.
 */
export class Journal {
  /** Number of the last record. */
  sequence: number;
  /** The disk refused a new segment; `prepare` tries again. */
  fault: unknown = null;
  readonly #folder: SegmentFolder;
  /** Bytes that `room` leaves out, for facts that promise nothing. */
  readonly reserve: number;
  readonly #seed: number;
  readonly #last: Float64Array;
  readonly #lastFile: Segment;
  readonly #segmentBytes: number;
  readonly #segmentsKept: number;
  readonly #used: Used[] = [];
  readonly #spares: Segment[] = [];
  #preallocation: Preallocation | null = null;
  #at = 0;
  #region: MappedRegion | null = null;
  #spareNames = 0;
  /** What was written since the last `sync`, and whether names were changed. */
  readonly #unsynced = new Set<Segment>();
  #renamed = false;
  /** Why a sync failed. Linux reports that once, and the next sync of the same bytes may succeed without them. */
  #syncError: unknown = null;

  /**
   * Continues after record `sequence`, with checksums that begin with `seed`. The folder's old content is not needed.
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
    this.#segmentBytes = segmentBytes;
    this.reserve = segmentBytes >> RESERVE_SHIFT;
    this.#segmentsKept = segmentsKept;
    this.#seed = seed;
    this.sequence = sequence;
    const names = folder.names();
    for (const name of names) this.#spareNames = Math.max(this.#spareNames, Number(SPARE_NAME.exec(name)?.[1] ?? 0));
    for (const name of names) if (SPARE_NAME.test(name) || SEGMENT_NAME.test(name)) this.#recycle(folder.open(name));
    this.#lastFile = this.#openLast(names);
    this.#last = new MappedRegion(this.#lastFile.bytes).numbers;
    this.#last.set([sequence, seed, -seed]);
    while (this.#spares.length === 0) this.#fill();
  }

  #openLast(names: readonly string[]): Segment {
    if (names.includes(LAST_NAME)) {
      const segment = this.#folder.open(LAST_NAME);
      if (segment.bytes.length === LAST_BYTES) return segment;
      segment.remove();
    }
    const segment = filled(this.#folder.fill(this.#spareName(), LAST_BYTES));
    new MappedRegion(segment.bytes).numbers.set([this.sequence, this.#seed, -this.#seed]);
    segment.syncNow();
    segment.rename(LAST_NAME); // Named last, so that it is never half written, even after a power cut.
    return segment;
  }

  /** Records up to `sequence` are complete: from now on a recovery must find them. */
  announce(sequence = this.sequence): void {
    this.#last[0] = sequence;
  }

  /** The number of the first record in the newest segment; 0 when there is none. */
  get newest(): number {
    return Number(this.#used.at(-1)?.segment.name ?? 0);
  }

  /** Whether all its files are still where they belong. */
  get isWhole(): boolean {
    const files = [this.#lastFile, ...this.#used.map(({ segment }) => segment), ...this.#spares];
    return files.every((file) => file.isThere());
  }

  /** Whether everything written is on the disk for sure. */
  get isSynced(): boolean {
    return this.#unsynced.size === 0 && !this.#renamed;
  }

  /** Bytes that the next record can have without a new file, with the reserve left after it. */
  get room(): number {
    const left = (this.#region?.bytes.length ?? 0) - this.#at;
    const spare = this.#spares.length > 0 ? this.#spares.at(-1)!.bytes.length : 0;
    return Math.max(left, spare) - HEAD - this.reserve;
  }

  /** Fills spares until `room` is at least `bytes`, and the loop waits. False when the disk refuses. */
  makeRoom(bytes: number): boolean {
    try {
      while (this.room < bytes) this.#fill(bytes + HEAD + this.reserve);
      return true;
    } catch (error) {
      this.fault = error;
      return false;
    }
  }

  /** Where the body of the next record will be, when it fits there: from `bodyStart` on. Null when nobody knows yet. */
  get region(): MappedRegion | null {
    return this.#region;
  }

  get bodyStart(): number {
    return this.#at + HEAD;
  }

  /**
   * Appends the record body[start..start + length), which may lie in its place already; `number` is the highest
   * message number before it. Throws when there is no room for it.
   */
  append(body: Buffer, start: number, length: number, number: number): void {
    const bytes = HEAD + aligned(length);
    let used = this.#used.at(-1);
    if (used === undefined || this.#at + bytes > used.segment.bytes.length) {
      used = { segment: this.#next(bytes), number };
      this.#used.push(used);
      this.#region = new MappedRegion(used.segment.bytes);
      this.#at = 0;
    }
    const { segment } = used;
    const target = segment.bytes;
    const at = this.#at;
    const end = at + HEAD + length;
    if (body !== target || start !== at + HEAD) body.copy(target, at + HEAD, start, start + length);
    target.writeDoubleLE(this.sequence + 1, at + SEQUENCE);
    target.writeUInt32LE(length, at + LENGTH);
    target.writeUInt32LE(Bun.hash.crc32(target.subarray(at + LENGTH, end), this.#seed), at);
    this.sequence++;
    this.#at += bytes;
    this.#unsynced.add(segment);
  }

  /** A segment for at least so many bytes, named for the next record. */
  #next(bytes: number): Segment {
    try {
      const fits = ({ bytes: { length } }: Segment): boolean => length >= bytes;
      while (!this.#spares.some(fits)) this.#fill(bytes);
      const index = this.#spares.findLastIndex(fits);
      const segment = this.#spares[index]!;
      segment.rename(segmentName(this.sequence + 1));
      this.#spares.splice(index, 1);
      this.#renamed = true;
      this.fault = null;
      return segment;
    } catch (error) {
      this.fault = error;
      throw error;
    }
  }

  #spareName(): string {
    return `spare-${++this.#spareNames}`;
  }

  /**
   * Makes the next piece of a spare when there is none, so that no turn has to wait for a whole one; all of it when
   * little room is left, since a full disk must be noticed before the rest is used up.
   */
  prepare(): void {
    if (this.#spares.length > 0) {
      this.fault = null; // What was refused was more than a segment.
      return;
    }
    try {
      this.#fill();
      while (this.room <= 0) this.#fill();
    } catch (error) {
      this.fault = error;
    }
  }

  /** Fills the next piece of a spare of at least `least` bytes. */
  #fill(least = this.#segmentBytes): void {
    try {
      const bytes = Math.ceil(least / this.#segmentBytes) * this.#segmentBytes;
      const filling = (this.#preallocation ??= this.#folder.fill(this.#spareName(), bytes));
      const segment = filling.step();
      this.fault = null;
      if (segment === null) return;
      this.#preallocation = null;
      this.#spares.push(segment);
    } catch (error) {
      this.#preallocation = null;
      throw error;
    }
  }

  /**
   * Messages up to which number lie in old segments, and the last record of those: they must rest elsewhere before
   * `free` may reuse these. Null when there are no old ones. While the disk is full, all but the newest are old.
   */
  get old(): { number: number; sequence: number } | null {
    const kept = this.fault === null ? this.#segmentsKept : 1;
    const first = this.#used.at(-kept);
    if (first === undefined || first === this.#used[0]) return null;
    return { number: first.number, sequence: Number(first.segment.name) - 1 };
  }

  /** Records up to that one are not needed any more. */
  free(sequence: number): void {
    while (this.#used.length > 1 && Number(this.#used[1]!.segment.name) <= sequence + 1) {
      this.#unsynced.delete(this.#used[0]!.segment);
      this.#recycle(this.#used[0]!.segment);
      this.#used.shift();
      this.fault = null;
    }
  }

  #recycle(segment: Segment): void {
    if (segment.bytes.length !== this.#segmentBytes || this.#spares.length >= JOURNAL_SPARES_MAX) segment.remove();
    else {
      if (SEGMENT_NAME.test(segment.name)) segment.rename(this.#spareName());
      this.#spares.push(segment);
    }
  }

  /**
   * Everything written by now is on the disk when the promise resolves: the bytes, then the names of the files that
   * have them. It rejects for good once the disk has failed.
   */
  async sync(): Promise<void> {
    const unsynced = [...this.#unsynced];
    const { sequence } = this;
    const renamed = this.#renamed;
    this.#unsynced.clear();
    this.#renamed = false;
    try {
      if (this.#syncError !== null) throw this.#syncError;
      await Promise.all(unsynced.map((segment) => segment.sync()));
      if (renamed) await this.#folder.sync();
    } catch (error) {
      this.#syncError ??= error;
      throw error;
    }
    this.announce(sequence);
  }

  /** The same, and the loop waits. */
  syncNow(): void {
    try {
      if (this.#syncError !== null) throw this.#syncError;
      for (const segment of this.#unsynced) segment.syncNow();
      if (this.#renamed) this.#folder.syncNow();
    } catch (error) {
      this.#syncError ??= error;
      throw error;
    }
    this.#unsynced.clear();
    this.#renamed = false;
    this.announce();
  }
}

function filled(filling: Preallocation): Segment {
  for (;;) {
    const segment = filling.step();
    if (segment !== null) return segment;
  }
}
