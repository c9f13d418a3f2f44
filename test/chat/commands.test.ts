import { describe, expect, test } from "bun:test";
import { PASSWORD, type TestPeer, UNIX_MS, World } from "../support/chat.ts";
import { Random, seedFor } from "../support/random.ts";

const LOGGED_IN = /^ok token\d{20} 35$/;

test.each([
  ["message bob again", [/^ok sent$/], ["message alice again"]],
  ["message bob  two spaces ", [/^ok sent$/], ["message alice  two spaces "]],
  ["message bob ", [/^err bad_request/], []],
  ["message bob", [/^err bad_request/], []],
  ["message bobby hi", [/^err unknown_user$/], []],
  ["message bo hi", [/^err unknown_user$/], []],
  ["message BOB hi", [/^err unknown_user$/], []],
  ["Message bob hi", [/^err unknown_command$/], []],
])("after a message to bob, %p is a request like any other", (line, replies, received) => {
  const world = new World(["alice", "bob"]);
  const [alice, bob] = world.online("alice", "bob");
  expect(world.ask(alice!, "message bob first")).toEqual(["ok sent"]);
  bob!.read();
  expect(world.ask(alice!, line)).toEqual(replies.map((reply) => expect.stringMatching(reply)));
  expect(bob!.read()).toEqual(received);
});

test("messages to the same user follow what happens to that user", () => {
  const world = new World(["alice", "bob"]);
  const [alice, bob] = world.online("alice", "bob");
  expect(world.ask(alice!, "message bob one")).toEqual(["ok sent"]);
  world.say(bob!, "block alice");
  expect(world.ask(alice!, "message bob two")).toEqual(["err blocked"]);
  world.say(bob!, "unblock alice");
  world.say(bob!, "logout");
  world.announce();
  alice!.read();
  expect(world.ask(alice!, "message bob three")).toEqual(["ok stored"]);
  world.begin();
  world.chat.remove(world.account("bob"));
  world.endTurns();
  world.announce();
  alice!.read();
  expect(world.ask(alice!, "message bob four")).toEqual(["err unknown_user"]);
  world.chat.accounts.add("bob", "new");
  expect(world.ask(alice!, "message bob five")).toEqual(["ok stored"]);
});

describe("before login", () => {
  test.each([
    ["", /^err bad_request/],
    ["nonsense", /^err unknown_command$/],
    ["MESSAGE bob hi", /^err unknown_command$/],
    [" message bob hi", /^err unknown_command$/],
    ["message bob hi", /^err not_logged_in$/],
    ["message", /^err not_logged_in$/],
    ["broadcast hi", /^err not_logged_in$/],
    ["online", /^err not_logged_in$/],
    ["block bob", /^err not_logged_in$/],
    ["unblock bob", /^err not_logged_in$/],
    ["getaddress bob", /^err not_logged_in$/],
    ["private_answer bob yes", /^err not_logged_in$/],
    ["alive", /^err not_logged_in$/],
    ["alive x", /^err not_logged_in$/],
    ["logout", /^err not_logged_in$/],
  ])("%p is answered %p, and the connection lives on", (line, reply) => {
    const world = new World(["alice", "bob"]);
    const peer = world.connect();
    expect(world.ask(peer, line)).toEqual([expect.stringMatching(reply)]);
    expect(world.ask(peer, `login alice ${PASSWORD}`)).toEqual([expect.stringMatching(LOGGED_IN)]);
  });

  test.each([
    "login",
    "login ",
    "login alice",
    "login alice ",
    `login  alice ${PASSWORD}`,
    `login alice  ${PASSWORD}`,
    `login alice ${PASSWORD} `,
    `login alice ${PASSWORD} nonsense`,
    `login alice ${PASSWORD} listen`,
    `login alice ${PASSWORD} listen=`,
    `login alice ${PASSWORD} listen=0`,
    `login alice ${PASSWORD} listen=65536`,
    `login alice ${PASSWORD} listen=-1`,
    `login alice ${PASSWORD} listen=5x`,
    `login alice ${PASSWORD} listen=5000 listen=5001`,
    `login alice ${PASSWORD} LISTEN=5000`,
    `login alice ${PASSWORD}${" x".repeat(40)}`,
    `login nobody${" x".repeat(40)}`,
    `login 127.0.0.1 ${PASSWORD}`,
    `login .alice ${PASSWORD}`,
    `login al..ice ${PASSWORD}`,
    `login al/ice ${PASSWORD}`,
    `login ${"a".repeat(33)} ${PASSWORD}`,
    `login al\xefce ${PASSWORD}`,
  ])("%p is a bad request and counts as no try", (line) => {
    const world = new World(["alice"]);
    const peer = world.connect();
    for (let i = 0; i < 4; i++) expect(world.ask(peer, line)[0]).toMatch(/^err bad_request/);
    expect(world.ask(peer, `login alice ${PASSWORD}`)).toEqual([expect.stringMatching(LOGGED_IN)]);
  });

  test.each(["a", "a".repeat(32), "1.2.3", "1.2.3.4.5", "256.1.1.1", "a.b_c-d", "0"])(
    "a user may be named %p",
    (name) => {
      const world = new World([name]);
      expect(world.ask(world.connect(), `login ${name} ${PASSWORD}`)[0]).toMatch(LOGGED_IN);
    },
  );

  test("a login accepts the option listen=<port>", () => {
    const world = new World(["alice"]);
    expect(world.ask(world.connect(), `login alice ${PASSWORD} listen=65535`)[0]).toMatch(LOGGED_IN);
    expect(world.account("alice").session?.listenPort).toBe(65_535);
  });

  test("the reply to an unknown option shows its first 64 characters only", () => {
    const world = new World(["alice"]);
    const line = `login alice ${PASSWORD} ${"\xff".repeat(4000)}`;
    expect(world.ask(world.connect(), line)).toEqual([
      Buffer.from(`err bad_request option ${"\ufffd".repeat(64)}`).toString("latin1"),
    ]);
  });

  test("user names and passwords are case-sensitive", () => {
    const world = new World(["alice"]);
    expect(world.ask(world.connect(), `login Alice ${PASSWORD}`)).toEqual(["err unknown_user"]);
    expect(world.ask(world.connect(), `login alice ${PASSWORD.toUpperCase()}`)).toEqual(["err wrong_password 2"]);
  });
});

