/** What the logs of all users say about time: how long messages took, and when connections were lost. */
import { readFileSync } from "node:fs";
import { logOf, nameOf } from "../chaos/clients.ts";

/** A message, with times of the wall clock; Infinity for what has not happened. */
export interface TimedMessage {
  from: string;
  to: string;
  sentMs: number;
  repliedMs: number;
  isAccepted: boolean;
  shownMs: number;
}

/** A connection that was lost. */
export interface Loss {
  user: string;
  lostMs: number;
  backMs: number;
}

export interface Times {
  messages: TimedMessage[];
  losses: Loss[];
}

/** `users` is the number of users with a log in that folder; see clients.ts for its lines. */
export function timesIn(folder: string, users: number): Times {
  const messages = new Map<string, TimedMessage>();
  const losses: Loss[] = [];
  const shown: [key: string, ms: number][] = [];
  for (const user of Array.from({ length: users }, (_, index) => nameOf(index))) {
    for (const line of readFileSync(logOf(folder, user), "latin1").split("\n")) {
      const [what = "", other = "", number = "", third = "", fourth = ""] = line.split(" ");
      if (what === "lost") losses.push({ user, lostMs: Number(other), backMs: Number.POSITIVE_INFINITY });
      if (what === "back" && losses.at(-1)?.user === user) losses.at(-1)!.backMs = Number(other);
      if (other.startsWith("*")) continue;
      if (what === "r") shown.push([`${other} ${user} ${number}`, Number(third)]);
      const never = Number.POSITIVE_INFINITY;
      if (what === "i") {
        const message = { from: user, to: other, sentMs: Number(third), isAccepted: false };
        messages.set(`${user} ${other} ${number}`, { ...message, repliedMs: never, shownMs: never });
      }
      const sent = /^[oun]$/.test(what) ? messages.get(`${user} ${other} ${number}`) : undefined;
      if (sent === undefined) continue;
      sent.repliedMs = Number(fourth);
      sent.isAccepted = what === "o";
    }
  }
  for (const [key, ms] of shown) {
    const message = messages.get(key);
    if (message !== undefined) message.shownMs = Math.min(message.shownMs, ms);
  }
  return { messages: [...messages.values()], losses };
}

/** The value that a share `part` (0 to 1) of all values does not exceed; 0 without values. */
export function percentile(values: readonly number[], part: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil(part * sorted.length) - 1)] ?? 0;
}

/** The longest time within these limits in which nothing happened. */
export function longestGapMs(times: readonly number[], fromMs: number, toMs: number): number {
  const within = times.filter((ms) => ms > fromMs && ms < toMs).sort((a, b) => a - b);
  let [longestMs, lastMs] = [0, fromMs];
  for (const ms of [...within, toMs]) {
    longestMs = Math.max(longestMs, ms - lastMs);
    lastMs = ms;
  }
  return longestMs;
}

export function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(1)} s`;
}

/** Rows of words in columns. */
export function table(rows: readonly (readonly string[])[]): string {
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)));
  return rows
    .map(
      (row) =>
        `${row
          .map((word, i) => word.padEnd(widths[i]!))
          .join("  ")
          .trimEnd()}\n`,
    )
    .join("");
}
