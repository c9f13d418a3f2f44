import { JOURNAL_SPARES_MAX } from "../limits.ts";
import type { Preallocation, Segment, SegmentFolder } from "./segment.ts";

const SPARE_NAME = /^spare-(\d+)$/;

/**
 * Segments without records, filled in advance or used before, for the next records of the journal. The disk can refuse
 * only here: after that, a segment has all its bytes.
 */
export class SpareSegments {
  /** Why the disk refused a new segment; null when it did not. */
  fault: unknown = null;
  readonly #folder: SegmentFolder;
  readonly #segmentBytes: number;
  readonly #segments: Segment[] = [];
  /** The next spare, while it is filled piece by piece. */
  #preallocation: Preallocation | null = null;
  /** The highest number in a name of a spare. */
  #lastNumber = 0;

  /** Takes over the spares of the folder. Throws when the disk refuses. */
  constructor(folder: SegmentFolder, segmentBytes: number) {
    this.#folder = folder;
    this.#segmentBytes = segmentBytes;
    const names = folder.names().filter((name) => SPARE_NAME.test(name));
    for (const name of names) this.#lastNumber = Math.max(this.#lastNumber, Number(SPARE_NAME.exec(name)![1]));
    for (const name of names) this.recycle(folder.open(name));
  }

  get all(): readonly Segment[] {
    return this.#segments;
  }

  get isEmpty(): boolean {
    return this.#segments.length === 0;
  }

  /** The size of the spare that came last; 0 without any. */
  get lastBytes(): number {
    const { length } = this.#segments;
    return length > 0 ? this.#segments[length - 1]!.bytes.length : 0;
  }

  newName(): string {
    return `spare-${++this.#lastNumber}`;
  }

  /** Fills the next piece of a spare of at least `bytesMin` bytes. Throws when the disk refuses. */
  fill(bytesMin = this.#segmentBytes): void {
    try {
      const bytes = Math.ceil(bytesMin / this.#segmentBytes) * this.#segmentBytes;
      this.#preallocation ??= this.#folder.fill(this.newName(), bytes);
      const segment = this.#preallocation.step();
      this.fault = null;
      if (segment === null) return;
      this.#preallocation = null;
      this.#segments.push(segment);
    } catch (error) {
      this.#preallocation = null;
      this.fault = error;
      throw error;
    }
  }

  /** Takes a spare of at least `bytesMin` bytes, under that name. Throws when the disk refuses. */
  take(bytesMin: number, name: string): Segment {
    const fits = ({ bytes: { length } }: Segment): boolean => length >= bytesMin;
    while (!this.#segments.some(fits)) this.fill(bytesMin);
    const index = this.#segments.findLastIndex(fits);
    const segment = this.#segments[index]!;
    try {
      segment.rename(name);
    } catch (error) {
      this.fault = error;
      throw error;
    }
    this.#segments.splice(index, 1);
    this.fault = null;
    return segment;
  }

  /** A segment of the usual size becomes a spare. One of another size, or above JOURNAL_SPARES_MAX, is removed. */
  recycle(segment: Segment): void {
    if (segment.bytes.length !== this.#segmentBytes || this.#segments.length >= JOURNAL_SPARES_MAX) segment.remove();
    else {
      if (!SPARE_NAME.test(segment.name)) segment.rename(this.newName());
      this.#segments.push(segment);
    }
    this.fault = null;
  }
}
