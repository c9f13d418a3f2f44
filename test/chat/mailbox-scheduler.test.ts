import { describe, expect, test } from "bun:test";
import { MOVED_BYTES_PER_TURN, MOVED_BYTES_SHARE } from "../../src/limits.ts";
import { type TestPeer, World } from "../support/chat.ts";

const TEXT = "x".repeat(3500);
const MESSAGES = 100;

/** Bob is online, reads nothing, and has a hundred unacknowledged messages from alice. */
function setUp(kind = ""): { world: World; alice: TestPeer; bob: TestPeer; kept: () => number } {
  const world = new World(["alice", "bob"]);
  const [alice] = world.online("alice") as [TestPeer];
  const bob = world.connect();
  world.say(bob, `login bob secret${kind}`);
  bob.room = 0;
  for (let i = 0; i < MESSAGES; i++) world.say(alice, `message bob ${i} ${TEXT}`);
  alice.read();
  return { world, alice, bob, kept: () => world.store.read("bob", 0, 1e9).length };
}

/** The store compacts all its records. Calls `moved` once, when the scheduler has moved everything. */
function compactOnce(world: World, moved: () => void): void {
  let isDone = false;
  world.store.compact = (move) => {
    if (isDone || !move(Number.POSITIVE_INFINITY, MOVED_BYTES_PER_TURN / 2)) return;
    isDone = true;
    moved();
  };
}

function nextTurn(world: World): void {
  world.begin();
  world.endTurn();
}

describe.each(["", " resumable"])("the unacknowledged messages of an ended session%s", (kind) => {
  /** The session ends, then the turn. */
  function end(world: World, bob: TestPeer): void {
    world.begin();
    if (kind === "") {
      bob.isClosed = true;
      world.chat.connectionClosed(bob);
    } else world.chat.end(bob.session!, "expired");
    world.endTurn();
  }

  test("return to the mailbox, a bounded number of bytes in each turn", () => {
    const { world, bob, kept } = setUp(kind);
    end(world, bob);
    const counts: number[] = [];
    while (world.account("bob").leaving !== null) {
      counts.push(kept());
      nextTurn(world);
    }
    expect(kept()).toBe(MESSAGES);
    expect(counts.length).toBeGreaterThan(2);
    const most = Math.ceil(MOVED_BYTES_PER_TURN / TEXT.length) + 1;
    for (const [i, count] of counts.slice(1).entries()) expect(count - counts[i]!).toBeWithin(1, most + 1);
    expect(world.account("bob")).toMatchObject({ waiting: MESSAGES });
  });

  test("wait while the store is busy, and cause no turns of their own", () => {
    const { world, bob, kept } = setUp(kind);
    end(world, bob);
    let isBusy = true;
    Object.defineProperty(world.store, "isBusy", { get: () => isBusy });
    nextTurn(world);
    const before = kept();
    for (let turns = 0; turns < 5; turns++) {
      world.begin();
      expect(world.chat.turnEnds()).toBe(false);
      world.endTurn();
    }
    expect(kept()).toBe(before);
    isBusy = false;
    while (world.account("bob").leaving !== null) nextTurn(world);
    expect(kept()).toBe(MESSAGES);
  });

  test("are delivered whole and in order to a login before they are requeued, followed by newer messages", () => {
    const { world, alice, bob } = setUp(kind);
    end(world, bob);
    expect(world.ask(alice, "message bob last").at(-1)).toBe("ok stored");
    const numbers = (
      world
        .login("bob")
        .read()
        .join("\n")
        .match(/ (\d+ x|last)/g) ?? []
    ).map((text) => text.trim());
    expect(numbers).toEqual([...Array.from({ length: MESSAGES }, (_, i) => `${i} x`), "last"]);
  });

  test("make a login wait until they are requeued, in turns of bounded length", () => {
    const { world, bob, kept } = setUp(kind);
    end(world, bob);
    const again = world.connect();
    let turns = 0;
    for (let before = kept(); again.session === null; before = kept(), turns++) {
      world.begin();
      if (!again.paused) again.feed(Buffer.from("login bob secret\n"));
      world.endTurn();
      expect(kept() - before).toBeLessThanOrEqual(Math.ceil(MOVED_BYTES_PER_TURN / TEXT.length) + 1);
    }
    expect(turns).toBeGreaterThan(5);
  });

  test("keep the store's oldest records until all of them are in the mailbox", () => {
    const { world, bob, kept } = setUp(kind);
    let rested = 0;
    compactOnce(world, () => {
      expect(kept()).toBe(MESSAGES);
      rested++;
    });
    end(world, bob);
    while (world.account("bob").leaving !== null) nextTurn(world);
    nextTurn(world);
    expect(rested).toBe(1);
  });

  test("are requeued for the store's oldest records after the disk had refused them", () => {
    const { world, bob, kept } = setUp(kind);
    const { sessionEnded, requeued } = world.store;
    world.store.sessionEnded = world.store.requeued = () => {
      throw new Error("disk full");
    };
    end(world, bob);
    expect(world.faults).toHaveLength(1);
    Object.assign(world.store, { sessionEnded, requeued });
    for (let turns = 0; turns < 50; turns++) nextTurn(world);
    expect(kept()).toBe(0);
    let rested = 0;
    compactOnce(world, () => void rested++);
    for (let turns = 0; turns < 50; turns++) nextTurn(world);
    expect([kept(), rested]).toEqual([MESSAGES, 1]);
  });
});

