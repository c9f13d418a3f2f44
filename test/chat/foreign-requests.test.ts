import { beforeEach, describe, expect, test } from "bun:test";
import type { ForeignRequests } from "../../src/chat/foreign-requests.ts";
import { OUTCOMES_MAX, type Limits } from "../../src/limits.ts";
import { Counters } from "../../src/server/counters.ts";
import { Shard } from "../support/shards.ts";
import { World } from "../support/chat.ts";

/** The shard of the users ann and amy, who have no session here. */
const SHARD = 1;

let world: World;
let requests: ForeignRequests;
let counters: Counters;

function begin(limits: Partial<Limits> = {}): void {
  counters = new Counters();
  world = new World(["bob", "bea", "ann", "amy"], { observer: counters, limits });
  requests = world.foreignRequests;
}

beforeEach(() => begin());

/** The neighbour forwards a request, in a turn of its own; the outcome without its LF. */
function receive(from: string, number: number, previous: number, request: string, shard = SHARD): string {
  const line = Buffer.from(`x${request}\n`);
  world.begin();
  const reply = requests.receive(shard, from, number, previous, line, 1, line.length - 1);
  world.endTurns();
  if (typeof reply === "string") return reply;
  const text = Buffer.from(reply).toString();
  expect(text.endsWith("\n")).toBe(true);
  return text.slice(0, -1);
}

function kept(shard = SHARD): [number, string][] {
  return [...requests.kept(shard)].map(([number, reply]) => [number, Buffer.from(reply).toString().trimEnd()]);
}

describe("a message from a user of another shard", () => {
  test("reaches a user who is online, as from a local sender", () => {
    const [bob] = world.online("bob");
    expect(receive("ann", 5, 0, "message bob hello  you")).toBe("ok sent");
    expect(bob!.read()).toEqual(["message ann hello  you"]);
  });

  test("waits in the mailbox of a user who is offline, and comes before newer ones", () => {
    expect(receive("ann", 5, 0, "message bob one")).toBe("ok stored");
    const bea = world.login("bea");
    expect(world.ask(bea, "message bob two").at(-1)).toBe("ok stored");
    expect(receive("amy", 9, 5, "message bob three")).toBe("ok stored");
    const lines = world.login("bob").read();
    expect(lines.filter((line) => line.startsWith("stored")).map((line) => line.replace(/\d{5,}/, "T"))).toEqual([
      "stored ann T one",
      "stored bea T two",
      "stored amy T three",
    ]);
  });

  test("is refused when the recipient is unknown or has blocked the sender, or when the mailbox is full", () => {
    begin({ mailboxMessagesMax: 1, mailboxSharePercent: 100 });
    const [bob] = world.online("bob");
    world.ask(bob!, "block ann");
    expect(receive("ann", 1, 0, "message nobody hello")).toBe("err unknown_user");
    expect(receive("ann", 2, 1, "message bob hello")).toBe("err blocked");
    expect(receive("amy", 3, 2, "message bob hello")).toBe("ok sent");
    expect(receive("ann", 4, 3, "message bea hello")).toBe("ok stored");
    expect(receive("amy", 5, 4, "message bea hello")).toBe("err mailbox_full");
    expect(bob!.read()).toEqual(["message amy hello"]);
  });

  test("is counted once as accepted or refused, however often it is forwarded", () => {
    world.online("bob");
    for (let i = 0; i < 3; i++) {
      receive("ann", 1, 0, "message bob hello");
      receive("ann", 2, 1, "message bea hello");
      receive("ann", 3, 2, "message nobody hello");
    }
    const { messagesSent, messagesStored, messagesRefused } = counters;
    expect([messagesSent, messagesStored, messagesRefused.get("unknown_user")]).toEqual([1, 1, 1]);
  });

  test("changes neither the rate nor the count of invalid lines of a local session", () => {
    const [bob] = world.online("bob");
    const { badLines, received, messagesIn, account, lastActivityMs } = bob!.session!;
    const { tokens } = world.chat.rates.of(account);
    receive("ann", 5, 0, "message bob hello");
    receive("ann", 6, 5, "nonsense");
    expect(bob!.session).toMatchObject({ badLines, received, messagesIn, lastActivityMs });
    expect(world.chat.rates.of(account).tokens).toBe(tokens);
    expect(world.account("ann").allowance).toBeNull();
  });
});

describe("a block from a user of another shard", () => {
  test("takes effect here, is stored, and ends with unblock", () => {
    expect(receive("ann", 1, 0, "block bob")).toBe("ok");
    expect([...world.account("bob").blockedBy]).toEqual([world.account("ann")]);
    expect(world.store.blocks()).toEqual([{ user: "ann", other: "bob" }]);
    expect(receive("ann", 2, 1, "unblock bob")).toBe("ok");
    expect(world.account("bob").blockedBy.size).toBe(0);
    expect(world.store.blocks()).toEqual([]);
  });

  test("is refused for an unknown user", () => {
    expect(receive("ann", 1, 0, "block nobody")).toBe("err unknown_user");
    expect(receive("ann", 2, 1, "unblock nobody")).toBe("err unknown_user");
  });
});

