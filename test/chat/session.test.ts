import { describe, expect, test } from "bun:test";
import { LIMITS_DEFAULT, POOLED_MS } from "../../src/limits.ts";
import type { Session } from "../../src/chat/session.ts";
import { ByteQueue } from "../../src/byte-queue.ts";
import { SILENCE_MS, type TestPeer, UNIX_MS, World } from "../support/chat.ts";
import { Random, seedFor } from "../support/random.ts";

const TICK_MS = 64;
const LOGGED_IN = expect.stringMatching(/^ok token\d{20} 35$/);

describe("login", () => {
  test("the reply to a login has the seconds of silence, fractions included", () => {
    expect(new World(["alice"]).login("alice").read()).toEqual([LOGGED_IN]);
    const hasty = new World(["alice"], { idleTimeoutMs: 300 });
    expect(hasty.login("alice").read()).toEqual([expect.stringMatching(/^ok token\d+ 0\.3$/)]);
  });

  test("each login gets its own token", () => {
    const world = new World(["alice", "bob"]);
    const tokens = ["alice", "bob", "alice"].map((name) => world.login(name).read()[0]!.split(" ")[1]);
    expect(new Set(tokens).size).toBe(3);
  });

  test("a login succeeds after failed ones on the same connection; later lines belong to the session", () => {
    const world = new World(["alice"]);
    const peer = world.connect();
    world.say(peer, "login nobody x", "login alice wrong", "login alice secret", "online", "login alice secret");
    expect(peer.read()).toEqual(["err unknown_user", "err wrong_password 2", LOGGED_IN, "ok", "err already_logged_in"]);
  });
});

describe("a takeover", () => {
  test("a takeover sends goodbye replaced to the older session and closes its connection", () => {
    const world = new World(["alice"]);
    const old = world.login("alice");
    const now = world.login("alice");
    expect(old.read()).toEqual([LOGGED_IN, "goodbye replaced"]);
    expect(old.isClosed).toBe(true);
    expect(now.read()).toEqual([LOGGED_IN]);
    expect(world.ask(now, "alive")).toEqual(["ok"]);
  });

  test("a takeover sends no event to other users", () => {
    const world = new World(["alice", "bob"]);
    const [bob] = world.online("alice", "bob").slice(1) as [TestPeer];
    world.login("alice");
    world.announce();
    expect(bob.read()).toEqual([]);
    expect(world.ask(bob, "online")).toEqual(["ok alice"]);
    expect(world.ask(bob, "broadcast hi")).toEqual(["ok 1"]);
  });

  test("a takeover delivers the untaken messages of the older session as stored, before newer messages", () => {
    const world = new World(["alice", "bob"]);
    const [alice, bob] = world.online("alice", "bob") as [TestPeer, TestPeer];
    world.say(alice, "message bob taken");
    bob.room = 0;
    world.say(alice, "message bob one", "broadcast lost", "message bob two");
    const now = world.login("bob");
    world.say(alice, "message bob three");
    expect(now.read()).toEqual([
      LOGGED_IN,
      `stored alice ${UNIX_MS} one`,
      `stored alice ${UNIX_MS} two`,
      "message alice three",
    ]);
    bob.take();
    expect(bob.read()).toEqual(["message alice taken", "broadcast alice lost", "goodbye replaced"]);
  });

  test("a takeover delivers the undelivered mailbox of the older session", () => {
    const world = new World(["alice", "bob"]);
    const [alice] = world.online("alice") as [TestPeer];
    world.say(alice, "message bob one", "message bob two");
    const old = world.connect();
    old.room = 70;
    world.say(old, "login bob secret");
    const now = world.login("bob");
    expect(old.read()).toEqual([LOGGED_IN, `stored alice ${UNIX_MS} one`]);
    expect(now.read()).toEqual([LOGGED_IN, `stored alice ${UNIX_MS} two`]);
  });

  test("a takeover tears no line of the older session, wherever it stopped reading, and loses nothing", () => {
    for (let room = 0; room < 100; room++) {
      const world = new World(["alice", "bob"]);
      const [alice, bob] = world.online("alice", "bob") as [TestPeer, TestPeer];
      bob.room = room;
      world.say(alice, "message bob one", "broadcast to all", "message bob two", "message bob three");
      const now = world.login("bob");
      bob.take();
      const lines = bob.read();
      for (const line of lines)
        expect(line).toMatch(/^(message alice (one|two|three)|broadcast alice to all|goodbye replaced)$/);
      expect(lines.at(-1)).toBe("goodbye replaced");
      const texts = [...lines, ...now.read()].filter((line) => /^(message|stored)/.test(line));
      const seen = texts.map((line) => line.split(" ").at(-1)!);
      expect([...new Set(seen)].toSorted()).toEqual(["one", "three", "two"]);
      expect(seen.length).toBeLessThanOrEqual(4);
    }
  });

  test("a takeover is not undone by a late close or a late line of the older connection", () => {
    const world = new World(["alice", "bob"]);
    const [bob, old] = world.online("bob", "alice") as [TestPeer, TestPeer];
    old.room = 0;
    world.say(bob, "message alice hi");
    const now = world.login("alice");
    world.say(old, "message bob late", "logout");
    old.hangUp();
    world.announce();
    expect(bob.read()).toEqual(["ok sent"]);
    expect(now.read()).toEqual([LOGGED_IN, `stored bob ${UNIX_MS} hi`]);
    expect(world.ask(bob, "message alice again")).toEqual(["ok sent"]);
    expect(now.read()).toEqual(["message bob again"]);
  });

  test("several takeovers while no connection reads keep every message once", () => {
    const world = new World(["alice", "bob"]);
    const [alice, first] = world.online("alice", "bob") as [TestPeer, TestPeer];
    const peers = [first];
    for (let i = 0; i < 5; i++) {
      peers.at(-1)!.room = 0;
      world.say(alice, `message bob ${i}`);
      const next = world.connect();
      next.room = 0;
      world.say(next, "login bob secret");
      peers.push(next);
    }
    for (const peer of peers.slice(0, -1)) peer.hangUp();
    peers.at(-1)!.take();
    expect(peers.at(-1)!.read()).toEqual([
      LOGGED_IN,
      ...Array.from({ length: 5 }, (_, i) => `stored alice ${UNIX_MS} ${i}`),
    ]);
  });
});