test("a user logs in once a turn at most, and each of several logins in one turn is answered", () => {
  const world = new World(["alice", "bob"]);
  const peers = Array.from({ length: 5 }, () => world.connect());
  const alice = world.connect();
  world.begin();
  for (const peer of [...peers, alice])
    peer.feed(Buffer.from(`login ${peer === alice ? "alice" : "bob"} secret resumable\n`));
  const began = (): number => peers.filter((peer) => peer.session !== null).length;
  const counts = [began()];
  expect(alice.session).not.toBeNull();
  while (counts.length < peers.length) {
    world.endTurn();
    counts.push(began());
  }
  expect(counts).toEqual([1, 1, 2, 3, 4]);
  world.endTurns();
  expect(began()).toBe(5);
  const last = peers.pop()!;
  for (const peer of peers) expect(peer.read().at(-1)).toBe("goodbye replaced");
  expect(world.account("bob").session).toBe(last.session);
  expect(last.read()[0]).toStartWith("ok token");
});

test("compaction visits many sessions over several turns, although none holds a message", () => {
  const names = Array.from({ length: 300 }, (_, i) => `u${i}`);
  const world = new World(names);
  for (const name of names) world.say(world.connect(), `login ${name} secret resumable`);
  let told = 0;
  let rested = false;
  world.store.requeued = () => void told++;
  compactOnce(world, () => void (rested = true));
  const counts: number[] = [];
  for (let before = 0; !rested; before = told) {
    nextTurn(world);
    counts.push(told - before);
  }
  expect(told).toBeWithin(names.length, names.length + 5);
  expect(Math.max(...counts)).toBeLessThan(150);
});

test.each([
  ["hundreds of sessions in one turn", 300, 300, 1],
  ["thousands of users in several turns", 5000, 0, 3],
])("compaction looks at %s when none has anything to move", (_what, users, online, turnsMin) => {
  const names = Array.from({ length: users }, (_, i) => `u${i}`);
  const world = new World(names);
  world.online(...names.slice(0, online));
  let turns = 0;
  let isMoved = false;
  compactOnce(world, () => void (isMoved = true));
  for (; !isMoved; turns++) nextTurn(world);
  expect(turns).toBeWithin(turnsMin, turnsMin + 1);
});

test("sessions that end at once share the bytes that may be moved in a turn", () => {
  const names = Array.from({ length: 20 }, (_, i) => `u${i}`);
  const world = new World(["alice", ...names]);
  const [alice] = world.online("alice") as [TestPeer];
  for (const name of names) {
    const peer = world.connect();
    world.say(peer, `login ${name} secret resumable`);
    peer.room = 0;
  }
  for (const name of names) for (let i = 0; i < 5; i++) world.say(alice, `message ${name} ${TEXT}`);
  const kept = (): number => world.store.waiting().reduce((sum, { messages }) => sum + messages, 0);
  world.begin();
  for (const name of names) world.chat.end(world.account(name).session!, "expired");
  const most = Math.ceil(MOVED_BYTES_PER_TURN / TEXT.length) + 1;
  world.endTurn();
  expect(kept()).toBeLessThanOrEqual(most);
  for (let before = kept(); before < 100; before = kept()) {
    nextTurn(world);
    expect(kept() - before).toBeWithin(1, most + 1);
  }
});

