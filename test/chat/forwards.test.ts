import { describe, expect, test } from "bun:test";
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
    expect(again.stepQ()).toBe(false);
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
