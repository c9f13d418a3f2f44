import { type Outcome, type Slice, isBehind } from "../../../bench/load/workload-spec.ts";
import { type Spread, median, ratios, spread } from "../../../bench/report/statistics.ts";

/** The 99th percentile beside an attack may be so many times the quiet one. */
export const RATIO_MAX = 3;

/** What ordinary users noticed of an attack. */
export interface Impact {
  /** By round, quiet and beside the attack. */
  rounds: { quiet: Slice; hostile: Slice }[];
  outcome: Outcome;
  /** Whether latencies are judged; where the server was stopped they are only told. */
  isJudged: boolean;
}

/**
 * Beside the attack to the quiet of the same round. A quiet slice in which the users' own process was late would flatter
 * the server, and tells nothing; in a hostile one that only adds to what the attack is said to have done.
 */
export function p99Ratios({ rounds }: Pick<Impact, "rounds">): number[] {
  const valid = rounds.filter(({ quiet }) => !isBehind(quiet));
  return ratios(
    valid.map(({ hostile }) => hostile.latency.p99),
    valid.map(({ quiet }) => quiet.latency.p99),
  );
}

/** What must not be, in words; nothing when all is well. */
export function verdict(impact: Impact): string[] {
  const { outcome, isJudged } = impact;
  const { dropped, twice, disordered, faults } = outcome;
  const lost = outcome.lost - outcome.refused;
  const wrong: string[] = [];
  if (dropped > 0) wrong.push(`${dropped} ordinary users were dropped`);
  if (lost !== 0 || twice + disordered > 0) wrong.push(`lost ${lost}, twice ${twice}, out of order ${disordered}`);
  wrong.push(...faults);
  if (!isJudged) return wrong;
  const found = p99Ratios(impact);
  if (found.length === 0) wrong.push("the ordinary users' process was too late to say");
  else if (median(found) > RATIO_MAX) wrong.push(`p99 is ${median(found).toFixed(1)} times the quiet one`);
  return wrong;
}

/** Of all rounds the values of one kind of slice. */
export function spreadOf({ rounds }: Impact, kind: "quiet" | "hostile", of: (slice: Slice) => number): Spread {
  return spread(rounds.map((round) => of(round[kind])));
}
