import { afterEach, expect, test } from "bun:test";
import { endPrograms, run } from "../../support/process.ts";
import type { Flow } from "./check.ts";
import type { Bounds } from "./load.ts";
import { faultsOf } from "./verdict.ts";

afterEach(endPrograms);

const backups = (...args: string[]) => run("test/system/backup/main.ts", ...args);

test.each(["process", "power"])(
  "five backups under load open, with every accepted message once, with durability %s",
  async (durability) => {
    const { code, out, err } = await backups("--count", "5", "--rate", "20000", "--durability", durability);
    if (code !== 0) throw new Error(`${out}${err}`);
    expect(out).toMatch(/^backups +5, each opened\nwrong +0\n/);
    const [, accepted = "0"] = /^accepted per s +([\d,]+)$/m.exec(out) ?? [];
    expect(Number(accepted.replaceAll(",", ""))).toBeGreaterThan(1000);
  },
  120_000,
);

const bounds: Bounds = { from: "a", to: "b", accepted: 10, acked: 4, ackedMax: 6 };
const flow: Flow = { from: "a", to: "b", first: 6, last: 12, count: 7, isInOrder: true };

test.each<[string, Partial<Flow>, Partial<Bounds>, string[]]>([
  ["a backup with all that was promised has no fault", {}, {}, []],
  [
    "a message that was accepted before the request must be there",
    { last: 9 },
    {},
    ["a to b: 6 to 9, but 10 were accepted before"],
  ],
  [
    "a message that nobody acknowledged must be there",
    { first: 8 },
    {},
    ["a to b: 8 to 12, but only 6 were acknowledged"],
  ],
  [
    "a message that was acknowledged before the request must not be there",
    { first: 4 },
    {},
    ["a to b: 4 to 12, but 4 were acknowledged before"],
  ],
  [
    "no message may be there twice or be missing in between",
    { isInOrder: false, count: 8 },
    {},
    ["a to b: 6 to 12, but 8 in all or not in order"],
  ],
])("%s", (_name, changed, changedBounds, faults) => {
  const all = [{ ...bounds, ...changedBounds }];
  expect(faultsOf([{ ...flow, ...changed }], all, all)).toEqual(faults);
});

test("a flow without messages is a fault unless all accepted messages may have been acknowledged", () => {
  expect(faultsOf([], [bounds], [bounds])).toEqual(["none of a to b, and 10 accepted"]);
  expect(faultsOf([], [bounds], [{ ...bounds, ackedMax: 10 }])).toEqual([]);
});

test("an invalid command line prints the reason and exits with 2", async () => {
  const { code, out, err } = await backups("--count", "none");
  expect({ code, out }).toEqual({ code: 2, out: "" });
  expect(err).toBe('backups: --count takes a whole number from 1 to 10000, not "none" (--help lists the options)\n');
});
