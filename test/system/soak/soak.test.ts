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

test("the spread of marks is their difference in percent of the smallest", () => {
  expect(spreadOf([100, 100, 100])).toBe(0);
  expect(spreadOf([102, 100, 101])).toBe(2);
  expect(spreadOf([50, 100, 75])).toBe(100);
});

const short = JUDGED_MS_MIN - 1000;

test.each<[string, Partial<Findings>, string[]]>([
  ["a soak without faults gives no error", {}, []],
  ["memory that grows by 2 % is allowed", { marks: [100, 100, 102] }, []],
  [
    "memory that grows by more than 2 % is an error",
    { marks: [100, 102, 103] },
    ["resident memory at the marks is 3 % apart: the limit is 2 %"],
  ],
  ["memory that grows in a short soak is no error", { lengthMs: short, marks: [100, 200, 300] }, []],
  ["a missing mark is an error", { marks: [200, 200] }, ["the soak ended before the last mark"]],
  [
    "descriptors that stay open are an error",
    { descriptors: { before: ["file", "socket"], after: ["file", "socket", "socket", "socket"] } },
    ["1 descriptors of socket before, 3 after"],
  ],
  [
    "a new descriptor is an error even when one of another kind was closed",
    { descriptors: { before: ["file", "file"], after: ["file", "socket"] } },
    ["0 descriptors of socket before, 1 after"],
  ],
  [
    "a disconnected user is an error",
    { ordinary: { ...delivery, dropped: 2 } },
    ["2 ordinary users were disconnected"],
  ],
  [
    "messages lost, twice or out of order are an error per kind of clients",
    { ordinary: { ...delivery, lost: 1, dropped: 0 }, churn: { ...delivery, twice: 1, disordered: 2 } },
    ["ordinary: lost 1, twice 0, out of order 0", "churn: lost 0, twice 1, out of order 2"],
  ],
  [
    "a fault of a churn client is an error",
    { churn: { ...delivery, faults: ["a session ended: slow"] } },
    ["churn: a session ended: slow"],
  ],
  ["a server that has ended is an error", { isRunning: false }, ["the server has ended"]],
  ["an error in the server's log is an error", { loggedErrors: ['{"level":50}'] }, ['the server logged: {"level":50}']],
])("%s", (_name, given, wrong) => {
  expect(verdict(findings(given))).toEqual(wrong);
});

const soak = (...args: string[]) => run("test/system/soak/main.ts", ...args);

test("a short soak prints its rows, loses nothing and does not judge memory", async () => {
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
  expect(out).toStartWith("60 clients stay online, 6 log in and out, ");
  expect(out.match(/^ +0\.0\d +\d+\.\d .* 0 +0 +0 +0$/gm)).toHaveLength(10);
  expect(out).toMatch(/resident at minutes 0\.017, 0\.033, 0\.05: [\d.]+, [\d.]+, [\d.]+ MB, .* % apart \(not judged /);
  expect(out).toMatch(/ordinary: \d+ messages and broadcasts, lost 0, twice 0, out of order 0, dropped 0/);
  expect(out).toMatch(/churn: \d+ logins, .* lost 0, twice 0, out of order 0/);
  expect({ end: out.trimEnd().split("\n").at(-1), code, err }).toMatchObject({ end: "  well", code: 0 });
  const { wrong, samples, rows, marks } = JSON.parse(readFileSync(json, "utf8"));
  expect({ wrong, rows: rows.length, marks: marks.length }).toEqual({ wrong: [], rows: 10, marks: 3 });
  expect(samples.length).toBeGreaterThan(10);
  const most = Math.max(...samples.map(({ resident }: { resident: number }) => resident));
  expect(out).toContain(`with garbage at most ${(most / 1e6).toFixed(1)} MB\n`);
}, 60_000);

test.concurrent.each<[string[], RegExp]>([
  [["--clients", "61"], /--clients takes an even number/],
  [["--minutes", "0"], /--minutes takes a number from 0.01/],
  [["--clients", "3000", "--rate", "199"], /--rate takes a whole number from 200 /],
  [["--wat"], /--help lists the options/],
])("the invalid arguments %p print one line with the reason and exit with 2", async (args, why) => {
  const { out, err, code } = await soak(...args);
  expect(err).toMatch(/^soak: [^\n]*\n$/);
  expect(err).toMatch(why);
  expect({ out, code }).toEqual({ out: "", code: 2 });
});

test("soak --help prints its usage", async () => {
  const { out, err, code } = await soak("--help");
  expect(out).toStartWith("Usage: bun run soak");
  expect({ err, code }).toEqual({ err: "", code: 0 });
});
