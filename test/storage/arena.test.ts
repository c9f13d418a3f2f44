import { expect, test } from "bun:test";
import { Arena } from "../../src/storage/arena.ts";

test("copies keep their bytes, also beyond the room of the arena, until all are freed; then new copies overwrite them", () => {
  const arena = new Arena(10);
  const source = Buffer.from("source");
  const copies = Array.from({ length: 3 }, () => arena.copy(source));
  const small = arena.copy(Buffer.from("four"));
  source.fill("#");
  expect(copies.map(String)).toEqual(["source", "source", "source"]);
  expect(String(small)).toBe("four");
  expect(copies.filter(({ buffer }) => buffer === small.buffer)).toHaveLength(1);
  arena.clear();
  const next = arena.copy(Buffer.from("next"));
  expect([next.buffer === small.buffer, next.byteOffset]).toEqual([true, copies[0]!.byteOffset]);
});