describe("logout", () => {
  test("logout is answered with ok and closes the connection without a goodbye; later lines get no reply", () => {
    const world = new World(["alice"]);
    const [alice] = world.online("alice") as [TestPeer];
    world.say(alice, "online", "logout", "online", "alive");
    expect(alice.read()).toEqual(["ok", "ok"]);
    expect(alice.isClosed).toBe(true);
  });

  test("logout ignores a position in a plain session", () => {
    const world = new World(["alice"]);
    const [alice] = world.online("alice") as [TestPeer];
    expect(world.ask(alice, "logout 123456")).toEqual(["ok"]);
    expect(alice.isClosed).toBe(true);
  });

  test("the user can log in again at once after logout", () => {
    const world = new World(["alice", "bob"]);
    const [alice, bob] = world.online("alice", "bob") as [TestPeer, TestPeer];
    world.say(alice, "logout");
    expect(world.login("alice").read()).toEqual([LOGGED_IN]);
    world.announce();
    expect(bob.read()).toEqual(["left alice logout", "joined alice"]);
  });
});

describe("silence", () => {
  test("silence ends a session, never early and at most two ticks late, whenever its last line arrived", () => {
    const random = new Random(seedFor("silence"));
    for (let round = 0; round < 100; round++) {
      const world = new World(["alice"], { clockMs: 1000 + random.below(1000) });
      const [alice] = world.online("alice") as [TestPeer];
      for (let lines = random.below(4); lines > 0; lines--) {
        world.pass(random.below(random.pick([200, SILENCE_MS])));
        expect(world.ask(alice, "alive")).toEqual(["ok"]);
      }
      world.pass(SILENCE_MS - 1);
      expect(alice.read()).toEqual([]);
      world.pass(1 + 2 * TICK_MS);
      expect(alice.read()).toEqual(["goodbye expired"]);
      expect(alice.isClosed).toBe(true);
    }
  });

  test("silence is shown to other users as left expired", () => {
    const world = new World(["alice", "bob"]);
    const [alice] = world.online("bob", "alice").slice(1) as [TestPeer];
    world.pass(SILENCE_MS - 1000);
    expect(world.ask(alice, "alive")).toEqual(["ok"]);
    world.pass(2000);
    expect(alice.read()).toEqual(["left bob expired"]);
    expect(world.ask(alice, "message bob hi")).toEqual(["ok stored"]);
  });

  test.each(["alive", "online", "", "nonsense", "x".repeat(5000), "login alice secret", "message nobody hi"])(
    "is broken by any line, also a bad one: %p",
    (line) => {
      const world = new World(["alice"]);
      const [alice] = world.online("alice") as [TestPeer];
      for (let i = 0; i < 5; i++) {
        world.pass(SILENCE_MS - 1);
        expect(world.ask(alice, line)).toHaveLength(1);
      }
      expect(alice.session?.ended).toBe(false);
    },
  );

  test("the beginning of a line, and output to the client, do not end the silence", () => {
    const world = new World(["alice", "bob"]);
    const [alice, bob] = world.online("alice", "bob") as [TestPeer, TestPeer];
    for (let i = 0; i < 10; i++) {
      world.pass(SILENCE_MS / 8);
      alice.feed(Buffer.from("x"));
      world.say(bob, `message alice ${i}`);
    }
    expect(alice.read().at(-1)).toBe("goodbye expired");
    expect(bob.session?.ended).toBe(false);
  });

  test("time during which the server does not read the connection does not count as silence", () => {
    const world = new World(["alice"]);
    const [alice] = world.online("alice") as [TestPeer];
    alice.pause();
    world.pass(10 * SILENCE_MS);
    expect(alice.read()).toEqual([]);
    alice.resume();
    world.pass(SILENCE_MS + 2 * TICK_MS);
    expect(alice.read()).toEqual(["goodbye expired"]);
  });

  test("after the process stood still no session expires, and the lines that arrived are read first", () => {
    const names = Array.from({ length: 20 }, (_, i) => `user${i}`);
    const world = new World(names);
    const peers = world.online(...names);
    world.pass(SILENCE_MS - 1000);
    world.clockMs += 10 * SILENCE_MS;
    for (const peer of peers.slice(0, 10)) expect(world.ask(peer, "alive")).toEqual(["ok"]);
    world.tick();
    expect(peers.every(({ session }) => session?.ended === false)).toBe(true);
    world.pass(2000);
    expect(peers.map(({ session }) => session?.ended)).toEqual([...Array(10).fill(false), ...Array(10).fill(true)]);
  });

  test("each of a thousand sessions has its own deadline", () => {
    const names = Array.from({ length: 1000 }, (_, i) => `user${i}`);
    const world = new World(names);
    const random = new Random(seedFor("deadlines"));
    const peers = names.map((name) => world.login(name));
    const activeMs = peers.map(() => world.clockMs);
    const endedMs = peers.map(() => 0);
    for (let step = 0; step < 1700; step++) {
      const chatty = random.below(1000);
      if (!peers[chatty]!.isClosed && step < 1000) {
        world.say(peers[chatty]!, "alive");
        activeMs[chatty] = world.clockMs;
      }
      world.pass(TICK_MS);
      for (const [i, { isClosed: gone }] of peers.entries()) if (gone && endedMs[i] === 0) endedMs[i] = world.clockMs;
    }
    for (const [i, ms] of endedMs.entries()) {
      expect(ms - activeMs[i]!).toBeGreaterThanOrEqual(SILENCE_MS);
      expect(ms - activeMs[i]!).toBeLessThanOrEqual(SILENCE_MS + 2 * TICK_MS);
    }
    expect(world.chat.wheel.armed).toBe(0);
  });
});