describe("in a session", () => {
  test.each([
    ["", /^err bad_request/],
    ["nonsense", /^err unknown_command$/],
    ["Alive", /^err unknown_command$/],
    ["alive\t", /^err unknown_command$/],
    ["login", /^err already_logged_in$/],
    [`login bob ${PASSWORD}`, /^err already_logged_in$/],
    ["login alice wrong", /^err already_logged_in$/],
    ["message", /^err bad_request/],
    ["message bob", /^err bad_request/],
    ["message bob ", /^err bad_request/],
    ["message  bob hi", /^err bad_request/],
    ["message 10.0.0.1 hi", /^err bad_request/],
    ["message nobody", /^err bad_request/],
    ["message nobody hi", /^err unknown_user$/],
    ["message BOB hi", /^err unknown_user$/],
    ["broadcast", /^err bad_request/],
    ["broadcast ", /^err bad_request/],
    ["online ", /^err bad_request/],
    ["online bob", /^err bad_request/],
    ["block", /^err bad_request/],
    ["block bob carol", /^err bad_request/],
    ["block bo*b", /^err bad_request/],
    ["block nobody", /^err unknown_user$/],
    ["block alice", /^err bad_request/],
    ["unblock", /^err bad_request/],
    ["unblock nobody", /^err unknown_user$/],
    ["unblock bob", /^err not_blocked$/],
    ["unblock alice", /^err not_blocked$/],
    ["alive x", /^err bad_request/],
    ["alive -1", /^err bad_request/],
    ["alive 9007199254740992", /^err bad_request/],
    ["alive 1 2", /^err bad_request/],
    ["logout x", /^err bad_request/],
  ])("%p is answered %p, and the session lives on", (line, reply) => {
    const world = new World(["alice", "bob"]);
    const [alice] = world.online("alice") as [TestPeer];
    expect(world.ask(alice, line)).toEqual([expect.stringMatching(reply)]);
    expect(world.ask(alice, "alive")).toEqual(["ok"]);
  });

  test.each(["alive", "alive 0", "alive 9007199254740991"])("%p in a plain session is answered with ok", (line) => {
    const world = new World(["alice"]);
    const [alice] = world.online("alice") as [TestPeer];
    expect(world.ask(alice, line)).toEqual(["ok"]);
  });

  test("a line over the limit gets one reply whatever its content, and the next line is read", () => {
    const world = new World(["alice"]);
    const [alice] = world.online("alice") as [TestPeer];
    world.say(alice, "x".repeat(5000), "alive", `message alice ${"x".repeat(4096)}`, "alive");
    expect(alice.read()).toEqual(["err line_too_long", "ok", "err line_too_long", "ok"]);
  });
});

