import { expect, test } from "bun:test";
import { Outages } from "./outages.ts";

/** Outages under a clock that the test moves. */
function start(): { outages: Outages; at: (ms: number, isServed: boolean) => void; clock: { ms: number } } {
  const clock = { ms: 0 };
  const outages = new Outages(() => clock.ms);
  const at = (ms: number, isServed: boolean): void => {
    clock.ms = ms;
    outages.seen(1, isServed);
  };
  return { outages, at, clock };
}

test("an outage lasts from the last look with service to the next one, and names its faults", () => {
  const { outages, at, clock } = start();
  at(0, false);
  at(1_000, true);
  clock.ms = 1_500;
  const fault = outages.fault("owner paused");
  at(2_000, false);
  clock.ms = 5_500;
  outages.ended(fault);
  at(6_000, true);
  outages.fault("spare killed");
  expect(outages.lines).toEqual(["shard 1, 5.0 s at 1.0 s: owner paused at +0.5 s for 4.0 s"]);
  expect(outages.unexplained).toEqual([]);
});

test("an outage that lasts long after its last fault is not explained, and the longest comes first", () => {
  const { outages, at } = start();
  at(0, true);
  outages.ended(outages.fault("owner killed"));
  at(1_000, false);
  at(4_000, true);
  at(5_000, false);
  at(40_000, true);
  expect(outages.lines.map((line) => line.split(":")[0])).toEqual([
    "shard 1, 36.0 s at 4.0 s",
    "shard 1, 4.0 s at 0.0 s",
  ]);
  expect(outages.unexplained).toEqual([outages.lines[0]!]);
});

test("the outages of each shard are its own", () => {
  const { outages, at, clock } = start();
  at(0, true);
  outages.seen(2, true);
  clock.ms = 1_000;
  outages.seen(2, false);
  at(2_000, false);
  at(3_000, true);
  clock.ms = 5_000;
  outages.seen(2, true);
  expect(outages.lines).toEqual(["shard 2, 5.0 s at 0.0 s: ", "shard 1, 3.0 s at 0.0 s: "]);
});
