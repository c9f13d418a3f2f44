import { JOURNAL_SEGMENTS_KEPT, JOURNAL_SEGMENT_BYTES, JOURNAL_SPARES_MAX } from "../limits.ts";
import { Place } from "./fact.ts";
import type { Filling, Segment, SegmentFolder } from "./segment.ts";

/** A record: crc32 of all that follows, bytes of the body, sequence number; then the body, and up to 7 bytes more. */
const HEAD = 16;
const LENGTH = 4;
const SEQUENCE = 8;
const ALIGNMENT = 8;
const SEGMENT_NAME = /^\d{16}$/;
const SPARE_NAME = /^spare-(\d+)$/;
/**
 * A journal begins so far behind the last record of the one before, which is further than any of that reached: what
 * lies in a segment that is used again is never taken for the next record.
 */
export const SEQUENCE_SPAN = 2 ** 24;

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
  readonly #segmentBytes: number;
  readonly #segmentsKept: number;
  readonly #used: Used[] = [];
  readonly #spares: Segment[] = [];
  #filling: Filling | null = null;
  #at = 0;
  #place: Place | null = null;
  #spareNames = 0;
  /** What was written since the last `sync`. */
  readonly #unsynced = new Set<Segment>();
  #renamed = false;

  /** Goes on behind record `sequence`. What the folder holds is not needed any more. Throws when the disk refuses. */
  constructor(
    folder: SegmentFolder,
    sequence: number,
    segmentBytes = JOURNAL_SEGMENT_BYTES,
    segmentsKept = JOURNAL_SEGMENTS_KEPT,
  ) {
    this.#folder = folder;
    this.#segmentBytes = segmentBytes;
    this.#segmentsKept = segmentsKept;
    this.sequence = sequence;
    const names = folder.names();
    for (const name of names) this.#spareNames = Math.max(this.#spareNames, Number(SPARE_NAME.exec(name)?.[1] ?? 0));
    for (const name of names) if (SPARE_NAME.test(name) || SEGMENT_NAME.test(name)) this.#recycle(folder.open(name));
    while (this.#spares.length === 0) this.#fill();
  }

  /** The number of the first record in the newest segment; 0 when there is none. */
  get newest(): number {
    return Number(this.#used.at(-1)?.segment.name ?? 0);
  }

  /** Whether the files of all segments are still where they belong. */
  get isWhole(): boolean {
    return this.#used.every(({ segment }) => segment.isThere()) && this.#spares.every((spare) => spare.isThere());
  }

  /** Whether everything written is on the disk for sure. */
  get isSynced(): boolean {
    return this.#unsynced.size === 0;
  }

  /** Where the body of the next record will be, when it fits there: from `bodyStart` on. Null when nobody knows yet. */
  get place(): Place | null {
    return this.#place;
  }

  get bodyStart(): number {
    return this.#at + HEAD;
  }

  /**
   * Appends the record body[start..start + length), which may lie in its place already; `number` is the highest
   * message number before it. Throws when there is no room for it.
   */
  append(body: Buffer, start: number, length: number, number: number): void {
    const bytes = HEAD + Math.ceil(length / ALIGNMENT) * ALIGNMENT;
    let used = this.#used.at(-1);
    if (used === undefined || this.#at + bytes > used.segment.bytes.length) {
      used = { segment: this.#next(bytes), number };
      this.#used.push(used);
      this.#place = new Place(used.segment.bytes);
      this.#at = 0;
    }
    const { segment } = used;
    const target = segment.bytes;
    const at = this.#at;
    const end = at + HEAD + length;
    if (body !== target || start !== at + HEAD) body.copy(target, at + HEAD, start, start + length);
    target.writeDoubleLE(this.sequence + 1, at + SEQUENCE);
    target.writeUInt32LE(length, at + LENGTH);
    target.writeUInt32LE(Bun.hash.crc32(target.subarray(at + LENGTH, end)), at);
    this.sequence++;
    this.#at += bytes;
    this.#unsynced.add(segment);
  }

  /** A segment for at least so many bytes, named for the next record. */
  #next(bytes: number): Segment {
    try {
      const isLong = bytes > this.#segmentBytes;
      while (!isLong && this.#spares.length === 0) this.#fill();
      const segment = isLong ? this.#long(bytes) : this.#spares.at(-1)!;
      segment.rename(segmentName(this.sequence + 1));
      if (!isLong) this.#spares.pop();
      this.#renamed = true;
      this.fault = null;
      return segment;
    } catch (error) {
      this.fault = error;
      throw error;
    }
  }

  #long(bytes: number): Segment {
    const filling = this.#folder.fill(this.#spareName(), bytes);
    for (;;) {
      const segment = filling.step();
      if (segment !== null) return segment;
    }
  }

  #spareName(): string {
    return `spare-${++this.#spareNames}`;
  }

  /** Makes the next piece of a spare when there is none, so that no turn has to wait for a whole one. */
  prepare(): void {
    if (this.#spares.length > 0) return;
    try {
      this.#fill();
    } catch (error) {
      this.fault = error;
    }
  }

  #fill(): void {
    try {
      const filling = (this.#filling ??= this.#folder.fill(this.#spareName(), this.#segmentBytes));
      const segment = filling.step();
      this.fault = null;
      if (segment === null) return;
      this.#filling = null;
      this.#spares.push(segment);
    } catch (error) {
      this.#filling = null;
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

  /** Everything written by now is on the disk when the promise resolves. */
  async sync(): Promise<void> {
    const unsynced = [...this.#unsynced];
    const renamed = this.#renamed;
    this.#unsynced.clear();
    this.#renamed = false;
    await Promise.all(unsynced.map((segment) => segment.sync()));
    if (renamed) await this.#folder.sync();
  }

  /** The same, and the loop waits. */
  syncNow(): void {
    for (const segment of this.#unsynced) segment.syncNow();
    this.#unsynced.clear();
  }
}

/** The records of a segment, one after another. */
export class RecordReader {
  /** The record is bytes[start..end), and this its number. */
  sequence: number;
  start = 0;
  end = 0;
  readonly bytes: Buffer;
  #at = 0;

  /** `first`: the number of the segment's first record. */
  constructor(bytes: Buffer, first: number) {
    this.bytes = bytes;
    this.sequence = first - 1;
  }

  /** Where the next record should begin. */
  get at(): number {
    return this.#at;
  }

  /** The next record into the fields; false when the records end here, well or not: see `goOn`. */
  next(): boolean {
    return this.#take(this.#at, this.sequence + 1);
  }

  /**
   * Behind what is no record: the next one that is, and belongs to the same run. Returns its number, and `next` reads
   * on behind it; 0 when there is none, as it should be.
   */
  goOn(): number {
    for (let at = this.#at; at + HEAD <= this.bytes.length; at += ALIGNMENT) {
      const sequence = this.bytes.readDoubleLE(at + SEQUENCE);
      const ahead = sequence - this.sequence;
      if (ahead > 0 && ahead < SEQUENCE_SPAN && this.#take(at, sequence)) return sequence;
    }
    return 0;
  }

  #take(at: number, sequence: number): boolean {
    const { bytes } = this;
    if (at + HEAD > bytes.length || bytes.readDoubleLE(at + SEQUENCE) !== sequence) return false;
    const end = at + HEAD + bytes.readUInt32LE(at + LENGTH);
    if (end > bytes.length) return false;
    if (bytes.readUInt32LE(at) !== Bun.hash.crc32(bytes.subarray(at + LENGTH, end))) return false;
    this.sequence = sequence;
    this.start = at + HEAD;
    this.end = end;
    this.#at = at + HEAD + Math.ceil((end - this.start) / ALIGNMENT) * ALIGNMENT;
    return true;
  }
}