describe("message", () => {
  test("a message to an online user arrives at once, and at that user only", () => {
    const world = new World(["alice", "bob", "carol"]);
    const [alice, bob, carol] = world.online("alice", "bob", "carol") as [TestPeer, TestPeer, TestPeer];
    expect(world.ask(alice, "message bob hi there")).toEqual(["ok sent"]);
    expect(bob.read()).toEqual(["message alice hi there"]);
    expect(carol.read()).toEqual([]);
  });

  test("a message passes its text on byte for byte: leading and double spaces, control bytes, invalid UTF-8", () => {
    const world = new World(["alice", "bob"]);
    const [alice, bob] = world.online("alice", "bob") as [TestPeer, TestPeer];
    const everything = Array.from({ length: 256 }, (_, byte) => String.fromCharCode(byte)).join("");
    const text = `  two  spaces ${everything.replace("\n", "")} end `;
    expect(world.ask(alice, `message bob ${text}`)).toEqual(["ok sent"]);
    expect(bob.read()).toEqual([`message alice ${text}`]);
  });

  test("a single space is a valid text of a message", () => {
    const world = new World(["alice", "bob"]);
    const [alice, bob] = world.online("alice", "bob") as [TestPeer, TestPeer];
    expect(world.ask(alice, "message bob  ")).toEqual(["ok sent"]);
    expect(bob.read()).toEqual(["message alice  "]);
  });

  test("a message to an offline user is stored and delivered at the login with the time of its acceptance", () => {
    const world = new World(["alice", "bob"]);
    const [alice] = world.online("alice") as [TestPeer];
    world.pass(5000);
    expect(world.ask(alice, "message bob hi  there")).toEqual(["ok stored"]);
    world.pass(7000);
    expect(world.login("bob").read().slice(1)).toEqual([`stored alice ${UNIX_MS + 5000} hi  there`]);
  });

  test("a message to oneself arrives", () => {
    const world = new World(["alice"]);
    const [alice] = world.online("alice") as [TestPeer];
    expect(world.ask(alice, "message alice hi").toSorted()).toEqual(["message alice hi", "ok sent"]);
  });

  test("messages from one sender to one recipient keep their order among other requests", () => {
    const world = new World(["alice", "bob", "carol"]);
    const [alice, bob, carol] = world.online("alice", "bob", "carol") as [TestPeer, TestPeer, TestPeer];
    for (let i = 0; i < 50; i++) {
      world.say(alice, `message bob ${i}a`, `broadcast ${i}b`, `message bob ${i}c`);
      world.say(carol, `broadcast ${i}`);
    }
    const ofAlice = bob.read().filter((line) => line.includes(" alice "));
    const expected = Array.from({ length: 50 }, (_, i) => [
      `message alice ${i}a`,
      `broadcast alice ${i}b`,
      `message alice ${i}c`,
    ]);
    expect(ofAlice).toEqual(expected.flat());
  });
});

