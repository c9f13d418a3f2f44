/**
 * Lines of links between two shards: valid ones, ones with a mistake, and noise; and what clients may receive. The
 * targets are link-outcomes.ts and link-requests.ts, for the two directions.
 */
import fc from "fast-check";
import { LINK_RETRY_MAX_MS, NEIGHBOUR_AWAY_MS } from "../../src/limits.ts";
import { TICK_MS } from "../../src/timer-wheel.ts";
import { expectAlike } from "./target.ts";

/** `<last-1>` and the like stand for a number of the moment at which the line is sent. */
export const number = fc.oneof(
  {
    weight: 12,
    arbitrary: fc
      .tuple(fc.constantFrom("oldest", "last", "heard"), fc.constantFrom("+0", "+0", "+1", "+2", "-1", "-2"))
      .map((parts) => `<${parts.join("")}>`),
  },
  fc.constantFrom("0", "007", "-1", "x", "", "9".repeat(14), "9007199254740991", "9".repeat(400)),
);

export function numbered(line: string, numbers: Record<string, number>): string {
  return line.replace(/<(oldest|last|heard)([+-]\d+)>/g, (_, of: string, by: string) =>
    String(Math.max(0, numbers[of]! + Number(by))),
  );
}

export function words(...list: (string | fc.Arbitrary<string>)[]): fc.Arbitrary<string> {
  return fc
    .tuple(...list.map((word) => (typeof word === "string" ? fc.constant(word) : word)))
    .map((all) => all.join(" "));
}

export const noise = fc.oneof(
  fc.string({
    unit: fc.nat({ max: 255 }).map((code) => (code === 10 ? "\r" : String.fromCharCode(code))),
    maxLength: 20,
  }),
  fc.constantFrom("", " ", "login alice secret", "logout", "heard 0", "goodbye shutdown", "x".repeat(5000)),
);

export function withMistakes(valid: fc.Arbitrary<string>): fc.Arbitrary<string> {
  const mistake: fc.Arbitrary<(line: string, at: number) => string> = fc.constantFrom(
    (line, at) => line.slice(0, at),
    (line, at) => `${line.slice(0, at)} ${line.slice(at)}`,
    (line) => `${line} more`,
    (line) => line.toUpperCase(),
    (line) => line.replace(/ .*/s, ""),
  );
  return fc.oneof(
    { weight: 8, arbitrary: valid },
    { weight: 1, arbitrary: fc.tuple(valid, mistake, fc.nat({ max: 30 })).map(([line, apply, at]) => apply(line, at)) },
    { weight: 1, arbitrary: noise },
  );
}

export const passMs = fc.constantFrom(100, LINK_RETRY_MAX_MS + TICK_MS, NEIGHBOUR_AWAY_MS + 1000, 12_000);

/** With this idle timeout no session expires. */
export const DAY_MS = 86_400_000;
export const IS_REPLY = /^(ok|err)( |$)/;
const EVENT = /^(message|stored|broadcast|joined|left|private_request|expect|address|denied) [A-Za-z0-9]|^waiting$/;

/** Throws unless all lines to a client are events or replies. The replies. */
export function repliesIn(lines: readonly string[]): string[] {
  const replies = lines.filter((line) => IS_REPLY.test(line));
  const others = lines.filter((line) => !IS_REPLY.test(line) && !EVENT.test(line));
  expectAlike(others, [], "lines to a client that are neither replies nor events");
  return replies;
}

/** The texts of the messages that a user of `shard` has received. */
export function textsIn(lines: readonly string[]): string[] {
  return lines.flatMap((line) => /^(?:message|stored) \S+ (?:\d{13} )?(text \d+)$/.exec(line)?.[1] ?? []);
}
