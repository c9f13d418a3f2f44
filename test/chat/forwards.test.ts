import { describe, expect, test } from "bun:test";
import { FORWARDS_MAX, FORWARD_BYTES_MAX, NEIGHBOUR_AWAY_MS, REPLY_SLOTS_MAX } from "../../src/limits.ts";
import { Counters } from "../../src/server/counters.ts";
import { PASSWORD } from "../support/chat.ts";
import { Shard, TestLink, linked, untimed } from "../support/shards.ts";

describe("a message to a user of another shard", () => {
  test("gets its reply when that shard has given it: sent to a user who is online", () => {
    const { p, q, link } = linked();
    const [alice] = p.online("alice");
    const [bob] = q.online("bob");
    expect(p.ask(alice!, "message bob hello  you")).toEqual([]);
    link.carry();
    expect(bob!.read()).toEqual(["message alice hello  you"]);
    expect(alice!.read()).toEqual(["ok sent"]);
    expect([p.faults, q.faults, p.warnings]).toEqual([[], [], []]);
  });

  test("is stored for a user who is offline", () => {
    const { p, q, link } = linked();
    const [alice] = p.online("alice");
    p.say(alice!, "message bob hello");
    link.carry();
    expect(alice!.read()).toEqual(["ok stored"]);
    expect(untimed(q.login("bob").read()).slice(1)).toEqual(["stored alice T hello"]);
  });

  test("is blocked by the recipient's shard, whatever this one knows", () => {
    const { p, q, link } = linked();
    const [alice] = p.online("alice");
    const [bob] = q.online("bob");
    q.account("bob").block(q.account("alice"));
    p.say(alice!, "message bob hello");
    link.carry();
    expect(alice!.read()).toEqual(["err blocked"]);
    q.account("bob").unblock(q.account("alice"));
    p.account("bob").block(p.account("alice"));
    p.say(alice!, "message bob again");
    link.carry();
    expect(alice!.read()).toEqual(["ok sent"]);
    expect(bob!.read()).toEqual(["message alice again"]);
  });

  test("is mailbox_full and unknown_user", () => {
    const { p, q, link } = linked({ q: { limits: { mailboxMessagesMax: 1, mailboxSharePercent: 100 } } });
    const [alice] = p.online("alice");
    p.say(alice!, "message bob one", "message bob two", "message nobody hello");
    link.carry();
    q.begin();
    q.chat.remove(q.account("carol"));
    q.endTurns();
    p.say(alice!, "message carol hello");
    link.carry();
    expect(alice!.read()).toEqual(["ok stored", "err mailbox_full", "err unknown_user", "err unknown_user"]);
  });

  test("by as, by a resumable and by a plain session leaves in the same form", () => {
    const { p, link } = linked();
    const [alice] = p.online("alice");
    const [erin, frank] = [p.connect(), p.connect()];
    p.say(erin, `login erin ${PASSWORD} resumable`);
    p.say(frank, `login frank ${PASSWORD} callback=2000`);
    const token = frank.read()[0]!.split(" ")[1]!;
    p.say(alice!, "message bob one", "message bob two");
    p.say(erin, "message bob three");
    p.say(p.connect(), `as ${token} message bob four`);
    link.stepQ();
    const requests = [link.toQ[0], link.toQ[1], link.toQ[2]].map((line) => line!.replace(/\d+ \d+ /, ""));
    expect(requests).toEqual([
      "message alice message bob two",
      "message erin message bob three",
      "message frank message bob four",
    ]);
  });

  test("has a number, and that of the request before it", () => {
    const { p, link } = linked();
    const [alice] = p.online("alice", "dave");
    p.say(alice!, "message bob one", "message dave local", "message carol two", "block bob");
    link.carry();
    p.say(alice!, "message ann three");
    link.stepQ();
    const { lastNumber } = p.neighbour;
    expect(link.refusals).toEqual([]);
    expect(lastNumber).toBeGreaterThan(4);
    p.say(alice!, "message bob four");
    link.beat();
    expect(link.toQ.at(0)).toMatch(new RegExp(`^message alice \\d+ ${lastNumber} message bob four$`));
  });

  test("counts as accepted once: at the shard that has accepted it", () => {
    const [here, there] = [new Counters(), new Counters()];
    const { p, link } = linked({ p: { observer: here }, q: { observer: there } });
    const [alice] = p.online("alice");
    p.say(alice!, "message bob one");
    link.carry();
    expect([here.messagesSent + here.messagesStored, there.messagesStored]).toEqual([0, 1]);
    expect(alice!.session!.messagesIn).toBe(1);
    link.cut();
    p.say(alice!, "message bob two");
    expect(here.messagesRefused.get("busy")).toBe(1);
  });

  test("to oneself and to a user of this shard needs no other one", () => {
    const p = new Shard(1);
    const [alice] = p.online("alice");
    expect(p.ask(alice!, "message alice hello")).toEqual(["message alice hello", "ok sent"]);
    expect(p.ask(alice!, "message dave hello")).toEqual(["ok stored"]);
  });
});