describe.each(["", " resumable"])("a login that replaces a session%s with many unacknowledged messages", (kind) => {
  test("is answered when they are in the mailbox; other users are answered meanwhile", () => {
    const { world, alice, bob, kept } = setUp(kind);
    const again = world.connect();
    world.begin();
    again.feed(Buffer.from("login bob secret\n"));
    world.endTurn();
    let turns = 0;
    for (let before = kept(); again.session === null; before = kept(), turns++) {
      expect(again.read()).toEqual([]);
      expect(bob.session!.ended).toBe(false);
      world.begin();
      alice.feed(Buffer.from("online\n"));
      world.endTurn();
      expect(alice.read()).toEqual(["ok bob"]);
      expect(kept() - before).toBeLessThanOrEqual(Math.ceil(MOVED_BYTES_PER_TURN / TEXT.length) + 1);
    }
    expect(turns).toBeGreaterThan(5);
    world.endTurns();
    const [ok, ...stored] = again.read();
    expect(ok).toMatch(/^ok /);
    expect(stored.map((line) => Number(line.split(" ")[3]))).toEqual(Array.from({ length: MESSAGES }, (_, i) => i));
    world.announce();
    expect(alice.read()).toEqual([]);
    again.hangUp();
    expect(world.login("bob").read()).toHaveLength(1);
  });

  test("is answered also when its verdict comes between two turns without other input", async () => {
    const { world } = setUp(kind);
    const verdict = Promise.withResolvers<boolean>();
    world.verify = () => verdict.promise;
    const again = world.connect();
    world.say(again, "login bob secret");
    verdict.resolve(true);
    await world.later();
    expect(again.read()).toHaveLength(1 + MESSAGES);
  });

  test("continues after earlier waiting logins, and the last session receives old and new messages", () => {
    const { world, alice } = setUp(" resumable");
    const peers = Array.from({ length: 4 }, () => world.connect());
    world.begin();
    for (const peer of peers) peer.feed(Buffer.from("login bob secret resumable\n"));
    world.endTurns();
    const last = peers.at(-1)!;
    while (last.session === null) nextTurn(world);
    world.endTurns();
    expect(world.account("bob").isAwaitingLogin).toBe(false);
    expect(peers.map(({ session }) => session?.ended ?? true)).toEqual([true, true, true, false]);
    world.say(alice, "message bob later");
    expect(world.account("bob").session!.delivery.deliveredUnacked).toBeGreaterThan(0);
  });

  test("does not replace the session when its connection is closed by then", () => {
    const { world, bob } = setUp(kind);
    const again = world.connect();
    world.begin();
    again.feed(Buffer.from("login bob secret\n"));
    world.endTurn();
    again.isClosed = true;
    world.endTurns();
    expect(again.session).toBeNull();
    bob.take();
    expect(bob.read().filter((line) => line.startsWith("message"))).toHaveLength(MESSAGES);
    expect(world.ask(bob, "alive").at(-1)).toMatch(/^ok/);
  });

  test("does not succeed when the server stops meanwhile, and no message is lost", () => {
    const { world } = setUp(kind);
    const again = world.connect();
    world.begin();
    again.feed(Buffer.from("login bob secret\n"));
    world.endTurn();
    world.begin();
    world.chat.shutdown();
    world.endTurns();
    expect([again.session, world.chat.presence.online.length]).toEqual([null, 0]);
    world.chat.mailboxScheduler.finish();
    expect(world.store.read("bob", 0, 1e9)).toHaveLength(MESSAGES);
  });

  test("is admitted when the disk refuses to spill, and no message is lost", () => {
    const { world, alice } = setUp(kind);
    const { requeued } = world.store;
    world.store.requeued = () => {
      throw new Error("disk full");
    };
    const again = world.connect();
    world.say(again, "login bob secret");
    expect(world.faults.length).toBeGreaterThan(0);
    world.store.requeued = requeued;
    const heard = again.read();
    again.hangUp();
    heard.push(...world.login("bob").read());
    expect(heard.filter((line) => line.startsWith("stored "))).toHaveLength(MESSAGES);
    expect(world.ask(alice, "message bob hi").at(-1)).toBe("ok sent");
  });
});

