import { expect, test } from "bun:test";
import { seedsFor } from "../support/random.ts";
import { simulate } from "./simulation.ts";

test("a session that waited for its mailbox, and for which there is no room any more, is read again", () => {
  expect(simulate(2_026_994_720, false)).toBeGreaterThan(0);
});

test("whatever is cut, lost, late or restarted, every message arrives once and in order, and every reply too", () => {
  let heard = 0;
  const seeds = seedsFor("simulation", 1200);
  for (const seed of seeds) heard += simulate(seed);
  expect(heard).toBeGreaterThan(0);
}, 600_000);
