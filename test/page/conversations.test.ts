import { expect, test } from "bun:test";
import {
  Conversations,
  EVERYBODY,
  MESSAGES_EXCESS_MAX,
  MESSAGES_MAX,
  type Message,
} from "../../src/page/conversations.ts";

/** Conversations of alice, and what they want stored. */
function conversations(): { all: Conversations; stored: Map<number, Message>; read: Record<string, number> } {
  const stored = new Map<number, Message>();
  const read: Record<string, number> = {};
  const all = new Conversations("alice", {
    changed: (message) => void stored.set(message.id, { ...message }),
    removed: (ids) => ids.forEach((id) => stored.delete(id)),
    read: (name, id) => void (read[name] = id),
  });
  return { all, stored, read };
}

test("the conversation with the newest message comes first, and that with everybody is not in the list", () => {
  const { all } = conversations();
  all.receive("bob", "bob", "one", 1);
  all.send("carol", "two", 2);
  all.receive(EVERYBODY, "bob", "three", 3);
  expect(all.summaries.map(({ name }) => name)).toEqual(["carol", "bob"]);
  all.receive("bob", "bob", "four", 0);
  expect(all.summaries.map(({ name, last }) => [name, last!.text])).toEqual([
    ["bob", "four"],
    ["carol", "two"],
  ]);
  expect(all.summary(EVERYBODY).last!.text).toBe("three");
});

test("received messages are unread until their conversation is read, and own messages never are", () => {
  const { all, read } = conversations();
  all.receive("bob", "bob", "one", 1);
  all.receive("bob", "bob", "two", 2);
  all.receive(EVERYBODY, "carol", "three", 3);
  all.send("bob", "four", 4);
  expect(all.summary("bob").unread).toBe(2);
  expect(all.unread).toBe(3);
  all.markRead("bob");
  expect(all.summary("bob").unread).toBe(0);
  expect(all.unread).toBe(1);
  expect(read).toEqual({ bob: 4 });
  all.receive("bob", "bob", "five", 5);
  expect(all.summary("bob").unread).toBe(1);
});

test("what was stored is there again, with its order and what was unread, and new ids follow the old ones", () => {
  const first = conversations();
  first.all.receive("bob", "bob", "one", 1);
  first.all.markRead("bob");
  first.all.receive("bob", "bob", "two", 2);
  const { all } = conversations();
  all.load([...first.stored.values()], first.read);
  expect(all.messages("bob").map(({ text }) => text)).toEqual(["one", "two"]);
  expect(all.summary("bob").unread).toBe(1);
  expect(all.send("bob", "three", 3).id).toBe(3);
});

test("the outcome of an own message is stored, and an own message that waits is found by its request", () => {
  const { all, stored } = conversations();
  const first = all.send("bob", "same", 1);
  const second = all.send("bob", "same", 2);
  const third = all.send(EVERYBODY, "same", 3);
  expect(all.waitingFor("message bob same")).toBe(first);
  expect(all.waitingFor("broadcast same")).toBe(third);
  all.settle(first, "sent");
  expect(all.waitingFor("message bob same")).toBe(second);
  all.settle(second, "refused", "bob has blocked you");
  expect(all.waitingFor("message bob same")).toBeUndefined();
  expect([...stored.values()].map(({ state, detail }) => [state, detail])).toEqual([
    ["sent", ""],
    ["refused", "bob has blocked you"],
    ["waiting", ""],
  ]);
  expect(all.waiting).toEqual([third]);
});

test("above the limit the oldest messages are dropped, but not those that wait to be sent", () => {
  const { all, stored } = conversations();
  const waiting = all.send("bob", "waits", 1);
  for (let i = 0; i < MESSAGES_MAX + MESSAGES_EXCESS_MAX - 1; i++) all.receive("carol", "carol", `${i}`, i);
  expect(stored.size).toBe(MESSAGES_MAX + MESSAGES_EXCESS_MAX);
  all.receive("carol", "carol", "last", 1);
  expect(stored.size).toBe(MESSAGES_MAX + 1);
  expect(all.count).toBe(stored.size);
  expect(all.messages("bob")).toEqual([waiting]);
  expect(all.messages("carol").at(-1)!.text).toBe("last");
  expect(all.summary("carol").unread).toBe(MESSAGES_MAX);
});

test("a message that is removed is gone from its conversation and from what is stored", () => {
  const { all, stored } = conversations();
  const message = all.send("bob", "one", 1);
  all.remove(message);
  all.remove(message);
  expect(all.messages("bob")).toEqual([]);
  expect(stored.size).toBe(0);
  expect(all.count).toBe(0);
});
