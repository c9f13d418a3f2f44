import { expect, test } from "bun:test";
import * as payload from "../../bench/load/payload.ts";
import { Tally } from "../../bench/load/tally.ts";

/** The counts after these numbers arrived of a stream of `sent` numbers. */
function counted(sent: number, ...numbers: number[]) {
  const tally = new Tally(2);
  for (const number of numbers) tally.received(1, number);
  tally.end(1, sent);
  const { lost, twice, disordered } = tally;
  return { lost, twice, disordered };
}

test.each<[string, number, number[], ReturnType<typeof counted>]>([
  ["a complete stream in order has no errors", 3, [0, 1, 2], { lost: 0, twice: 0, disordered: 0 }],
  ["missing numbers at the end are lost", 5, [0, 1, 2], { lost: 2, twice: 0, disordered: 0 }],
  ["a missing number in the middle is lost", 4, [0, 1, 3], { lost: 1, twice: 0, disordered: 0 }],
  ["missing numbers at the start are lost", 4, [2, 3], { lost: 2, twice: 0, disordered: 0 }],
  ["a repeated number is twice", 3, [0, 1, 1, 2], { lost: 0, twice: 1, disordered: 0 }],
  ["a repeated old number is twice", 3, [0, 1, 2, 0], { lost: 0, twice: 1, disordered: 0 }],
  ["a late number is out of order and not lost", 3, [0, 2, 1], { lost: 0, twice: 0, disordered: 1 }],
  ["a late number that is repeated is out of order and twice", 3, [0, 2, 1, 1], { lost: 0, twice: 1, disordered: 1 }],
  ["all numbers of an empty stream are lost", 2, [], { lost: 2, twice: 0, disordered: 0 }],
])("%s", (_name, sent, numbers, expected) => {
  expect(counted(sent, ...numbers)).toEqual(expected);
});

test("interleaved streams are counted separately", () => {
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

test("a payload contains sender, sequence number and stamp in printable bytes", () => {
  for (const [sender, sequence, stamp] of [
    [0, 0, 0],
    [19_999, 1_000_000_000, 2 ** 30 - 1],
    [63, 64, 65],
  ] as const) {
    const text = payload.newPayload(payload.MESSAGE_MARK, sender, 262_143, 64);
    payload.stampPayload(text, 0, sequence, stamp);
    expect(text).toHaveLength(64);
    expect([payload.senderOf(text, 0), payload.sequenceOf(text, 0)]).toEqual([sender, sequence]);
    expect(payload.runOf(text, 0)).toBe(262_143);
    expect(payload.ageOf(text, 0, (stamp + 1234) % 2 ** 30)).toBe(1234);
    expect(text.toString("latin1")).toMatch(/^[0-~]{64}$/);
    expect(text.subarray(1).includes(payload.MESSAGE_MARK)).toBe(false);
  }
});

test("an age is right across the wrap-around of stamps after 107 s", () => {
  const early = payload.stampAt(107_374.18);
  const late = payload.stampAt(107_374.2);
  expect(late).toBeLessThan(early);
  const text = payload.newPayload(payload.MESSAGE_MARK, 1, 0, 17);
  payload.stampPayload(text, 0, 0, early);
  expect(Math.abs(payload.ageOf(text, 0, late) - 200)).toBeLessThan(2);
});
