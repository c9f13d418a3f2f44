import { beforeEach, describe, expect, test } from "bun:test";
import pino from "pino";
import {
  LINK_ANSWER_MS,
  LINK_BEAT_MS,
  LINK_DIALS_MAX,
  LINK_LINE_BYTES_MAX,
  LINK_RETRY_MAX_MS,
} from "../../src/limits.ts";
import { LINK_RETRY_MIN_MS, LINK_UNANSWERED_MAX, NEIGHBOUR_AWAY_MS, WORK_PER_VISIT } from "../../src/limits.ts";
import { Directory } from "../../src/net/directory.ts";
import { NeighbourLinks } from "../../src/net/neighbour-links.ts";
import type { Owner } from "../../src/net/owner-link.ts";
import { shardOf } from "../../src/protocol/shard.ts";
import { TICK_MS } from "../../src/timer-wheel.ts";
import { World } from "../support/chat.ts";
import { OwnerEnd, SECRET } from "../support/owner-end.ts";
import { Random, seedFor } from "../support/random.ts";
import { Wire } from "../support/simulated-transport.ts";

/** This shard, its neighbour, and how many there are. */
const HOME = 2;
const SHARD = 1;
const SHARDS = 3;
const EPOCH = 7;
const OWNER: Owner = { shard: SHARD, host: "10.0.0.1", port: 6010, epoch: 5 };
const NEXT: Owner = { shard: SHARD, host: "10.0.0.2", port: 6010, epoch: 9 };
/** Users of this shard, and one of the neighbour's. */
const [BOB, BEA] = usersOf(HOME, 2);
const [ANN] = usersOf(SHARD, 1);

function usersOf(shard: number, count: number): string[] {
  const names = Array.from({ length: 100 }, (_, i) => `user${i}`);
  return names.filter((name) => shardOf(Buffer.from(name), 0, name.length, SHARDS) === shard).slice(0, count);
}

let world: World;
let directory: Directory;
let links: NeighbourLinks;
let ends: OwnerEnd[];
let logged: string[];
/** What the other lines became. */
let others: string[];

beforeEach(() => {
  world = new World([BOB!, BEA!], { shards: { home: HOME, count: SHARDS, warn: () => {} } });
  directory = new Directory(SHARDS);
  [ends, logged, others] = [[], [], []];
  links = new NeighbourLinks({
    connections: world.connections,
    requests: world.foreignRequests,
    others: {
      linkUp: (shard) => void others.push(`up ${shard}`),
      linkLost: (shard) => void others.push(`lost ${shard}`),
      receive: (shard, bytes, start, end) => {
        const line = Buffer.from(bytes.subarray(start, end)).toString("latin1");
        if (line === "broadcast fault fault") throw new Error("a fault");
        if (!/^(broadcast|joined|left|present|tell)/.test(line)) return false;
        others.push(`${shard}: ${line}`);
        return true;
      },
    },
    secret: SECRET,
    dial: (owner, events) => void ends.push(new OwnerEnd(owner, events, world)),
    self: { shard: HOME, epoch: EPOCH },
    directory,
    log: pino({ base: null }, { write: (line) => void logged.push(summary(JSON.parse(line))) }),
  });
  links.start();
});

function summary({ event, reason = "" }: Record<string, string>): string {
  return `${event} ${reason}`.trim();
}

function setOwner(owner: Owner | null, epoch = owner?.epoch ?? 0): void {
  world.begin();
  directory.set(SHARD, owner, epoch);
  world.endTurns();
}

function last(): OwnerEnd {
  return ends.at(-1)!;
}

/** A link that is up; the neighbour knows that requests up to `answered` were acted on. */
function linked(answered = 0): OwnerEnd {
  if (ends.length === 0) setOwner(OWNER);
  const end = last();
  end.greetLink();
  end.say(`ok ${answered}\n`);
  return end;
}

/** The neighbour says lines; those that it gets. */
function ask(end: OwnerEnd, ...lines: string[]): string[] {
  end.say(lines.map((line) => `${line}\n`).join(""));
  return end.lines();
}

/** Passes until the next beat is sent; what it acknowledges. */
function acknowledged(end: OwnerEnd): number {
  for (let waitedMs = 0; waitedMs < 2 * LINK_BEAT_MS; waitedMs += TICK_MS) {
    world.pass(TICK_MS);
    const line = end.lines().find((each) => each.startsWith("alive "));
    if (line !== undefined) return Number(line.slice(6));
  }
  throw new Error("no beat");
}