test("two logins of a user at once leave one live session while acknowledged messages are dropped", () => {
  const world = new World(["alice", "bob"]);
  const [alice] = world.online("alice") as [TestPeer];
  for (let i = 0; i < 1000; i++) alice.feed(Buffer.from(`message bob ${i} ${"x".repeat(60)}\n`));
  world.endTurns();
  const bob = world.connect();
  world.say(bob, "login bob secret resumable");
  world.begin();
  world.chat.ack(bob.session!, bob.session!.outbox.sent / 2);
  expect(world.account("bob").ackedUpTo).toBeGreaterThan(0);
  const peers = ["192.0.2.1", "192.0.2.2"].map((address) => world.connect(address));
  for (const peer of peers) peer.feed(Buffer.from("login bob secret resumable\n"));
  for (let turns = 0; turns < 50; turns++) nextTurn(world);
  expect(peers.map(({ session }) => session?.ended)).toEqual([true, false]);
  expect(world.chat.presence.online.filter(({ account }) => account.name === "bob")).toEqual([peers[1]!.session!]);
  expect(world.account("bob").session).toBe(peers[1]!.session);
});

describe("deliveries to many users at once", () => {
  const NAMES = ["u0", "u1", "u2"];
  /** As many messages as are delivered to a session that acknowledges nothing. */
  const EACH = 18;
  const most = Math.ceil(MOVED_BYTES_PER_TURN / TEXT.length) + 1;

  /** `EACH` messages wait for each user, and all users log in in one turn. */
  function comeBack(): { world: World; peers: TestPeer[]; fed: () => number } {
    const world = new World(["alice", ...NAMES]);
    const [alice] = world.online("alice") as [TestPeer];
    for (let i = 0; i < EACH; i++) for (const name of NAMES) world.say(alice, `message ${name} ${i} ${TEXT}`);
    world.begin();
    const peers = NAMES.map((name) => {
      const peer = world.connect();
      peer.room = 0;
      peer.feed(Buffer.from(`login ${name} secret resumable\n`));
      return peer;
    });
    world.endTurn();
    const fed = (): number => peers.reduce((sum, { session }) => sum + (session?.delivery.deliveredUnacked ?? 0), 0);
    return { world, peers, fed };
  }

  test("a mailbox is delivered in portions, in turns that follow by themselves", () => {
    const { world, peers, fed } = comeBack();
    let turns = 0;
    for (let before = 0; fed() < NAMES.length * EACH; turns++) {
      before = fed();
      world.endTurn();
      expect(fed() - before).toBeWithin(1, most + 1);
    }
    expect(turns).toBeGreaterThan(5);
    for (const peer of peers) peer.room = Number.POSITIVE_INFINITY;
    world.endTurns();
    for (const peer of peers) {
      peer.session!.outbox.markDirty();
      world.endTurns();
      const numbers = peer.read().flatMap((line) => /^stored alice \d+ (\d+) x/.exec(line)?.[1] ?? []);
      expect(numbers).toEqual(Array.from({ length: EACH }, (_, i) => String(i)));
    }
  });

  test("a mailbox is delivered also while the store is busy, one share in each turn", () => {
    const { world, fed } = comeBack();
    Object.defineProperty(world.store, "isBusy", { get: () => true });
    world.endTurn();
    for (let before = -1; before < fed();) {
      before = fed();
      world.endTurn();
      expect(fed() - before).toBeLessThanOrEqual(MOVED_BYTES_SHARE / TEXT.length + 2);
    }
    expect(fed()).toBe(NAMES.length * EACH);
    world.begin();
    expect(world.chat.turnEnds()).toBe(false);
  });

  test("requests continue when other lines leave no room for the mailbox", () => {
    const world = new World(["alice", "bob"]);
    const [alice] = world.online("alice") as [TestPeer];
    for (let i = 0; i < EACH + 10; i++) world.say(alice, `message bob ${i} ${TEXT}`);
    const bob = world.connect();
    bob.room = 0;
    world.say(bob, "login bob secret resumable");
    const session = bob.session!;
    const fed = session.delivery.deliveredUnacked;
    for (let i = 0; i < 20; i++) world.say(alice, `broadcast ${TEXT}`);
    world.begin();
    session.delivery.isPending = true;
    world.chat.flushed(session);
    expect([session.delivery.isPending, session.delivery.deliveredUnacked, session.outbox.dirty]).toEqual([
      false,
      fed,
      true,
    ]);
  });

  test("a mailbox is delivered after compaction, also to a callback session", () => {
    const world = new World(["alice", "bob"]);
    const [alice] = world.online("alice") as [TestPeer];
    for (let i = 0; i < EACH; i++) world.say(alice, `message bob ${i} ${TEXT}`);
    let needed = 2;
    world.store.compact = (move) => {
      if (needed-- > 0) move(Number.POSITIVE_INFINITY, MOVED_BYTES_PER_TURN / 2);
    };
    world.say(world.connect(), "login bob secret callback=5000");
    expect(world.account("bob").session!.delivery.deliveredUnacked).toBe(EACH);
  });

  test("a user who logs out before a portion delays no other user and loses no message", () => {
    const { world, peers, fed } = comeBack();
    const gone = peers.find(({ session }) => session!.delivery.deliveredUnacked === 0)!;
    world.chat.end(gone.session!, "logout");
    world.endTurns();
    expect(fed()).toBe((NAMES.length - 1) * EACH);
    expect(gone.session!.account.waiting).toBe(EACH);
  });

  test("a fault in a delivery is reported, and the messages are delivered the next time", () => {
    const { world, fed } = comeBack();
    const { read } = world.store;
    world.store.read = () => {
      throw new Error("a damaged page");
    };
    world.endTurns();
    expect(world.faults).not.toEqual([]);
    world.store.read = read;
    for (const name of NAMES) world.chat.flushed(world.account(name).session!);
    world.endTurns();
    expect(fed()).toBe(NAMES.length * EACH);
  });

  test("sessions that end together are requeued in turns, a share of each", () => {
    const { world, peers, fed } = comeBack();
    world.endTurns();
    expect(fed()).toBe(NAMES.length * EACH);
    const sessions = peers.map(({ session }) => session!);
    world.begin();
    for (const session of sessions) world.chat.end(session, "expired");
    const left = (): number[] =>
      sessions.map(({ outbox, delivery }) => outbox.messages(delivery.spilledUpTo, 1e9, 1e9).length);
    world.endTurn();
    for (let turns = 0; turns < 5; turns++) world.endTurn();
    expect(Math.min(...left())).toBeGreaterThan(0);
    expect(Math.max(...left())).toBeLessThan(EACH);
    world.endTurns();
    expect(NAMES.map((name) => world.account(name)).filter(({ leaving }) => leaving !== null)).toEqual([]);
  });
});

