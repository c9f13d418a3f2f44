/** The verdict on an attack: what ordinary users noticed, compared with quiet slices. */
import { type Outcome, type Slice, isBehind } from "../../../bench/load/workload-spec.ts";
import { type Spread, median, ratios, spread } from "../../../bench/report/statistics.ts";

/** Limit of the ratio of the 99th percentile during an attack to the quiet one. */
export const RATIO_MAX = 3;

/** What ordinary users noticed of an attack. */
export interface Impact {
  /** By round: a slice without and a slice with the attack. */
  rounds: { quiet: Slice; hostile: Slice }[];
  outcome: Outcome;
  /** Whether latencies are judged. Where the server was stopped they are only reported. */
  isJudged: boolean;
}

/**
 * Ratios of p99 during the attack to the quiet one of the same round. A round is left out when the load generator was
 * late in its quiet slice: that p99 is too high, which favours the server. A late hostile slice counts against it.
 */
export function p99Ratios({ rounds }: Pick<Impact, "rounds">): number[] {
  const valid = rounds.filter(({ quiet }) => !isBehind(quiet));
  return ratios(
    valid.map(({ hostile }) => hostile.latency.p99),
    valid.map(({ quiet }) => quiet.latency.p99),
  );
}

/** The errors, one line each; empty when there are none. */
export function verdict(impact: Impact): string[] {
  const { outcome, isJudged } = impact;
  const { dropped, twice, disordered, faults } = outcome;
  const lost = outcome.lost - outcome.refused;
  const wrong: string[] = [];
  if (dropped > 0) wrong.push(`${dropped} ordinary users were disconnected`);
  if (lost !== 0 || twice + disordered > 0) wrong.push(`lost ${lost}, twice ${twice}, out of order ${disordered}`);
  wrong.push(...faults);
  if (!isJudged) return wrong;
  const found = p99Ratios(impact);
  if (found.length === 0)
    wrong.push("the load generator was late in every quiet slice: run it again on an idle machine");
  else if (median(found) > RATIO_MAX) wrong.push(`p99 is ${median(found).toFixed(1)} times the quiet one`);
  return wrong;
}

/** The spread of a figure over all rounds, in quiet or in hostile slices. */
export function spreadOf({ rounds }: Impact, kind: "quiet" | "hostile", of: (slice: Slice) => number): Spread {
  return spread(rounds.map((round) => of(round[kind])));
}
