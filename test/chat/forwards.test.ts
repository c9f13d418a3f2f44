import { describe, expect, test } from "bun:test";
import { linked, untimed } from "../support/shards.ts";

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
