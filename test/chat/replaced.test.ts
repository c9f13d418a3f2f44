import { describe, expect, test } from "bun:test";
import { FOREVER } from "../../src/chat/session.ts";
import { World, type TestPeer } from "../support/chat.ts";
import { Random, seedsFor } from "../support/random.ts";

const TEXT = "x".repeat(3900);
const STORED = 100;
const STEPS = 150;
/** Turns in which everything that waits is moved. */
const TURNS = 300;

/** Bob logs in again and again from two addresses, while alice sends to him and his mailbox is moved and delivered. */
function run(seed: number): void {
  const random = new Random(seed);
  const world = new World(["alice", "bob"], { limits: { requestsPerSecondMax: seed % 3 === 0 ? 5 : 1000 } });
  const { chat } = world;
  let isBusy = false;
  Object.defineProperty(world.store, "isBusy", { get: () => isBusy });
  const [alice] = world.online("alice") as [TestPeer];
  const bob = world.account("bob");
  const peers: TestPeer[] = [];
  for (let i = 0; i < STORED; i++) world.say(alice, `message bob ${i} ${TEXT}`);

  const actions: (() => void)[] = [
    () => {
      const peer = world.connect(`192.0.2.${1 + random.below(2)}`);
      peer.room = random.below(2) === 0 ? Number.POSITIVE_INFINITY : random.below(100_000);
      peers.push(peer);
      const kind = random.below(3) === 0 ? "" : " resumable";
      peer.feed(Buffer.from(`login bob secret${kind}\n${random.below(6) === 0 ? "logout\n" : ""}`));
    },
    () => alice.feed(Buffer.from(`message bob more ${TEXT}\n`)),
    () => {
      const { session } = bob;
      if (session !== null && session.kind !== "plain") chat.ack(session, session.outbox.sent);
    },
    () => {
      const peer = peers[random.below(peers.length + 1)];
      if (peer === undefined || peer.isClosed) return;
      peer.isClosed = true;
      chat.connectionClosed(peer);
    },
    () => void (bob.session !== null && random.below(3) === 0 && chat.end(bob.session, "expired")),
    () => void (isBusy = random.below(3) === 0),
    () => world.pass(random.below(200)),
  ];
  for (let step = 0; step < STEPS; step++) {
    world.begin();
    for (let i = random.below(5); i >= 0; i--) actions[Math.max(0, random.below(actions.length + 3) - 3)]!();
    world.endTurn();
    expect(chat.presence.online.filter(({ account }) => account === bob)).toEqual(bob.session ? [bob.session] : []);
  }

  isBusy = false;
  for (const peer of peers) peer.room = Number.POSITIVE_INFINITY;
  for (let turn = 0; turn < TURNS; turn++) world.pass(64);
  expect(bob.isAwaitingLogin).toBe(false);
  expect(peers.filter((peer) => peer.paused && !peer.isClosed && !peer.closing)).toEqual([]);
  const last = world.connect("192.0.2.3");
  world.say(last, "login bob secret resumable");
  for (let turn = 0; turn < TURNS && bob.waiting > 0; turn++) {
    if (last.session !== null) chat.ack(last.session, last.session.outbox.sent);
    world.pass(64);
  }
  expect([bob.waiting, world.faults]).toEqual([0, []]);
}

test("a user who logs in again and again has one live session, whose mailbox is delivered", () => {
  for (const seed of seedsFor("logins that replace one another", 20)) {
    try {
      run(seed);
    } catch (error) {
      throw new Error(`SEED=${seed}`, { cause: error });
    }
  }
});

test("a login that has waited at another server replaces no session that was asked for later", () => {
  const world = new World(["bob"]);
  world.pass(10_000);
  const login = (ms: number): string => {
    const peer = world.connect();
    Object.assign(peer, { isRelayed: true, waited: { ms, uncertainMs: 0 } });
    return world.ask(peer, "login bob secret")[0]!;
  };
  const busy = "err busy a newer session has begun meanwhile; try again";
  expect(login(1000)).toStartWith("ok ");
  expect(login(2000)).toBe(busy);
  expect(login(500)).toStartWith("ok ");
  world.pass(2000);
  expect(login(3000)).toBe(busy);
  expect(login(1500)).toStartWith("ok ");
  expect(login(0)).toStartWith("ok ");
});

describe("the time that a request has waited does not count for the next one of the connection, after", () => {
  const cases: [what: string, line: string, reply: string][] = [
    ["a wrong password", "login bob wrong", "err wrong_password 2"],
    ["an unknown user", "login nobody secret", "err unknown_user"],
    ["a banned user", "login eve secret", "err banned"],
    ["an unknown option", "login bob secret nonsense", "err bad_request option nonsense"],
    ["an unknown session", `resume ${"t".repeat(22)} 0`, "err unknown_session"],
    ["an invalid line", "login bob", "err bad_request login <user> <password> [option...]"],
  ];

  test.each(cases)("%s", (_what, line, reply) => {
    const world = new World(["bob", "eve"]);
    world.account("eve").bannedUntilMs = FOREVER;
    world.pass(10_000);
    world.login("bob");
    const peer = Object.assign(world.connect(), { isRelayed: true, waited: { ms: 1000, uncertainMs: 0 } });
    expect(world.ask(peer, line)).toEqual([reply]);
    expect(world.ask(peer, "login bob secret")[0]).toStartWith("ok ");
  });
});

test("a login that may have waited while the server stood still replaces no session that was asked for later", () => {
  const world = new World(["bob"]);
  const before = world.connect();
  const relayed = Object.assign(world.connect(), { isRelayed: true, waited: { ms: 1000, uncertainMs: 0 } });
  world.clockMs += 5000;
  expect(world.ask(relayed, "login bob secret")[0]).toStartWith("ok ");
  expect(world.ask(before, "login bob secret")).toEqual(["err busy a newer session has begun meanwhile; try again"]);
  world.pass(2000);
  expect(world.ask(before, "login bob secret")[0]).toStartWith("ok ");
});

test("a login replaces no session that was asked for in the time in which it may have been sent", () => {
  const world = new World(["bob"]);
  world.pass(10_000);
  const login = (ms: number, uncertainMs: number): string => {
    const peer = Object.assign(world.connect(), { isRelayed: true, waited: { ms, uncertainMs } });
    return world.ask(peer, "login bob secret")[0]!;
  };
  const busy = "err busy a newer session has begun meanwhile; try again";
  expect(login(3000, 2500)).toStartWith("ok "); // Asked for 3,000 to 500 ms ago.
  expect(login(1000, 0)).toBe(busy);
  expect(login(5000, 5000)).toBe(busy);
  expect(login(400, 0)).toStartWith("ok ");
});
