import { beforeEach, describe, expect, test } from "bun:test";
import { INTRODUCTION_MS, PRESENCE_DELAY_MS, PRESENCE_GRACE_MS } from "../../src/limits.ts";
import type { TestPeer } from "../support/chat.ts";
import { Shard, TestLink } from "../support/shards.ts";

/** Alice, dave and erin are users of `p`, bob and carol of `q`; each shard has a link to the other one. */
let p: Shard;
let q: Shard;
let links: TestLink[];

beforeEach(() => {
  p = new Shard(1);
  q = new Shard(0);
  link();
});

function link(): void {
  links = [new TestLink(p, q, undefined, true), new TestLink(q, p, undefined, true)];
  for (const each of links) each.greet();
  carry();
}

/** Everything that was said arrives, also delayed presence. */
function carry(): void {
  for (const shard of [p, q]) shard.pass(2 * PRESENCE_DELAY_MS);
  for (const each of links) each.toP.push("alive");
  for (let hasMore = true; hasMore;) {
    hasMore = false;
    for (const each of links) while (each.stepQ() || each.stepP()) hasMore = true;
  }
  for (const shard of [p, q]) shard.pass(2 * PRESENCE_DELAY_MS);
  expect(links.flatMap(({ refusals }) => refusals)).toEqual([]);
  expect([p.faults, q.faults]).toEqual([[], []]);
}

/** Sends a line; everything that the peer receives until all is quiet. */
function ask(shard: Shard, peer: TestPeer, line: string): string[] {
  shard.say(peer, line);
  carry();
  return peer.read();
}

function cut(): void {
  for (const each of links) each.cut();
}

/** A session that accepts private chats; its first lines are consumed. */
function listening(shard: Shard, name: string, address: string): TestPeer {
  const peer = shard.connect(address);
  shard.say(peer, `login ${name} secret listen=5000`);
  carry();
  peer.read();
  return peer;
}

describe("presence", () => {
  test("of another shard's users is as that of one's own", () => {
    const [alice] = p.online("alice") as [TestPeer];
    const [bob] = q.online("bob") as [TestPeer];
    carry();
    expect(alice.read()).toEqual(["joined bob"]);
    expect(ask(p, alice, "online")).toEqual(["ok bob"]);
    expect(ask(q, bob, "online")).toEqual(["joined alice", "ok alice"]);
    expect(ask(q, bob, "logout")).toEqual(["ok"]);
    expect(alice.read()).toEqual(["left bob logout"]);
  });

  test("a new link begins with the whole list, in parts", () => {
    cut();
    const [alice] = p.online("alice") as [TestPeer];
    q.online("bob", "carol");
    link();
    expect(alice.read().toSorted()).toEqual(["joined bob", "joined carol"]);
    expect(links[1]!.events).toEqual(["present bob carol", "present"]);
  });

  test("a lost link and a new one within the grace time show nothing", () => {
    const [alice] = p.online("alice") as [TestPeer];
    q.online("bob");
    carry();
    alice.read();
    cut();
    p.pass(PRESENCE_GRACE_MS / 2);
    link();
    p.pass(2 * PRESENCE_GRACE_MS);
    expect(alice.read()).toEqual([]);
  });

  test("users whose shard stays away have left as disconnected", () => {
    const [alice] = p.online("alice") as [TestPeer];
    q.online("bob");
    carry();
    alice.read();
    cut();
    p.pass(PRESENCE_GRACE_MS + PRESENCE_DELAY_MS);
    expect(alice.read()).toEqual(["left bob disconnected"]);
  });
});