describe("broadcast", () => {
  test("a broadcast reaches all online users except the sender, and the reply has their number", () => {
    const world = new World(["alice", "bob", "carol", "dave"]);
    const [alice, bob, carol] = world.online("alice", "bob", "carol") as [TestPeer, TestPeer, TestPeer];
    expect(world.ask(alice, "broadcast hi  all")).toEqual(["ok 2"]);
    expect(bob.read()).toEqual(["broadcast alice hi  all"]);
    expect(carol.read()).toEqual(["broadcast alice hi  all"]);
    expect(world.login("dave").read()).toHaveLength(1);
  });

  test("a broadcast without receivers is answered with 0", () => {
    const world = new World(["alice"]);
    const [alice] = world.online("alice") as [TestPeer];
    expect(world.ask(alice, "broadcast hi")).toEqual(["ok 0"]);
  });

  test("a broadcast skips users who blocked the sender, and reaches users whom the sender blocked", () => {
    const world = new World(["alice", "bob", "carol", "dave"]);
    const [alice, bob, carol] = world.online("alice", "bob", "carol") as [TestPeer, TestPeer, TestPeer];
    world.say(bob, "block alice");
    world.say(alice, "block carol");
    for (const peer of [alice, bob]) peer.read();
    expect(world.ask(alice, "broadcast hi")).toEqual(["ok 1"]);
    expect(bob.read()).toEqual([]);
    expect(carol.read()).toEqual(["broadcast alice hi"]);
  });

  test("an offline user who blocked the sender does not lower the count", () => {
    const world = new World(["alice", "bob", "carol"]);
    const [alice, bob, carol] = world.online("alice", "bob", "carol") as [TestPeer, TestPeer, TestPeer];
    world.say(bob, "block alice", "logout");
    world.announce();
    alice.read();
    carol.read();
    expect(world.ask(alice, "broadcast hi")).toEqual(["ok 1"]);
  });

  test("many broadcasts in one turn keep their order at each receiver, and skip users who blocked the sender", () => {
    const world = new World(["alice", "bob", "carol"]);
    const [alice, bob, carol] = world.online("alice", "bob", "carol") as [TestPeer, TestPeer, TestPeer];
    expect(world.ask(bob, "block carol")).toEqual(["ok"]);
    world.begin();
    for (let i = 0; i < 100; i++) {
      alice.feed(Buffer.from(`broadcast a${i}\n`));
      carol.feed(Buffer.from(`broadcast c${i}\n`));
      if (i % 10 === 0) alice.feed(Buffer.from(`message bob m${i}\n`));
    }
    world.endTurns();
    const expected = Array.from({ length: 100 }, (_, i) => [
      `broadcast alice a${i}`,
      ...(i % 10 === 0 ? [`message alice m${i}`] : []),
    ]);
    expect(bob.read()).toEqual(expected.flat());
    expect(carol.read().filter((line) => line.startsWith("broadcast"))).toEqual(
      Array.from({ length: 100 }, (_, i) => `broadcast alice a${i}`),
    );
    expect(alice.read().filter((line) => line.startsWith("broadcast"))).toEqual(
      Array.from({ length: 100 }, (_, i) => `broadcast carol c${i}`),
    );
  });
});

describe("online", () => {
  test("online lists the other users in byte order", () => {
    const world = new World(["b", "a", "B", "Z", "a-", "a.", "a0", "aa", "10", "9"]);
    const [asker] = world.online("b", "a", "B", "Z", "a-", "a.", "a0", "aa", "10", "9") as [TestPeer];
    expect(world.ask(asker, "online")).toEqual(["ok 10 9 B Z a a- a. a0 aa"]);
  });

  test("online without other users is answered with ok", () => {
    const world = new World(["alice", "bob"]);
    const [alice] = world.online("alice") as [TestPeer];
    expect(world.ask(alice, "online")).toEqual(["ok"]);
  });

  test("online hides users who blocked the asking user from that user only", () => {
    const world = new World(["alice", "bob", "carol"]);
    const [alice, bob, carol] = world.online("alice", "bob", "carol") as [TestPeer, TestPeer, TestPeer];
    world.say(bob, "block alice");
    bob.read();
    expect(world.ask(alice, "online")).toEqual(["ok carol"]);
    expect(world.ask(carol, "online")).toEqual(["ok alice bob"]);
    expect(world.ask(bob, "online")).toEqual(["ok alice carol"]);
    world.say(bob, "unblock alice");
    expect(world.ask(alice, "online")).toEqual(["ok bob carol"]);
  });

  test("online follows logins and logouts", () => {
    const world = new World(["alice", "bob", "carol"]);
    const [alice, bob] = world.online("alice", "bob") as [TestPeer, TestPeer];
    expect(world.ask(alice, "online")).toEqual(["ok bob"]);
    world.login("carol");
    expect(world.ask(alice, "online")).toContain("ok bob carol");
    bob.hangUp();
    expect(world.ask(alice, "online")).toContain("ok carol");
  });

  test("online is right after any series of logins, logouts, blocks and unblocks", () => {
    const random = new Random(seedFor("online"));
    const names = Array.from({ length: 30 }, (_, i) => `${"abc"[i % 3]}${"x".repeat(i % 7)}${i}`);
    const world = new World(names);
    const peers = new Map(names.map((name) => [name, world.login(name)]));
    for (let step = 0; step < 1500; step++) {
      const [one, other] = [random.pick(names), random.pick(names)];
      const peer = peers.get(one)!;
      if (peer.isClosed) peers.set(one, world.login(one));
      else if (random.oneIn(4)) peer.hangUp();
      else if (random.oneIn(2)) world.say(peer, `${random.oneIn(2) ? "block" : "unblock"} ${other}`);
      else {
        const seen = names.filter((name) => name !== one && !peers.get(name)!.isClosed);
        const shown = seen.filter((name) => !world.account(name).blocks.has(world.account(one))).sort();
        expect(world.ask(peer, "online").at(-1)).toBe(["ok", ...shown].join(" "));
      }
    }
  });

  test("after 10,000 names online ends with the number of further names, without hidden ones", () => {
    const names = Array.from({ length: 10_005 }, (_, i) => `user${String(i).padStart(6, "0")}`);
    const world = new World(["asker", "hider", ...names]);
    const [asker, hider] = world.online("asker", "hider") as [TestPeer, TestPeer];
    world.say(hider, "block asker");
    for (const name of names.slice(0, 10_000)) world.login(name);
    asker.read();
    const full = world.ask(asker, "online").at(-1)!;
    expect(full).toBe(`ok ${names.slice(0, 10_000).join(" ")}`);
    for (const name of names.slice(10_000)) world.login(name);
    expect(world.ask(asker, "online").at(-1)).toBe(`${full} +5`);
    const last = world.connect();
    world.say(last, `login ${names.at(-1)} secret`);
    last.read();
    expect(world.ask(last, "online").at(-1)).toBe(`ok asker hider ${names.slice(0, 9_998).join(" ")} +6`);
  });
});