describe("the handshake of a link", () => {
  test("names this shard and its epoch, proves the secret, and says what was heard", () => {
    setOwner(OWNER);
    expect(last().owner).toEqual(OWNER);
    expect(last().greetLink()).toEqual([`link 1 <nonce> ${HOME} ${EPOCH}`, "the right proof", "heard 0"]);
    expect(links.up).toBe(0);
    expect(ask(last(), "ok 0")).toEqual([]);
    expect([links.up, logged, others]).toEqual([1, ["link_up"], [`up ${SHARD}`]]);
  });

  test("leaves no number of a request before its record", async () => {
    linked();
    const saved: (() => void)[] = [];
    world.saves = () => new Promise<void>((resolve) => void saved.push(resolve));
    last().say(`message ${ANN} 3 0 message ${BOB} hello\n`);
    last().closed();
    world.pass(LINK_RETRY_MIN_MS + 2 * TICK_MS);
    const end = last();
    expect(end.greetLink()).toHaveLength(1);
    world.saves = () => true;
    for (const each of saved) each();
    await world.later();
    expect(end.lines().at(-1)).toBe("heard 3");
  });

  test("reports it when the neighbour has outcomes of requests that this shard does not know", () => {
    linked(8);
    expect(logged).toEqual(["link_up", "neighbour_error"]);
    expect(ask(last(), `message ${ANN} 9 8 message ${BOB} hello`)).toEqual(["outcome 9 ok stored"]);
  });
});

describe("a request of the neighbour", () => {
  test("keeps a CR at the end of its text, also when the line arrives in two pieces", () => {
    const end = linked();
    const [bob] = world.online(BOB!);
    end.say(`message ${ANN} 1 0 message ${BOB} one\r\nmessage ${ANN} 2 1 mess`);
    end.say(`age ${BOB} two\r\nbroadcast ${ANN} three\r\n`);
    expect(bob!.read()).toEqual([`message ${ANN} one\r`, `message ${ANN} two\r`]);
    expect(others.at(-1)).toBe(`${SHARD}: broadcast ${ANN} three\r`);
  });

  test("is acted on, and its outcome leaves with the record of its turn", async () => {
    const end = linked();
    const [bob] = world.online(BOB!);
    const saved: (() => void)[] = [];
    world.saves = () => new Promise<void>((resolve) => void saved.push(resolve));
    expect(ask(end, `message ${ANN} 3 0 message ${BOB} hello  you`)).toEqual([]);
    world.saves = () => true;
    saved[0]!();
    await world.later();
    expect(end.lines()).toEqual(["outcome 3 ok sent"]);
    expect(bob!.read()).toEqual([`message ${ANN} hello  you`]);
  });

  test("may come out of its mailbox", () => {
    const end = linked();
    expect(ask(end, `stored ${ANN} 1700000000000 3 0 message ${BEA} hello`)).toEqual(["outcome 3 ok stored"]);
    expect(ask(end, `message ${ANN} 4 3 message nobody hello`)).toEqual(["outcome 4 err unknown_user"]);
  });

  test("is acknowledged only when its outcome was answered", () => {
    const end = linked();
    const [one, two] = [`message ${ANN} 3 0 message ${BOB} one\n`, `message ${ANN} 4 3 message ${BOB} two\n`];
    end.say(`joined ${ANN}\n${one}${two}`);
    const before = `joined ${ANN}\n`.length;
    expect(acknowledged(end)).toBe(before);
    expect([...world.foreignRequests.kept(SHARD)]).toHaveLength(2);
    end.say("ok\n");
    expect([...world.foreignRequests.kept(SHARD)]).toHaveLength(1);
    expect(acknowledged(end)).toBe(before + one.length);
    end.say("ok\nok 12\n");
    expect(acknowledged(end)).toBe(before + one.length + two.length + "ok\nok\nok 12\n".length);
    expect([...world.foreignRequests.kept(SHARD)]).toEqual([]);
  });

  test("is acted on once over several links, each of which begins with the outcomes that were not answered", () => {
    const end = linked();
    const lines = [`message ${ANN} 3 0 message ${BOB} one`, `message ${ANN} 4 3 message ${BOB} two`];
    ask(end, ...lines);
    end.closed();
    world.pass(LINK_RETRY_MIN_MS + 2 * TICK_MS);
    const next = last();
    expect(next.greetLink().at(-1)).toBe("heard 4");
    expect(ask(next, "ok 3")).toEqual(["outcome 4 ok stored"]);
    expect(ask(next, ...lines)).toEqual([expect.stringMatching(/^outcome 3 err internal/), "outcome 4 ok stored"]);
    expect(acknowledged(next)).toBe(0);
    ask(next, "ok", "ok", "ok", "ok 10");
    expect(acknowledged(next)).toBeGreaterThan(lines.join("\n").length);
    expect(ask(next, `message ${ANN} 6 4 message ${BOB} three`)).toEqual(["outcome 6 ok stored"]);
    expect(world.account(BOB!).waiting).toBe(3);
  });

  test("is acted on while the socket takes no outcomes, so that two shards never wait for each other", () => {
    const end = linked();
    end.room = 0;
    for (let n = 1; n <= 1000; n++) end.say(`message ${ANN} ${n} ${n - 1} message ${BOB} hello\n`);
    expect(world.account(BOB!).waiting).toBe(1000);
    expect([end.reading, end.lines()]).toEqual([true, []]);
    end.drain();
    expect(end.lines().filter((line) => line.startsWith("outcome "))).toHaveLength(1000);
  });

  test("waits for a later turn after WORK_PER_VISIT others", () => {
    const end = linked();
    const lines = Array.from({ length: 3 * WORK_PER_VISIT }, (_, i) => `message ${ANN} ${i + 1} ${i} block nobody\n`);
    world.begin();
    end.events.data(Buffer.from(lines.join("")));
    expect(end.reading).toBe(false);
    expect(world.foreignRequests.heard(SHARD)).toBeLessThanOrEqual(WORK_PER_VISIT);
    world.endTurns();
    expect([end.reading, world.foreignRequests.heard(SHARD)]).toEqual([true, lines.length]);
    expect(end.lines()).toHaveLength(lines.length);
  });

  test("may be cut at any byte", () => {
    const random = new Random(seedFor("bytes of a link"));
    const end = linked();
    let bytes = "";
    for (let n = 1; n <= 200; n++) bytes += `message ${ANN} ${n} ${n - 1} message ${BOB} text ${n}\nok\n`.slice(0, -3);
    for (let at = 0; at < bytes.length;) {
      const count = 1 + random.below(40);
      end.say(bytes.slice(at, at + count));
      at += count;
    }
    expect(end.lines().filter((line) => line.endsWith("ok stored"))).toHaveLength(200);
    expect(world.account(BOB!).waiting).toBe(200);
  });
});

