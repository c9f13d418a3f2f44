import { expect, test } from "bun:test";
import { ByteQueue, trimBufferPools } from "../src/byte-queue.ts";

/** A different length for each test, since the pool is shared. */
function filled(bytes: number): { queue: ByteQueue; buffer: Buffer } {
  const queue = new ByteQueue();
  queue.reserve(bytes);
  return { queue, buffer: queue.bytes };
}

test("a queue returns its bytes unchanged, wherever its buffer ends", () => {
  const queue = new ByteQueue();
  let put = 0;
  let taken = 0;
  for (let i = 0; i < 2_000; i++) {
    const count = (i * 7) % 40;
    const at = queue.reserve(count);
    for (let n = 0; n < count; n++) queue.bytes[at + n] = put++;
    if (i % 3 === 0) continue;
    const drop = Math.min(queue.length, (i * 11) % 60);
    for (let n = 0; n < drop; n++) expect(queue.bytes[queue.head + n]).toBe(taken++ & 255);
    queue.drop(drop);
  }
  expect(queue.length).toBe(put - taken);
});

test("the next queue uses the buffer of an emptied one", () => {
  const first = filled(1 << 13);
  first.queue.drop(1 << 13);
  expect(first.queue.bytes).toHaveLength(0);
  expect(filled(1 << 13).buffer).toBe(first.buffer);
});

test("a queue that exceeds a power of two a little needs no larger buffer", () => {
  const { queue, buffer } = filled(1 << 20);
  queue.reserve(1 << 16);
  expect(queue.bytes).toBe(buffer);
});

test("a trim frees the pooled buffers that were not needed since the last trim", () => {
  trimBufferPools();
  const old = Array.from({ length: 5 }, () => filled(1 << 14));
  for (const { queue } of old) queue.clear();
  trimBufferPools();
  const busy = [filled(1 << 14), filled(1 << 14)];
  for (const { queue } of busy) queue.clear();
  trimBufferPools();
  const buffers = Array.from({ length: 3 }, () => filled(1 << 14).buffer);
  expect(buffers.slice(0, 2).every((buffer) => busy.some((one) => one.buffer === buffer))).toBe(true);
  expect(old.some(({ buffer }) => buffer === buffers[2])).toBe(false);
});
