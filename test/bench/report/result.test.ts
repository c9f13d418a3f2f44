import { expect, test } from "bun:test";
import type { Latency, Outcome } from "../../../bench/load/workload-spec.ts";
import { type Run, ratiosByRound, ratioText, latencyCells } from "../../../bench/report/result.ts";

function latency(p50: number, count = 1): Latency {
  return { count, p50, p99: 10 * p50, p999: 20 * p50, max: 30 * p50, buckets: [] };
}

function run(round: number, delivered: number, latencies: Partial<Outcome> = {}): Run {
  const outcome = { delivered, latency: latency(100), lateness: latency(0, 0), ...latencies } as Outcome;
  return { peer: "x", work: "y", task: {} as Run["task"], round, outcome };
}

const delivered = ({ outcome }: Run): number => outcome.delivered;

test("runs are compared round by round, without rounds that one peer has no run of", () => {
  const ours = [run(0, 10), run(1, 40), run(2, 90)];
  expect(ratiosByRound(ours, [run(0, 10), run(2, 30)], delivered)).toEqual([1, 3]);
  expect(ratiosByRound([run(2, 30)], ours, delivered)).toEqual([1 / 3]);
  expect(ratioText(ours, [run(0, 5), run(1, 20), run(2, 45)], delivered)).toBe("2 [2..2]");
  expect(ratioText(ours, [], delivered)).toBe("");
});

test("latencies come only from runs in which the load generator was on time", () => {
  const late = { latency: latency(7), lateness: latency(500) };
  expect(latencyCells([run(0, 1), run(1, 1, late), run(2, 1, { latency: latency(300) })])).toEqual([
    "200",
    "2,000",
    "4,000",
  ]);
  expect(latencyCells([run(0, 1, late)])).toEqual(["-", "-", "-"]);
  expect(latencyCells([run(0, 1, { latency: latency(0, 0) })])).toEqual(["-", "-", "-"]);
});
