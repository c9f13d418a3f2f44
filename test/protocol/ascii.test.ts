import { expect, test } from "bun:test";
import { encode } from "../../src/protocol/ascii.ts";

test("encoded lines own no memory outside the heap, which the runtime would free while everything stands still", () => {
  const outside = (): number => process.memoryUsage().arrayBuffers;
  const lines: Uint8Array[] = [];
  const before = outside();
  for (let i = 0; i < 1000; i++) lines.push(encode(`stored alice ${i} `));
  expect(outside() - before).toBeLessThan(lines.length);
});

test("texts are encoded as UTF-8", () => {
  expect([...encode("é€")]).toEqual([0xc3, 0xa9, 0xe2, 0x82, 0xac]);
});
