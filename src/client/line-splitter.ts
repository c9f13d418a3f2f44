import { SERVER_LINE_BYTES_MAX } from "../limits.ts";

const LF = 10;
const CR = 13;
const EMPTY = new Uint8Array(0);

/**
 * Cuts received bytes into lines. As `LineReader` of the server, without its pools of memory and its Buffers: this one
 * also runs in a browser. `feed` takes a chunk, and `next` gives the next line, which is valid until the next call.
 */
export class LineSplitter {
  /** The line is bytes[start..end), without CR and LF. */
  bytes: Uint8Array = EMPTY;
  start = 0;
  end = 0;
  /** Bytes of the line with its CR and LF. */
  lineBytes = 0;
  /** The line was longer than the limit: it has no text. */
  isTooLong = false;
  readonly #lineBytesMax: number;
  /** Unread bytes are bytes[at..filled). Up to `searched` they have no LF. */
  #at = 0;
  #filled = 0;
  #searched = 0;
  /** Whether `bytes` was allocated here, with room for more. */
  #isOwn = false;
  /** Bytes of an unfinished line that is too long already. */
  #skipped = 0;

  constructor(lineBytesMax: number = SERVER_LINE_BYTES_MAX) {
    this.#lineBytesMax = lineBytesMax;
  }

  feed(chunk: Uint8Array): void {
    const unread = this.#filled - this.#at;
    if (unread === 0) {
      this.bytes = chunk;
      this.#at = this.#searched = 0;
      this.#filled = chunk.length;
      this.#isOwn = false;
      return;
    }
    if (!this.#isOwn || this.#filled + chunk.length > this.bytes.length) {
      // Grows by doubling: a line may arrive byte by byte.
      const grown = new Uint8Array(Math.max(2 * unread, unread + chunk.length));
      grown.set(this.bytes.subarray(this.#at, this.#filled));
      this.bytes = grown;
      this.#searched -= this.#at;
      this.#at = 0;
      this.#filled = unread;
      this.#isOwn = true;
    }
    this.bytes.set(chunk, this.#filled);
    this.#filled += chunk.length;
  }

  /** Goes to the next line; false without a complete one. */
  next(): boolean {
    const lf = this.bytes.indexOf(LF, this.#searched);
    if (lf < 0 || lf >= this.#filled) {
      const unread = this.#filled - this.#at;
      if (this.#skipped > 0 || unread >= this.#lineBytesMax) {
        this.#skipped += unread;
        this.#at = this.#filled;
      }
      this.#searched = this.#filled;
      return false;
    }
    this.start = this.#at;
    this.#at = this.#searched = lf + 1;
    this.lineBytes = this.#skipped + lf + 1 - this.start;
    this.isTooLong = this.lineBytes > this.#lineBytesMax;
    this.#skipped = 0;
    if (this.isTooLong) this.start = lf;
    this.end = lf > this.start && this.bytes[lf - 1] === CR ? lf - 1 : lf;
    return true;
  }
}
