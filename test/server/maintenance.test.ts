import { expect, test } from "bun:test";
import type { Admission } from "../../src/net/admission.ts";
import type { BoundedLog } from "../../src/server/bounded-log.ts";
import type { Core } from "../../src/server/core.ts";
import { Maintenance } from "../../src/server/maintenance.ts";
import type { Store } from "../../src/storage/store.ts";

test("lockouts are stored with their new end once, after a time in which the store was slow and timers stood still", () => {
  let nowMs = 1000;
  let unixMs = 1_700_000_000_000;
  let stored = 0;
  const store = { isSlow: false };
  const core = {
    clock: { nowMs: () => nowMs, unixMs: () => unixMs },
    chat: { lockouts: { clockWasSet: () => stored++ } },
  };
  const maintenance = new Maintenance(
    core as unknown as Core,
    store as unknown as Store,
    {} as Admission,
    {} as BoundedLog,
    () => {},
  );
  const second = (): number => {
    unixMs += 1000;
    if (!store.isSlow) nowMs += 1000;
    maintenance.followWallClock();
    return stored;
  };
  expect([second(), second()]).toEqual([0, 0]);
  store.isSlow = true;
  expect([second(), second(), second()]).toEqual([0, 0, 0]);
  store.isSlow = false;
  expect([second(), second(), second()]).toEqual([1, 1, 1]);
});

test("periodic duties act at different ticks, and each of them at its interval", () => {
  const acted: string[][] = [];
  const note = (duty: string) => (): void => void acted.at(-1)!.push(duty);
  const core = {
    clock: { nowMs: () => 0, unixMs: () => 0 },
    turn: { begin: () => {} },
    fireTimers: note("timers"),
    chat: { sweep: note("sweep"), limits: { streamsBytesMax: Number.POSITIVE_INFINITY } },
  };
  const maintenance = new Maintenance(
    core as unknown as Core,
    { retry: note("store"), writeError: null } as unknown as Store,
    { report: note("refusals") } as unknown as Admission,
    { summarize: note("log") } as unknown as BoundedLog,
    (error) => {
      throw error;
    },
  );
  for (let tick = 0; tick < 128; tick++) {
    acted.push([]);
    maintenance.tick();
  }
  const count = (duty: string): number => acted.flat().filter((each) => each === duty).length;
  expect(["timers", "sweep", "store", "log", "refusals"].map(count)).toEqual([128, 32, 8, 8, 1]);
  expect(Math.max(...acted.map(({ length }) => length))).toBe(2);
});
