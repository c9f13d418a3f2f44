import { expect, test } from "bun:test";
import { release } from "../../src/runtime/received-chunk.ts";

test("the memory of a large chunk is freed", () => {
  const chunk = new Uint8Array(64 << 10);
  release(chunk);
  expect(chunk.length).toBe(0);
});

test("the memory of a small chunk, and of one that is only a part of a buffer, is left to the garbage collector", () => {
  const small = new Uint8Array(64);
  const part = new Uint8Array(64 << 10).subarray(1);
  for (const chunk of [small, part]) release(chunk);
  expect([small.length, part.length]).toEqual([64, (64 << 10) - 1]);
});
