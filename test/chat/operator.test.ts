import { describe, expect, test } from "bun:test";
import { ban, kick, notify, purge, unban } from "../../src/chat/operator.ts";
import { PASSWORD, type TestPeer, UNIX_MS, World } from "../support/chat.ts";

/** Calls a function of the operator in a turn, and ends the turn. */
function order<Result>(world: World, act: () => Result): Result {
  world.begin();
  const result = act();
  world.endTurns();
  world.announce();
  return result;
}

describe("a kicked user", () => {
  test("receives goodbye kicked with the words, and the others receive left kicked", () => {
    const world = new World(["alice", "bob"]);
    const [alice, bob] = world.online("alice", "bob") as [TestPeer, TestPeer];
    expect(order(world, () => kick(world.chat, world.account("bob"), Buffer.from("be  nice \xff", "latin1")))).toBe(
      true,
    );
    expect(bob.read()).toEqual(["goodbye kicked be  nice \xff"]);
    expect(bob.isClosed).toBe(true);
    expect(alice.read()).toEqual(["left bob kicked"]);
    expect(order(world, () => kick(world.chat, world.account("bob")))).toBe(false);
  });

  test.each(["", " resumable"])("finds the unacknowledged messages in the mailbox, after a login with %j", (option) => {
    const world = new World(["alice", "bob"]);
    const [alice] = world.online("alice") as [TestPeer];
    const bob = world.connect();
    world.say(bob, `login bob ${PASSWORD}${option}`);
    bob.room = 0;
    world.say(alice, "message bob one", "message bob two");
    order(world, () => kick(world.chat, world.account("bob")));
    bob.hangUp();
    expect(world.login("bob").read().slice(1)).toEqual([
      expect.stringMatching(/^stored alice \d+ one$/),
      expect.stringMatching(/^stored alice \d+ two$/),
    ]);
  });

  test.each(["resume", "as"])(
    "gets unknown_session kicked for %s with the old token, also after the next login",
    (verb) => {
      const world = new World(["alice", "bob"]);
      const bob = world.connect();
      const option = verb === "as" ? "callback=2000" : "resumable";
      const [, token] = world.ask(bob, `login bob ${PASSWORD} ${option}`)[0]!.split(" ");
      bob.hangUp();
      order(world, () => kick(world.chat, world.account("bob")));
      const request = verb === "as" ? `as ${token} online` : `resume ${token} 0`;
      expect(world.ask(world.connect(), request)).toEqual(["err unknown_session kicked"]);
      expect(world.login("bob").read()).toEqual([expect.stringMatching(/^ok /)]);
      expect(world.ask(world.connect(), request)).toEqual(["err unknown_session kicked"]);
    },
  );
});

