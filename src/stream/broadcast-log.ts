import { LF } from "../protocol/ascii.ts";
import { copy } from "../byte-queue.ts";

export const BLOCK_BYTES = 64 << 10;

/**
 * What goes to everybody, stored once: an endless byte stream in blocks of 64 KiB. An outbox follows it by position and
 * its socket is written straight from the blocks. A block lives while an outbox holds a position in it, or while some
 * outbox may not have followed beyond it.
 */
export class BroadcastLog {
  /** Position behind the last byte. */
  end = 0;
  /** Every outbox has followed up to here. */
  followed = 0;
  #blocks: Buffer[] = [Buffer.allocUnsafeSlow(BLOCK_BYTES)];
  #holds: number[] = [0];
  /** Number of the block #blocks[0]. */
  #first = 0;
  #spare: Buffer | null = null;
  #seam: Buffer | null = null;

  /** Bytes of blocks that are alive. */
  get bytes(): number {
    return this.#blocks.length * BLOCK_BYTES;
  }

  /** Appends the line head + bytes[start..end). */
  append(head: Uint8Array, bytes: Uint8Array, start: number, end: number): void {
    this.#write(head, 0, head.length);
    this.#write(bytes, start, end);
    this.#write(LINE_END, 0, 1);
  }

  #write(bytes: Uint8Array, start: number, end: number): void {
    let from = start;
    while (from < end) {
      const at = this.end % BLOCK_BYTES;
      const count = Math.min(end - from, BLOCK_BYTES - at);
      copy(bytes, this.#blocks[this.#blocks.length - 1]!, at, from, from + count);
      from += count;
      this.end += count;
      if (at + count === BLOCK_BYTES) {
        this.#blocks.push(this.#spare ?? Buffer.allocUnsafeSlow(BLOCK_BYTES));
        this.#holds.push(0);
        this.#spare = null;
      }
    }
  }

  /** The block that holds `position`, and where in it: positions up to the block's end lie behind it. */
  block(position: number): Buffer {
    return this.#blocks[Math.floor(position / BLOCK_BYTES) - this.#first]!;
  }

  offset(position: number): number {
    return position % BLOCK_BYTES;
  }

  /** [from, to), at most 64 KiB, in one piece: where two blocks meet it is a copy, which the next one overwrites. */
  piece(from: number, to: number): { bytes: Buffer; start: number } {
    const bytes = this.block(from);
    const start = this.offset(from);
    if (start + to - from <= BLOCK_BYTES) return { bytes, start };
    this.#seam ??= Buffer.allocUnsafeSlow(BLOCK_BYTES);
    this.copy(from, to, this.#seam, 0);
    return { bytes: this.#seam, start: 0 };
  }

  /** Copies [from, to) to target[at..]. */
  copy(from: number, to: number, target: Buffer, at: number): void {
    let position = from;
    while (position < to) {
      const offset = position % BLOCK_BYTES;
      const count = Math.min(to - position, BLOCK_BYTES - offset);
      this.block(position).copy(target, at + position - from, offset, offset + count);
      position += count;
    }
  }

  /** An outbox begins to hold what lies at `position` and behind it. */
  hold(position: number): void {
    this.#holds[Math.floor(position / BLOCK_BYTES) - this.#first]!++;
  }

  /** It lets go again. */
  release(position: number): void {
    this.#holds[Math.floor(position / BLOCK_BYTES) - this.#first]!--;
    this.trim();
  }

  /** It holds only from `to` on what it held from `from` on. */
  move(from: number, to: number): void {
    const old = Math.floor(from / BLOCK_BYTES);
    const now = Math.floor(to / BLOCK_BYTES);
    if (old === now) return;
    this.#holds[now - this.#first]!++;
    this.#holds[old - this.#first]!--;
    this.trim();
  }

  /** Gives up the blocks that nobody needs any more. */
  trim(): void {
    const needed = Math.floor(this.followed / BLOCK_BYTES);
    while (this.#first < needed && this.#holds[0] === 0) {
      this.#spare = this.#blocks.shift()!;
      this.#holds.shift();
      this.#first++;
    }
  }
}

const LINE_END = Uint8Array.of(LF);