describe("a session that does not read", () => {
  const TEXT = "x".repeat(1000);
  const LINE_BYTES = `message alice 0000 ${TEXT}\n`.length;
  const MOST = Math.floor(LIMITS_DEFAULT.unackedBytesMax / LINE_BYTES);

  function say(world: World, peer: TestPeer, verb: string, count: number, from = 0): void {
    for (let i = from; i < from + count; i++) world.say(peer, `${verb} ${String(i).padStart(4, "0")} ${TEXT}`);
  }

  test("a session that does not read may have 1 MiB unacknowledged; more ends it as slow", () => {
    const world = new World(["alice", "bob"]);
    const [alice, bob] = world.online("alice", "bob") as [TestPeer, TestPeer];
    bob.room = 0;
    say(world, alice, "message bob", MOST);
    expect(bob.session?.ended).toBe(false);
    alice.read();
    say(world, alice, "message bob", 1, MOST);
    expect(bob.session?.ended).toBe(true);
    world.announce();
    expect(alice.read()).toEqual(["ok sent", "left bob slow"]);
    expect(world.ask(alice, "message bob hi")).toEqual(["ok stored"]);
    expect(world.ask(alice, "online")).toEqual(["ok"]);
  });

  test("a slow session receives everything and then goodbye slow when it reads again", () => {
    const world = new World(["alice", "bob"]);
    const [alice, bob] = world.online("alice", "bob") as [TestPeer, TestPeer];
    bob.room = 0;
    say(world, alice, "message bob", MOST + 1);
    bob.take();
    const lines = bob.read();
    expect(lines).toHaveLength(MOST + 2);
    expect(lines.at(-1)).toBe("goodbye slow");
    expect(bob.isClosed).toBe(true);
    expect(world.login("bob").read()).toEqual([LOGGED_IN]);
  });

  test("the untaken messages of a slow session are in its mailbox, in the old order and before newer ones", () => {
    const world = new World(["alice", "bob"]);
    const [alice, bob] = world.online("alice", "bob") as [TestPeer, TestPeer];
    say(world, alice, "message bob", 10);
    bob.room = 2.5 * LINE_BYTES;
    say(world, alice, "message bob", MOST + 5, 10);
    expect(bob.session?.ended).toBe(true);
    say(world, alice, "message bob", 5, MOST + 15);
    bob.hangUp();
    const before = bob.read();
    expect(before).toHaveLength(12);
    expect(before.some((line) => line.startsWith("goodbye"))).toBe(false);
    const after = world.login("bob").read().slice(1);
    const numbers = [...before, ...after].map((line) => Number(/ (\d{4}) x+$/.exec(line)?.[1]));
    expect(numbers).toEqual(Array.from({ length: MOST + 20 }, (_, i) => i));
    expect(after.every((line) => line.startsWith("stored alice "))).toBe(true);
  });

  test("the mailbox has them also when the user logs in before the old connection is closed", () => {
    const world = new World(["alice", "bob"]);
    const [alice, bob] = world.online("alice", "bob") as [TestPeer, TestPeer];
    bob.room = 0;
    say(world, alice, "message bob", MOST + 5);
    const after = world.login("bob").read().slice(1);
    expect(after.map((line) => Number(line.split(" ")[3]))).toEqual(Array.from({ length: MOST + 5 }, (_, i) => i));
    bob.take();
    expect(bob.read()).toEqual(["goodbye slow"]);
  });

  test("broadcasts end a session that does not read as slow, do not affect others and are not stored", () => {
    const world = new World(["alice", "bob", "carol"]);
    const [alice, bob, carol] = world.online("alice", "bob", "carol") as [TestPeer, TestPeer, TestPeer];
    bob.room = 0;
    say(world, alice, "broadcast", MOST + 5);
    world.announce();
    expect(bob.session?.ended).toBe(true);
    expect(alice.read().filter((line) => line === "left bob slow")).toHaveLength(1);
    expect(carol.read().filter((line) => line.startsWith("broadcast alice "))).toHaveLength(MOST + 5);
    bob.hangUp();
    expect(world.login("bob").read()).toEqual([LOGGED_IN]);
  });

  test("a session that reads a little all the time does not end as slow", () => {
    const world = new World(["alice", "bob"]);
    const [alice, bob] = world.online("alice", "bob") as [TestPeer, TestPeer];
    const half = Math.floor(MOST / 2);
    for (let i = 0; i < 10; i++) {
      bob.room = 0;
      say(world, alice, "message bob", half, i * half);
      bob.take(half * LINE_BYTES);
    }
    expect(bob.session?.ended).toBe(false);
  });
});