test("other lines go to their receiver, and the end of the link too", () => {
  const end = linked();
  ask(end, `present ${ANN}`, "present", `broadcast ${ANN} hello`, `left ${ANN} logout`);
  end.end();
  expect(others.slice(1)).toEqual([
    `1: present ${ANN}`,
    "1: present",
    `1: broadcast ${ANN} hello`,
    `1: left ${ANN} logout`,
    "lost 1",
  ]);
});

describe("a link ends, is logged once, and is dialed again, when", () => {
  const flood = Array.from({ length: LINK_UNANSWERED_MAX + 1 }, () => `message a 1 0 block nobody\n`);
  const cases: [what: string, reason: string, act: (end: OwnerEnd) => void][] = [
    ["the neighbour closes it", "closed", (end) => end.end()],
    ["it is reset", "closed", (end) => end.closed(true)],
    ["a line is unknown", "garbage", (end) => end.say("nonsense\n")],
    ["a line is empty", "garbage", (end) => end.say("\n")],
    ["a line is binary", "garbage", (end) => end.say("\xff\0\n")],
    ["a line is too long", "garbage", (end) => end.say("x".repeat(LINK_LINE_BYTES_MAX + 1))],
    ["a request has no number", "garbage", (end) => end.say(`message ${ANN} message ${BOB} hello\n`)],
    ["a request has no text", "garbage", (end) => end.say(`message ${ANN} 3 0\n`)],
    ["a request has no user", "garbage", (end) => end.say(`message #1 3 0 message ${BOB} hello\n`)],
    ["a request has a higher number before it", "garbage", (end) => end.say(`message ${ANN} 3 3 message ${BOB} x\n`)],
    [
      "a request has a number that cannot be said",
      "garbage",
      (end) => end.say(`message ${ANN} ${10 ** 15} 1 block x\n`),
    ],
    ["an outcome is answered that was not sent", "garbage", (end) => end.say("ok\nok\n")],
    ["an alive is answered that was not sent", "garbage", (end) => end.say("ok 1\n")],
    ["a request jumps ahead", "gap", (end) => end.say(`message ${ANN} 5 3 message ${BOB} hello\n`)],
    ["requests are repeated without an end", "overflow", (end) => end.say(flood.join(""))],
    ["a request is refused", "refused", (end) => end.say("err bad_request outcome\n")],
    ["the neighbour stops", "goodbye", (end) => end.say("goodbye shutdown\n")],
    ["nothing arrives for NEIGHBOUR_AWAY_MS", "silent", () => world.pass(NEIGHBOUR_AWAY_MS + LINK_BEAT_MS + TICK_MS)],
  ];

  test.each(cases)("%s", (_what, reason, act) => {
    const end = linked();
    ask(end, `message ${ANN} 1 0 message ${BEA} before`);
    act(end);
    expect(logged).toEqual(["link_up", `link_lost ${reason}`]);
    expect([end.ended, links.up, others.at(-1)]).toEqual([true, 0, `lost ${SHARD}`]);
    for (let i = 0; i < 3; i++) {
      world.pass(LINK_RETRY_MAX_MS + TICK_MS);
      expect(last()).not.toBe(end);
      linked();
      act(last());
    }
    expect(logged.filter((line) => line.startsWith("link_lost"))).toEqual([`link_lost ${reason}`]);
    expect(world.account(BEA!).waiting).toBe(1);
    world.pass(LINK_RETRY_MAX_MS + TICK_MS);
    linked(1);
    expect(ask(last(), `message ${ANN} 4 1 message ${BOB} hello`)).toEqual(["outcome 4 ok stored"]);
    expect(world.faults).toEqual([]);
  });

  test("it replies to nothing for LINK_ANSWER_MS, although it sends lines", () => {
    const end = linked();
    for (let passedMs = 0; passedMs < LINK_ANSWER_MS; passedMs += LINK_BEAT_MS) {
      expect(logged).toEqual(["link_up"]);
      world.pass(LINK_BEAT_MS);
      end.say(`joined ${ANN}\n`);
    }
    world.pass(2 * LINK_BEAT_MS + TICK_MS);
    expect(logged).toEqual(["link_up", "link_lost unanswered"]);
  });
});

