import { afterEach, beforeEach, describe, expect, jest, test } from "bun:test";
import { Attention } from "../../src/terminal/attention.ts";
import { CROWD, GATHER_MS, PresenceLines, type PresenceMode } from "../../src/terminal/presence.ts";
import { ANSWER_MS, Questions, REMINDER_MS } from "../../src/terminal/questions.ts";

beforeEach(() => void jest.useFakeTimers());
afterEach(() => void jest.useRealTimers());

describe("the bell", () => {
  test("rings until the terminal reports the focus, and again after it was lost", () => {
    const attention = new Attention({ isBellOn: true, hasTitle: false }, 0);
    expect(attention.call(1, "SEAS")).toBe("\x07");
    expect(attention.focus(true, 0)).toBe("");
    expect(attention.call(1, "SEAS")).toBe("");
    attention.focus(false, 0);
    expect(attention.call(3, "SEAS")).toBe("\x07");
    attention.isBellOn = false;
    expect(attention.call(1, "SEAS")).toBe("");
  });

  test("comes with a notification and the count in the title, which a key sets back and the end restores", () => {
    const attention = new Attention({ isBellOn: true, hasTitle: true }, 0);
    expect(attention.end()).toBe("");
    expect(attention.call(1, "SEAS")).toBe("\x07\x1b]9;message from SEAS\x1b\\\x1b[22;2t\x1b]2;(1) heartline\x1b\\");
    expect(attention.call(2, "bob")).toBe(
      "\x07\x1b]9;2 messages, the last one from bob\x1b\\\x1b]2;(3) heartline\x1b\\",
    );
    expect(attention.seen(0)).toBe("\x1b]2;heartline\x1b\\");
    expect(attention.seen(0)).toBe("");
    expect(attention.end()).toBe("\x1b[23;2t");
  });
});

test("the unread mark is due once after each loss of the focus, and not when the focus came back before a line", () => {
  const attention = new Attention({ isBellOn: true, hasTitle: false }, 0);
  expect(attention.takeMark(0)).toBe(false);
  attention.focus(false, 0);
  expect([attention.takeMark(0), attention.takeMark(0)]).toEqual([true, false]);
  attention.focus(true, 0);
  attention.focus(false, 0);
  attention.focus(true, 0);
  expect(attention.takeMark(0)).toBe(false);
});

test("without reports of the focus the mark is due once after a minute without a key", () => {
  const attention = new Attention({ isBellOn: true, hasTitle: false }, 0);
  expect(attention.takeMark(59_999)).toBe(false);
  attention.seen(50_000);
  expect([109_999, 110_000, 500_000].map((nowMs) => attention.takeMark(nowMs))).toEqual([false, true, false]);
  attention.seen(600_000);
  expect(attention.takeMark(660_000)).toBe(true);
  attention.focus(true, 700_000);
  expect(attention.takeMark(900_000)).toBe(false);
});

function presence(mode: PresenceMode) {
  const lines: string[] = [];
  return { presence: new PresenceLines(mode, (line) => lines.push(line)), lines };
}

test("presence lines are off, only of users one talks with, or of all", () => {
  const of = (mode: PresenceMode): string[] => {
    const { presence: all, lines } = presence(mode);
    all.changed("bob", null, true, 2);
    all.changed("eve", null, false, 2);
    all.changed("eve", "logout", false, 1);
    return lines;
  };
  expect(of("off")).toEqual([]);
  expect(of("brief")).toEqual(["* bob is here"]);
  expect(of("on")).toEqual(["* bob is here", "* eve is here", "* eve left (logout)"]);
});

test("in a crowd the changes of some seconds are one line, with the last change of each user", () => {
  const { presence: all, lines } = presence("on");
  for (let i = 0; i < 12; i++) all.changed(`user${i}`, null, false, CROWD + 1 + i);
  all.changed("user0", "logout", false, CROWD + 11);
  all.changed("bob", "expired", false, CROWD + 10);
  jest.advanceTimersByTime(GATHER_MS - 1);
  expect(lines).toEqual([]);
  jest.advanceTimersByTime(1);
  const came = Array.from({ length: 8 }, (_, i) => `user${i + 1}`).join(", ");
  expect(lines).toEqual([`* ${came} and 3 more came; user0, bob left`]);
  jest.advanceTimersByTime(10 * GATHER_MS);
  expect(lines).toHaveLength(1);
});

test("a question is repeated when little time is left, and a line says when it ends", () => {
  const lines: string[] = [];
  const questions = new Questions(
    (line) => lines.push(line),
    () => "/",
  );
  questions.asked("SEAS");
  expect(lines).toEqual(["? SEAS asks for a private chat; answer with: /yes SEAS, or /no SEAS (60 s left)"]);
  jest.advanceTimersByTime(ANSWER_MS - REMINDER_MS);
  expect(lines.at(-1)).toBe("? SEAS still asks; answer with: /yes SEAS, or /no SEAS (15 s left)");
  expect(questions.users).toEqual(["SEAS"]);
  jest.advanceTimersByTime(REMINDER_MS);
  expect(lines.at(-1)).toBe("* the question of SEAS has run out without an answer");
  expect([lines.length, questions.users]).toEqual([3, []]);
});

test("a question that was answered is not repeated", () => {
  const lines: string[] = [];
  const questions = new Questions(
    (line) => lines.push(line),
    () => "",
  );
  questions.asked("SEAS");
  questions.asked("bob");
  questions.closed("SEAS");
  questions.clear();
  jest.advanceTimersByTime(2 * ANSWER_MS);
  expect(lines).toHaveLength(2);
});
