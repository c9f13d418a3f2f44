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
