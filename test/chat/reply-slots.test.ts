import { beforeEach, describe, expect, test } from "bun:test";
import { KEEPING_UP_MS, LIMITS_DEFAULT, REPLY_SLOTS_MAX, REPLY_WAITING_MS } from "../../src/limits.ts";
import { PASSWORD, SILENCE_MS, type TestPeer } from "../support/chat.ts";
import { type Shard, type TestLink, linked } from "../support/shards.ts";
import { Wire } from "../support/simulated-transport.ts";

/** Bob is a user of the shard `q`; all others here are users of `p`. */
let p: Shard;
let q: Shard;
let link: TestLink;
let alice: TestPeer;

beforeEach(() => {
  ({ p, q, link } = linked());
  [alice] = p.online("alice", "dave") as [TestPeer, TestPeer];
});

/** Time passes at `p`, and `q` shows that it is alive. */
function pass(ms: number): void {
  for (let leftMs = ms; leftMs > 0; leftMs -= 500) {
    p.pass(Math.min(500, leftMs));
    link.beat();
  }
}

describe("while a reply of another shard is missing", () => {
  test("message and alive are acted on, and all replies leave in the order of the requests", () => {
    p.say(alice, "message bob one", "message dave two", "alive", "message nobody three", "message bob four");
    expect(alice.read()).toEqual([]);
    expect(p.account("dave").session!.messagesOut).toBe(1);
    link.stepQ();
    link.stepP();
    expect(alice.read()).toEqual(["ok stored", "ok sent", "ok", "err unknown_user"]);
    link.carry();
    expect(alice.read()).toEqual(["ok stored"]);
    expect(p.ask(alice, "message dave five")).toEqual(["ok sent"]);
  });

  for (const [request, reply] of [
    ["online", "ok dave"],
    ["block dave", "ok"],
    ["broadcast hello", "ok 1"],
    ["nonsense", "err unknown_command"],
    ["", "err bad_request the line is empty"],
    ["x".repeat(5000), "err line_too_long"],
    ["logout", "ok"],
  ] as const) {
    test(`the request "${request.slice(0, 20)}" waits, and so do all after it`, () => {
      p.say(alice, "message bob one", request, "message dave two");
      p.say(alice, "message dave three");
      expect(p.account("dave").session!.messagesOut).toBe(0);
      expect(p.account("alice").blocks.size).toBe(0);
      link.carry();
      const after = request === "logout" ? [] : ["ok sent", "ok sent"];
      expect(alice.read()).toEqual(["ok stored", reply, ...after]);
      expect(alice.isClosed).toBe(request === "logout");
    });
  }

  test("the reply to a request that failed here leaves in its order too", () => {
    const erin = p.connect();
    p.say(erin, `login erin ${PASSWORD} resumable`);
    erin.read();
    p.say(erin, "message bob one");
    p.chat.send = () => {
      throw new Error("broken");
    };
    p.say(erin, "message dave two");
    expect([erin.read(), p.faults]).toEqual([[], [new Error("broken")]]);
    link.carry();
    expect(p.account("erin").session!.outbox.end).toBe("ok stored\nerr internal\n".length);
  });

  test("events are not delayed", () => {
    const [dave] = p.online("dave");
    p.say(alice, "message bob one");
    p.say(dave!, "message alice hello");
    expect(alice.read()).toEqual(["message dave hello"]);
  });

  test(`at most ${REPLY_SLOTS_MAX} replies wait; then the session is not read`, () => {
    const requests = Array.from({ length: REPLY_SLOTS_MAX + 10 }, (_, index) => `message bob ${index}`);
    p.say(alice, ...requests);
    expect(p.neighbour.slots.size).toBe(REPLY_SLOTS_MAX);
    expect(alice.paused).toBe(true);
    link.stepQ();
    link.stepP();
    expect(p.neighbour.slots.size).toBe(REPLY_SLOTS_MAX);
    link.carry();
    expect(alice.read()).toEqual(requests.map(() => "ok stored"));
    expect(alice.paused).toBe(false);
  });

  test("the position of a resumable session counts what was acted on, and no request that waits", () => {
    const erin = p.connect();
    p.say(erin, `login erin ${PASSWORD} resumable`);
    erin.read();
    const [one, held, after] = ["message bob one", "online", "message dave two"];
    p.say(erin, one, "alive", held, after);
    const position = one.length + 1 + "alive\n".length;
    expect(p.account("erin").session!.received).toBe(position);
    link.carry();
    expect(erin.read()).toEqual(["ok stored", `ok ${position}`, "ok alice dave", "ok sent"]);
    expect(p.account("erin").session!.received).toBe(position + held.length + after.length + 2);
  });

  test("a request that waits is dropped with its connection, and the replies go to the next one", () => {
    const erin = p.connect();
    p.say(erin, `login erin ${PASSWORD} resumable`);
    const [, token] = erin.read()[0]!.split(" ");
    p.say(erin, "message bob one", "block dave");
    const position = p.account("erin").session!.received;
    erin.hangUp();
    const next = p.connect();
    expect(p.ask(next, `resume ${token} 0`)).toEqual([`ok ${position}`]);
    link.carry();
    expect(next.read()).toEqual(["ok stored"]);
    expect(p.ask(next, "block dave")).toEqual(["ok"]);
  });

  test("a client that waits to be read is not idle", () => {
    p.say(alice, "message bob one", "online");
    pass(2 * SILENCE_MS);
    link.carry();
    expect(alice.read().slice(-2)).toEqual(["ok stored", "ok"]);
  });

  test("a client that waits to be read is not slow, and has two seconds to acknowledge afterwards", () => {
    const erin = p.connect();
    p.say(erin, `login erin ${PASSWORD} resumable`);
    p.say(erin, "message bob one", "online");
    const [dave] = p.online("dave") as [TestPeer];
    for (let i = 0; i < 300; i++) p.say(dave, `broadcast ${"x".repeat(4000)}`);
    pass(10 * KEEPING_UP_MS);
    expect(p.account("erin").session!.outbox.unacked).toBeGreaterThan(LIMITS_DEFAULT.unackedBytesMax);
    link.carry();
    pass(KEEPING_UP_MS - 500);
    expect(p.account("erin").session).not.toBe(null);
    pass(KEEPING_UP_MS + 500);
    expect(p.account("erin").session).toBe(null);
    expect(erin.read().at(-1)).toBe("goodbye slow");
  });

  test("the end of input waits for the replies to all requests", () => {
    const wire = new Wire({}, p);
    wire.say(`login erin ${PASSWORD}`);
    wire.feed("message bob one\nmessage bob two\nonline\n");
    wire.event(() => wire.connection.end());
    expect([wire.read(), wire.shut]).toEqual([[], false]);
    link.stepQ();
    link.stepP();
    expect([wire.read(), wire.shut]).toEqual([["ok stored"], false]);
    link.carry();
    expect([wire.read(), wire.shut]).toEqual([["ok stored", "ok alice dave"], true]);
  });

  test("the end of input alone waits, and the connection is not read", () => {
    const wire = new Wire({}, p);
    wire.say(`login erin ${PASSWORD}`);
    wire.feed("message bob one\n");
    expect(wire.reading).toBe(true);
    wire.event(() => wire.connection.end());
    expect(wire.shut).toBe(false);
    link.carry();
    expect([wire.read(), wire.shut]).toEqual([["ok stored"], true]);
  });

  test("a connection with a request that waits is not read, and goes on with the bytes that came meanwhile", () => {
    const wire = new Wire({}, p);
    wire.say(`login erin ${PASSWORD}`);
    wire.feed("message bob one\nonl");
    wire.feed("ine\n");
    expect(wire.reading).toBe(false);
    wire.feed("message dave t");
    wire.feed("wo\nalive\n");
    link.carry();
    expect(wire.read()).toEqual(["ok stored", "ok alice dave", "ok sent", "ok"]);
    expect(wire.reading).toBe(true);
  });

  test("a server that is about to stop takes no request, and gives the replies that come", () => {
    const wire = new Wire({}, p);
    wire.say(`login erin ${PASSWORD}`);
    const toP = new Wire({}, p);
    toP.event(() => p.chat.neighbours!.connected(toP.connection, 0, 1, 0));
    wire.feed("message bob one\nmessage bob two\n");
    const [number] = p.neighbour.slots.keys();
    expect(p.chat.neighbours!.owesReplies).toBe(true);
    for (const { connection } of [wire, toP]) connection.suspend();
    expect([wire.reading, toP.reading]).toEqual([false, true]);
    wire.feed("message dave three\n");
    toP.say(`outcome ${number} ok sent`);
    expect(wire.read()).toEqual(["ok sent"]);
    toP.say(`outcome ${p.neighbour.lastNumber} ok stored`);
    expect(wire.read()).toEqual(["ok stored"]);
    expect([wire.reading, p.chat.neighbours!.owesReplies]).toEqual([false, false]);
    expect(p.account("dave").session!.messagesOut).toBe(0);
    wire.event(() => p.chat.shutdown());
    expect([wire.read(), wire.shut]).toEqual([["goodbye shutdown"], true]);
  });

  test("a request that waits takes nothing of the user's rate until it is acted on", () => {
    const wire = new Wire({}, p);
    wire.say(`login erin ${PASSWORD}`);
    const { tokens } = p.chat.rates.of(p.account("erin"));
    wire.feed("message bob one\nunblock dave\n");
    expect(p.chat.rates.of(p.account("erin")).tokens).toBe(tokens - 1);
    link.carry();
    expect(wire.read()).toEqual(["ok stored", "err not_blocked"]);
    expect(p.chat.rates.of(p.account("erin")).tokens).toBe(tokens - 2);
  });
});

