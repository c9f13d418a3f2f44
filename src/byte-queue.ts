/** Growing byte buffers, a pool of their memory, and a copy that is fast for short ranges. */

import { POOLED_BYTES_MAX } from "./limits.ts";

const EMPTY: Buffer = Buffer.alloc(0);
/** All sizes are an eighth more than a power of two, since a stream that reaches a limit, 2^n, exceeds it a little. */
const BUFFER_BYTES_MIN = 576;
/** Up to this length a loop is faster than the call of a native copy. */
const LOOP_BYTES_MAX = 24;

/** A queue of bytes, bytes[head..tail). An empty one holds no memory. */
export class ByteQueue {
  bytes = EMPTY;
  head = 0;
  tail = 0;

  get length(): number {
    return this.tail - this.head;
  }

  /** Appends `count` bytes of any content; returns their index in `bytes`. */
  reserve(count: number): number {
    if (this.tail + count > this.bytes.length) this.#grow(count);
    const at = this.tail;
    this.tail = at + count;
    return at;
  }

  /** Removes `count` bytes at the beginning. */
  drop(count: number): void {
    this.head += count;
    if (this.head === this.tail) this.clear();
  }

  clear(): void {
    giveBack(this.bytes);
    this.bytes = EMPTY;
    this.head = this.tail = 0;
  }

  #grow(count: number): void {
    const { bytes, head, tail } = this;
    const used = tail - head;
    // Moving the bytes to the beginning copies them, so it is done only when at least as many were dropped.
    if (used + count > bytes.length || head < used) {
      let room = Math.max(BUFFER_BYTES_MIN, bytes.length);
      while (room < used + count) room *= 2;
      this.bytes = borrow(room);
    }
    if (used > 0) bytes.copy(this.bytes, 0, head, tail);
    if (this.bytes !== bytes) giveBack(bytes);
    this.head = 0;
    this.tail = used;
  }
}

/** Free buffers of one size. A turn needs about as many as the turn before it. */
class BufferPool {
  readonly buffers: Buffer[] = [];
  /** The least number of them since the last trim. */
  unused = 0;
}

/** By the power of two below their size. */
const pools = Array.from({ length: 32 }, () => new BufferPool());
let pooledBytes = 0;

function borrow(bytes: number): Buffer {
  const pool = pools[31 - Math.clz32(bytes)]!;
  const buffer = pool.buffers.pop();
  if (buffer === undefined) return Buffer.allocUnsafeSlow(bytes);
  pool.unused = Math.min(pool.unused, pool.buffers.length);
  pooledBytes -= bytes;
  return buffer;
}

/** Frees the buffers that were not needed since the last call. */
export function trimBufferPools(): void {
  for (const pool of pools) {
    for (const buffer of pool.buffers.splice(0, pool.unused)) pooledBytes -= buffer.length;
    pool.unused = pool.buffers.length;
  }
}

function giveBack(bytes: Buffer): void {
  if (bytes.length === 0 || pooledBytes + bytes.length > POOLED_BYTES_MAX) return;
  pooledBytes += bytes.length;
  pools[31 - Math.clz32(bytes.length)]!.buffers.push(bytes);
}

/** Copies source[start..end) to target[at..]. `set(subarray)` creates a view and takes three times as long. */
export function copy(source: Uint8Array, target: Buffer, at: number, start: number, end: number): void {
  if (end - start > LOOP_BYTES_MAX) Buffer.prototype.copy.call(source, target, at, start, end);
  else for (let i = start, to = at; i < end; i++, to++) target[to] = source[i]!;
}
