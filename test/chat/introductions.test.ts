import { beforeEach, describe, expect, test } from "bun:test";
import { INTRODUCTION_MS, KEY_BYTES_MAX, LIMITS_DEFAULT } from "../../src/limits.ts";
import { PASSWORD, SILENCE_MS, type TestPeer, World } from "../support/chat.ts";

const KEY = "bm90IGEgcmVhbCBjZXJ0aWZpY2F0ZQ==";
const OTHER_KEY = "YW5vdGhlcg==";
let world: World;
let alice: TestPeer;
let bob: TestPeer;

/** A user logs in from its own address with these options; all users have read everything. */
function enter(name: string, address: string, options = ""): TestPeer {
  const peer = world.connect(address);
  world.say(peer, `login ${name} ${PASSWORD}${options}`);
  world.announce();
  for (const each of [alice, bob, peer]) each?.read();
  return peer;
}

beforeEach(() => {
  world = new World(["alice", "bob", "carol"]);
  alice = enter("alice", "192.0.2.1");
  bob = enter("bob", "2001:db8::7", " listen=4242");
});

/** The ticket in the only line that a peer has to read, which is that one otherwise. */
function ticketIn(lines: string[], expected: string): string {
  expect(lines).toHaveLength(1);
  const [, ticket = ""] = new RegExp(`^${expected.replace("<ticket>", "([\\w-]{22,64})")}$`).exec(lines[0]!) ?? [];
  expect(ticket).not.toBe("");
  return ticket;
}

function grant(): string {
  world.ask(alice, `getaddress bob ${KEY}`);
  bob.read();
  world.ask(bob, `private_answer alice yes ${OTHER_KEY}`);
  return ticketIn(alice.read(), `address bob 2001:db8::7 4242 <ticket> ${OTHER_KEY}`);
}