describe("a broadcast", () => {
  test("goes to the users of all shards, and counts them", () => {
    const [alice, dave] = p.online("alice", "dave") as [TestPeer, TestPeer];
    const [bob, carol] = q.online("bob", "carol") as [TestPeer, TestPeer];
    carry();
    for (const peer of [alice, dave, bob, carol]) peer.read();
    expect(ask(p, alice, "broadcast hello  all")).toEqual(["ok 3"]);
    for (const peer of [dave, bob, carol]) expect(peer.read()).toEqual(["broadcast alice hello  all"]);
  });

  test("skips users of other shards who have blocked the sender, at once", () => {
    const [alice] = p.online("alice") as [TestPeer];
    const [bob, carol] = q.online("bob", "carol") as [TestPeer, TestPeer];
    carry();
    expect(ask(q, bob, "block alice").at(-1)).toBe("ok");
    for (const peer of [alice, carol, bob]) peer.read();
    expect(ask(p, alice, "broadcast hi")).toEqual(["ok 1"]);
    expect([bob.read(), carol.read()]).toEqual([[], ["broadcast alice hi"]]);
    expect(ask(p, alice, "online")).toEqual(["ok carol"]);
  });
});

describe("a private chat", () => {
  let alice: TestPeer;
  let bob: TestPeer;

  beforeEach(() => {
    alice = listening(p, "alice", "192.0.2.1");
    bob = listening(q, "bob", "192.0.2.2");
    alice.read();
  });

  test("is granted across shards, with the addresses and keys of both", () => {
    expect(ask(p, alice, "getaddress bob QUJD")).toEqual(["ok asked"]);
    expect(bob.read()).toEqual(["private_request alice QUJD"]);
    expect(ask(q, bob, "private_answer alice yes REVG")).toEqual([
      expect.stringMatching(/^expect alice 192\.0\.2\.1 \S+ QUJD$/),
      "ok",
    ]);
    expect(alice.read()).toEqual([expect.stringMatching(/^address bob 192\.0\.2\.2 5000 \S+ REVG$/)]);
  });

  test("without keys has none", () => {
    ask(p, alice, "getaddress bob");
    expect(bob.read()).toEqual(["private_request alice"]);
    ask(q, bob, "private_answer alice yes");
    expect(alice.read().at(-1)).toMatch(/^address bob 192\.0\.2\.2 5000 \S+$/);
  });

  test("is refused with each code, and asked once", () => {
    expect(ask(p, alice, "getaddress carol")).toEqual(["err offline"]);
    q.online("carol");
    carry();
    alice.read();
    expect(ask(p, alice, "getaddress carol")).toEqual(["err not_listening"]);
    expect(ask(p, alice, "getaddress bob")).toEqual(["ok asked"]);
    expect(ask(p, alice, "getaddress bob")).toEqual(["err already_asked"]);
    expect(ask(q, bob, "private_answer alice no").at(-1)).toBe("ok");
    expect(alice.read()).toEqual(["denied bob"]);
    ask(q, bob, "block alice");
    expect(ask(p, alice, "getaddress bob")).toEqual(["err blocked"]);
  });

  test("a denial does not come before the reply to the question", () => {
    p.say(alice, "getaddress bob");
    links[0]!.stepQ(); // Bob is asked; the outcome is on its way.
    q.say(bob, "private_answer alice no");
    while (links[1]!.stepQ());
    expect(alice.read()).toEqual([]);
    carry();
    expect(alice.read()).toEqual(["ok asked", "denied bob"]);
  });

  test.each<[string, () => void, string[], string[]]>([
    ["the asked one's session ends", () => bob.hangUp(), ["denied bob", "left bob disconnected"], []],
    ["the asker's session ends", () => alice.hangUp(), [], ["left alice disconnected", "denied alice"]],
    ["the asker blocks", () => p.say(alice, "block bob"), ["denied bob", "ok"], ["denied alice"]],
    ["the asked one blocks", () => q.say(bob, "block alice"), ["denied bob"], ["denied alice", "ok"]],
    ["the links are lost", cut, ["denied bob"], ["denied alice"]],
  ])("a ticket ends when %s", (_, act, toAlice, toBob) => {
    ask(p, alice, "getaddress bob");
    ask(q, bob, "private_answer alice yes");
    for (const peer of [alice, bob]) peer.read();
    act();
    carry();
    expect(alice.read().toSorted()).toEqual(toAlice.toSorted());
    expect(bob.read().toSorted()).toEqual(toBob.toSorted());
  });

  test("a question ends without an answer, and when the links are lost before its outcome has come", () => {
    ask(p, alice, "getaddress bob");
    for (let at = 0; at < 2; at++) {
      expect(alice.read()).toEqual([]);
      q.pass(INTRODUCTION_MS / 2);
      ask(q, bob, "alive");
    }
    expect(alice.read()).toEqual(["denied bob"]);
    p.say(alice, "getaddress bob");
    links[0]!.stepQ();
    cut();
    link();
    expect(alice.read()).toEqual(["ok asked", "denied bob"]);
    expect(ask(q, bob, "private_answer alice yes").at(-1)).toBe("err no_request");
  });

  test.each(["ok asked", "message bob hi", "goodbye kicked", "addressed bob", "denied", "nonsense"])(
    "%p is no event of one: a neighbour that tells it loses its link, and the asker does not receive it",
    (line) => {
      ask(p, alice, "getaddress bob");
      q.say(bob, "private_answer alice yes");
      const [, number] = /^tell (\d+) address /.exec(links[0]!.toP.at(-1)!)!;
      p.say(links[0]!.peer, `tell ${number} ${line}`);
      expect(links[0]!.peer.read().at(-1)).toBe("goodbye flood");
      expect(alice.read()).toEqual(["denied bob"]);
    },
  );

  test("an earlier ticket stays when a question is denied, and its end reaches the asker", () => {
    ask(p, alice, "getaddress bob");
    ask(q, bob, "private_answer alice yes");
    ask(p, alice, "getaddress bob");
    expect(ask(q, bob, "private_answer alice no").at(-1)).toBe("ok");
    expect(alice.read().at(-1)).toBe("denied bob");
    ask(q, bob, "logout");
    expect(alice.read().toSorted()).toEqual(["denied bob", "left bob logout"]);
  });

  test("an address does not come before the reply to the question, also after an earlier ticket", () => {
    ask(p, alice, "getaddress bob");
    ask(q, bob, "private_answer alice yes");
    alice.read();
    p.say(alice, "getaddress bob");
    links[0]!.stepQ();
    q.say(bob, "private_answer alice yes");
    while (links[1]!.stepQ());
    expect(alice.read()).toEqual([]);
    carry();
    expect(alice.read()).toEqual(["ok asked", expect.stringMatching(/^address bob /)]);
    cut();
    link();
    expect(alice.read()).toEqual(["denied bob"]);
  });

  test("the end of a question comes before the reply to the next one", () => {
    ask(p, alice, "getaddress bob");
    bob = q.connect("192.0.2.2");
    q.say(bob, "login bob secret listen=5000");
    p.say(alice, "getaddress bob");
    links[0]!.stepQ();
    expect(alice.read()).toEqual([]);
    carry();
    expect(alice.read()).toEqual(["denied bob", "ok asked"]);
  });

  test("a question ends for both shards when only one of them knows yet that its link is lost", () => {
    ask(p, alice, "getaddress bob");
    links[0]!.peer.hangUp();
    expect(alice.read()).toEqual(["denied bob"]);
    expect(p.ask(alice, "getaddress bob")[0]).toStartWith("err busy ");
    q.neighbourEvents!.linkLost(p.shard);
    link();
    bob.read();
    expect(ask(q, bob, "private_answer alice yes")).toEqual(["err no_request"]);
    expect(ask(p, alice, "getaddress bob")).toEqual(["ok asked"]);
    ask(q, bob, "private_answer alice yes");
    expect(alice.read()).toEqual([expect.stringMatching(/^address bob /)]);
  });

  test("a question of an earlier run of the asker's server ends with its answer", () => {
    p.say(alice, "getaddress bob");
    cut();
    p = p.restarted();
    link();
    expect(bob.read()).toContain("private_request alice");
    const [expected, ok, denied] = ask(q, bob, "private_answer alice yes");
    expect([expected, ok, denied]).toEqual([expect.stringMatching(/^expect alice /), "ok", "denied alice"]);
  });

  test("another session of the asker has no part in it", () => {
    ask(p, alice, "getaddress bob");
    const again = listening(p, "alice", "192.0.2.1");
    expect(alice.read()).toEqual(["goodbye replaced"]);
    expect(ask(q, bob, "private_answer alice yes").at(-1)).toBe("err no_request");
    expect(again.read()).toEqual([]);
  });
});