describe("a banned user", () => {
  test("is kicked, and each login is refused with the seconds that are left, until they are over", () => {
    const world = new World(["alice", "bob"]);
    const [alice, bob] = world.online("alice", "bob") as [TestPeer, TestPeer];
    order(world, () => ban(world.chat, world.account("bob"), 90));
    expect(bob.read()).toEqual(["goodbye kicked"]);
    expect(world.login("bob").read()).toEqual(["err banned 90"]);
    world.pass(30_500);
    world.say(alice, "alive");
    expect(world.login("bob").read()).toEqual(["err banned 60"]);
    expect(world.ask(alice, "message bob hello")).toContain("ok stored");
    world.pass(59_500);
    expect(world.login("bob").read()).toEqual([
      expect.stringMatching(/^ok /),
      expect.stringMatching(/^stored alice \d+ hello$/),
    ]);
  });

  test("without an end is refused for good, and no password is verified meanwhile", () => {
    const world = new World(["bob"]);
    order(world, () => ban(world.chat, world.account("bob"), null));
    world.verify = () => {
      throw new Error("a password was verified");
    };
    expect(world.ask(world.connect(), "login bob guess")).toEqual(["err banned"]);
    expect(world.faults).toEqual([]);
  });

  test("can log in again after unban, which tells whether there was a ban", () => {
    const world = new World(["bob"]);
    const bob = world.account("bob");
    order(world, () => ban(world.chat, bob, null));
    expect(order(world, () => unban(world.chat, bob))).toBe(true);
    expect(world.login("bob").read()).toEqual([expect.stringMatching(/^ok /)]);
    expect(order(world, () => unban(world.chat, bob))).toBe(false);
    expect(world.store.bans()).toEqual([]);
  });

  test("uses up the failed logins of an address", () => {
    const world = new World(["alice", "bob"], { limits: { failedLoginsPerMinuteMax: 3 } });
    order(world, () => ban(world.chat, world.account("bob"), null));
    for (let i = 0; i < 3; i++) expect(world.login("bob").read()).toEqual(["err banned"]);
    expect(world.login("alice").read()).toEqual([expect.stringMatching(/^err busy too many failed logins/)]);
  });

  test("is refused when the ban comes while the password is verified, and that counts as failed", async () => {
    const world = new World(["alice", "bob"], { limits: { failedLoginsPerMinuteMax: 1 } });
    const verdict = Promise.withResolvers<boolean>();
    world.verify = () => verdict.promise;
    const peer = world.login("bob");
    order(world, () => ban(world.chat, world.account("bob"), 60));
    verdict.resolve(true);
    await world.later();
    expect(peer.read()).toEqual(["err banned 60"]);
    expect(world.account("bob").session).toBeNull();
    expect(world.login("alice").read()).toEqual([expect.stringMatching(/^err busy /)]);
  });

  test("stays banned until a time of the wall clock, also when that is set", () => {
    const world = new World(["bob"]);
    order(world, () => ban(world.chat, world.account("bob"), 60));
    expect(world.store.bans()).toEqual([{ user: "bob", untilUnixMs: UNIX_MS + 60_000 }]);
    world.begin();
    world.chat.unixMs = UNIX_MS + 60_000;
    const peer = world.connect();
    peer.feed(Buffer.from(`login bob ${PASSWORD}\n`));
    world.endTurns();
    expect(peer.read()).toEqual([expect.stringMatching(/^ok /)]);
  });
});

test("a notice reaches the sessions of the list that are still online, some in each turn, in every kind of stream", () => {
  const names = Array.from({ length: 600 }, (_, i) => `user${i}`);
  const world = new World(names);
  const peers = names.map((name, i) => {
    const peer = world.connect();
    world.say(peer, `login ${name} ${PASSWORD}${i % 2 === 0 ? "" : " resumable"}`);
    return peer;
  });
  world.announce();
  for (const peer of peers) peer.read();
  const sessions = [...world.chat.presence.online];
  order(world, () => kick(world.chat, world.account("user599")));
  for (const peer of peers) peer.read();
  const line = Buffer.from("notice down at  six\n");
  let turns = 0;
  for (let done = 0; done < sessions.length; turns++)
    done = order(world, () => notify(line, sessions, done, () => false));
  expect(turns).toBe(3);
  const missed = peers.flatMap((peer, i) => (peer.read().join() === "notice down at  six" ? [] : [i]));
  expect(missed).toEqual([599]);
  expect(order(world, () => notify(line, sessions, 7, () => true))).toBe(8);
  expect(peers.flatMap((peer, i) => (peer.read().length > 0 ? [i] : []))).toEqual([7]);
});

