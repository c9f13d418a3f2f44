import { expect, test } from "bun:test";
import { MOVED_BYTES_PER_TURN } from "../../src/limits.ts";
import { World } from "../support/chat.ts";

const MESSAGES = 10;

/** A world in which a resumable session with more messages than move in one turn has just ended; returns the turns. */
function turnsAfterEnd(movesAtOnce: boolean): number {
  const world = new World(["alice", "bob"], { movesAtOnce });
  const [bob] = world.online("bob");
  world.say(world.connect(), "login alice secret resumable");
  for (let i = 0; i < MESSAGES; i++) world.say(bob!, `message alice ${"x".repeat(MOVED_BYTES_PER_TURN / 5)}`);
  world.begin();
  world.chat.end(world.account("alice").session!, "expired");
  let turns = 0;
  world.saves = () => {
    turns++;
    return world.store.save();
  };
  world.endTurns();
  return turns;
}

test("turns follow one another while messages of an ended session move to the mailbox", () => {
  expect(turnsAfterEnd(true)).toBeGreaterThan(1);
});

test("without movesAtOnce, messages of an ended session move only in turns that something else begins", () => {
  expect(turnsAfterEnd(false)).toBe(1);
});