test("a position that was sent on one connection stays valid after a resume whose connection took less", () => {
  const world = new World(["alice"]);
  const [first, late, last] = [world.connect(), world.connect(), world.connect()] as [TestPeer, TestPeer, TestPeer];
  world.say(first, "login alice secret resumable", "message alice hi");
  const token = first.read()[0]!.split(" ")[1]!;
  const received = "message alice hi\nok sent\n".length;
  late.room = "ok 17\n".length;
  world.say(late, `resume ${token} 0`);
  expect(late.read()).toEqual(["ok 17"]);
  expect(world.ask(last, `resume ${token} ${received + 1}`)).toEqual([expect.stringContaining("bad_request")]);
  expect(world.ask(last, `resume ${token} ${received}`)).toEqual(["ok 17"]);
  expect(world.ask(last, "alive")).toEqual(["ok 23"]);
});

test("a shutdown sends goodbye to all sessions and left to none; untaken messages are stored", () => {
  const world = new World(["alice", "bob", "carol"]);
  const [alice, bob, carol] = world.online("alice", "bob", "carol") as [TestPeer, TestPeer, TestPeer];
  carol.room = 0;
  world.say(alice, "message carol hi");
  alice.read();
  world.begin();
  world.chat.shutdown();
  world.endTurns();
  expect(alice.read()).toEqual(["goodbye shutdown"]);
  expect(bob.read()).toEqual(["goodbye shutdown"]);
  carol.hangUp();
  expect(world.store.read("carol", 0, 1000).map(({ from, text }) => `${from} ${Buffer.from(text)}`)).toEqual([
    "alice hi",
  ]);
});

