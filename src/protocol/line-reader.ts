import { CR, LF } from "./ascii.ts";
import { ByteQueue, copy } from "../byte-queue.ts";

/** Owns the memory of chunks. */
export interface ChunkSource {
  /** The reader needs the chunk no longer. */
  release(chunk: Uint8Array): void;
}

/**
 * Cuts a byte stream into lines, wherever the stream is split into chunks. `feed` takes a chunk, `next` gives the next
 * line; a caller may stop calling `next` for a while. A line within one chunk is not copied; between chunks only the
 * beginning of a line is kept.
 *
 * The reader keeps a chunk until its last line was pulled. Then it releases the chunk to its source, and the bytes of
 * the last line are no longer valid.
 */
export class LineReader {
  /** The line is bytes[start..end), without CR and LF. Valid until the next call. */
  bytes: Uint8Array = EMPTY;
  start = 0;
  end = 0;
  /** The line was longer than the limit and was skipped: it has no text. */
  tooLong = false;
  /** Of the last line that was too long: the first 128 and the last 128 bytes. */
  excerpt: Uint8Array = EMPTY;
  /** Bytes of the line with its CR and LF: its length in the peer's stream. */
  lineBytes = 0;

  #chunk: Uint8Array = EMPTY;
  #at = 0;
  /** Chunks that arrived while `#chunk` still had lines. */
  readonly #more: Uint8Array[] = [];
  /** The beginning of a line, from earlier chunks. It grows by doubling: a line may arrive byte by byte. */
  readonly #carried = new ByteQueue();
  /** `next` gives the current line again. */
  #isHeld = false;
  /** The current line is in `#carried`. */
  #isCarried = false;
  /** Skipped bytes of an unfinished line that is too long already; and of all such lines since `takeSkipped`. */
  #skipped = 0;
  #skippedTotal = 0;
  /** The limit for lines with CR and LF. It may change at any time. */
  lineBytesMax: number;
  readonly #source: ChunkSource | null;

  /** `source` may use the memory of a chunk again when its last line was pulled. */
  constructor(lineBytesMax: number, source: ChunkSource | null = null) {
    this.lineBytesMax = lineBytesMax;
    this.#source = source;
  }

  /** Bytes of lines that are too long, also of an unfinished one, since the last call. */
  takeSkipped(): number {
    const bytes = this.#skippedTotal;
    this.#skippedTotal = 0;
    return bytes;
  }

  /** Bytes of memory of the unread chunks and the beginning of a line. */
  get heldBytes(): number {
    return this.#more.reduce((sum, { length }) => sum + length, this.#carried.bytes.length + this.#chunk.length);
  }

  /** Unread bytes are left; they may hold another line. */
  get holdsMore(): boolean {
    return this.#at < this.#chunk.length || this.#more.length > 0 || this.#isHeld;
  }

  /** Unread bytes hold a complete line. It searches for one: not for each chunk. */
  get holdsLine(): boolean {
    return this.#isHeld || this.#chunk.includes(LF, this.#at) || this.#more.some((chunk) => chunk.includes(LF));
  }

  /** The current line is left for later: `next` gives it again. It stays valid until then. */
  hold(): void {
    this.#isHeld = true;
  }

  get isHeld(): boolean {
    return this.#isHeld;
  }

  /** Takes a chunk, and owns it from now on. */
  feed(chunk: Uint8Array): void {
    if (this.holdsMore) return void this.#more.push(chunk);
    this.#chunk = chunk;
    this.#at = 0;
  }

  /** Takes all bytes after the last line, which the caller owns from now on: the reader is empty. */
  takeUnread(): Uint8Array[] {
    if (this.#isCarried) this.#forget();
    const { bytes, head, tail } = this.#carried;
    const unread = [Buffer.from(bytes.subarray(head, tail)), this.#chunk.subarray(this.#at), ...this.#more.splice(0)];
    this.#forget();
    this.#chunk = EMPTY;
    this.#at = 0;
    return unread.filter(({ length }) => length > 0);
  }

  /** Sets `bytes`, `start` and `end` to the next line; false without a complete line. */
  next(): boolean {
    if (this.#isHeld) return !(this.#isHeld = false);
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
    this.tooLong = this.lineBytes > this.lineBytesMax || this.#skipped > 0;
    if (this.tooLong) {
      this.#excerptWith(chunk.subarray(from, lf));
      this.#skippedTotal += this.lineBytes - this.#skipped;
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

  /** Adds more bytes of a line that is too long to the excerpt. */
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

  /** Keeps the beginning of a line, unless it is too long already, and frees the chunk. */
  #carry(): void {
    const rest = this.#chunk.length - this.#at;
    if (rest > 0) {
      const bytes = this.#carried.length + rest;
      if (this.#skipped > 0 || bytes >= this.lineBytesMax) {
        this.#excerptWith(this.#chunk.subarray(this.#at));
        this.#skipped += bytes;
        this.#skippedTotal += bytes;
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

/** The two parts together; a long middle is left out. */
function ends(before: Uint8Array, after: Uint8Array): Uint8Array {
  const length = before.length + after.length;
  const both = Buffer.alloc(Math.min(length, 2 * EXCERPT_END_BYTES));
  for (let i = 0; i < both.length; i++) {
    const at = i < EXCERPT_END_BYTES ? i : length - both.length + i;
    both[i] = at < before.length ? before[at]! : after[at - before.length]!;
  }
  return both;
}