describe.each(["", " resumable"])("while a login waits for the move of many messages of a session%s", (kind) => {
  /** Bob logs in again while his session has a hundred long unacknowledged messages. */
  function setUpLogin(): { world: World; alice: TestPeer; bob: TestPeer; again: TestPeer } {
    const { world, alice, bob } = setUp(kind);
    for (const name of ["carol", "dave"]) world.chat.accounts.add(name, "secret");
    world.say(alice, `message dave ${TEXT}`);
    const again = world.connect();
    world.begin();
    again.feed(Buffer.from("login bob secret\n"));
    world.endTurn();
    expect(again.session).toBeNull();
    return { world, alice, bob, again };
  }

  test("a later login with few messages to move is answered first", () => {
    const { world, alice, again } = setUpLogin();
    const first = ["carol", "erin"].map((name) => {
      world.chat.accounts.add(name, "secret");
      const peer = world.connect();
      world.begin();
      peer.feed(Buffer.from(`login ${name} secret${kind}\n`));
      peer.room = 0;
      return peer;
    });
    for (let i = 0; i < 10; i++) alice.feed(Buffer.from(`message erin ${TEXT}\n`));
    alice.feed(Buffer.from("message carol hello\n"));
    world.endTurn();
    const [erin, carol] = ["erin", "carol"].map((name) => {
      const peer = world.connect();
      peer.feed(Buffer.from(`login ${name} secret\n`));
      return peer;
    });
    nextTurn(world);
    nextTurn(world);
    expect([first.length, carol!.session?.account.name, erin!.session, again.session]).toEqual([
      2,
      "carol",
      null,
      null,
    ]);
  });

  test("the mailboxes of other users are delivered", () => {
    const { world, alice, again } = setUpLogin();
    for (let i = 1; i < 10; i++) alice.feed(Buffer.from(`message dave ${TEXT}\n`));
    const dave = world.connect();
    dave.feed(Buffer.from("login dave secret\n"));
    for (let turns = 0; dave.session?.delivery.deliveredUnacked !== 10 && turns < 10; turns++) {
      dave.room = 0;
      nextTurn(world);
    }
    expect([dave.session!.delivery.deliveredUnacked, again.session]).toEqual([10, null]);
  });

  test("it is answered after a bounded number of turns, although messages arrive faster than they are moved", () => {
    const { world, alice, bob, again } = setUpLogin();
    let sent = MESSAGES;
    let turns = 0;
    for (; again.session === null && turns < 1000; turns++) {
      world.begin();
      for (let i = 0; i < 10; i++) alice.feed(Buffer.from(`message bob ${sent++} ${TEXT}\n`));
      world.endTurn();
    }
    expect(turns).toBeLessThan((2 * MESSAGES * TEXT.length) / MOVED_BYTES_PER_TURN);
    bob.hangUp();
    world.endTurns();
    const numbers = again.read().flatMap((line) => /^stored alice \d+ (\d+) x/.exec(line)?.[1] ?? []);
    expect(numbers).toEqual(Array.from({ length: sent }, (_, i) => String(i)));
  });

  test("it is answered while the store is busy", () => {
    const { world, again } = setUpLogin();
    Object.defineProperty(world.store, "isBusy", { get: () => true });
    for (let turns = 0; again.session === null && turns < 1000; turns++) nextTurn(world);
    expect(again.session).not.toBeNull();
  });

  test("messages to that user are stored, and delivered to the old session when the login fails", () => {
    const { world, alice, bob, again } = setUpLogin();
    world.begin();
    alice.feed(Buffer.from("message bob last\n"));
    world.endTurn();
    expect(alice.read().at(-1)).toBe("ok stored");
    again.isClosed = true;
    world.endTurns();
    bob.take();
    world.chat.ack(bob.session!, bob.session!.outbox.sent);
    world.say(bob, "alive");
    const lines = bob.read().filter((line) => /^(message|stored) /.test(line));
    expect([lines.length, lines.at(-1)]).toEqual([MESSAGES + 1, expect.stringMatching(/^stored alice \d+ last$/)]);
    expect(world.ask(alice, "message bob new")).toEqual(["ok sent"]);
  });
});

