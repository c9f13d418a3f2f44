import { expect, test } from "bun:test";
import { seedsFor } from "../support/random.ts";
import { LogDisk } from "./log-disk.ts";
import { simulate } from "./simulation.ts";

test("a session whose mailbox delivery is refused for lack of room is read again", () => {
  expect(simulate(2_026_994_720, { hardships: false, web: false })).toBeGreaterThan(0);
});

test("after a kill a plain session may be shown a message again that followed purged ones", () => {
  expect(simulate(501_410, { web: false })).toBeGreaterThan(0);
});

test("a server that is killed while too much waits for its log has no further turn", () => {
  expect(simulate(943_781_551, { web: false, DiskOf: LogDisk })).toBeGreaterThan(0);
});

test("every message and reply arrives once and in order, despite cuts, delays, full disks, stops and kills", () => {
  let shown = 0;
  const seeds = seedsFor("simulation", 200);
  for (const seed of seeds) shown += simulate(seed);
  expect(shown).toBeGreaterThan(0);
}, 600_000);

test("the same holds when each server takes over from the log of all servers before it, with or without a snapshot", () => {
  let shown = 0;
  for (const seed of seedsFor("takeovers", 120)) shown += simulate(seed, { DiskOf: LogDisk });
  expect(shown).toBeGreaterThan(0);
}, 600_000);
