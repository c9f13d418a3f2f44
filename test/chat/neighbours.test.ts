import { afterEach, describe, expect, test } from "bun:test";
import { LINK_BYTES_MAX, LINK_LINE_BYTES_MAX, UNSENT_BYTES_MAX } from "../../src/limits.ts";
import { Counters } from "../../src/server/counters.ts";
import { SILENCE_MS, type TestPeer } from "../support/chat.ts";
import { removeFolders } from "../support/folders.ts";
import { Shard, ShardDisk, TestLink, linked, untimed } from "../support/shards.ts";
import { Wire } from "../support/simulated-transport.ts";

afterEach(removeFolders);

/** A connection becomes the link of shard 0, without the list of users. */
function connect(p: Shard, epoch = 1, heard = 0, shard = 0): TestPeer {
  p.chat.neighbours!.observer = null;
  const peer = p.connect();
  p.begin();
  p.chat.neighbours!.connected(peer, shard, epoch, heard);
  p.endTurns();
  return peer;
}

describe("a link", () => {
  test("of a shard that does not exist, or of this one, is refused", () => {
    const p = new Shard(1);
    for (const shard of [1, 2, 64]) {
      const peer = connect(p, 1, 0, shard);
      expect(peer.read()).toEqual([`refused there is no other shard ${shard}`]);
      expect(peer.isClosed).toBe(true);
    }
  });

  test("of the same owner that arrives after a newer one is refused: nothing was lost", () => {
    const { p, q, link } = linked();
    const [alice] = p.online("alice");
    p.say(alice!, "message bob one");
    link.carry();
    const late = connect(p, q.epoch, 0);
    expect(late.read()).toEqual(["refused the owner of shard 0 has a newer link"]);
    expect([late.isClosed, link.peer.isClosed, p.warnings]).toEqual([true, false, []]);
  });

  test("of a lower epoch is refused, and one of the same or a higher epoch takes the place of the other", () => {
    const p = new Shard(1);
    const first = connect(p, 5);
    expect(first.read()).toEqual(["ok 0"]);
    const lower = connect(p, 4);
    expect(lower.read()).toEqual(["refused shard 0 has an owner of a higher epoch"]);
    expect([lower.isClosed, first.isClosed]).toEqual([true, false]);
    const same = connect(p, 5);
    expect([first.read(), same.read()]).toEqual([["goodbye replaced"], ["ok 0"]]);
    const higher = connect(p, 6);
    expect([same.read(), higher.read()]).toEqual([["goodbye replaced"], ["ok 0"]]);
    expect(p.neighbour.session!.peer).toBe(higher);
    expect(p.warnings).toEqual([]);
  });

  test("is refused when the server is about to stop", () => {
    const p = new Shard(1);
    p.chat.isOver = true;
    const peer = connect(p);
    expect([peer.read(), peer.isClosed]).toEqual([["refused the server is shutting down"], true]);
  });

  test("ends with goodbye when the server stops, and its requests return to the mailbox", () => {
    const { p, link } = linked();
    const [alice] = p.online("alice");
    p.say(alice!, "message bob hello");
    p.begin();
    p.chat.shutdown();
    p.endTurns();
    expect(link.peer.read().at(-1)).toBe("goodbye shutdown");
    expect([p.neighbour.session, p.neighbour.account.waiting]).toEqual([null, 1]);
  });

  test("gives the requests without an outcome to the next one, as stored and in order", () => {
    const { p, q, link } = linked();
    const [alice] = p.online("alice");
    p.say(alice!, "message bob one", "message carol two", "message bob three");
    link.stepQ();
    link.stepP();
    link.cut();
    const next = new TestLink(p, q);
    next.greet();
    expect(untimed(next.toQ.filter((line) => line.startsWith("stored")))).toEqual([
      "stored alice T 2 1 message carol two",
      "stored alice T 3 2 message bob three",
    ]);
    next.carry();
    expect(next.refusals).toEqual([]);
    expect(alice!.read()).toEqual(["ok stored", "ok stored", "ok stored"]);
    expect(untimed(q.login("bob").read()).slice(1)).toEqual(["stored alice T one", "stored alice T three"]);
    expect(p.neighbour.account.waiting).toBe(0);
  });

  test("puts a new request behind those that wait", () => {
    const { p, q, link } = linked();
    const [alice] = p.online("alice");
    p.say(alice!, ...Array.from({ length: 100 }, (_, index) => `message bob ${index} ${"x".repeat(3000)}`));
    link.cut();
    const next = new TestLink(p, q);
    next.greet();
    expect(p.chat.mailbox.hasMore(p.neighbour.session!.delivery)).toBe(true);
    p.say(alice!, "message bob last");
    next.carry();
    expect(next.refusals).toEqual([]);
    const texts = q.login("bob").read().slice(1);
    expect(texts.map((line) => line.split(" ")[3])).toEqual([...Array.from({ length: 100 }, (_, i) => `${i}`), "last"]);
  });

  test("is no user: nobody sees it, and it is not counted", () => {
    const counters = new Counters();
    const { p, link } = linked({ p: { observer: counters } });
    const [alice] = p.online("alice", "dave");
    expect(p.ask(alice!, "online")).toEqual(["ok dave"]);
    expect(p.ask(alice!, "broadcast hello")).toEqual(["ok 1"]);
    expect(p.chat.presence.online).toHaveLength(2);
    expect(p.ask(alice!, "message #0 hello")).toEqual([expect.stringMatching(/^err bad_request/)]);
    expect(p.ask(p.connect(), "login #0 secret")).toEqual([expect.stringMatching(/^err bad_request/)]);
    link.cut();
    p.announce();
    expect(alice!.read()).toEqual([]);
    expect([counters.logins, counters.sessions.plain, counters.sessionsEnded.get("disconnected")]).toEqual([2, 2, 0]);
  });

  test("that is not read does not end until it holds far more than a user may; the next one has its requests", () => {
    const limits = { unackedBytesMax: 512 << 10, streamsBytesMax: 1 << 20 };
    const { p, link } = linked({ p: { limits, idleTimeoutMs: 10 * SILENCE_MS } });
    link.peer.room = 0;
    const [alice] = p.online("alice");
    p.say(alice!, "message bob hello");
    const { outbox } = p.neighbour.session!;
    p.begin();
    outbox.append(Buffer.alloc(LINK_BYTES_MAX - outbox.unacked, "x"));
    p.endTurns();
    p.pass(2 * SILENCE_MS);
    expect([p.neighbour.session?.ended, link.peer.closing]).toEqual([false, false]);
    p.begin();
    outbox.append(Buffer.alloc(1, "x"));
    p.endTurns();
    expect([p.neighbour.session, link.peer.closing]).toEqual([null, true]);
    const next = connect(p);
    p.pass(SILENCE_MS); // The messages of the last link may have to move first.
    const stored = /^stored alice \d+ (\d+) 0 message bob hello$/.exec(next.read().at(-1)!);
    p.say(next, `outcome ${stored![1]} ok stored`);
    expect(alice!.read().at(-1)).toBe("ok stored");
  });
});