test("a neighbour that takes no outcomes any more loses its link, and the next one has them again", () => {
  const end = linked();
  end.room = 0;
  expect(ask(end, `message ${ANN} 1 0 message ${BEA} hello`)).toEqual([]);
  for (let passedMs = 0; passedMs < LINK_ANSWER_MS + 2 * LINK_BEAT_MS; passedMs += LINK_BEAT_MS) {
    world.pass(LINK_BEAT_MS);
    if (!end.ended) end.say(`joined ${ANN}\n`);
  }
  expect([logged, end.ended]).toEqual([["link_up", "link_lost unanswered"], true]);
  world.pass(LINK_RETRY_MAX_MS + TICK_MS);
  expect(linked().lines()).toEqual(["outcome 1 ok stored"]);
  expect(world.account(BEA!).waiting).toBe(1);
});

test("a fault in a line is reported, and ends the link", () => {
  const end = linked();
  end.say(`broadcast fault fault\nmessage ${ANN} 3 0 message ${BOB} hello\n`);
  expect(world.faults.splice(0)).toEqual([new Error("a fault")]);
  expect([logged, end.ended, world.account(BOB!).waiting]).toEqual([["link_up", "link_lost fault"], true, 0]);
  world.pass(LINK_RETRY_MIN_MS + 2 * TICK_MS);
  expect(ask(linked(), `message ${ANN} 3 0 message ${BOB} hello`)).toEqual(["outcome 3 ok stored"]);
});