describe("a question", () => {
  test("a question reaches the asked user, and a yes gives both the other's key", () => {
    expect(world.ask(alice, `getaddress bob ${KEY}`)).toEqual(["ok asked"]);
    expect(bob.read()).toEqual([`private_request alice ${KEY}`]);
    const [expected, reply] = world.ask(bob, `private_answer alice yes ${OTHER_KEY}`);
    expect(reply).toBe("ok");
    const ticket = ticketIn([expected!], `expect alice 192.0.2.1 <ticket> ${KEY}`);
    expect(ticketIn(alice.read(), `address bob 2001:db8::7 4242 <ticket> ${OTHER_KEY}`)).toBe(ticket);
  });

  test("a link-local address is passed on without its zone", () => {
    const carol = enter("carol", "fe80::c%eth0", " listen=4243");
    world.ask(carol, "getaddress bob");
    bob.read();
    const ticket = ticketIn(world.ask(bob, "private_answer carol yes").slice(0, 1), "expect carol fe80::c <ticket>");
    expect(carol.read()).toEqual([`address bob 2001:db8::7 4242 ${ticket}`]);
    world.ask(bob, "getaddress carol");
    carol.read();
    world.ask(carol, "private_answer bob yes");
    ticketIn(bob.read(), "address carol fe80::c 4243 <ticket>");
  });

  test("a question and its answer work without keys", () => {
    world.ask(alice, "getaddress bob");
    expect(bob.read()).toEqual(["private_request alice"]);
    const ticket = ticketIn(world.ask(bob, "private_answer alice yes").slice(0, 1), "expect alice 192.0.2.1 <ticket>");
    expect(alice.read()).toEqual([`address bob 2001:db8::7 4242 ${ticket}`]);
  });

  test("a no is sent as denied, and a second answer is refused", () => {
    world.ask(alice, "getaddress bob");
    bob.read();
    expect(world.ask(bob, `private_answer alice no`)).toEqual(["ok"]);
    expect(alice.read()).toEqual(["denied bob"]);
    expect(world.ask(bob, `private_answer alice yes ${KEY}`)).toEqual(["err no_request"]);
    expect(alice.read()).toEqual([]);
  });

  test("a question expires after 60 seconds", () => {
    world.ask(alice, "getaddress bob");
    for (let i = 0; i < 2; i++) {
      world.pass(INTRODUCTION_MS / 2 - 200);
      expect(world.ask(alice, "alive")).toEqual(["ok"]);
      world.ask(bob, "alive");
    }
    world.pass(700);
    expect(alice.read()).toEqual(["denied bob"]);
    expect(world.ask(bob, "private_answer alice yes")).toEqual(["err no_request"]);
  });

  test("there is one question at a time for each pair and direction", () => {
    const carol = enter("carol", "192.0.2.3", " listen=1");
    world.ask(carol, "getaddress bob");
    world.ask(alice, "getaddress bob");
    expect(world.ask(alice, "getaddress bob")).toEqual(["err already_asked"]);
    bob.read();
    expect(world.ask(bob, "private_answer carol no")).toEqual(["ok"]);
    expect(carol.read()).toEqual(["denied bob"]);
    expect(world.ask(alice, "getaddress bob")).toEqual(["err already_asked"]);
    expect(world.ask(bob, "private_answer alice no")).toEqual(["ok"]);
    expect(world.ask(alice, "getaddress bob")).toEqual(["denied bob", "ok asked"]);
  });

  test.each([
    ["getaddress nobody", "err unknown_user"],
    ["getaddress alice", "err bad_request nobody calls themselves"],
    ["getaddress carol", "err offline"],
    ["getaddress bob \u0001", /^err bad_request getaddress /],
    ["getaddress bob =", /^err bad_request/],
    ["getaddress bob a===", /^err bad_request/],
    ["getaddress bob a=b", /^err bad_request/],
    [`getaddress bob ${"A".repeat(KEY_BYTES_MAX + 1)}`, /^err bad_request/],
    [`getaddress bob ${KEY} `, /^err bad_request/],
    ["getaddress", /^err bad_request/],
    ["private_answer bob", /^err bad_request private_answer /],
    ["private_answer bob maybe", /^err bad_request/],
    ["private_answer bob yes =", /^err bad_request/],
    ["private_answer bob yes", "err no_request"],
    ["private_answer nobody no", "err no_request"],
    [`getaddress bob ${"A".repeat(KEY_BYTES_MAX)}`, "ok asked"],
  ])("%p is answered %p", (line, reply) => {
    const [heard] = world.ask(alice, line);
    if (typeof reply === "string") expect(heard).toBe(reply);
    else expect(heard).toMatch(reply);
  });

  test("a question to a user who does not listen or has blocked the asker is refused", () => {
    expect(world.ask(bob, "getaddress alice")).toEqual(["err not_listening"]);
    world.ask(alice, "block bob");
    expect(world.ask(bob, "getaddress alice")).toEqual(["err blocked"]);
    expect(world.ask(alice, "getaddress bob")).toEqual(["ok asked"]);
  });

  test("a question ends with the asked session, and does not pass to a newer one", () => {
    world.ask(alice, "getaddress bob");
    bob = enter("bob", "192.0.2.9", " listen=4243");
    expect(world.ask(bob, "private_answer alice yes")).toEqual(["err no_request"]);
    world.ask(alice, "getaddress bob");
    alice.read();
    bob.hangUp();
    expect(alice.read()).toEqual(["denied bob"]);
  });

  test("a question ends with the asking session", () => {
    world.ask(alice, "getaddress bob");
    alice.hangUp();
    bob.read();
    expect(world.ask(bob, "private_answer alice yes").at(-1)).toBe("err no_request");
  });

  test.each([
    ["bob", "alice"],
    ["alice", "bob"],
  ])("dies with a block of %s's", (by, whom) => {
    world.ask(alice, "getaddress bob");
    bob.read();
    world.ask(by === "bob" ? bob : alice, `block ${whom}`);
    if (by === "bob") expect(alice.read()).toEqual(["denied bob"]);
    expect(bob.read()).toEqual([]);
    expect(world.ask(bob, "private_answer alice yes")).toEqual(["err no_request"]);
  });

  test("the questions and tickets of a session are bounded", () => {
    const names = Array.from({ length: LIMITS_DEFAULT.introductionsMax }, (_, i) => `u${i}`);
    for (const name of names) {
      world.chat.accounts.add(name, PASSWORD);
      const peer = world.connect();
      world.say(peer, `login ${name} ${PASSWORD}`, "getaddress bob");
      expect(peer.read().at(-1)).toBe("ok asked");
    }
    expect(world.ask(alice, "getaddress bob").at(-1)).toBe("err busy");
    world.ask(bob, "private_answer u7 no");
    expect(world.ask(alice, "getaddress bob").at(-1)).toBe("ok asked");
  });
});

