import { expect, test } from "bun:test";
import { shardOf, shardOfToken, tokenPrefix } from "../../src/protocol/shard.ts";

function shard(name: string, shards: number): number {
  const bytes = Buffer.from(`login ${name} x`);
  return shardOf(bytes, 6, 6 + name.length, shards);
}

test("the shard of a user is FNV-1a of the name, modulo the number of shards", () => {
  // The reference values of FNV-1a, 32 bits: 0x811c9dc5, 0xe40c292c, 0xbf9cf968.
  expect([shard("", 256), shard("a", 256), shard("foobar", 256)]).toEqual([0xc5, 0x2c, 0x68]);
  expect(shard("foobar", 3)).toBe(0xbf9cf968 % 3);
  expect(shard("anybody", 1)).toBe(0);
});

test("users are spread evenly over the shards", () => {
  const counts = new Array<number>(16).fill(0);
  for (let i = 0; i < 16_000; i++) counts[shard(`user${i}`, 16)]!++;
  for (const count of counts) expect(count).toBeGreaterThan(800);
});

test("a token of a cluster begins with its shard", () => {
  const random = "x".repeat(22);
  for (const each of [0, 1, 63, 64, 255]) expect(shardOfToken(tokenPrefix(each) + random, 256)).toBe(each);
  expect(new Set(Array.from({ length: 256 }, (_, each) => tokenPrefix(each))).size).toBe(256);
  expect(tokenPrefix(1)).toBe("AB");
});

test("a token from before the cluster may be of any shard, and one of another cluster of none", () => {
  expect(shardOfToken("x".repeat(22), 3)).toBe("any");
  expect(shardOfToken(`AD${"x".repeat(22)}`, 3)).toBeNull();
  expect(shardOfToken("x".repeat(23), 3)).toBeNull();
  expect(shardOfToken("x".repeat(64), 3)).toBeNull();
});