describe("a session that ends while a reply of another shard is missing", () => {
  test("gets no reply, and the outcome is acknowledged and dropped", () => {
    p.say(alice, "message bob one", "message dave two");
    const next = p.login("alice");
    next.read();
    expect(alice.read()).toEqual(["goodbye replaced"]);
    link.carry();
    expect([alice.read(), next.read()]).toEqual([[], []]);
    expect(p.neighbour.slots.size).toBe(0);
    expect([...q.foreignRequests.kept(p.shard)]).toEqual([]);
    expect(p.ask(next, "message dave three")).toEqual(["ok sent"]);
    expect(q.login("bob").read().at(-1)).toMatch(/^stored alice \d+ one$/);
  });

  test("by the end of its connection does not hold up others", () => {
    p.say(alice, "message bob one");
    alice.hangUp();
    link.carry();
    expect(p.neighbour.slots.size).toBe(0);
    expect(p.faults).toEqual([]);
  });
});

describe("the event waiting", () => {
  const count = (peer: TestPeer): number => peer.read().filter((line) => line === "waiting").length;

  test("comes when the oldest reply is three seconds late, and every three seconds", () => {
    p.say(alice, "message bob one");
    pass(REPLY_WAITING_MS - 500);
    p.say(alice, "message dave two");
    expect(count(alice)).toBe(0);
    pass(1000);
    expect(count(alice)).toBe(1);
    pass(4 * REPLY_WAITING_MS);
    expect(count(alice)).toBe(4);
    link.carry();
    expect(alice.read()).toEqual(["ok stored", "ok sent"]);
    pass(2 * REPLY_WAITING_MS);
    expect(count(alice)).toBe(0);
  });

  test("counts from the request whose reply is the next one to leave", () => {
    p.say(alice, "message bob one");
    pass(2000);
    p.say(alice, "message bob two");
    link.stepQ();
    link.stepP();
    pass(2500);
    expect(count(alice)).toBe(0);
    pass(1000);
    expect(count(alice)).toBe(1);
  });

  test("is not kept for a session that has ended, and none comes without a cluster's delay", () => {
    p.say(alice, "message bob one");
    const held = alice.session!.outbox;
    p.login("alice");
    const { end } = held;
    pass(3 * REPLY_WAITING_MS);
    expect(held.end).toBe(end);
    expect(p.chat.neighbours!.oldestSlotMs).toBe(Number.POSITIVE_INFINITY);
  });
});

