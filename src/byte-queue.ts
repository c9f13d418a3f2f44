import { POOLED_BYTES_MAX } from "./limits.ts";

const EMPTY: Buffer = Buffer.alloc(0);
/** An eighth more than a power of two, as all are: what reaches a bound, which is one, goes a little beyond it. */
const BUFFER_BYTES_MIN = 576;
/** Shorter ones are copied here: what a native copy does first takes longer than they do. */
const LOOP_BYTES_MAX = 24;

/** Bytes that came and are still needed, in order: bytes[head..tail). One that is empty holds no memory. */
export class ByteQueue {
  bytes = EMPTY;
  head = 0;
  tail = 0;

  get length(): number {
    return this.tail - this.head;
  }

  /** Room for so many bytes at the end; returns where in `bytes` it begins. */
  reserve(count: number): number {
    if (this.tail + count > this.bytes.length) this.#grow(count);
    const at = this.tail;
    this.tail = at + count;
    return at;
  }

  /** So many bytes at the beginning are not needed any more. */
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
    // Moving down costs a copy of what is left: only when at least as much was freed.
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

/** Buffers of one length that were given back: a turn needs as many as the one before it. */
class BufferPool {
  readonly buffers: Buffer[] = [];
  /** So many were left over all the time since the last trim. */
  unused = 0;
}

/** By the power of two that they are a little longer than. */
const pools = Array.from({ length: 32 }, () => new BufferPool());
let pooledBytes = 0;

function borrow(bytes: number): Buffer {
  const fitting = pools[31 - Math.clz32(bytes)]!;
  const spare = fitting.buffers.pop();
  if (spare === undefined) return Buffer.allocUnsafeSlow(bytes);
  fitting.unused = Math.min(fitting.unused, fitting.buffers.length);
  pooledBytes -= bytes;
  return spare;
}

/** Now and then: what nobody needed since the last time is let go. */
export function trimBufferPools(): void {
  for (const fitting of pools) {
    for (const spare of fitting.buffers.splice(0, fitting.unused)) pooledBytes -= spare.length;
    fitting.unused = fitting.buffers.length;
  }
}

function giveBack(bytes: Buffer): void {
  if (bytes.length === 0 || pooledBytes + bytes.length > POOLED_BYTES_MAX) return;
  pooledBytes += bytes.length;
  pools[31 - Math.clz32(bytes.length)]!.buffers.push(bytes);
}

/** source[start..end) to target[at..]. `set(subarray)` would make a view first, and take three times as long. */
export function copy(source: Uint8Array, target: Buffer, at: number, start: number, end: number): void {
  if (end - start > LOOP_BYTES_MAX) Buffer.prototype.copy.call(source, target, at, start, end);
  else for (let i = start, to = at; i < end; i++, to++) target[to] = source[i]!;
}