describe("a request is busy, and nothing is recorded", () => {
  const BUSY_AWAY = "err busy the server of that user is away; try again in a moment";
  const BUSY_FULL = "err busy too many requests wait for the server of that user; try again in a moment";

  function unrecorded(p: Shard): void {
    expect(p.neighbour).toMatchObject({ lastNumber: 0, slotBytes: 0 });
    expect(p.neighbour.slots.size).toBe(0);
    expect(p.neighbour.account.waiting).toBe(0);
  }

  test("before the first link", () => {
    const p = new Shard(1);
    const [alice] = p.online("alice");
    for (const request of ["message bob hello", "block bob"]) expect(p.ask(alice!, request)).toEqual([BUSY_AWAY]);
    expect(p.account("alice").blocks.size).toBe(0);
    expect(p.ask(alice!, "unblock bob")).toEqual(["err not_blocked"]);
    expect(p.ask(alice!, "message nobody hello")).toEqual(["err unknown_user"]);
    unrecorded(p);
  });

  test("after the end of the link, until the next one", () => {
    const { p, q, link } = linked();
    const [alice] = p.online("alice");
    link.cut();
    expect(p.ask(alice!, "message bob hello")).toEqual([BUSY_AWAY]);
    unrecorded(p);
    const next = new TestLink(p, q);
    next.greet();
    p.say(alice!, "message bob hello");
    next.carry();
    expect(alice!.read()).toEqual(["ok stored"]);
  });

  test("when nothing was received from the shard for two seconds, until a line comes", () => {
    const { p, link } = linked();
    const [alice] = p.online("alice");
    p.pass(NEIGHBOUR_AWAY_MS);
    p.say(alice!, "message bob one");
    p.pass(1);
    p.say(alice!, "message bob two");
    link.beat();
    p.say(alice!, "message bob three");
    link.carry();
    expect(alice!.read()).toEqual(["ok stored", BUSY_AWAY, "ok stored"]);
  });

  test("above the number of requests without a reply, whoever sent them", () => {
    const { p, link } = linked({ p: { limits: { requestsPerSecondMax: 0 } } });
    const [alice] = p.online("alice");
    // Their sessions end, so that they hold no slots that would make them wait.
    for (let sent = 0; sent < FORWARDS_MAX; sent += REPLY_SLOTS_MAX) {
      const erin = p.login("erin");
      p.say(erin, ...Array.from({ length: REPLY_SLOTS_MAX }, (_, index) => `message carol ${sent + index}`));
    }
    expect(p.ask(alice!, "message bob hello").at(-1)).toBe(BUSY_FULL);
    link.stepQ();
    link.stepP();
    p.say(alice!, "message bob hello");
    link.carry();
    expect(alice!.read()).toEqual(["ok stored"]);
    expect(link.refusals).toEqual([]);
  });

  test("above the bytes of requests without a reply, and after a new link too", () => {
    const { p, q, link } = linked({ p: { limits: { lineBytesMax: 512 << 10 } } });
    const alice = p.connect("192.0.2.1", 512 << 10);
    p.say(alice, `login alice ${PASSWORD}`);
    const text = "x".repeat(500 << 10);
    const sent = Math.ceil(FORWARD_BYTES_MAX / (500 << 10));
    p.say(alice, ...Array.from({ length: sent }, () => `message bob ${text}`));
    expect(p.neighbour.slots.size).toBe(sent);
    const [dave] = p.online("dave");
    expect(p.ask(dave!, "message bob hello")).toEqual([BUSY_FULL]);
    link.cut();
    const next = new TestLink(p, q);
    next.greet();
    expect(p.ask(dave!, "message bob hello")).toEqual([BUSY_FULL]);
    next.carry();
    expect(alice.read().filter((line) => line.startsWith("ok s"))).toEqual(
      Array.from({ length: sent }, () => "ok stored"),
    );
    p.say(dave!, "message bob hello");
    next.carry();
    expect(dave!.read()).toEqual(["ok stored"]);
  });

  test("and it is internal while the disk is full", () => {
    const { p } = linked();
    const [alice] = p.online("alice");
    p.store.accepts = () => false;
    Object.defineProperty(p.store, "writeError", { get: () => "the disk refuses: no room", set: () => {} });
    for (const request of ["message bob hello", "block bob"])
      expect(p.ask(alice!, request)).toEqual(["err internal the disk refuses: no room"]);
    unrecorded(p);
  });
});