describe("a request of a callback session", () => {
  let token: string;

  beforeEach(() => {
    const erin = p.connect();
    p.say(erin, `login erin ${PASSWORD} callback=2000`);
    token = erin.read()[0]!.split(" ")[1]!;
  });

  test("gets the reply of another shard on its connection, which is closed after it", () => {
    const peer = p.connect();
    p.say(peer, `as ${token} message bob one`, "nonsense");
    expect([peer.read(), peer.closing, peer.paused]).toEqual([[], false, true]);
    link.carry();
    expect([peer.read(), peer.isClosed]).toEqual([["ok stored"], true]);
  });

  test("does not wait for the replies to other requests of the session", () => {
    const [one, two] = [p.connect(), p.connect()];
    p.say(one, `as ${token} message bob one`);
    expect(p.ask(two, `as ${token} online`)).toEqual(["ok alice dave"]);
    expect(two.isClosed).toBe(true);
    link.carry();
    expect(one.read()).toEqual(["ok stored"]);
  });

  test("receives waiting while the reply is late", () => {
    const peer = p.connect();
    p.say(peer, `as ${token} message bob one`);
    pass(REPLY_WAITING_MS + 500);
    expect(peer.read()).toEqual(["waiting"]);
    peer.hangUp();
    link.carry();
    expect([p.faults, p.neighbour.slots.size]).toEqual([[], 0]);
  });

  test("waits for the reply after the client has closed its side", () => {
    const wire = new Wire({}, p);
    wire.feed(`as ${token} message bob one\n`);
    wire.event(() => wire.connection.end());
    expect(wire.shut).toBe(false);
    link.carry();
    expect([wire.read(), wire.shut]).toEqual([["ok stored"], true]);
  });

  test("that is refused at once is closed at once", () => {
    const peer = p.connect();
    link.cut();
    expect(p.ask(peer, `as ${token} message bob one`)).toEqual([expect.stringMatching(/^err busy /)]);
    expect(peer.isClosed).toBe(true);
  });
});