describe("a request that is forwarded again", () => {
  test("gets the outcome of the first time, and has no second effect", () => {
    const [bob] = world.online("bob");
    expect(receive("ann", 5, 0, "message bob hello")).toBe("ok sent");
    expect(receive("ann", 7, 5, "message nobody hello")).toBe("err unknown_user");
    bob!.hangUp();
    expect(receive("ann", 5, 0, "message bob hello")).toBe("ok sent");
    expect(receive("ann", 7, 5, "message nobody hello")).toBe("err unknown_user");
    expect(bob!.read()).toEqual(["message ann hello"]);
    expect(world.account("bob").waiting).toBe(0);
  });

  test("is never answered with ok when its outcome is not kept", () => {
    receive("ann", 5, 0, "message bob one");
    receive("ann", 7, 5, "message bob two");
    expect(requests.answered(SHARD, 5)).toBe(true);
    expect(receive("ann", 5, 0, "message bob one")).toMatch(/^err internal /);
    expect(receive("ann", 6, 5, "message bob never heard")).toMatch(/^err internal /);
    expect(receive("ann", 7, 5, "message bob two")).toBe("ok stored");
    expect(world.account("bob").waiting).toBe(2);
  });
});

describe("the numbers of a neighbour's requests", () => {
  test("have no gap: a request after a missing one is not acted on", () => {
    expect(receive("ann", 5, 3, "message bob hello")).toBe("gap");
    expect(receive("ann", 5, 0, "message bob hello")).toBe("ok stored");
    expect(receive("ann", 9, 8, "message bob hello")).toBe("gap");
    expect(receive("ann", 9, 0, "message bob hello")).toBe("gap");
    expect(requests.heard(SHARD)).toBe(5);
    expect(world.account("bob").waiting).toBe(1);
  });

  test("are those of each neighbour", () => {
    expect(receive("ann", 5, 0, "message bob hello")).toBe("ok stored");
    expect(receive("cat", 5, 0, "message bob hello", 2)).toBe("ok stored");
    expect([requests.heard(1), requests.heard(2), requests.heard(3)]).toEqual([5, 5, 0]);
    expect([kept(1), kept(2), kept(3)]).toEqual([[[5, "ok stored"]], [[5, "ok stored"]], []]);
  });

  test("continue after the one that the neighbour knows to be acted on, when this shard has lost it", () => {
    receive("ann", 5, 0, "message bob hello");
    expect(requests.answered(SHARD, 8)).toBe(false);
    expect(kept()).toEqual([]);
    expect(requests.heard(SHARD)).toBe(8);
    expect(receive("ann", 9, 8, "message bob hello")).toBe("ok stored");
  });
});

describe("outcomes", () => {
  test("are kept in the order of their numbers until the neighbour has confirmed them", () => {
    receive("ann", 2, 0, "message bob one");
    receive("ann", 3, 2, "message nobody two");
    receive("amy", 8, 3, "block bob");
    const all: [number, string][] = [
      [2, "ok stored"],
      [3, "err unknown_user"],
      [8, "ok"],
    ];
    expect(kept()).toEqual(all);
    requests.answered(SHARD, 2);
    expect(kept()).toEqual(all.slice(1));
    requests.answered(SHARD, 1);
    expect(kept()).toEqual(all.slice(1));
    requests.answered(SHARD, 8);
    expect(kept()).toEqual([]);
    expect(requests.heard(SHARD)).toBe(8);
  });

  test("are bounded: a neighbour that forwards more without confirming is refused", () => {
    for (let number = 1; number <= OUTCOMES_MAX; number++) receive("ann", number, number - 1, "message nobody hello");
    const next = OUTCOMES_MAX + 1;
    expect(receive("ann", next, OUTCOMES_MAX, "message bob hello")).toBe("overflow");
    expect(requests.heard(SHARD)).toBe(OUTCOMES_MAX);
    requests.answered(SHARD, 1);
    expect(receive("ann", next, OUTCOMES_MAX, "message bob hello")).toBe("ok stored");
  });
});

describe("a line that is no request which a neighbour forwards", () => {
  const lines = [
    "",
    "nonsense",
    "message",
    "message bob",
    "message  bob x",
    "block",
    "block bob x",
    "online",
    "logout",
  ];
  lines.push("alive", "broadcast x", "login bob secret", "resume token00000000000000000001 0", "message b*b hello");
  test.each(lines)("gets err internal and has no effect: %p", (line) => {
    expect(receive("ann", 1, 0, line)).toMatch(/^err internal/);
    expect(world.account("ann").session).toBeNull();
    expect(receive("ann", 2, 1, "message bob hello")).toBe("ok stored");
  });
});

test("a request of a user of another shard than the neighbour gets err internal and has no effect", () => {
  const bob = new Shard(0);
  const line = Buffer.from("message bob hello");
  const forward = (from: string, number: number): string => {
    const reply = bob.foreignRequests.receive(1, from, number, number - 1, line, 0, line.length);
    return Buffer.from(reply as Uint8Array).toString();
  };
  bob.begin();
  expect(["carol", "bob", "nobody", "alice"].map((from, i) => forward(from, i + 1))).toEqual([
    expect.stringMatching(/^err internal /),
    expect.stringMatching(/^err internal /),
    expect.stringMatching(/^err internal /),
    "ok stored\n",
  ]);
  bob.endTurns();
  expect(bob.account("bob").waiting).toBe(1);
});

test("a fault in a request is reported, and its outcome is err internal", () => {
  const fault = new Error("a fault");
  world.chat.send = () => {
    throw fault;
  };
  expect(receive("ann", 1, 0, "message bob hello")).toBe("err internal");
  expect(world.faults).toEqual([fault]);
  expect(kept()).toEqual([[1, "err internal"]]);
});
