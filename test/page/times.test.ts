import { expect, test } from "bun:test";
import type { Message } from "../../src/page/conversations.ts";
import { groups } from "../../src/page/groups.ts";
import { day, shortTime } from "../../src/page/times.ts";

/** A time by the local clock. */
const at = (date: number, hours: number, minutes = 0): number => new Date(2026, 10, date, hours, minutes).getTime();
const NOW = at(20, 15);

test("days are named by the calendar, not by 24 hours", () => {
  expect(day(at(20, 0, 1), NOW, "en")).toBe("Today");
  expect(day(at(19, 23, 59), NOW, "en")).toBe("Yesterday");
  expect(day(at(18, 12), NOW, "en")).toBe("Wednesday");
  expect(day(at(13, 12), NOW, "en")).toBe("November 13, 2026");
  expect(day(at(21, 12), NOW, "en")).toBe("November 21, 2026"); // The clock of the server is ahead.
});

test("in the list a time of today is a clock, and an older one a day", () => {
  expect(shortTime(at(20, 9, 5), NOW, "de")).toBe("09:05");
  expect(shortTime(at(19, 9), NOW, "en")).toBe("Yesterday");
  expect(shortTime(at(15, 9), NOW, "en")).toBe("Sun");
  expect(shortTime(at(1, 9), NOW, "en")).toBe("Nov 1");
});

let id = 0;
function message(from: string, timeMs: number, state: Message["state"] = null): Message {
  return { id: ++id, conversation: "bob", from, text: "", timeMs, state, detail: "" };
}

test("messages of one sender within minutes stand together, and a day has one heading", () => {
  const messages = [
    message("bob", at(19, 23, 58)),
    message("bob", at(20, 0, 1)),
    message("bob", at(20, 0, 2)),
    message("alice", at(20, 0, 3), "sent"),
    message("alice", at(20, 0, 30), "waiting"),
  ];
  const found = groups(messages, Number.POSITIVE_INFINITY, NOW);
  expect(found.map((group) => group.messages.length)).toEqual([1, 2, 1, 1]);
  expect(found.map((group) => group.day)).toEqual(["Yesterday", "Today", null, null]);
  expect(found.some(({ isNew }) => isNew)).toBe(false);
});

test("the first unread message begins a group that is marked as new, and own messages do not", () => {
  const messages = [message("bob", NOW), message("alice", NOW, "sent"), message("bob", NOW), message("bob", NOW)];
  const found = groups(messages, messages[0]!.id, NOW);
  expect(found.map(({ isNew }) => isNew)).toEqual([false, false, true]);
  expect(found[2]!.messages.length).toBe(2);
});

test("messages that one sends to oneself are not in a group with those that arrive", () => {
  const found = groups([message("alice", NOW, "sent"), message("alice", NOW)], Number.POSITIVE_INFINITY, NOW);
  expect(found.length).toBe(2);
});