describe("an attempt fails, is logged once, and is repeated, when", () => {
  const cases: [what: string, reason: string, act: (end: OwnerEnd) => void][] = [
    ["nobody listens", "unreachable", (end) => end.failed()],
    ["the connection hangs", "silent", () => world.pass(NEIGHBOUR_AWAY_MS + LINK_BEAT_MS + TICK_MS)],
    ["it does not greet", "silent", (end) => (end.connected(), world.pass(NEIGHBOUR_AWAY_MS + LINK_BEAT_MS + TICK_MS))],
    [
      "it does not confirm",
      "silent",
      (end) => (end.greetLink(), world.pass(NEIGHBOUR_AWAY_MS + LINK_BEAT_MS + TICK_MS)),
    ],
    ["it confirms with something else", "garbage", (end) => (end.greetLink(), end.say("ok\n"))],
    ["it confirms a number that cannot be said", "garbage", (end) => (end.greetLink(), end.say(`ok ${10 ** 15}\n`))],
    ["it refuses", "handshake", (end) => (end.connected(), end.say("refused version 2 is needed\n"))],
    ["it refuses later", "refused", (end) => (end.greetLink(), end.say("refused a higher epoch is known\n"))],
    ["it is another shard", "handshake", (end) => end.greetLink({ shard: 0 })],
    ["it has an earlier epoch", "handshake", (end) => end.greetLink({ epoch: OWNER.epoch - 1 })],
    ["it has another secret", "secret", (end) => end.greetLink({ secret: Buffer.from("another") })],
  ];

  test.each(cases)("%s", (_what, reason, act) => {
    setOwner(OWNER);
    for (let i = 0; i < 3; i++) {
      const end = last();
      act(end);
      for (let waitedMs = 0; last() === end && waitedMs < 2 * LINK_RETRY_MAX_MS; waitedMs += TICK_MS) {
        world.pass(TICK_MS);
      }
      expect(ends).toHaveLength(i + 2);
    }
    expect([logged, others]).toEqual([[`link_lost ${reason}`], []]);
  });
});

test("reasons that take turns in an outage are logged once each, and again after a link that has lasted", () => {
  setOwner(OWNER);
  const fail = (act: (end: OwnerEnd) => void): void => {
    const end = last();
    act(end);
    while (last() === end) world.pass(TICK_MS);
  };
  const outage = (): void => {
    for (let i = 0; i < 5; i++) {
      fail((end) => end.failed());
      fail((end) => (end.connected(), end.say("refused version 2 is needed\n")));
    }
  };
  outage();
  expect(logged).toEqual(["link_lost unreachable", "link_lost handshake"]);
  fail((end) => (linked(), end.closed()));
  outage();
  expect(logged.splice(0).slice(2)).toEqual(["link_up", "link_lost closed"]);
  const end = linked();
  for (let passedMs = 0; passedMs <= NEIGHBOUR_AWAY_MS; passedMs += LINK_BEAT_MS) {
    world.pass(LINK_BEAT_MS);
    end.say(`joined ${ANN}\n`);
  }
  fail(() => end.closed());
  outage();
  expect(logged).toEqual(["link_up", "link_lost closed", "link_lost unreachable", "link_lost handshake"]);
});

test("the pause before the next attempt doubles up to LINK_RETRY_MAX_MS, until a link has lasted", () => {
  setOwner(OWNER);
  const pauses: number[] = [];
  const fail = (): void => {
    last().failed();
    const [count, beganMs] = [ends.length, world.clockMs];
    for (let i = 0; ends.length === count && i < 100; i++) world.pass(TICK_MS);
    pauses.push(world.clockMs - beganMs);
  };
  for (let i = 0; i < 6; i++) fail();
  expect(pauses.at(-1)).toBeGreaterThanOrEqual(LINK_RETRY_MAX_MS);
  expect(pauses.at(-1)).toBeLessThanOrEqual(LINK_RETRY_MAX_MS + 2 * TICK_MS);
  expect(pauses[0]).toBeLessThanOrEqual(LINK_RETRY_MIN_MS + 2 * TICK_MS);
  const end = linked();
  for (let passedMs = 0; passedMs <= NEIGHBOUR_AWAY_MS; passedMs += LINK_BEAT_MS) {
    world.pass(LINK_BEAT_MS);
    end.say(`joined ${ANN}\n`);
  }
  end.closed();
  const [count, beganMs] = [ends.length, world.clockMs];
  for (let i = 0; ends.length === count && i < 100; i++) world.pass(TICK_MS);
  expect(world.clockMs - beganMs).toBeLessThanOrEqual(LINK_RETRY_MIN_MS + 2 * TICK_MS);
});

