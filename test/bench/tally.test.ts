import { expect, test } from "bun:test";
import * as payload from "../../bench/load/payload.ts";
import { Tally } from "../../bench/load/tally.ts";

/** What is counted when these numbers come of a stream of which so many were sent. */
function counted(sent: number, ...numbers: number[]) {
  const tally = new Tally(2);
  for (const number of numbers) tally.received(1, number);
  tally.end(1, sent);
  const { lost, twice, disordered } = tally;
  return { lost, twice, disordered };
}

test.each<[string, number, number[], ReturnType<typeof counted>]>([
  ["everything once and in order", 3, [0, 1, 2], { lost: 0, twice: 0, disordered: 0 }],
  ["the last ones missing", 5, [0, 1, 2], { lost: 2, twice: 0, disordered: 0 }],
  ["one in the middle missing", 4, [0, 1, 3], { lost: 1, twice: 0, disordered: 0 }],
  ["the first ones missing", 4, [2, 3], { lost: 2, twice: 0, disordered: 0 }],
  ["one twice", 3, [0, 1, 1, 2], { lost: 0, twice: 1, disordered: 0 }],
  ["an old one twice", 3, [0, 1, 2, 0], { lost: 0, twice: 1, disordered: 0 }],
  ["two in the wrong order", 3, [0, 2, 1], { lost: 0, twice: 0, disordered: 1 }],
  ["a late one, and that twice", 3, [0, 2, 1, 1], { lost: 0, twice: 1, disordered: 1 }],
  ["nothing at all", 2, [], { lost: 2, twice: 0, disordered: 0 }],
])("%s", (_what, sent, numbers, expected) => {
  expect(counted(sent, ...numbers)).toEqual(expected);
});

test("streams do not disturb each other", () => {
  const tally = new Tally(2);
  for (const [stream, number] of [
    [0, 0],
    [1, 0],
    [0, 1],
    [1, 1],
  ] as const)
    tally.received(stream, number);
  expect([tally.next(0), tally.next(1), tally.lost, tally.twice]).toEqual([2, 2, 0, 0]);
});

test("a payload says who, which and when, in bytes that no protocol minds", () => {
  for (const [sender, sequence, stamp] of [
    [0, 0, 0],
    [19_999, 1_000_000_000, 2 ** 30 - 1],
    [63, 64, 65],
  ] as const) {
    const text = payload.newPayload(payload.MESSAGE_MARK, sender, 64);
    payload.stampPayload(text, 0, sequence, stamp);
    expect(text).toHaveLength(64);
    expect([payload.senderOf(text, 0), payload.sequenceOf(text, 0)]).toEqual([sender, sequence]);
    expect(payload.ageOf(text, 0, (stamp + 1234) % 2 ** 30)).toBe(1234);
    expect(text.toString("latin1")).toMatch(/^[0-~]{64}$/);
    expect(text.subarray(1).includes(payload.MESSAGE_MARK)).toBe(false);
  }
});

test("a stamp begins again after 107 s, and ages do not mind", () => {
  const early = payload.stampAt(107_374.18);
  const late = payload.stampAt(107_374.2);
  expect(late).toBeLessThan(early);
  const text = payload.newPayload(payload.MESSAGE_MARK, 1, 16);
  payload.stampPayload(text, 0, 0, early);
  expect(Math.abs(payload.ageOf(text, 0, late) - 200)).toBeLessThan(2);
});
