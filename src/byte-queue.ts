/** Growing byte buffers, a pool of their memory, and a copy that is fast for short ranges. */

import { POOLED_BYTES_MAX } from "./limits.ts";

const EMPTY: Buffer = Buffer.alloc(0);
/**
 * Size of the smallest buffer. All sizes are this size times 2^n, so an eighth more than a power of two: the limits of
 * streams are powers of two, and a stream at its limit is a little longer.
 */
const BUFFER_BYTES_MIN = 576;
/** Up to this length a loop is faster than the call of a native copy. */
const LOOP_BYTES_MAX = 24;

/** The memory of several queues. */
export interface Memory {
  bytes: number;
}

/** A queue of bytes, bytes[head..tail). An empty one holds no memory. */
export class ByteQueue {
  bytes = EMPTY;
  head = 0;
  tail = 0;
  readonly #memory: Memory;

  /** `memory` counts the bytes that this queue holds. A queue that is dropped must be cleared first. */
  constructor(memory: Memory = { bytes: 0 }) {
    this.#memory = memory;
  }

  get length(): number {
    return this.tail - this.head;
  }

  /** Appends `count` bytes, which the caller writes. Returns the index of the first one in `bytes`. */
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
    this.#memory.bytes -= this.bytes.length;
    giveBack(this.bytes);
    this.bytes = EMPTY;
    this.head = this.tail = 0;
  }

  #grow(count: number): void {
    const { bytes, head, tail } = this;
    const used = tail - head;
    // The buffer is kept when at least as many bytes were dropped as are left: then the move of these is cheap.
    if (used + count > bytes.length || head < used) {
      let size = Math.max(BUFFER_BYTES_MIN, bytes.length);
      while (size < used + count) size *= 2;
      this.bytes = borrow(size);
      this.#memory.bytes += size - bytes.length;
    }
    if (used > 0) bytes.copy(this.bytes, 0, head, tail);
    if (this.bytes !== bytes) giveBack(bytes);
    this.head = 0;
    this.tail = used;
  }
}

/** Free buffers of one size. */
class BufferPool {
  readonly buffers: Buffer[] = [];
  /** The lowest length of `buffers` since the last trim: that many were not used. */
  unusedCount = 0;
}

/** Pool n has the buffers of the size between 2^n and 2^(n + 1). */
const pools = Array.from({ length: 32 }, () => new BufferPool());
let pooledBytes = 0;

function borrow(bytes: number): Buffer {
  const pool = pools[31 - Math.clz32(bytes)]!;
  const buffer = pool.buffers.pop();
  if (buffer === undefined) return Buffer.allocUnsafeSlow(bytes);
  pool.unusedCount = Math.min(pool.unusedCount, pool.buffers.length);
  pooledBytes -= bytes;
  return buffer;
}

/** Frees the buffers that were not used since the last call: the next turns need about as many as the last ones. */
export function trimBufferPools(): void {
  for (const pool of pools) {
    for (const buffer of pool.buffers.splice(0, pool.unusedCount)) pooledBytes -= buffer.length;
    pool.unusedCount = pool.buffers.length;
  }
}

function giveBack(bytes: Buffer): void {
  if (bytes.length === 0 || pooledBytes + bytes.length > POOLED_BYTES_MAX) return;
  pooledBytes += bytes.length;
  pools[31 - Math.clz32(bytes.length)]!.buffers.push(bytes);
}

/** Copies source[start..end) to target[at..]. `target.set(source.subarray(…))` creates a view: three times as slow. */
export function copy(source: Uint8Array, target: Buffer, at: number, start: number, end: number): void {
  if (end - start > LOOP_BYTES_MAX) Buffer.prototype.copy.call(source, target, at, start, end);
  else for (let i = start, to = at; i < end; i++, to++) target[to] = source[i]!;
}