test("while LINK_DIALS_MAX attempts hang, no other one begins, until one of them ends or there is another owner", () => {
  setOwner(OWNER);
  world.pass(LINK_DIALS_MAX * 2 * (NEIGHBOUR_AWAY_MS + LINK_RETRY_MAX_MS));
  expect(ends).toHaveLength(LINK_DIALS_MAX);
  ends[3]!.connected();
  expect([ends[3]!.ended, ends.length]).toEqual([true, LINK_DIALS_MAX + 1]);
  world.pass(2 * (NEIGHBOUR_AWAY_MS + LINK_RETRY_MAX_MS));
  ends[4]!.failed();
  expect(ends).toHaveLength(LINK_DIALS_MAX + 2);
  setOwner(NEXT);
  expect(last().owner).toEqual(NEXT);
  linked();
  expect(links.up).toBe(1);
});

describe("when the directory shows", () => {
  test("another owner, the link to the earlier one ends and the new one is dialed at once", () => {
    const end = linked();
    setOwner(NEXT);
    expect([end.ended, last().owner, logged]).toEqual([true, NEXT, ["link_up", "link_lost replaced"]]);
    expect(last().greetLink()).toHaveLength(3);
  });

  test("a higher epoch without an owner, the link ends, and nobody is dialed before there is one", () => {
    const end = linked();
    setOwner(null, OWNER.epoch);
    expect(end.ended).toBe(false);
    setOwner(null, NEXT.epoch);
    expect(end.ended).toBe(true);
    world.pass(5_000);
    expect(ends).toHaveLength(1);
    setOwner(NEXT);
    expect(ends).toHaveLength(2);
  });

  test("an owner that was known by its own word already, the link stays", () => {
    setOwner(OWNER);
    last().greetLink({ epoch: NEXT.epoch });
    last().say("ok 0\n");
    setOwner({ ...OWNER, epoch: NEXT.epoch });
    expect([ends.length, last().ended, links.up]).toEqual([1, false, 1]);
  });

  test("another owner during an attempt, that one is given up, whatever becomes of it", () => {
    setOwner(OWNER);
    const [first] = ends as [OwnerEnd];
    setOwner(NEXT);
    expect(ends).toHaveLength(2);
    first.connected();
    expect(first.ended).toBe(true);
    world.pass(100);
    expect(ends).toHaveLength(2);
    linked();
    expect(links.up).toBe(1);
  });
});

test("the link of a neighbour that is silent for NEIGHBOUR_AWAY_MS is closed; beats keep it", () => {
  const wire = new Wire({}, world);
  wire.event(() => world.chat.neighbours!.connected(wire.connection, SHARD, 5, 0));
  expect(wire.read()).toEqual(["ok 0", "present"]);
  for (let passedMs = 0; passedMs < 2 * NEIGHBOUR_AWAY_MS; passedMs += LINK_BEAT_MS) {
    world.pass(LINK_BEAT_MS);
    expect(wire.say("alive 0")).toHaveLength(1);
  }
  world.pass(NEIGHBOUR_AWAY_MS);
  expect(wire.hungUp).toBe(false);
  world.pass(LINK_BEAT_MS + TICK_MS);
  expect(wire.hungUp).toBe(true);
});

test("after a stop nothing is dialed, and what was not answered is kept", () => {
  const end = linked();
  ask(end, `message ${ANN} 3 0 message ${BOB} hello`);
  world.begin();
  links.stop();
  world.endTurns();
  setOwner(NEXT);
  world.pass(10_000);
  expect([ends.length, end.ended]).toEqual([1, true]);
  expect([...world.foreignRequests.kept(SHARD)]).toHaveLength(1);
});

test("while no request is taken since the log is slow, requests of neighbours wait too", async () => {
  const end = linked();
  let isCongested = true;
  Object.defineProperty(world.store, "isCongested", { get: () => isCongested });
  let save = (): void => {};
  world.saves = () => new Promise<void>((resolve) => (save = resolve));
  end.say(`joined ${ANN}\nmessage ${ANN} 3 0 message ${BOB} hello\n`);
  expect([end.reading, world.foreignRequests.heard(SHARD)]).toEqual([false, 0]);
  isCongested = false;
  world.saves = () => true;
  save();
  await world.later();
  expect([end.reading, world.foreignRequests.heard(SHARD)]).toEqual([true, 3]);
});