test("logins from several addresses that wait for the same move replace one another, and one session is left", () => {
  const { world, bob } = setUp(" resumable");
  const peers = Array.from({ length: 4 }, (_, i) => world.connect(`192.0.2.${10 + i}`));
  world.begin();
  for (const peer of peers) peer.feed(Buffer.from("login bob secret resumable\n"));
  world.endTurn();
  bob.room = 20_000;
  world.begin();
  bob.session!.outbox.markDirty();
  world.endTurn();
  // These acknowledged entries are dropped later: until then each step of each login has something to drop.
  bob.feed(Buffer.from(`alive ${bob.session!.outbox.sent}\n`));
  for (let turns = 0; turns < 200; turns++) nextTurn(world);
  const ends = [bob, ...peers].map(({ session }) => session?.endReason);
  expect(ends).toEqual(["replaced", "replaced", "replaced", "replaced", null]);
  expect(world.account("bob").session === peers[3]!.session).toBe(true);
  expect([world.account("bob").isAwaitingLogin, world.chat.presence.online.length]).toEqual([false, 2]);
});

test("thousands of sessions that end at once are requeued in turns of bounded length", () => {
  const names = Array.from({ length: 2000 }, (_, i) => `u${i}`);
  const world = new World(["alice", ...names]);
  const [alice] = world.online("alice") as [TestPeer];
  const peers = names.map((name) => {
    const peer = world.connect();
    peer.room = 0;
    world.say(peer, `login ${name} secret resumable`);
    return peer;
  });
  for (const name of names) world.say(alice, `message ${name} hello`);
  let moved = 0;
  const { requeued } = world.store;
  world.store.requeued = (...args) => {
    moved += args[3].length;
    requeued.apply(world.store, args);
  };
  world.begin();
  for (const { session } of peers) world.chat.end(session!, "expired");
  const counts: number[] = [];
  for (let before = 0; moved < names.length; before = moved) {
    world.endTurn();
    counts.push(moved - before);
  }
  expect(Math.max(...counts)).toBeLessThan(150);
});

