import { beforeEach, expect, test } from "bun:test";
import { STALE_GAP_MS, STALE_MS, StreamEnds } from "../../src/cluster/jetstream-ends.ts";

const STREAM = "chat-0-state";
/** Interval of the answers. */
const STEP_MS = 250;

let nowMs: number;
let ends: StreamEnds;

beforeEach(() => {
  nowMs = 1_000;
  ends = new StreamEnds(() => nowMs);
});

/** A call begins and is answered with that number; false when the answer is refused. */
function answers(last: number, copies = 3): boolean {
  try {
    ends.note(STREAM, last, ends.of(STREAM), copies);
    return true;
  } catch (error) {
    expect((error as Error).message).toContain("the server has not caught up");
    return false;
  }
}

/** The milliseconds until an answer with that number is believed, when one comes every STEP_MS; null: never. */
function believedAfter(last: number, untilMs = 2 * STALE_MS): number | null {
  for (const beganMs = nowMs; nowMs - beganMs <= untilMs; nowMs += STEP_MS) if (answers(last)) return nowMs - beganMs;
  return null;
}

test("the first number of a stream, the same one and a higher one are believed at once", () => {
  for (const last of [7, 7, 9]) expect([answers(last), ends.of(STREAM)]).toEqual([true, last]);
});

test("a lower number is believed after STALE_MS, and from then on", () => {
  answers(9);
  expect(believedAfter(8)).toBe(STALE_MS);
  nowMs += STEP_MS;
  expect(answers(8)).toBe(true);
  expect(ends.of(STREAM)).toBe(9);
});

test("a leader without followers is not believed for the 20 seconds in which it does not step down", () => {
  answers(9);
  expect(believedAfter(8, 20_000)).toBeNull();
  expect(answers(9)).toBe(true);
});

test("the time begins anew after an answer that is not lower", () => {
  answers(9);
  expect(believedAfter(8, STALE_MS - 1_000)).toBeNull();
  expect(answers(9)).toBe(true);
  expect(believedAfter(8)).toBe(STALE_MS);
});

test("the time begins anew when there was no answer for a while, as of a process that was paused", () => {
  answers(9);
  expect(answers(8)).toBe(false);
  nowMs += STALE_MS;
  expect(believedAfter(8)).toBe(STALE_MS);
  answers(10);
  expect(answers(8)).toBe(false);
  nowMs += STALE_GAP_MS;
  expect(believedAfter(8)).toBe(STALE_MS - STALE_GAP_MS);
});

test("an answer to a call that began before a higher number was known is believed", () => {
  const before = ends.of(STREAM);
  answers(9);
  ends.note(STREAM, 8, before, 3);
  expect(ends.of(STREAM)).toBe(9);
});

test("a stream with one copy is believed at once, and so is one that was deleted", () => {
  answers(9);
  expect([answers(8, 1), ends.of(STREAM)]).toEqual([true, 8]);
  ends.forget(STREAM);
  expect([answers(3), ends.of(STREAM)]).toEqual([true, 3]);
});
