import { expect, test } from "bun:test";
import { boundHolds, deviation, limitOf, predict } from "../../../bench/cluster/model.ts";

const cost = { server: 4, engine: 1, generator: 5, logBytes: 100 };
const room = { cores: 2, shards: 2, logBytesPerSecond: Number.POSITIVE_INFINITY, hasGenerator: true };

test("the model divides the cores by what servers, engine and load generator have used for a message", () => {
  expect(predict(cost, room)).toEqual({ rate: 200_000, limit: "cores" });
  expect(predict(cost, { ...room, hasGenerator: false })).toEqual({ rate: 400_000, limit: "cores" });
  expect(predict(cost, { ...room, cores: 16, shards: 16, hasGenerator: false }).rate).toBe(3_200_000);
});

test("the model gives the server of a shard one core", () => {
  expect(predict(cost, { ...room, cores: 64, shards: 2 })).toEqual({ rate: 500_000, limit: "server" });
});

test("the model ends at what the engine takes in bytes of records", () => {
  expect(predict(cost, { ...room, logBytesPerSecond: 1e6 })).toEqual({ rate: 10_000, limit: "engine" });
});

test("a deviation is positive when more was measured than predicted", () => {
  expect(deviation(110, 100)).toBeCloseTo(0.1);
  expect(deviation(80, 100)).toBeCloseTo(-0.2);
});

test.each([
  ["others use the cores too", { generator: 0.95, busiestServer: 0.95, machine: 0.99, others: 0.2 }, "others"],
  [
    "the load generator has used its core",
    { generator: 0.95, busiestServer: 0.95, machine: 0.99, others: 0 },
    "generator",
  ],
  ["all cores are used", { generator: 0.5, busiestServer: 0.95, machine: 0.95, others: 0.05 }, "cores"],
  ["one server has used a core", { generator: 0.5, busiestServer: 0.95, machine: 0.7, others: 0.2 }, "server"],
  ["nothing is used up", { generator: 0.5, busiestServer: 0.5, machine: 0.7, others: 0.2 }, "engine"],
] as const)("when %s, that is named as the limit", (_when, usage, limit) => {
  expect(limitOf(usage)).toBe(limit);
});

test("a cross-shard ok may take four appends, not more", () => {
  expect([3, 4, 4.01].map(boundHolds)).toEqual([true, true, false]);
});
