import { expect, test } from "bun:test";
import { type Impact, p99Ratios, verdict } from "./impact.ts";
import type { Latency, Outcome, Slice } from "../../../bench/load/workload-spec.ts";

const latency = (p99: number, count = 1): Latency => ({ count, p50: 1, p99, p999: p99, max: p99, buckets: [] });

/** A slice with the given 99th percentiles of latency and lateness, in µs. */
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
  const clean = { sent: 9, refused: 0, faults: [] };
  return {
    rounds: rounds.map(([quiet, hostile]) => ({ quiet, hostile })),
    outcome: { ...slice(1), ...clean, ...outcome },
    isJudged,
  };
}

const even: [Slice, Slice][] = [[slice(100), slice(100)]];

test("p99 is compared round by round, without rounds whose quiet slice was late", () => {
  const rounds: [Slice, Slice][] = [
    [slice(100), slice(200)],
    [slice(1000), slice(500)],
    [slice(100), slice(5000, 4000)],
    [slice(2000, 1000), slice(100)],
  ];
  expect(p99Ratios(impact(rounds))).toEqual([2, 0.5, 50]);
});

test.each<[string, Impact, string[]]>([
  ["equal slices give no error", impact(even), []],
  ["three times the quiet p99 is allowed", impact([[slice(100), slice(300)]]), []],
  ["one slow round of three is allowed", impact([...even, [slice(100), slice(9000)], ...even]), []],
  [
    "more than three times the quiet p99 is an error",
    impact([[slice(100), slice(310)]]),
    ["p99 is 3.1 times the quiet one"],
  ],
  ["p99 is no error where latencies are only reported", impact([[slice(100), slice(310)]], {}, false), []],
  [
    "no round with a quiet slice on time is an error",
    impact([[slice(100, 200), slice(300)]]),
    ["the load generator was late in every quiet slice: run it again on an idle machine"],
  ],
  ["a disconnected user is an error", impact(even, { dropped: 1 }), ["1 ordinary users were disconnected"]],
  ["a lost message is an error", impact(even, { lost: 1 }), ["lost 1, twice 0, out of order 0"]],
  [
    "a message twice and one out of order are errors",
    impact(even, { twice: 1, disordered: 1 }),
    ["lost 0, twice 1, out of order 1"],
  ],
  ["refused messages that did not arrive are no error", impact(even, { lost: 3, refused: 3 }), []],
  [
    "a refused message that arrived is an error",
    impact(even, { lost: 2, refused: 3 }),
    ["lost -1, twice 0, out of order 0"],
  ],
  [
    "a fault of the load generator is an error",
    impact(even, { faults: ["the server closed a connection"] }),
    ["the server closed a connection"],
  ],
])("%s", (_name, given, wrong) => {
  expect(verdict(given)).toEqual(wrong);
});
