import { expect, test } from "bun:test";
import type { ChatObserver } from "../../src/chat/observer.ts";
import { World } from "../support/chat.ts";

/** A world with alice, bob and carol, and a line for each call of its observer. */
function observed(limits = {}): { world: World; calls: string[]; observer: ChatObserver } {
  const calls: string[] = [];
  const text = (bytes: Uint8Array, start: number, end: number): string =>
    Buffer.from(bytes.slice(start, end)).toString();
  const observer: ChatObserver = {
    loginRefused: (account, { address }, code) => calls.push(`loginRefused ${account?.name ?? "-"} ${address} ${code}`),
    lockedOut: (account, { address }) => calls.push(`lockedOut ${account.name} ${address}`),
    loggedIn: ({ account }, replaced) => calls.push(`loggedIn ${account.name} ${replaced?.endReason ?? "-"}`),
    sessionEnded: ({ account, outbox }, reason) =>
      calls.push(`sessionEnded ${account.name} ${reason} ${outbox.unsent}`),
    flooded: ({ address }) => calls.push(`flooded ${address}`),
    accepted: (from, to, bytes, start, end, fate) =>
      calls.push(`accepted ${from.name} ${to.name} ${text(bytes, start, end)} ${fate}`),
    messageRefused: (from, to, code) => calls.push(`messageRefused ${from.name} ${to?.name ?? "-"} ${code}`),
    refused: (from, to, code) => calls.push(`refused ${from.name} ${to.name} ${code}`),
    broadcast: (from, bytes, start, end, receivers) =>
      calls.push(`broadcast ${from.name} ${text(bytes, start, end)} ${receivers}`),
    listed: (by, line) => calls.push(`listed ${by.name} ${line.toString().trimEnd()}`),
    requeued: ({ account }) => calls.push(`requeued ${account.name}`),
  };
  return { world: new World(["alice", "bob", "carol"], { observer, limits }), calls, observer };
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

test("the observer receives each accepted message as sent or stored, and each to an unknown user", () => {
  const { world, calls } = observed();
  const [alice] = world.online("alice", "bob");
  calls.length = 0;
  world.say(alice!, "message bob one", "message carol two", "message nobody three");
  expect(calls).toEqual([
    "accepted alice bob one sent",
    "accepted alice carol two stored",
    "messageRefused alice - unknown_user",
  ]);
});

test("the observer receives each refused message with its error code", () => {
  const { world, calls } = observed({ mailboxMessagesMax: 4, mailboxSharePercent: 25 });
  const [alice, bob] = world.online("alice", "bob");
  world.say(bob!, "block alice");
  calls.length = 0;
  world.say(alice!, "message bob one", "message carol two", "message carol three");
  expect(calls).toEqual([
    "messageRefused alice bob blocked",
    "accepted alice carol two stored",
    "messageRefused alice carol mailbox_full",
  ]);
  world.store.writeError = "the disk is full";
  world.store.accepts = () => false;
  world.say(alice!, "message carol four");
  expect(calls.at(-1)).toBe("messageRefused alice carol internal");
});

test("the observer receives broadcasts with the number of receivers, and replies to online", () => {
  const { world, calls } = observed();
  const [alice] = world.online("alice", "bob", "carol");
  calls.length = 0;
  world.say(alice!, "broadcast hello", "online");
  expect(calls).toEqual(["broadcast alice hello 2", "listed alice ok bob carol"]);
});

test("the observer receives refusals of other requests that name a user", () => {
  const { world, calls } = observed();
  const [alice] = world.online("alice", "bob");
  calls.length = 0;
  world.say(alice!, "unblock bob", "block alice");
  expect(calls).toEqual(["refused alice bob not_blocked", "refused alice alice bad_request"]);
});

test("the observer receives refused logins and lockouts", () => {
  const { world, calls } = observed();
  const stranger = world.connect("192.0.2.7");
  const wrong = "login alice wrong";
  world.say(stranger, "login nobody secret", wrong, wrong, wrong);
  expect(calls).toEqual([
    "loginRefused - 192.0.2.7 unknown_user",
    "loginRefused alice 192.0.2.7 wrong_password",
    "loginRefused alice 192.0.2.7 wrong_password",
    "lockedOut alice 192.0.2.7",
    "loginRefused alice 192.0.2.7 locked_out",
  ]);
});

test("the observer receives a connection without a session that sent too many invalid lines, once", () => {
  const { world, calls } = observed({ badLinesMax: 3 });
  const stranger = world.connect("192.0.2.7");
  world.say(stranger, "a", "b", "c", "d");
  expect(stranger.read().at(-1)).toBe("goodbye flood");
  expect(calls).toEqual(["flooded 192.0.2.7"]);
});

test("a session counts the private messages that its user sent and received, and no broadcasts", () => {
  const ended: string[] = [];
  const { world, observer } = observed();
  observer.sessionEnded = ({ account, messagesIn, messagesOut }) =>
    ended.push(`${account.name} ${messagesIn} ${messagesOut}`);
  const alice = world.login("alice");
  world.say(alice, "message bob waits", "message bob too", "message nobody no");
  const bob = world.login("bob");
  world.say(bob, "message alice hi", "broadcast all");
  world.say(alice, "broadcast all", "message bob third", "logout");
  world.say(bob, "logout");
  expect(ended).toEqual(["alice 3 1", "bob 1 3"]);
});
