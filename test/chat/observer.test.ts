import { expect, test } from "bun:test";
import type { ChatObserver } from "../../src/chat/observer.ts";
import { World } from "../support/chat.ts";

/** A world with alice, bob and carol, and a line for each call of its observer. */
function observed(limits = {}): { world: World; calls: string[] } {
  const calls: string[] = [];
  const text = (bytes: Uint8Array, start: number, end: number): string =>
    Buffer.from(bytes.slice(start, end)).toString();
  const observer: ChatObserver = {
    loggedIn: ({ account }, replaced) => calls.push(`loggedIn ${account.name} ${replaced?.endReason ?? "-"}`),
    sessionEnded: ({ account, outbox }, reason) =>
      calls.push(`sessionEnded ${account.name} ${reason} ${outbox.unsent}`),
    accepted: (from, to, bytes, start, end, fate) =>
      calls.push(`accepted ${from.name} ${to.name} ${text(bytes, start, end)} ${fate}`),
    refused: (from, to, code) => calls.push(`refused ${from.name} ${to.name} ${code}`),
    broadcast: (from, bytes, start, end, receivers) =>
      calls.push(`broadcast ${from.name} ${text(bytes, start, end)} ${receivers}`),
    listed: (by, line) => calls.push(`listed ${by.name} ${line.toString().trimEnd()}`),
    requeued: ({ account }) => calls.push(`requeued ${account.name}`),
  };
  return { world: new World(["alice", "bob", "carol"], { observer, limits }), calls };
}

test("the observer receives logins, with the session that each replaced", () => {
  const { world, calls } = observed();
  world.login("alice");
  world.login("alice");
  expect(calls).toEqual([
    "loggedIn alice -",
    "sessionEnded alice replaced 0",
    "requeued alice",
    "loggedIn alice replaced",
  ]);
});

test("the observer receives the end of a session before its last line is appended, and once", () => {
  const { world, calls } = observed();
  const alice = world.login("alice");
  world.say(alice, "logout");
  alice.hangUp();
  expect(calls.slice(1)).toEqual(["sessionEnded alice logout 3", "requeued alice"]);
});

test("the observer receives each accepted message as sent or stored", () => {
  const { world, calls } = observed();
  const [alice] = world.online("alice", "bob");
  calls.length = 0;
  world.say(alice!, "message bob one", "message carol two", "message nobody three");
  expect(calls).toEqual(["accepted alice bob one sent", "accepted alice carol two stored"]);
});

test("the observer receives each refused message with its error code", () => {
  const { world, calls } = observed({ mailboxMessagesMax: 4, mailboxSharePercent: 25 });
  const [alice, bob] = world.online("alice", "bob");
  world.say(bob!, "block alice");
  calls.length = 0;
  world.say(alice!, "message bob one", "message carol two", "message carol three");
  expect(calls).toEqual([
    "refused alice bob blocked",
    "accepted alice carol two stored",
    "refused alice carol mailbox_full",
  ]);
  world.store.writeError = "the disk is full";
  world.store.accepts = () => false;
  world.say(alice!, "message carol four");
  expect(calls.at(-1)).toBe("refused alice carol internal");
});

test("the observer receives broadcasts with the number of receivers, and replies to online", () => {
  const { world, calls } = observed();
  const [alice] = world.online("alice", "bob", "carol");
  calls.length = 0;
  world.say(alice!, "broadcast hello", "online");
  expect(calls).toEqual(["broadcast alice hello 2", "listed alice ok bob carol"]);
});