describe("a purge", () => {
  /** Purges in turns until nothing is left; returns the sums, and the number of turns. */
  function purgeAll(world: World, name: string): { messages: number; bytes: number; turns: number } {
    const sum = { messages: 0, bytes: 0, turns: 0 };
    const upTo = world.store.newNumber();
    for (;;) {
      const purged = order(world, () => purge(world.chat, world.account(name), upTo));
      sum.turns++;
      sum.messages += purged?.messages ?? 0;
      sum.bytes += purged?.bytes ?? 0;
      if (purged?.messages === 0) return sum;
    }
  }

  test("empties the mailbox of an absent user, a bounded number of messages in each turn", () => {
    const world = new World(["alice", "bob"], { limits: { requestsPerSecondMax: 0 } });
    const [alice] = world.online("alice") as [TestPeer];
    for (let i = 0; i < 1000; i++) world.say(alice, "message bob 12345");
    expect(purgeAll(world, "bob")).toEqual({ messages: 1000, bytes: 5000, turns: 9 });
    const bob = world.account("bob");
    expect([bob.waiting, bob.waitingBytes, [...bob.senders]]).toEqual([0, 0, []]);
    expect(world.store.waiting()).toEqual([]);
    expect(world.login("bob").read()).toEqual([expect.stringMatching(/^ok /)]);
  });

  test("of a user who is online deletes what is not on its way, and the order and the counts stay right", () => {
    const world = new World(["alice", "bob"], { limits: { requestsPerSecondMax: 0 } });
    const [alice] = world.online("alice") as [TestPeer];
    const text = "x".repeat(3900);
    for (let i = 0; i < 100; i++) world.say(alice, `message bob ${i} ${text}`);
    const bob = world.connect();
    world.say(bob, `login bob ${PASSWORD} resumable`);
    const delivered = bob.read().length - 1;
    expect(delivered).toBeLessThan(50);
    expect(purgeAll(world, "bob").messages).toBe(100 - delivered);
    expect(world.account("bob").waiting).toBe(delivered);
    expect(world.ask(alice, "message bob last")).toContain("ok sent");
    expect(bob.read()).toEqual(["message alice last"]);
    const { session } = world.account("bob");
    world.begin();
    world.chat.ack(session!, session!.outbox.sent);
    world.endTurns();
    expect([world.account("bob").waiting, world.faults]).toEqual([0, []]);
  });

  test("never covers a message that only the stream has, which recovery would delete too", () => {
    const world = new World(["alice", "bob"], { limits: { requestsPerSecondMax: 0, unackedBytesMax: 64 << 10 } });
    const [alice] = world.online("alice") as [TestPeer];
    const bob = world.connect();
    world.say(bob, `login bob ${PASSWORD} resumable`);
    const replies: string[] = [];
    while (!replies.includes("ok stored"))
      replies.push(...world.ask(alice, `message bob ${"x".repeat(3900)}`).filter((line) => line.startsWith("ok")));
    const { session } = world.account("bob");
    const ranges: [after: number, upTo: number][] = [];
    const { purge: purgeStore } = world.store;
    world.store.purge = (user, after, upTo, countMax) => {
      ranges.push([after, upTo]);
      return purgeStore.call(world.store, user, after, upTo, countMax);
    };
    expect(purgeAll(world, "bob").messages).toBe(1);
    expect(session!.outbox.lastNumber).toBeGreaterThan(session!.delivery.deliveredUpTo);
    expect(ranges.filter(([after]) => after < session!.outbox.lastNumber)).toEqual([]);
  });

  test("keeps the messages that arrive after its beginning", () => {
    const world = new World(["alice", "bob"]);
    const [alice] = world.online("alice") as [TestPeer];
    world.say(alice, "message bob before");
    const upTo = world.store.newNumber();
    world.say(alice, "message bob after");
    expect(order(world, () => purge(world.chat, world.account("bob"), upTo))).toEqual({ messages: 1, bytes: 6 });
    expect(world.login("bob").read().slice(1)).toEqual([expect.stringMatching(/^stored alice \d+ after$/)]);
  });

  test("waits while messages of the last session still move to the mailbox", () => {
    const world = new World(["alice", "bob"], { movesAtOnce: false });
    const [alice, bob] = world.online("alice", "bob") as [TestPeer, TestPeer];
    bob.room = 0;
    world.say(alice, "message bob one");
    order(world, () => kick(world.chat, world.account("bob")));
    const upTo = world.store.newNumber();
    expect(order(world, () => purge(world.chat, world.account("bob"), upTo))).toBeNull();
    bob.hangUp();
    expect(order(world, () => purge(world.chat, world.account("bob"), upTo))).toEqual({ messages: 1, bytes: 3 });
  });
});

test("the last login of a user is stored with its time and address", () => {
  const world = new World(["bob"]);
  expect(world.store.lastLogin("bob")).toBeNull();
  world.login("bob", "192.0.2.7");
  world.pass(500);
  world.login("bob", "192.0.2.8");
  expect(world.store.lastLogin("bob")).toEqual({ unixMs: UNIX_MS + 500, address: "192.0.2.8" });
});
