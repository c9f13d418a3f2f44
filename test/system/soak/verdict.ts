/** The verdict on a soak: memory, descriptors, deliveries and the log of the server. */
import type { Outcome } from "../../../bench/load/workload-spec.ts";
import { digits } from "../../../bench/report/statistics.ts";

/** Limit of the difference between the marks, in percent. */
export const SPREAD_MAX = 2;
/** In a shorter soak the heap of the runtime still grows: memory is reported, not judged. */
export const JUDGED_MS_MIN = 10 * 60_000;
/** Number of marks: one at the end of each third of the time. */
export const MARKS = 3;

/** How the messages of one kind of clients were delivered. */
export type Delivery = Pick<Outcome, "lost" | "twice" | "disordered" | "faults">;

/** What the verdict is about. */
export interface Findings {
  lengthMs: number;
  /** Resident bytes after a full garbage collection, at the end of each third of the time. */
  marks: number[];
  /** Open descriptors of the server before the first client connects and after the last one has left. */
  descriptors: { before: string[]; after: string[] };
  ordinary: Delivery & Pick<Outcome, "dropped">;
  churn: Delivery;
  /** Lines that the server logged with level error or fatal. */
  loggedErrors: string[];
  isRunning: boolean;
}

/** The difference between the largest and the smallest mark, in percent of the smallest. */
export function spreadOf(marks: readonly number[]): number {
  const least = Math.min(...marks);
  return (100 * (Math.max(...marks) - least)) / least;
}

/** The errors, one line each; empty when there are none. */
export function verdict(findings: Findings): string[] {
  const { descriptors, ordinary, churn, loggedErrors, lengthMs, marks } = findings;
  const wrong: string[] = [];
  const apart = spreadOf(marks);
  if (marks.length < MARKS) wrong.push("the soak ended before the last mark");
  else if (lengthMs >= JUDGED_MS_MIN && apart > SPREAD_MAX)
    wrong.push(`resident memory at the marks is ${digits(apart)} % apart: the limit is ${SPREAD_MAX} %`);
  // Fewer are no error: an idle thread ends, and its event loop with it.
  for (const what of new Set(descriptors.after)) {
    const [before, after] = [descriptors.before, descriptors.after].map((all) => all.filter((each) => each === what));
    if (before!.length < after!.length)
      wrong.push(`${before!.length} descriptors of ${what} before, ${after!.length} after`);
  }
  if (ordinary.dropped > 0) wrong.push(`${ordinary.dropped} ordinary users were disconnected`);
  for (const [clients, { lost, twice, disordered, faults }] of Object.entries({ ordinary, churn })) {
    if (lost !== 0 || twice + disordered > 0)
      wrong.push(`${clients}: lost ${lost}, twice ${twice}, out of order ${disordered}`);
    wrong.push(...faults.map((fault) => `${clients}: ${fault}`));
  }
  if (!findings.isRunning) wrong.push("the server has ended");
  wrong.push(...loggedErrors.slice(0, 3).map((line) => `the server logged: ${line.slice(0, 200)}`));
  return wrong;
}