describe("a line of a link", () => {
  test("alive gets the position of the lines, and acknowledges up to the first request without an outcome", () => {
    const p = new Shard(1);
    const [alice] = p.online("alice");
    const peer = connect(p);
    const { outbox } = p.neighbour.session!;
    peer.read();
    expect(p.ask(peer, "alive")).toEqual(["ok 6"]);
    expect(p.ask(peer, "alive 5")).toEqual(["ok 14"]);
    expect(outbox.acked).toBe(5);
    p.say(alice!, "message bob one");
    p.ask(peer, `alive ${outbox.sent}`);
    expect(outbox.acked).toBe("ok 6\nok 14\n".length);
    expect(outbox.unackedIndex.lastNumber).toBe(p.neighbour.lastNumber);
  });

  test("outcome fills the place of its request, and acknowledges it", () => {
    const { p, link } = linked();
    const [alice] = p.online("alice");
    p.say(alice!, "message bob one", "message bob two");
    const [one, two] = [...p.neighbour.slots.keys()];
    link.peer.read();
    expect(p.ask(link.peer, `outcome ${one} err blocked, they say`)).toEqual(["ok"]);
    expect(alice!.read()).toEqual(["err blocked, they say"]);
    expect(p.neighbour.ackedNumber).toBe(one!);
    expect(p.ask(link.peer, `outcome ${one} ok sent`)).toEqual(["ok"]);
    expect(p.ask(link.peer, `outcome ${two} ok sent`)).toEqual(["ok"]);
    expect(alice!.read()).toEqual(["ok sent"]);
    expect([p.neighbour.slots.size, p.neighbour.slotBytes]).toEqual([0, 0]);
    expect(p.neighbour.session!.outbox.unackedIndex.lastNumber).toBe(0);
  });

  test("outcome acknowledges its request durably: the next owner does not have it", () => {
    const disk = new ShardDisk(1);
    const p = disk.start();
    const [alice] = p.online("alice");
    const peer = connect(p);
    p.say(alice!, "message bob one", "message bob two");
    const [one] = p.neighbour.slots.keys();
    p.say(peer, `outcome ${one} ok sent`);
    p.tick(); // It is in the record of the next turn.
    expect(disk.start().neighbour.account.waiting).toBe(1);
  });

  test("outcome of a request that is not delivered yet fills its place; the request is delivered, and repeated", () => {
    const { p, link } = linked();
    const [alice] = p.online("alice");
    p.say(alice!, ...Array.from({ length: 40 }, () => `message bob ${"x".repeat(3900)}`));
    const numbers = [...p.neighbour.slots.keys()];
    link.cut();
    const peer = connect(p);
    peer.read();
    p.begin();
    peer.feed(Buffer.from(numbers.map((number) => `outcome ${number} ok stored\n`).join("")));
    p.endTurn(); // The last ones are not delivered yet.
    expect(alice!.read()).toEqual(numbers.map(() => "ok stored"));
    p.endTurns();
    expect(p.neighbour.account.waiting).toBeGreaterThan(0);
    const repeated = peer.read().filter((line) => line.startsWith("stored alice "));
    for (const line of repeated) p.say(peer, `outcome ${line.split(" ")[3]} err internal`);
    expect([p.neighbour.account.waiting, alice!.read()]).toEqual([0, []]);
  });

  test("outcome of a request ends the link while that of an earlier one is missing; the next link has both", () => {
    const { p, link } = linked();
    const [alice] = p.online("alice");
    p.say(alice!, "message bob one", "message bob two");
    const [one, two] = [...p.neighbour.slots.keys()];
    expect(p.ask(link.peer, `outcome ${two} ok sent`).at(-1)).toBe("goodbye flood");
    expect([alice!.read(), p.neighbour.ackedNumber]).toEqual([[], 0]);
    const next = connect(p);
    const [greeting, ...stored] = untimed(next.read());
    expect(greeting).toBe("ok 0");
    expect(stored).toEqual([`stored alice T ${one} 0 message bob one`, `stored alice T ${two} ${one} message bob two`]);
    p.say(next, `outcome ${one} err blocked`, `outcome ${two} ok sent`);
    expect(alice!.read()).toEqual(["err blocked", "ok sent"]);
  });

  test("outcome of a number that was not forwarded ends the link, and the next request is acted on", () => {
    const { p, link } = linked();
    const [alice] = p.online("alice");
    const number = p.store.newNumber();
    p.say(alice!, "message bob hello");
    expect(p.ask(link.peer, `outcome ${number} ok sent`).at(-1)).toBe("goodbye flood");
    const next = new TestLink(p, new Shard(0, 2));
    expect(next.greet()).toBe("ok 0");
    next.carry();
    expect([alice!.read(), next.refusals]).toEqual([["ok stored"], []]);
  });

  test.each(["nonsense", "okay", "errr", "message carol hello", "goodbye kicked", "\xff"])(
    "outcome with %p in place of a reply ends the link, and reaches no client",
    (reply) => {
      const { p, link } = linked();
      const [alice] = p.online("alice");
      p.say(alice!, "message bob hello");
      const [number] = p.neighbour.slots.keys();
      expect(p.ask(link.peer, `outcome ${number} ${reply}`).at(-1)).toBe("goodbye flood");
      expect(alice!.read()).toEqual([]);
      expect(p.warnings).toEqual(["the link of shard 0 is closed: it sent an invalid line"]);
      p.say(connect(p), `outcome ${number} ok stored`);
      expect(alice!.read()).toEqual(["ok stored"]);
    },
  );

  const invalid = [
    "",
    "nonsense",
    "outcome",
    "outcome ",
    "outcome 1",
    "outcome 1 ",
    "outcome 0 ok sent",
    "outcome -1 ok sent",
    "outcome x ok sent",
    "outcome 9007199254740991 ok sent",
    "alive x",
    "alive 1 2",
    "alive 1000000",
    "alivex",
    "message dave hello",
    "login alice secret",
    "logout",
    "online",
    "x".repeat(LINK_LINE_BYTES_MAX + 1),
  ];
  for (const line of invalid)
    test(`"${line.slice(0, 40)}" ends the link, and the operator is told`, () => {
      const { p, link } = linked();
      const peer = new Wire({}, p);
      link.cut();
      peer.event(() => p.chat.neighbours!.connected(peer.connection, 0, 1, 0));
      peer.read();
      expect(peer.say(line)).toEqual(["goodbye flood"]);
      expect([peer.shut, p.neighbour.session]).toEqual([true, null]);
      expect(p.warnings).toEqual(["the link of shard 0 is closed: it sent an invalid line"]);
      expect(p.faults).toEqual([]);
    });

  test("is read at any rate, does not count as work, and may be longer than a user's, also after a reload", () => {
    const limits = { requestsPerSecondMax: 1, lineBytesMax: 64 };
    const wire = new Wire({}, new Shard(1, 1, { limits }));
    const p = wire.world as Shard;
    wire.event(() => p.chat.neighbours!.connected(wire.connection, 0, 1, 0));
    wire.read();
    const [alice] = p.online("alice");
    for (let round = 0; round < 2; round++) {
      p.say(alice!, "message bob hello");
      wire.read();
      const late = `err internal ${"x".repeat(200)}`;
      expect(wire.say(`outcome ${p.neighbour.lastNumber} ${late}`)).toEqual(["ok"]);
      expect(alice!.read()).toEqual([late]);
      p.connections.limitsChanged();
      wire.read();
    }
    const { work } = p.chat.rates;
    expect(wire.say(...Array.from({ length: 5000 }, () => "alive"))).toHaveLength(5000);
    expect(p.chat.rates.work).toBe(work);
    expect(wire.reading).toBe(true);
  });

  test("is read while much of the link's output is unsent, and while requests wait in the mailbox", () => {
    const wire = new Wire({}, new Shard(1));
    const p = wire.world as Shard;
    const [alice] = p.online("alice");
    wire.event(() => p.chat.neighbours!.connected(wire.connection, 0, 1, 0));
    p.say(alice!, "message bob hello");
    const [number] = p.neighbour.slots.keys();
    wire.read();
    wire.room = 0;
    wire.event(() => p.neighbour.session!.outbox.append(Buffer.alloc(2 * UNSENT_BYTES_MAX, "x")));
    p.neighbour.session!.delivery.isPending = true;
    wire.say(`outcome ${number} ok sent`);
    expect(alice!.read()).toEqual(["ok sent"]);
    expect(wire.reading).toBe(true);
  });
});

