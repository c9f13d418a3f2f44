import type { Outcome } from "../../../bench/load/workload-spec.ts";
import { digits } from "../../../bench/report/statistics.ts";

/** How many percent the marks may lie apart. */
export const SPREAD_MAX = 2;
/** In less time a runtime is still growing into what it does: how much, is only told. */
export const JUDGED_MS_MIN = 10 * 60_000;
export const MARKS = 3;

/** What became of messages. */
export type Delivery = Pick<Outcome, "lost" | "twice" | "disordered" | "faults">;

/** What a soak found. */
export interface Findings {
  lengthMs: number;
  /** Resident bytes at each third of the time, whenever all garbage had just been collected. */
  marks: number[];
  /** What the server has open before everybody comes, and when they have gone. */
  descriptors: { before: string[]; after: string[] };
  ordinary: Delivery & Pick<Outcome, "dropped">;
  churn: Delivery;
  /** Faults that the server logged. */
  loggedErrors: string[];
  isRunning: boolean;
}

/** How many percent of the least mark lie between it and the largest. */
export function spreadOf(marks: readonly number[]): number {
  const least = Math.min(...marks);
  return (100 * (Math.max(...marks) - least)) / least;
}

/** What must not be, in words; nothing when all is well. */
export function verdict(findings: Findings): string[] {
  const { descriptors, ordinary, churn: visitors, loggedErrors: complaints, lengthMs, marks } = findings;
  const wrong: string[] = [];
  const apart = spreadOf(marks);
  if (marks.length < MARKS) wrong.push("it did not last until the last mark");
  else if (lengthMs >= JUDGED_MS_MIN && apart > SPREAD_MAX)
    wrong.push(`resident memory at the marks is ${digits(apart)} % apart, and may be ${SPREAD_MAX}`);
  for (const what of new Set([...descriptors.before, ...descriptors.after])) {
    const [before, after] = [descriptors.before, descriptors.after].map((all) => all.filter((each) => each === what));
    if (before!.length !== after!.length)
      wrong.push(`${before!.length} descriptors of ${what} before, ${after!.length} after`);
  }
  if (ordinary.dropped > 0) wrong.push(`${ordinary.dropped} ordinary users were dropped`);
  for (const [who, { lost, twice, disordered, faults }] of Object.entries({ ordinary, visitors })) {
    if (lost !== 0 || twice + disordered > 0)
      wrong.push(`${who}: lost ${lost}, twice ${twice}, out of order ${disordered}`);
    wrong.push(...faults.map((fault) => `${who}: ${fault}`));
  }
  if (!findings.isRunning) wrong.push("the server has ended");
  wrong.push(...complaints.slice(0, 3).map((line) => `the server logged: ${line.slice(0, 200)}`));
  return wrong;
}
