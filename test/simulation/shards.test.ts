import { expect, test } from "bun:test";
import { seedsFor } from "../support/random.ts";
import { SHARDS, simulateCluster } from "./cluster.ts";

test("users of three shards receive every message and reply once and in order, whoever fails", async () => {
  let shown = 0;
  for (const seed of seedsFor("shards", 6)) shown += await simulateCluster(seed, { shards: SHARDS });
  expect(shown).toBeGreaterThan(0);
}, 600_000);
