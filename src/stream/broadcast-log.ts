import { LF } from "../protocol/ascii.ts";
import { copy } from "../byte-queue.ts";

export const BLOCK_BYTES = 64 << 10;

/**
 * The lines that go to all users, stored once: an endless byte stream in blocks of 64 KiB. An outbox has only positions
 * in it, and its socket is written from the blocks. A block is kept while an outbox holds a position in it, and until
 * all outboxes have followed the log beyond it.
 */
export class BroadcastLog {
  /** Position after the last byte. */
  end = 0;
  /** All outboxes have followed the log up to here. */
  followed = 0;
  #blocks: Buffer[] = [Buffer.allocUnsafeSlow(BLOCK_BYTES)];
  /** For each block, how many positions in it are held. */
  #holds: number[] = [0];
  /** Index of #blocks[0] among all blocks that ever were. */
  #first = 0;
  /** A block that was freed, for the next one. */
  #spare: Buffer | null = null;
  /** The copy that `piece` returns. */
  #seam: Buffer | null = null;

  /** Bytes of the blocks that are kept. */
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

  /** The block with the byte at `position`, at its `offset`. The bytes up to the end of the block follow it. */
  block(position: number): Buffer {
    return this.#blocks[Math.floor(position / BLOCK_BYTES) - this.#first]!;
  }

  offset(position: number): number {
    return position % BLOCK_BYTES;
  }

  /** [from, to), at most 64 KiB, in one piece. If it crosses two blocks, it is a copy that the next call overwrites. */
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

  /** An outbox holds the bytes from `position` on. */
  hold(position: number): void {
    this.#holds[Math.floor(position / BLOCK_BYTES) - this.#first]!++;
  }

  /** An outbox no longer holds them. */
  release(position: number): void {
    this.#holds[Math.floor(position / BLOCK_BYTES) - this.#first]!--;
    this.trim();
  }

  /** An outbox that held the bytes from `from` on holds them only from `to` on. */
  move(from: number, to: number): void {
    const old = Math.floor(from / BLOCK_BYTES);
    const now = Math.floor(to / BLOCK_BYTES);
    if (old === now) return;
    this.#holds[now - this.#first]!++;
    this.#holds[old - this.#first]!--;
    this.trim();
  }

  /** Frees the first blocks as long as no outbox needs them. */
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
