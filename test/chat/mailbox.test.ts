import { describe, expect, test } from "bun:test";
import { ACK_BYTES_MAX, LIMITS_DEFAULT, MAILBOX_PORTION_BYTES } from "../../src/limits.ts";
import { PASSWORD, SILENCE_MS, type TestPeer, UNIX_MS, World } from "../support/chat.ts";

/** The sender and text of each `stored` and `message` line. */
function texts(lines: readonly string[]): string[] {
  const found = lines.map((line) => /^(?:stored (\w+) \d+|message (\w+)) (.*)$/.exec(line));
  return found.flatMap((match) => (match === null ? [] : [`${match[1] ?? match[2]} ${match[3]}`]));
}

function numbered(count: number, from = 0): string[] {
  return Array.from({ length: count }, (_, i) => `alice ${from + i}`);
}

test("stored messages are delivered oldest first across senders, and only once", () => {
  const world = new World(["alice", "bob", "carol"]);
  const [alice, carol] = world.online("alice", "carol") as [TestPeer, TestPeer];
  expect(world.ask(alice, "message bob one")).toEqual(["ok stored"]);
  world.pass(10);
  expect(world.ask(carol, "message bob two")).toEqual(["ok stored"]);
  world.pass(10);
  expect(world.ask(alice, "message bob three")).toEqual(["ok stored"]);
  const bob = world.login("bob");
  expect(bob.read().slice(1)).toEqual([
    `stored alice ${UNIX_MS} one`,
    `stored carol ${UNIX_MS + 10} two`,
    `stored alice ${UNIX_MS + 20} three`,
  ]);
  expect(world.ask(alice, "message bob four")).toEqual(["joined bob", "ok sent"]);
  expect(bob.read()).toEqual(["message alice four"]);
  bob.hangUp();
  expect(world.login("bob").read()).toHaveLength(1);
});

test("stored messages are delivered to their recipient only", () => {
  const world = new World(["alice", "bob", "bo", "bobby"]);
  const [alice] = world.online("alice") as [TestPeer];
  world.say(alice, "message bob secret");
  for (const name of ["bo", "bobby"]) expect(world.login(name).read()).toHaveLength(1);
  expect(texts(world.login("bob").read())).toEqual(["alice secret"]);
});

test("10,000 stored messages are delivered in order and exactly once", () => {
  const world = new World(["alice", "bob"]);
  const [alice] = world.online("alice") as [TestPeer];
  const padding = "x".repeat(100);
  for (let i = 0; i < 10_000; i++) world.say(alice, `message bob ${i} ${padding}`);
  expect(alice.read()).toEqual(Array(10_000).fill("ok stored"));
  expect(texts(world.login("bob").read())).toEqual(numbered(10_000).map((text) => `${text} ${padding}`));
  expect(world.account("bob")).toMatchObject({ waiting: 0, waitingBytes: 0 });
  expect(world.login("bob").read()).toHaveLength(1);
});

test("a portion of the shortest messages is large enough to make a client acknowledge", () => {
  const world = new World(["alice", "bob"]);
  const [alice] = world.online("alice") as [TestPeer];
  for (let i = 0; i < 3000; i++) world.say(alice, "message bob x");
  const bob = world.connect();
  world.say(bob, "login bob secret resumable");
  world.endTurns();
  expect(bob.session!.outbox.unacked).toBeWithin(ACK_BYTES_MAX, ACK_BYTES_MAX + 100);
});

describe("a mailbox of 3 MB", () => {
  const TEXT = "x".repeat(1000);

  function withMail(): { world: World; alice: TestPeer; bob: TestPeer } {
    const world = new World(["alice", "bob"]);
    const [alice] = world.online("alice") as [TestPeer];
    for (let i = 0; i < 3000; i++) world.say(alice, `message bob ${i} ${TEXT}`);
    alice.read();
    const bob = world.connect();
    bob.room = 0;
    world.say(bob, "login bob secret");
    world.announce();
    alice.read();
    return { world, alice, bob };
  }

  test("a mailbox of 3 MB is delivered in portions, and does not end a session as slow that pauses reading", () => {
    const { world, bob } = withMail();
    const fed = (bytes: number): void => {
      expect(bob.session!.outbox.unacked).toBeGreaterThanOrEqual(bytes);
      expect(bob.session!.outbox.unacked).toBeLessThan(bytes + 2 * TEXT.length);
    };
    fed(ACK_BYTES_MAX);
    world.pass(10_000);
    bob.take(50_000);
    fed(ACK_BYTES_MAX + 50_000);
    for (let i = 0; i < 10; i++) bob.take(50_000);
    fed(MAILBOX_PORTION_BYTES);
    bob.take();
    expect(texts(bob.read())).toEqual(numbered(3000).map((text) => `${text} ${TEXT}`));
  });

  test("new messages join the end of a mailbox that is being delivered, and overtake nothing", () => {
    const { world, alice, bob } = withMail();
    expect(world.ask(alice, "message bob 3000")).toEqual(["ok stored"]);
    bob.take(1_000_000);
    expect(world.ask(alice, "message bob 3001")).toEqual(["ok stored"]);
    bob.take();
    expect(world.ask(alice, "message bob 3002")).toEqual(["ok sent"]);
    const lines = bob.read();
    expect(texts(lines).map((text) => text.split(" ")[1])).toEqual(Array.from({ length: 3003 }, (_, i) => String(i)));
    expect(lines.at(-2)).toMatch(/^stored alice \d+ 3001$/);
    expect(lines.at(-1)).toBe("message alice 3002");
  });

  test("a mailbox loses and doubles nothing when the connection is cut again and again", () => {
    const { world, bob } = withMail();
    const got: string[] = [];
    let peer = bob;
    for (let bytes = 90_000; got.length < 3000; bytes = (bytes * 7) % 200_000) {
      peer.take(bytes);
      peer.hangUp();
      got.push(...texts(peer.read()));
      peer = world.login("bob");
    }
    expect(got).toEqual(numbered(3000).map((text) => `${text} ${TEXT}`));
    expect(texts(peer.read())).toEqual([]);
  });

  test("broadcasts are delivered at once while a mailbox is being delivered", () => {
    const { world, alice, bob } = withMail();
    bob.take(10_000);
    bob.read();
    expect(world.ask(alice, "broadcast hi")).toEqual(["ok 1"]);
    bob.take();
    const lines = bob.read();
    expect(lines).toContain("broadcast alice hi");
    expect(lines.at(-1)).toMatch(/^stored alice \d+ 2999 /);
  });
});

