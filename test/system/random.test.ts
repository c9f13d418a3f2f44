/** Random tests that take longer than those of `npm test`: more seeds, more inputs, and breaches that few seeds show. */
import { describe, expect, test } from "bun:test";
import { Runner, describe as describeFailure } from "../fuzz/runner.ts";
import { targets } from "../fuzz/targets.ts";
import * as cluster from "../simulation/cluster-rules.ts";
import { SHARDS, simulateCluster } from "../simulation/cluster.ts";
import { LogDisk } from "../simulation/log-disk.ts";
import { RARE_RULES, isFound } from "../simulation/rules.ts";
import { SHARD_RULES } from "../simulation/shard-rules.ts";
import { simulate } from "../simulation/simulation.ts";
import { seedFor, seedsFor } from "../support/random.ts";

/** The breach that is hardest to find shows in about one of five hundred seeds. */
const SEEDS_MAX = 5000;
/** The same for a cluster: one of two hundred. */
const CLUSTER_SEEDS_MAX = 2500;
/** The same for three shards: one of ten. */
const SHARD_SEEDS_MAX = 200;

test("the simulation of one server holds for five hundred seeds", () => {
  for (const seed of seedsFor("simulation", 500)) simulate(seed);
}, 600_000);

test("the simulation of takeovers holds for two hundred seeds", () => {
  for (const seed of seedsFor("takeovers", 200)) simulate(seed, { DiskOf: LogDisk });
}, 600_000);

test("the simulation of three shards holds for twenty seeds", async () => {
  for (const seed of seedsFor("shards", 20)) await simulateCluster(seed, { shards: SHARDS });
}, 600_000);

test("every fuzz target holds for the inputs of ten seconds", async () => {
  const runner = new Runner(
    targets.map(({ name }) => name),
    seedFor("fuzz"),
  );
  const failure = await runner.run(10_000);
  runner.stop();
  if (failure !== null) throw new Error(describeFailure(failure));
}, 120_000);

describe("the simulation fails when this rule is broken:", () => {
  const seeds = seedsFor("rare rules", SEEDS_MAX);
  test.each(Object.entries(RARE_RULES))("%s", (name, rule) => expect(isFound(name, rule, seeds)).toBe(true), 300_000);
});

describe("the simulation of a cluster fails when this rule is broken:", () => {
  const seeds = seedsFor("rare cluster rules", CLUSTER_SEEDS_MAX);
  test.each(Object.entries(cluster.RARE_RULES))(
    "%s",
    async (_, rule) => expect(await cluster.isFound(rule, seeds)).toBe(true),
    900_000,
  );
});

describe("the simulation of three shards fails when this rule is broken:", () => {
  const seeds = seedsFor("shard rules", SHARD_SEEDS_MAX);
  test.each(Object.entries(SHARD_RULES))(
    "%s",
    async (_, rule) => expect(await cluster.isFound(rule, seeds)).toBe(true),
    300_000,
  );
});
