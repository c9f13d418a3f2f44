import { expect, test } from "bun:test";
import pino from "pino";
import { LoggedCounters } from "../../src/server/audit-log.ts";
import { PASSWORD, SILENCE_MS, World } from "../support/chat.ts";

/** A world with alice and bob, its counters, and a function that returns the fields of the lines since its last call. */
function logged(limits = {}): { world: World; counters: LoggedCounters; read: () => Record<string, unknown>[] } {
  const lines: Record<string, unknown>[] = [];
  const write = (line: string): void => {
    const { time: _time, msg: _msg, ...fields } = JSON.parse(line);
    lines.push(fields);
  };
  const counters = new LoggedCounters(pino({ base: null }, { write }));
  return { world: new World(["alice", "bob"], { observer: counters, limits }), counters, read: () => lines.splice(0) };
}

const INFO = 30;
const WARN = 40;

test("a login is logged with user, address and kind", () => {
  const { world, read } = logged();
  world.login("alice", "192.0.2.7");
  world.say(world.connect("2001:db8::7"), `login bob ${PASSWORD} resumable`);
  expect(read()).toEqual([
    { level: INFO, event: "login", user: "alice", address: "192.0.2.7", kind: "plain" },
    { level: INFO, event: "login", user: "bob", address: "2001:db8::7", kind: "resumable" },
  ]);
});

test("a failed login is logged with user, address and reason, and the third wrong password as a lockout", () => {
  const { world, read } = logged();
  const stranger = world.connect("192.0.2.7");
  world.say(stranger, "login alice a", "login alice b", "login alice c");
  world.say(world.connect("192.0.2.7"), `login alice ${PASSWORD}`);
  const failed = { level: WARN, event: "login_failed", user: "alice", address: "192.0.2.7" };
  expect(read()).toEqual([
    { ...failed, why: "wrong_password" },
    { ...failed, why: "wrong_password" },
    { level: WARN, event: "lockout", user: "alice", address: "192.0.2.7" },
    { ...failed, why: "locked_out" },
    { ...failed, why: "locked_out" },
  ]);
});

test("a name that no user has is logged as unknown, and so is a user who was removed meanwhile", async () => {
  const { world, read } = logged();
  world.say(world.connect("192.0.2.7"), "login hunter2 alice");
  let verdict = (_isRight: boolean): void => {};
  world.verify = () => new Promise((resolve) => void (verdict = resolve));
  world.say(world.connect("192.0.2.7"), `login bob ${PASSWORD}`);
  world.chat.remove(world.account("bob"));
  verdict(true);
  await world.later();
  const failed = { level: WARN, event: "login_failed", user: "unknown", address: "192.0.2.7", why: "unknown_user" };
  expect(read()).toEqual([failed, failed]);
});

test("the end of a session is logged with its reason, its seconds, and its messages in and out", () => {
  const { world, read } = logged();
  const alice = world.login("alice", "192.0.2.7");
  world.login("bob", "192.0.2.8");
  read();
  world.say(alice, "message bob one", "message bob two");
  world.pass(SILENCE_MS - 10_000);
  world.say(alice, "logout");
  world.pass(10_500);
  const end = { level: INFO, event: "session_end" };
  expect(read()).toEqual([
    { ...end, user: "alice", address: "192.0.2.7", reason: "logout", seconds: 25, in: 2, out: 0 },
    { ...end, user: "bob", address: "192.0.2.8", reason: "expired", seconds: 35, in: 0, out: 2 },
  ]);
});

test("a session whose client reads too slowly is logged as slow, and its end too", () => {
  const { world, read } = logged({ unackedBytesMax: 1000 });
  const alice = world.login("alice", "192.0.2.7");
  const bob = world.login("bob", "192.0.2.8");
  bob.room = 0;
  read();
  for (let i = 0; i < 20; i++) world.say(alice, `message bob ${"x".repeat(100)}`);
  world.pass(1000);
  expect(read()).toMatchObject([
    { level: WARN, event: "slow", user: "bob", address: "192.0.2.8", unacked: expect.any(Number) },
    { level: INFO, event: "session_end", user: "bob", reason: "slow" },
  ]);
});

test("invalid lines are logged as flood, with the user if there is a session", () => {
  const { world, read } = logged({ badLinesMax: 2 });
  const alice = world.login("alice", "192.0.2.7");
  read();
  world.say(alice, "a", "b");
  world.say(world.connect("2001:db8::7"), "hunter2", "hunter2", "hunter2");
  expect(read()).toMatchObject([
    { level: WARN, event: "flood", user: "alice", address: "192.0.2.7" },
    { level: INFO, event: "session_end", user: "alice", reason: "flood" },
    { level: WARN, event: "flood", user: "unknown", address: "2001:db8::7" },
  ]);
});

test("what is logged is counted too, and messages are only counted", () => {
  const { world, counters, read } = logged();
  const alice = world.login("alice");
  world.say(world.connect(), "login alice wrong");
  read();
  world.say(alice, "message bob hi", "broadcast hi");
  expect(read()).toEqual([]);
  world.say(alice, "logout");
  const { logins, loginsRefused, sessionsEnded, messagesStored, broadcasts } = counters;
  expect({ logins, messagesStored, broadcasts }).toEqual({ logins: 1, messagesStored: 1, broadcasts: 1 });
  expect([...loginsRefused, ...sessionsEnded].filter(([, count]) => count > 0)).toEqual([
    ["wrong_password", 1],
    ["logout", 1],
  ]);
});
