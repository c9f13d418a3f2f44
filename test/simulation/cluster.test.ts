import { expect, test } from "bun:test";
import { seedsFor } from "../support/random.ts";
import { simulateCluster } from "./cluster.ts";

test("with several processes on a shared log every message and reply arrives once and in order, whoever fails", async () => {
  let shown = 0;
  for (const seed of seedsFor("cluster", 25)) shown += await simulateCluster(seed);
  expect(shown).toBeGreaterThan(0);
}, 600_000);
