import { expect, test } from "bun:test";
import { pairedUsers, serverOf, serversOf, worksOf } from "../../../bench/cluster/work.ts";
import { shardOf } from "../../../src/protocol/shard.ts";

const users = Array.from({ length: 1024 }, (_, i) => [`u${String(i).padStart(5, "0")}`, "secret"] as const);
const countsOf = (keys: readonly (number | string)[]): Record<string, number> =>
  keys.reduce<Record<string, number>>((counts, key) => ({ ...counts, [key]: (counts[key] ?? 0) + 1 }), {});

for (const shards of [1, 2, 4, 8]) {
  test(`users that exchange messages in the same of ${shards} shards are of it, and no user is in two pairs`, () => {
    const placed = pairedUsers(users, 64, shards, "same");
    for (const [i, { user, shard }] of placed.entries()) {
      expect(shardOf(Buffer.from(user[0]), 0, user[0].length, shards)).toBe(shard);
      expect(placed[i ^ 1]!.shard).toBe(shard);
    }
    expect(new Set(placed.map(({ user }) => user)).size).toBe(64);
    expect(Object.values(countsOf(placed.map(({ shard }) => shard)))).toEqual(Array(shards).fill(64 / shards));
  });
}

for (const shards of [2, 4, 8]) {
  test(`users that exchange messages across ${shards} shards are evenly in all shards and pairs of shards`, () => {
    // A multiple of the ordered pairs of different shards.
    const count = 2 * shards * (shards - 1);
    const placed = pairedUsers(users, count, shards, "cross");
    for (const { user, shard } of placed) expect(shardOf(Buffer.from(user[0]), 0, user[0].length, shards)).toBe(shard);
    const pairs = placed.filter((_, i) => i % 2 === 0).map(({ shard }, i) => `${shard} ${placed[2 * i + 1]!.shard}`);
    expect(pairs.filter((pair) => pair[0] === pair[2])).toEqual([]);
    expect(Object.values(countsOf(pairs))).toEqual(Array(shards * (shards - 1)).fill(1));
    expect(Object.values(countsOf(placed.map(({ shard }) => shard)))).toEqual(Array(shards).fill(count / shards));
  });
}

test("too few users of a shard are an error, not a pair of the wrong shards", () => {
  expect(() => pairedUsers(users.slice(0, 8), 64, 4, "same")).toThrow(/too few users of shard/);
});

test("a client at a gateway is at a server that does not own its shard, also when there is one shard", () => {
  for (const shards of [1, 2, 4, 8]) {
    const servers = serversOf(shards);
    for (let shard = 0; shard < shards; shard++) {
      expect(serverOf(shard, "owner", servers)).toBe(shard);
      const gateway = serverOf(shard, "gateway", servers);
      expect(gateway).not.toBe(shard);
      expect(gateway).toBeLessThan(servers);
    }
  }
});

test("one shard has no works with traffic between shards", () => {
  expect(worksOf(1, ["same", "cross"], ["owner", "gateway"]).map(({ traffic }) => traffic)).toEqual(["same", "same"]);
  expect(worksOf(2, ["same", "cross"], ["owner", "gateway"])).toHaveLength(4);
});