test("the memory of emptied outboxes is freed after a while without use", () => {
  const world = new World(["alice"]);
  const queue = new ByteQueue();
  queue.reserve(1 << 15);
  const spare = queue.bytes;
  queue.clear();
  world.pass(3 * POOLED_MS);
  queue.reserve(1 << 15);
  expect(queue.bytes).not.toBe(spare);
});

test("when all outboxes together hold too much, the largest sessions end as slow, and no message is lost", () => {
  const world = new World(["alice", "bob", "carol", "dave"], { limits: { streamsBytesMax: 300_000 } });
  const [alice, bob, carol, dave] = world.online("alice", "bob", "carol", "dave") as TestPeer[];
  for (const peer of [bob!, carol!]) peer.room = 0;
  const text = "x".repeat(4000);
  for (let i = 0; i < 20; i++) world.say(alice!, `message carol ${i} ${text}`);
  world.chat.sweep();
  world.announce();
  expect(dave!.read()).toEqual([]);
  for (let i = 0; i < 100; i++) world.say(alice!, `message bob ${i} ${text}`);
  world.chat.sweep();
  world.announce();
  expect(dave!.read()).toEqual(["left bob slow"]);
  expect(world.ask(carol!, "online")).toEqual([]);
  carol!.take();
  expect(carol!.read()).toContain("ok alice dave");
  const again = world.login("bob");
  again.take();
  expect(again.read().filter((line) => line.startsWith("stored"))).toHaveLength(100);
});