describe("block and unblock", () => {
  test("messages of a blocked user are refused, and messages to that user are not", () => {
    const world = new World(["alice", "bob"]);
    const [alice, bob] = world.online("alice", "bob") as [TestPeer, TestPeer];
    expect(world.ask(alice, "block bob")).toEqual(["ok"]);
    expect(world.ask(bob, "message alice hi")).toEqual(["err blocked"]);
    expect(world.ask(alice, "message bob hi")).toEqual(["ok sent"]);
    expect(bob.read()).toEqual(["message alice hi"]);
    expect(alice.read()).toEqual([]);
  });

  test("blocks apply while either user is offline", () => {
    const world = new World(["alice", "bob"]);
    const [alice] = world.online("alice") as [TestPeer];
    expect(world.ask(alice, "block bob")).toEqual(["ok"]);
    expect(world.ask(alice, "logout")).toEqual(["ok"]);
    const bob = world.login("bob");
    bob.read();
    expect(world.ask(bob, "message alice hi")).toEqual(["err blocked"]);
    const again = world.login("alice");
    again.read();
    expect(world.ask(again, "block bob")).toEqual(["err already_blocked"]);
    expect(world.ask(again, "unblock bob")).toEqual(["ok"]);
    expect(world.ask(bob, "message alice hi")).toContain("ok sent");
  });

  test("a second block or unblock is refused", () => {
    const world = new World(["alice", "bob"]);
    const [alice] = world.online("alice") as [TestPeer];
    world.say(alice, "block bob", "block bob", "unblock bob", "unblock bob", "block bob");
    expect(alice.read()).toEqual(["ok", "err already_blocked", "ok", "err not_blocked", "ok"]);
  });

  test("block and unblock send no event to any user", () => {
    const world = new World(["alice", "bob"]);
    const [alice, bob] = world.online("alice", "bob") as [TestPeer, TestPeer];
    world.say(alice, "block bob", "unblock bob");
    world.announce();
    expect(alice.read()).toEqual(["ok", "ok"]);
    expect(bob.read()).toEqual([]);
  });

  test("a block does not affect messages that were accepted before", () => {
    const world = new World(["alice", "bob", "carol"]);
    const [bob, carol] = world.online("bob", "carol") as [TestPeer, TestPeer];
    world.say(bob, "message alice stored before", "message carol sent before");
    carol.room = 0;
    world.say(bob, "message carol waiting before");
    world.say(carol, "block bob");
    const alice = world.login("alice");
    expect(world.ask(alice, "block bob")).toContainEqual(expect.stringMatching(/^stored bob \d+ stored before$/));
    carol.take();
    expect(carol.read().filter((line) => line.startsWith("message"))).toEqual([
      "message bob sent before",
      "message bob waiting before",
    ]);
  });

  test("a message or block that the store cannot take is refused and has no effect", () => {
    const world = new World(["alice", "bob"]);
    const [alice, bob] = world.online("alice", "bob") as [TestPeer, TestPeer];
    world.store.block = () => {
      throw new Error("a fault");
    };
    expect(world.ask(alice, "block bob")).toEqual(["err internal"]);
    expect(world.faults).toHaveLength(1);
    expect(world.ask(bob, "message alice hi").at(-1)).toBe("ok stored");
  });
});