test("wherever the connection is cut, messages not taken whole come at the next login, once and in order", () => {
  const cutAt = (bytes: number): { before: string[]; after: string[]; everything: boolean } => {
    const world = new World(["alice", "bob"]);
    const [alice] = world.online("alice") as [TestPeer];
    world.say(alice, "message bob 0", "message bob 1", "message bob 2");
    const bob = world.connect();
    bob.room = 0;
    world.say(bob, "login bob secret");
    world.say(alice, "message bob 3", "broadcast between", "message bob 4", "message bob 5");
    bob.take(bytes);
    const everything = bob.room > 0;
    bob.hangUp();
    const before = texts(bob.read());
    return { before, after: texts(world.login("bob").read()), everything };
  };
  let bytes = 0;
  for (; ; bytes++) {
    const { before, after, everything } = cutAt(bytes);
    expect([...before, ...after]).toEqual(numbered(6));
    if (everything) break;
  }
  expect(bytes).toBeGreaterThan(150);
});

test("requeued messages return to their old place, before messages stored since", () => {
  const world = new World(["alice", "bob", "carol"]);
  const [alice, bob] = world.online("alice", "bob") as [TestPeer, TestPeer];
  bob.room = 0;
  world.say(alice, "message bob 0", "message bob 1");
  world.say(bob, "logout");
  expect(bob.isClosed).toBe(false);
  world.say(alice, "message bob 2");
  bob.hangUp();
  world.say(alice, "message bob 3");
  expect(alice.read()).toEqual(["ok sent", "ok sent", "left bob logout", "ok stored", "ok stored"]);
  expect(texts(world.login("bob").read())).toEqual(numbered(4));
});

test("requeued messages keep the time of their acceptance", () => {
  const world = new World(["alice", "bob"]);
  const [alice, bob] = world.online("alice", "bob") as [TestPeer, TestPeer];
  bob.room = 0;
  world.pass(1000);
  world.say(alice, "message bob hi");
  world.pass(5000);
  bob.hangUp();
  expect(world.login("bob").read().slice(1)).toEqual([`stored alice ${UNIX_MS + 1000} hi`]);
});

test("untaken broadcasts and presence are not requeued", () => {
  const world = new World(["alice", "bob", "carol"]);
  const [alice, bob] = world.online("alice", "bob") as [TestPeer, TestPeer];
  bob.room = 0;
  world.login("carol");
  world.say(alice, "broadcast hi", "message bob 0", "broadcast hi");
  world.announce();
  bob.hangUp();
  expect(world.login("bob").read().slice(1)).toEqual([`stored alice ${UNIX_MS} 0`]);
});

test("a mailbox that is full by number or by bytes refuses messages until there is room", () => {
  for (const full of [
    { waiting: LIMITS_DEFAULT.mailboxMessagesMax },
    { waitingBytes: LIMITS_DEFAULT.mailboxBytesMax },
  ]) {
    const world = new World(["alice", "bob", "carol"]);
    const [alice] = world.online("alice") as [TestPeer];
    world.say(alice, "message bob 0");
    const before = { ...world.account("bob") };
    Object.assign(world.account("bob"), full);
    world.say(alice, "message bob 1", "message carol 1");
    Object.assign(world.account("bob"), { waiting: before.waiting, waitingBytes: before.waitingBytes });
    world.say(alice, "message bob 2");
    expect(alice.read()).toEqual(["ok stored", "err mailbox_full", "ok stored", "ok stored"]);
    expect(texts(world.login("bob").read())).toEqual(["alice 0", "alice 2"]);
  }
});