describe("goodbye is the last line of a session", () => {
  const LIMIT = 128 << 10;
  const TEXT = "x".repeat(4000);

  /** The unacknowledged lines of an outbox. */
  function lines({ outbox }: Session): string[] {
    outbox.rewind(outbox.acked);
    let text = "";
    while (outbox.peek()) {
      text += outbox.piece.toString("latin1", outbox.pieceStart, outbox.pieceEnd);
      outbox.advance(outbox.pieceEnd - outbox.pieceStart);
    }
    return text.split("\n").slice(0, -1);
  }

  /** Alice's mailbox has more than a portion, and her unacknowledged output is just below the limit. */
  function nearlySlow(
    option: string,
    room = Number.POSITIVE_INFINITY,
  ): { world: World; alice: TestPeer; bob: TestPeer; session: Session } {
    const world = new World(["alice", "bob"], { limits: { unackedBytesMax: LIMIT } });
    const [bob] = world.online("bob") as [TestPeer];
    for (let i = 0; i < 30; i++) world.say(bob, `message alice ${TEXT}`);
    const alice = world.connect();
    alice.room = room;
    world.say(alice, `login alice secret${option}`);
    world.announce();
    world.pass(3000);
    alice.read();
    bob.read();
    const { session } = world.account("alice");
    if (session === null) throw new Error("alice is not online");
    while (session.outbox.unacked + TEXT.length + 100 < LIMIT) world.say(bob, `broadcast ${TEXT}`);
    return { world, alice, bob, session };
  }

  test("goodbye follows the reply in a resumable session that becomes slow by a message to itself", () => {
    const { world, alice, bob, session } = nearlySlow(" resumable");
    world.say(alice, "alive");
    alice.read();
    world.say(bob, `broadcast ${TEXT}`);
    const asked = ["alive", "message alice hi", "message alice and that", "alive"];
    world.say(alice, ...asked.slice(1));
    world.say(alice, "message alice not any more");
    const received = asked.join("\n").length + 1;
    expect(alice.read().slice(-4)).toEqual(["ok stored", "ok stored", `ok ${received}`, "goodbye slow"]);
    expect(alice.isClosed).toBe(true);
    // The replies are right, and requests after them were not acted on.
    const again = world.connect();
    world.say(again, `login alice secret after=${session.token}:0`);
    const [reply, ...stored] = again.read();
    expect(reply).toEndWith(` received=${received}`);
    const own = stored.filter((line) => line.startsWith("stored alice "));
    expect(own.map((line) => line.split(" ").slice(3).join(" "))).toEqual(["hi", "and that"]);
  });

  test("goodbye is the last line of a plain session that does not read", () => {
    const { world, alice, bob, session } = nearlySlow("", 100);
    world.begin();
    bob.feed(Buffer.from(`broadcast ${TEXT}\n`));
    world.chat.announcements.flush();
    alice.feed(Buffer.from("message alice hi\n"));
    world.endTurns();
    expect(session.endReason).toBe("slow");
    alice.take();
    expect(alice.read().slice(-2)).toEqual(["ok stored", "goodbye slow"]);
  });

  test("goodbye is the last line of a callback session, whose reply has its own connection", () => {
    const { world, bob, session } = nearlySlow(" callback=4242");
    world.say(bob, `broadcast ${TEXT}`);
    const peer = world.connect();
    expect(world.ask(peer, `as ${session.token} message alice hi`)).toEqual(["ok stored"]);
    world.chat.flushed(session); // As its caller does.
    world.endTurns();
    expect(session.endReason).toBe("slow");
    expect(lines(session).at(-1)).toBe("goodbye slow");
  });

  test("the reply to alive comes before goodbye when too much stays unacknowledged", () => {
    const { world, alice, bob } = nearlySlow(" resumable");
    world.begin();
    alice.feed(Buffer.from("alive 100\n"));
    for (let i = 0; i < 150; i++) bob.feed(Buffer.from(`broadcast ${TEXT}\n`));
    world.chat.announcements.flush();
    alice.feed(Buffer.from("alive 200\n"));
    world.endTurns();
    expect(alice.read().slice(-2)).toEqual(["ok 20", "goodbye slow"]);
  });

  test("nothing that is appended after the end of a session follows its goodbye", () => {
    const world = new World(["alice", "bob"]);
    const [alice, bob] = world.online("alice", "bob") as [TestPeer, TestPeer];
    const { session } = world.account("alice");
    world.begin();
    world.chat.end(session!, "flood");
    const bytes = Buffer.from("text");
    session!.outbox.append(Buffer.from("ok\n"));
    session!.outbox.appendLine(Buffer.from("joined "), bytes, 0, 4);
    session!.outbox.appendMessage(1, 1, Buffer.from("message bob "), bytes, 0, 4);
    bob.feed(Buffer.from("broadcast hi\n"));
    world.endTurns();
    expect(alice.read()).toEqual(["goodbye flood"]);
    expect(world.account("alice").waiting).toBe(0);
  });

  test("no reply to a fault in the request that ended the session follows its goodbye", () => {
    const world = new World(["alice"]);
    const [alice] = world.online("alice") as [TestPeer];
    const { end } = world.chat;
    world.chat.end = (session, reason) => {
      if (session.ended) return;
      end.call(world.chat, session, reason);
      throw new Error("a fault");
    };
    expect(world.ask(alice, "logout")).toEqual(["ok"]);
    expect(world.faults).toHaveLength(1);
  });
});