describe("thousands of short acknowledged messages", () => {
  const COUNT = 4000;

  /** A session of bob received them and ended without an ack. `dropped` is the largest number of one drop. */
  function setUpShort(): { world: World; alice: TestPeer; token: string; dropped: () => number; left: () => number } {
    const world = new World(["alice", "bob"]);
    const [alice] = world.online("alice") as [TestPeer];
    const bob = world.connect();
    world.say(bob, "login bob secret resumable");
    const token = bob.read()[0]!.split(" ")[1]!;
    for (let i = 0; i < COUNT; i++) alice.feed(Buffer.from(`message bob ${i}\n`));
    world.endTurns();
    alice.read();
    bob.hangUp();
    world.chat.end(world.account("bob").session!, "expired");
    world.endTurns();
    let most = 0;
    const { drop } = world.store;
    world.store.drop = (...args) => {
      const amounts = drop.apply(world.store, args);
      most = Math.max(
        most,
        amounts.reduce((sum, { messages }) => sum + messages, 0),
      );
      return amounts;
    };
    return { world, alice, token, dropped: () => most, left: () => world.store.read("bob", 0, 1e9).length };
  }

  test("are dropped after a login with after=, some in each turn, and none is delivered", () => {
    const { world, alice, token, dropped, left } = setUpShort();
    expect(left()).toBe(COUNT);
    const position = `message alice ${COUNT - 1}\n`.length * 3000;
    const again = world.connect();
    world.begin();
    again.feed(Buffer.from(`login bob secret resumable after=${token}:${position}\n`));
    world.endTurn();
    expect(left()).toBeGreaterThan(COUNT / 2);
    expect(world.ask(alice, "message bob last").at(-1)).toBe("ok stored");
    world.endTurns();
    world.say(again, "alive");
    const texts = again.read().flatMap((line) => /^(?:stored alice \d+|message alice) (.*)/.exec(line)?.[1] ?? []);
    const first = Number(texts[0]);
    expect(first).toBeWithin(3000, 3200);
    expect(texts).toEqual([...Array.from({ length: COUNT - first }, (_, i) => String(first + i)), "last"]);
    expect(dropped()).toBeLessThanOrEqual(MOVED_BYTES_PER_TURN / 64);
    expect(left()).toBe(texts.length);
    world.chat.ack(again.session!, again.session!.outbox.sent);
    world.begin();
    world.endTurns();
    expect([left(), world.account("bob").waiting]).toEqual([0, 0]);
    expect(world.ask(alice, "message bob new")).toEqual(["ok sent"]);
  });

  test("are not delivered to a session that begins before they are dropped, or after a restart", () => {
    for (const ends of ["a login", "a stop"]) {
      const { world, token, left } = setUpShort();
      const end = `message alice ${COUNT - 1}\n`.length * COUNT;
      const again = world.connect();
      world.begin();
      again.feed(Buffer.from(`login bob secret resumable after=${token}:${end}\n`));
      const third = world.connect();
      third.feed(Buffer.from("login bob secret\n"));
      expect(left()).toBeGreaterThan(0);
      if (ends === "a login") world.endTurns();
      else world.chat.mailboxScheduler.finish();
      expect(third.read().filter((line) => line.startsWith("stored"))).toEqual([]);
      expect([left(), world.account("bob").waiting]).toEqual([0, 0]);
    }
  });

  test("are dropped before compaction removes the records that acknowledge them", () => {
    const { world, token, left } = setUpShort();
    const lefts: number[] = [];
    compactOnce(world, () => void lefts.push(left()));
    world.say(world.connect(), `login bob secret resumable after=${token}:${1e5}`);
    for (let turns = 0; lefts.length === 0 && turns < 1000; turns++) nextTurn(world);
    expect(lefts).toEqual([0]);
  });
});
