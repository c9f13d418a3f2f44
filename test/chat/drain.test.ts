import { expect, test } from "bun:test";
import { DRAINED_PER_TURN_MAX } from "../../src/limits.ts";
import { TICK_MS } from "../../src/timer-wheel.ts";
import { PASSWORD, World } from "../support/chat.ts";

const DURATION_MS = 10_000;
const BUSY = "err busy the server is shutting down; try again in a moment";

/** Users u0, u1, ... are online in a world that drains; `done` counts the calls at its end. */
function drain(users: number, durationMs = DURATION_MS) {
  const names = Array.from({ length: users }, (_, index) => `u${index}`);
  const world = new World(["late", ...names]);
  const peers = world.online(...names);
  const over = { done: 0 };
  world.begin();
  world.drain(durationMs, () => void over.done++);
  world.endTurns();
  return { world, peers, over };
}

test("a drain ends sessions evenly over its time, each with goodbye shutdown, and none of them with left", () => {
  const { world, peers, over } = drain(100);
  const online: number[] = [];
  for (let second = 1; second < 10; second++) {
    world.pass(1000);
    online.push(world.chat.presence.online.length);
  }
  for (const [index, sessions] of online.entries()) {
    expect(Math.abs(sessions - (90 - 10 * index))).toBeLessThanOrEqual(2);
  }
  expect(over.done).toBe(0);
  world.pass(1000 + 2 * TICK_MS);
  expect(over.done).toBe(1);
  world.chat.shutdown();
  world.endTurns();
  for (const peer of peers) expect(peer.read()).toEqual(["goodbye shutdown"]);
});

test("a drain of one session lets it live until the end of the time", () => {
  const { world, over } = drain(1);
  world.pass(DURATION_MS - TICK_MS);
  expect(world.chat.presence.online.length).toBe(1);
  expect(over.done).toBe(0);
  world.pass(3 * TICK_MS);
  expect(over.done).toBe(1);
});

test("a drain with 0 seconds is over in the next tick", () => {
  const { world, over } = drain(3, 0);
  expect(over.done).toBe(0);
  world.pass(2 * TICK_MS);
  expect(over.done).toBe(1);
});

test("a turn of a drain ends a bounded number of sessions, and turns follow until those that are due have ended", () => {
  const { world } = drain(20 * DRAINED_PER_TURN_MAX, 2 * TICK_MS);
  const { online } = world.chat.presence;
  const ended: number[] = [];
  world.clockMs += TICK_MS;
  world.begin();
  do {
    const before = online.length;
    world.endTurn();
    ended.push(before - online.length);
  } while (ended.at(-1)! > 0);
  expect(Math.max(...ended)).toBe(DRAINED_PER_TURN_MAX);
  expect(online.length).toBeLessThanOrEqual(10 * DRAINED_PER_TURN_MAX);
});

test("during a drain a login gets err busy and its connection is closed; it does not count as failed", () => {
  const { world } = drain(1);
  for (let i = 0; i <= world.chat.limits.failedLoginsPerMinuteMax; i++) {
    const peer = world.login("late", "198.51.100.1");
    expect(peer.read()).toEqual([BUSY]);
    expect(peer.isClosed).toBe(true);
  }
});

test("a login whose password is still being compared when the drain begins gets err busy", async () => {
  const world = new World(["alice"]);
  const verdict = Promise.withResolvers<boolean>();
  world.verify = () => verdict.promise;
  const alice = world.login("alice");
  world.begin();
  world.drain(DURATION_MS, () => {});
  world.endTurns();
  verdict.resolve(true);
  await world.later();
  expect(alice.read()).toEqual([BUSY]);
  expect(world.chat.presence.online.length).toBe(0);
});

test("during a drain sessions can be resumed, and requests are answered; messages to ended sessions are stored", () => {
  const world = new World(["alice", "bob", "carol"]);
  const [alice, phone] = [world.connect(), world.connect()];
  const token = world.ask(alice, `login alice ${PASSWORD} resumable`)[0]!.split(" ")[1]!;
  const callback = world.ask(phone, `login carol ${PASSWORD} callback=2000`)[0]!.split(" ")[1]!;
  world.online("bob");
  world.begin();
  world.drain(DURATION_MS, () => {});
  world.endTurns();
  alice.hangUp();
  const again = world.connect();
  expect(world.ask(again, `resume ${token} 0`)[0]).toBe("ok 0");
  expect(world.ask(world.connect(), `as ${callback} message alice hi`)).toEqual(["ok sent"]);
  world.pass(DURATION_MS / 2);
  const [live] = world.chat.presence.online;
  const ended = ["alice", "bob", "carol"].filter((name) => world.account(name).session === null);
  expect(ended).toHaveLength(1);
  expect(live!.account.name).toBe("alice");
  expect(world.ask(again, `message ${ended[0]} hi`).at(-1)).toBe("ok stored");
});