describe("the numbers of requests", () => {
  test("continue after a restart, behind those that wait and those that the other shard has acted on", () => {
    const disk = new ShardDisk(1);
    const q = new Shard(0);
    let p = disk.start();
    let link = new TestLink(p, q);
    link.greet();
    let [alice] = p.online("alice");
    p.say(alice!, "message bob one", "message bob two", "message bob three");
    link.stepQ();
    link.stepP();
    const { lastNumber } = p.neighbour;
    p = disk.start();
    [alice] = p.online("alice");
    expect(p.ask(alice!, "message bob four")).toEqual([expect.stringMatching(/^err busy /)]);
    link = new TestLink(p, q);
    expect(link.greet()).toBe(`ok ${q.foreignRequests.heard(1)}`);
    expect(p.neighbour.lastNumber).toBe(lastNumber);
    p.say(alice!, "message bob four");
    link.carry();
    expect([link.refusals, p.warnings]).toEqual([[], []]);
    expect(alice!.read()).toEqual(["ok stored"]);
    const texts = ["one", "two", "three", "four"].map((text) => `stored alice T ${text}`);
    expect(untimed(q.login("bob").read()).slice(1)).toEqual(texts);
  });

  test("that this shard has lost are known from the other one: a warning, and higher numbers, also later", () => {
    const disk = new ShardDisk(1);
    const p = disk.start();
    connect(p, 1, 1000);
    expect(p.warnings).toEqual([
      "this shard has lost requests: shard 0 has acted on request 1000, which is not known here",
    ]);
    const [alice] = p.online("alice");
    p.say(alice!, "message bob one");
    const { lastNumber } = p.neighbour;
    expect(lastNumber).toBe(1001);
    const again = new ShardDisk(1);
    const killed = again.start();
    killed.online("alice"); // The first record of a journal is committed at once.
    connect(killed, 1, 1000);
    const next = again.start();
    expect(next.store.newNumber()).toBeGreaterThan(1000);
    connect(next, 1, 1000);
    expect(next.warnings).toEqual([]);
  });

  test("that the other shard has lost are known here: a warning, and it is told where to continue", () => {
    const { p, q, link } = linked();
    const [alice] = p.online("alice");
    p.say(alice!, "message bob one");
    link.carry();
    link.cut();
    const lost = new Shard(0, 2);
    const next = new TestLink(p, lost);
    const acked = q.foreignRequests.heard(1);
    expect(next.greet()).toBe(`ok ${acked}`);
    expect(p.warnings).toEqual([`shard 0 has lost requests: it knows them up to 0, and had acted on ${acked}`]);
    p.say(alice!, "message bob two");
    next.carry();
    expect([next.refusals, alice!.read().at(-1)]).toEqual([[], "ok stored"]);
  });
});
