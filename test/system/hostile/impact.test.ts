import { expect, test } from "bun:test";
import { type Impact, p99Ratios, verdict } from "./impact.ts";
import type { Latency, Outcome, Slice } from "../../../bench/load/workload-spec.ts";

const latency = (p99: number, count = 1): Latency => ({ count, p50: 1, p99, p999: p99, max: p99, buckets: [] });

/** A slice in which the 99th percentile was so many µs, and so many of them before anything was sent. */
function slice(p99: number, late = 0): Slice {
  return {
    clients: 20,
    seconds: 1,
    accepted: 1,
    delivered: 1,
    server: null,
    busy: 0,
    stolen: 0,
    series: [],
    latency: latency(p99),
    last: latency(p99),
    lateness: latency(late),
    lost: 0,
    twice: 0,
    disordered: 0,
    dropped: 0,
  };
}

function impact(rounds: [quiet: Slice, hostile: Slice][], outcome: Partial<Outcome> = {}, isJudged = true): Impact {
  const well = { sent: 9, refused: 0, faults: [] };
  return {
    rounds: rounds.map(([quiet, hostile]) => ({ quiet, hostile })),
    outcome: { ...slice(1), ...well, ...outcome },
    isJudged,
  };
}

const even: [Slice, Slice][] = [[slice(100), slice(100)]];

test("p99 is compared round by round, where the ordinary users' own process was in time", () => {
  const rounds: [Slice, Slice][] = [
    [slice(100), slice(200)],
    [slice(1000), slice(500)],
    [slice(100), slice(5000, 4000)],
    [slice(2000, 1000), slice(100)],
  ];
  expect(p99Ratios(impact(rounds))).toEqual([2, 0.5, 50]);
});

test.each<[string, Impact, string[]]>([
  ["nothing", impact(even), []],
  ["a round that is three times as late", impact([[slice(100), slice(300)]]), []],
  ["one late round of three", impact([...even, [slice(100), slice(9000)], ...even]), []],
  ["rounds that are later", impact([[slice(100), slice(310)]]), ["p99 is 3.1 times the quiet one"]],
  ["the same where it is only told", impact([[slice(100), slice(310)]], {}, false), []],
  [
    "rounds that measured themselves",
    impact([[slice(100, 200), slice(300)]]),
    ["the ordinary users' process was too late to say"],
  ],
  ["somebody dropped", impact(even, { dropped: 1 }), ["1 ordinary users were dropped"]],
  ["a lost message", impact(even, { lost: 1 }), ["lost 1, twice 0, out of order 0"]],
  ["one twice, one out of order", impact(even, { twice: 1, disordered: 1 }), ["lost 0, twice 1, out of order 1"]],
  ["refused messages that did not come", impact(even, { lost: 3, refused: 3 }), []],
  ["a refused message that came", impact(even, { lost: 2, refused: 3 }), ["lost -1, twice 0, out of order 0"]],
  ["a fault", impact(even, { faults: ["the server said: goodbye slow"] }), ["the server said: goodbye slow"]],
])("of %s one says so", (_what, given, wrong) => {
  expect(verdict(given)).toEqual(wrong);
});
