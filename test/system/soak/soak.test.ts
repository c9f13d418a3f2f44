import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Findings, JUDGED_MS_MIN, spreadOf, verdict } from "./verdict.ts";
import { run } from "../../support/process.ts";

const folder = mkdtempSync(join(tmpdir(), "heartline-"));
afterAll(() => rmSync(folder, { recursive: true }));

const LENGTH_MS = 30 * 60_000;

function findings(given: Partial<Findings> = {}): Findings {
  const delivery = { lost: 0, twice: 0, disordered: 0, faults: [] };
  return {
    lengthMs: LENGTH_MS,
    marks: [200e6, 200e6, 200e6],
    loggedErrors: [],
    isRunning: true,
    descriptors: { before: ["anon_inode:[eventpoll]", "socket"], after: ["anon_inode:[eventpoll]", "socket"] },
    ordinary: { ...delivery, dropped: 0 },
    churn: delivery,
    ...given,
  };
}

const delivery = findings().churn;

test("marks lie so many percent of the least one apart", () => {
  expect(spreadOf([100, 100, 100])).toBe(0);
  expect(spreadOf([102, 100, 101])).toBe(2);
  expect(spreadOf([50, 100, 75])).toBe(100);
});

const short = JUDGED_MS_MIN - 1000;

test.each<[string, Partial<Findings>, string[]]>([
  ["nothing", {}, []],
  ["memory that grows by 2 %", { marks: [100, 100, 102] }, []],
  [
    "memory that grows by more",
    { marks: [100, 102, 103] },
    ["resident memory at the marks is 3 % apart, and may be 2"],
  ],
  ["the same in a short time", { lengthMs: short, marks: [100, 200, 300] }, []],
  ["one that broke off", { marks: [200, 200] }, ["it did not last until the last mark"]],
  [
    "descriptors that stay",
    { descriptors: { before: ["file", "socket"], after: ["file", "socket", "socket", "socket"] } },
    ["1 descriptors of socket before, 3 after"],
  ],
  [
    "one that went and another that came",
    { descriptors: { before: ["file"], after: ["socket"] } },
    ["1 descriptors of file before, 0 after", "0 descriptors of socket before, 1 after"],
  ],
  ["somebody dropped", { ordinary: { ...delivery, dropped: 2 } }, ["2 ordinary users were dropped"]],
  [
    "a message lost, one twice, one out of order",
    { ordinary: { ...delivery, lost: 1, dropped: 0 }, churn: { ...delivery, twice: 1, disordered: 2 } },
    ["ordinary: lost 1, twice 0, out of order 0", "visitors: lost 0, twice 1, out of order 2"],
  ],
  [
    "a fault",
    { churn: { ...delivery, faults: ["a session has ended: slow"] } },
    ["visitors: a session has ended: slow"],
  ],
  ["a server that ended", { isRunning: false }, ["the server has ended"]],
  ["a fault of the server", { loggedErrors: ['{"level":50}'] }, ['the server logged: {"level":50}']],
])("of %s it says so", (_what, given, wrong) => {
  expect(verdict(findings(given))).toEqual(wrong);
});

const soak = (...args: string[]) => run("test/system/soak/main.ts", ...args);

test("a short soak has its rows, and all is well but for memory, which is not judged in so short a time", async () => {
  const json = join(folder, "soak.json");
  const { out, err, code } = await soak(
    "--clients",
    "60",
    "--minutes",
    "0.05",
    "--json",
    json,
    "--",
    "--rate-limit",
    "900",
  );
  expect(out).toStartWith("60 clients stay, 6 come and go, ");
  expect(out.match(/^ +0\.0\d +\d+\.\d .* 0 +0 +0 +0$/gm)).toHaveLength(10);
  expect(out).toMatch(/resident at minutes 0\.017, 0\.033, 0\.05: [\d.]+, [\d.]+, [\d.]+ MB, .* % apart \(not judged /);
  expect(out).toMatch(/who stayed: \d+ messages and broadcasts, lost 0, twice 0, out of order 0, dropped 0/);
  expect(out).toMatch(/who came and went: \d+ times, .* lost 0, twice 0, out of order 0/);
  expect({ end: out.trimEnd().split("\n").at(-1), code, err }).toMatchObject({ end: "  well", code: 0 });
  const { wrong, samples, rows, marks } = JSON.parse(readFileSync(json, "utf8"));
  expect({ wrong, rows: rows.length, marks: marks.length }).toEqual({ wrong: [], rows: 10, marks: 3 });
  expect(samples.length).toBeGreaterThan(50);
  const most = Math.max(...samples.map(({ resident }: { resident: number }) => resident));
  expect(out).toContain(`with garbage at most ${(most / 1e6).toFixed(1)} MB\n`);
}, 60_000);

test.concurrent.each<[string[], RegExp]>([
  [["--clients", "61"], /--clients takes an even number/],
  [["--minutes", "0"], /--minutes takes a number from 0.01/],
  [["--clients", "3000", "--rate", "199"], /--rate takes a whole number from 200 /],
  [["--wat"], /--help lists the options/],
])("%p is refused in one line", async (args, why) => {
  const { out, err, code } = await soak(...args);
  expect(err).toMatch(/^soak: [^\n]*\n$/);
  expect(err).toMatch(why);
  expect({ out, code }).toEqual({ out: "", code: 2 });
});

test("a soak explains itself", async () => {
  const { out, err, code } = await soak("--help");
  expect(out).toStartWith("Usage: bun run soak");
  expect({ err, code }).toEqual({ err: "", code: 0 });
});