describe("block and unblock of a user of another shard", () => {
  test("take effect at once at the own shard, and the reply comes when the other one has it", () => {
    const { p, q, link } = linked();
    const [alice] = p.online("alice");
    p.say(alice!, "block bob");
    expect(p.account("alice").blocks.has(p.account("bob"))).toBe(true);
    expect(p.store.blocks()).toEqual([{ user: "alice", other: "bob" }]);
    expect(alice!.read()).toEqual([]);
    link.carry();
    expect(alice!.read()).toEqual(["ok"]);
    expect(q.store.blocks()).toEqual([{ user: "alice", other: "bob" }]);
    expect(p.ask(alice!, "block bob")).toEqual(["err already_blocked"]);
    p.say(alice!, "unblock bob");
    expect(p.account("alice").blocks.size).toBe(0);
    link.carry();
    expect(alice!.read()).toEqual(["ok"]);
    expect([p.store.blocks(), q.store.blocks()]).toEqual([[], []]);
  });

  test("a block decides about messages of that user at the own shard", () => {
    const { p, q, link } = linked();
    const back = new TestLink(q, p);
    back.greet();
    const [alice] = p.online("alice");
    const [bob] = q.online("bob");
    p.say(alice!, "block bob");
    q.say(bob!, "message alice hello");
    back.carry();
    expect(bob!.read()).toEqual(["err blocked"]);
    link.carry();
    expect(alice!.read()).toEqual(["ok"]);
  });
});

describe("a link after a crash of the sender's shard", () => {
  test("has no outcome of a request before it: nobody waits for these", () => {
    const { p, q, link } = linked();
    const [alice] = p.online("alice");
    p.say(alice!, "message bob one", "message bob two");
    while (link.stepQ());
    link.cut();
    const again = new TestLink(p.restarted(), q);
    const heard = q.foreignRequests.heard(p.shard);
    expect(again.greet()).toBe(`ok ${heard}`);
    expect([...q.foreignRequests.kept(p.shard)]).toEqual([]);
    again.carry();
    expect(q.account("bob").waiting).toBe(2);
  });

  test("delivers what the other shard has not acted on, and reports what that shard has lost", () => {
    const { p, q, link } = linked();
    const [alice] = p.online("alice");
    p.say(alice!, "message bob one", "message bob two");
    link.carry();
    p.say(alice!, "message bob three");
    link.cut();
    const lost = q.foreignRequests.heard(p.shard);
    const restarted = p.restarted();
    const without = new Shard(0, 2);
    const again = new TestLink(restarted, without);
    expect(again.greet()).toBe(`ok ${lost}`);
    expect(restarted.warnings).toEqual([expect.stringContaining("has lost requests")]);
    again.carry();
    expect(again.refusals).toEqual([]);
    expect(without.account("bob").waiting).toBe(1);
  });

  test("keeps only the outcomes that are awaited when that shard has not crashed", () => {
    const { p, q, link } = linked();
    const [alice] = p.online("alice");
    p.say(alice!, "message bob one", "message bob two", "message bob three");
    while (link.stepQ());
    link.stepP();
    p.say(alice!, "message bob four");
    link.cut();
    expect([...q.foreignRequests.kept(p.shard)]).toHaveLength(3);
    const again = new TestLink(p, q);
    again.greet();
    expect([...q.foreignRequests.kept(p.shard)]).toHaveLength(2);
    again.carry();
    expect(alice!.read()).toEqual(Array<string>(4).fill("ok stored"));
    expect([...q.foreignRequests.kept(p.shard)]).toEqual([]);
  });
});