describe("a ticket", () => {
  test("a ticket does not expire, and a block ends it for both", () => {
    grant();
    for (let i = 0; i < 10; i++) {
      world.pass(INTRODUCTION_MS / 3);
      expect(world.ask(alice, "alive")).toEqual(["ok"]);
      expect(world.ask(bob, "alive")).toEqual(["ok"]);
    }
    expect(world.ask(alice, "block bob")).toEqual(["denied bob", "ok"]);
    expect(bob.read()).toEqual(["denied alice"]);
    world.ask(alice, "unblock bob");
    world.ask(bob, "block alice");
    expect(alice.read()).toEqual([]);
  });

  test("a ticket ends with the asking session, whatever ends that", () => {
    grant();
    expect(world.ask(alice, "logout")).toEqual(["ok"]);
    world.announce();
    expect(bob.read()).toEqual(["denied alice", "left alice logout"]);
  });

  test("a ticket ends when one session is replaced, and the newer session does not have it", () => {
    grant();
    bob.read();
    const old = bob;
    bob = world.connect("192.0.2.9");
    world.say(bob, `login bob ${PASSWORD} listen=4243`);
    expect(old.read()).toEqual(["goodbye replaced"]);
    expect(alice.read()).toEqual(["denied bob"]);
    expect(bob.read()).toEqual([expect.stringMatching(/^ok /)]);
    grantedAnew("192.0.2.9 4243");
  });

  test("a new ticket replaces the old one of the same pair, and ends once", () => {
    const first = grant();
    expect(grant()).not.toBe(first);
    bob.read();
    bob.hangUp();
    world.announce();
    expect(alice.read()).toEqual(["denied bob", "left bob disconnected"]);
  });

  test("a ticket outlives a connection of a resumable session, and a new question has the new address", () => {
    bob = enter("bob", "2001:db8::7", " resumable listen=4242");
    const { token } = world.account("bob").session!;
    grant();
    bob.hangUp();
    expect(alice.read()).toEqual([]);
    const { acked } = world.account("bob").session!.outbox;
    bob = world.connect("198.51.100.4");
    world.say(bob, `resume ${token} ${acked}`);
    bob.read();
    grantedAnew("198.51.100.4 4242");
  });
});

/** Another question of alice gets the present address of bob. */
function grantedAnew(where: string): void {
  alice.read();
  world.ask(alice, "getaddress bob");
  world.ask(bob, "private_answer alice yes");
  ticketIn(alice.read(), `address bob ${where} <ticket>`);
}

test("a callback session asks and answers like other sessions", () => {
  const carol = world.connect("192.0.2.3");
  world.say(carol, `login carol ${PASSWORD} callback=5000 listen=4000`);
  const [reply = ""] = carol.read();
  const token = reply.split(" ")[1]!;
  world.ask(alice, `getaddress carol ${KEY}`);
  const as = (request: string): string[] => {
    const peer = world.connect("192.0.2.3");
    world.say(peer, `as ${token} ${request}`);
    return peer.read();
  };
  expect(as(`private_answer alice yes ${OTHER_KEY}`)).toEqual(["ok"]);
  ticketIn(
    alice.read().filter((line) => line.startsWith("address")),
    `address carol 192.0.2.3 4000 <ticket> ${OTHER_KEY}`,
  );
  expect(as("getaddress bob")).toEqual(["ok asked"]);
  expect(bob.read().at(-1)).toBe("private_request carol");
});

test("2,046 refused questions and a block cancel only their own timers: a silent third user still expires", () => {
  grant();
  for (let i = 0; i < 2046; i++) {
    world.say(alice, "getaddress bob");
    world.say(bob, "private_answer alice no");
  }
  alice.read();
  bob.read();
  // Her idle timer has the record in the wheel that the granted question had before.
  const carol = world.login("carol");
  world.announce();
  expect(world.ask(alice, "block bob")).toEqual(["joined carol", "denied bob", "ok"]);
  for (let passedMs = 0; passedMs < SILENCE_MS + 1000; passedMs += 1000) {
    world.say(alice, "alive");
    world.say(bob, "alive");
    world.pass(1000);
  }
  expect(carol.read().at(-1)).toBe("goodbye expired");
  expect(bob.read()).toContain("left carol expired");
  expect(world.chat.wheel.armed).toBe(2);
});
