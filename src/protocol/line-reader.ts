import { CR, LF } from "./ascii.ts";
import { ByteQueue, copy } from "../byte-queue.ts";

/** Owns the memory of chunks. */
export interface ChunkSource {
  /** The reader needs the chunk no longer. */
  release(chunk: Uint8Array): void;
}

/**
 * Bytes as they come, out as lines: the same lines wherever TCP cut them. Pull what is there with `next` before feeding
 * more, or stop pulling for a while. A line that lies within one chunk is not copied; between chunks nothing is kept
 * but the beginning of a line.
 *
 * The reader keeps a chunk until its last line was pulled. Then it releases the chunk to its source, and the bytes of
 * the last line are no longer valid.
 */
export class LineReader {
  /** The line is bytes[start..end), without its end mark. Valid until the next call. */
  bytes: Uint8Array = EMPTY;
  start = 0;
  end = 0;
  /** The line was longer than the limit: it was skipped, and there is no text. */
  tooLong = false;
  /** The first and last bytes of the last line that was too long: 128 of each, or all it has. */
  excerpt: Uint8Array = EMPTY;
  /** Bytes of the line as it came, its end mark included: how far it moves a position in the peer's stream. */
  lineBytes = 0;

  #chunk: Uint8Array = EMPTY;
  #at = 0;
  /** Chunks that came while there were lines in this one. */
  readonly #more: Uint8Array[] = [];
  /** The beginning of a line, from earlier chunks. It grows by doubling, or a dripped line would be copied per byte. */
  readonly #carried = new ByteQueue();
  /** The line that `next` gave lies in `#carried`. */
  #isCarried = false;
  /** Bytes of the line that it is in, when they are too many already; and of all such lines since it was asked. */
  #skipped = 0;
  #skippedInAll = 0;
  readonly #lineBytesMax: number;
  readonly #source: ChunkSource | null;

  /** `lineBytesMax` counts the end mark. `source` may use the memory of a chunk again when its last line was pulled. */
  constructor(lineBytesMax: number, source: ChunkSource | null = null) {
    this.#lineBytesMax = lineBytesMax;
    this.#source = source;
  }

  /** Bytes of lines longer than the limit, also of one that has not ended yet, since this was called the last time. */
  takeSkipped(): number {
    const bytes = this.#skippedInAll;
    this.#skippedInAll = 0;
    return bytes;
  }

  /** Bytes of memory that the beginning of a line takes, and what was not pulled. */
  get heldBytes(): number {
    return this.#more.reduce((sum, { length }) => sum + length, this.#carried.bytes.length + this.#chunk.length);
  }

  /** There may be another line. */
  get holdsMore(): boolean {
    return this.#at < this.#chunk.length || this.#more.length > 0;
  }

  /** Takes a chunk, and keeps it until `next` has said that it holds no more lines. */
  feed(chunk: Uint8Array): void {
    if (this.holdsMore) return void this.#more.push(chunk);
    this.#chunk = chunk;
    this.#at = 0;
  }

  /** The next whole line into `bytes`, `start` and `end`; false when there is none. */
  next(): boolean {
    if (this.#isCarried) this.#forget();
    let chunk = this.#chunk;
    let lf = this.#at < chunk.length ? chunk.indexOf(LF, this.#at) : -1;
    while (lf < 0) {
      this.#carry();
      const more = this.#more.shift();
      if (more === undefined) return false;
      this.#chunk = chunk = more;
      lf = chunk.indexOf(LF);
    }
    const from = this.#at;
    this.#at = lf + 1;
    this.lineBytes = this.#skipped + this.#carried.length + lf + 1 - from;
    this.tooLong = this.lineBytes > this.#lineBytesMax;
    if (this.tooLong) {
      this.#excerptWith(chunk.subarray(from, lf));
      this.#skippedInAll += this.lineBytes - this.#skipped;
      this.#forget();
    } else if (this.#carried.length > 0) {
      this.#append(chunk, from, lf);
      this.bytes = this.#carried.bytes;
      this.start = this.#carried.head;
      this.end = this.#carried.tail;
      this.#isCarried = true;
    } else {
      this.bytes = chunk;
      this.start = from;
      this.end = lf;
    }
    if (this.end > this.start && this.bytes[this.end - 1] === CR) this.end--;
    this.#skipped = 0;
    return true;
  }

  /** More of a line that is too long has come. */
  #excerptWith(bytes: Uint8Array): void {
    const { bytes: carried, head, tail } = this.#carried;
    this.excerpt = ends(this.#skipped > 0 ? this.excerpt : carried.subarray(head, tail), bytes);
  }

  #append(chunk: Uint8Array, from: number, to: number): void {
    const at = this.#carried.reserve(to - from);
    copy(chunk, this.#carried.bytes, at, from, to);
  }

  /** Releases the memory of the last line. */
  #forget(): void {
    this.#isCarried = false;
    this.bytes = EMPTY;
    this.start = this.end = 0;
    this.#carried.clear();
  }

  /** Keeps the beginning of a line, but not more of it than a line may have, and lets go of the chunk. */
  #carry(): void {
    const rest = this.#chunk.length - this.#at;
    if (rest > 0) {
      const bytes = this.#carried.length + rest;
      if (this.#skipped > 0 || bytes >= this.#lineBytesMax) {
        this.#excerptWith(this.#chunk.subarray(this.#at));
        this.#skipped += bytes;
        this.#skippedInAll += bytes;
        this.#carried.clear();
      } else {
        this.#append(this.#chunk, this.#at, this.#chunk.length);
      }
    }
    if (this.#chunk !== EMPTY) this.#source?.release(this.#chunk);
    this.#chunk = this.bytes = EMPTY;
    this.#at = 0;
  }
}

const EMPTY = Buffer.alloc(0);
const EXCERPT_END_BYTES = 128;

/** One after the other, without the middle if that is long. */
function ends(before: Uint8Array, after: Uint8Array): Uint8Array {
  const length = before.length + after.length;
  const both = Buffer.alloc(Math.min(length, 2 * EXCERPT_END_BYTES));
  for (let i = 0; i < both.length; i++) {
    const at = i < EXCERPT_END_BYTES ? i : length - both.length + i;
    both[i] = at < before.length ? before[at]! : after[at - before.length]!;
  }
  return both;
}