test("one sender can fill a share of a mailbox, by number or by bytes, and leaves the rest to others", () => {
  for (const [limits, text] of [
    [{ mailboxMessagesMax: 8, mailboxSharePercent: 25 }, "x"],
    [{ mailboxBytesMax: 8000, mailboxSharePercent: 25 }, "x".repeat(1000)],
  ] as const) {
    const world = new World(["alice", "bob", "carol"], { limits });
    const [alice, carol] = world.online("alice", "carol") as [TestPeer, TestPeer];
    world.say(alice, ...Array.from({ length: 4 }, () => `message bob ${text}`));
    expect(alice.read()).toEqual(["ok stored", "ok stored", "err mailbox_full", "err mailbox_full"]);
    expect(world.ask(alice, "message alice hi")).toEqual(["message alice hi", "ok sent"]);
    world.say(carol, ...Array.from({ length: 3 }, () => `message bob ${text}`));
    expect(carol.read()).toEqual(["ok stored", "ok stored", "err mailbox_full"]);
    const bob = world.login("bob");
    expect(texts(bob.read())).toEqual([..."aacc"].map((who) => `${who === "a" ? "alice" : "carol"} ${text}`));
    bob.hangUp();
    expect(world.ask(alice, `message bob ${text}`).at(-1)).toBe("ok stored");
  }
});

test("the share of a sender includes requeued messages", () => {
  const world = new World(["alice", "bob"], { limits: { mailboxMessagesMax: 12, mailboxSharePercent: 25 } });
  const [alice, bob] = world.online("alice", "bob") as [TestPeer, TestPeer];
  bob.room = 0;
  world.say(alice, ...Array.from({ length: 5 }, (_, i) => `message bob ${i}`));
  expect(alice.read()).toEqual(Array(5).fill("ok sent"));
  bob.hangUp();
  expect(world.ask(alice, "message bob 5").at(-1)).toBe("err mailbox_full");
  expect(texts(world.login("bob").read())).toEqual(numbered(5));
});

test("a full mailbox takes requeued messages", () => {
  const world = new World(["alice", "bob"]);
  const [alice, bob] = world.online("alice", "bob") as [TestPeer, TestPeer];
  bob.room = 0;
  world.say(alice, "message bob 0");
  Object.assign(world.account("bob"), { waitingBytes: LIMITS_DEFAULT.mailboxBytesMax });
  bob.hangUp();
  expect(texts(world.login("bob").read())).toEqual(["alice 0"]);
});

test("a message that causes a fault is answered with internal, ends its connection, and is not delivered", () => {
  const world = new World(["alice", "bob"]);
  const [alice] = world.online("alice") as [TestPeer];
  const { stored } = world.store;
  world.store.stored = () => {
    throw new Error("a fault");
  };
  world.say(alice, "message bob 0", "message bob too");
  expect(alice.read()).toEqual(["err internal"]);
  expect(alice.isClosed).toBe(true);
  expect(world.faults).toHaveLength(1);
  world.store.stored = stored;
  expect(world.ask(world.login("alice"), "message bob 1").at(-1)).toBe("ok stored");
  expect(texts(world.login("bob").read())).toEqual(["alice 1"]);
});

test.each(["", " resumable"])("unreceived messages of a session%s wait until the disk takes them", (kind) => {
  const world = new World(["alice", "bob"]);
  const [alice] = world.online("alice") as [TestPeer];
  const bob = world.connect();
  world.say(bob, `login bob ${PASSWORD}${kind}`);
  bob.room = 0;
  world.say(alice, "message bob 0", "message bob 1");
  const { sessionEnded, requeued } = world.store;
  world.store.sessionEnded = world.store.requeued = () => {
    throw new Error("disk full");
  };
  bob.hangUp();
  if (kind !== "") world.pass(SILENCE_MS + 200);
  expect(world.login("bob").read()).toEqual(["err internal"]);
  expect(world.faults.length).toBeGreaterThan(0);
  Object.assign(world.store, { sessionEnded, requeued });
  expect(texts(world.login("bob").read())).toEqual(["alice 0", "alice 1"]);
});

test("messages that a callback client acknowledges while its ended session is requeued are not delivered again", () => {
  const world = new World(["alice", "bob"]);
  const [alice] = world.online("alice") as [TestPeer];
  for (let i = 0; i < 40; i++) world.say(alice, `message bob ${i} ${"x".repeat(1000)}`);
  world.say(world.connect(), "login bob secret callback=2000");
  world.endTurns();
  const session = world.account("bob").session!;
  const { outbox, token } = session;
  world.begin();
  while (outbox.peek()) outbox.advance(outbox.pieceEnd - outbox.pieceStart);
  const received = outbox.sent;
  expect(received).toBeGreaterThan(40_000);
  world.chat.end(session, "expired");
  expect(world.account("bob").leaving).toBe(session.delivery); // For there is more than moves in a turn.
  world.chat.ack(session, received);
  world.endTurns();
  const bob = world.connect();
  world.say(bob, `login bob secret after=${token}:${received}`);
  world.endTurns();
  expect(texts(bob.read())).toEqual([]);
});
