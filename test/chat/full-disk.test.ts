import { describe, expect, test } from "bun:test";
import { type TestPeer, World } from "../support/chat.ts";

/** Takes the room of the journal away; false gives it back. */
function fill(world: World, isFull: boolean): void {
  world.store.hasRoom = () => !isFull;
  // The store checks again at each save, and has no error here.
  const error = isFull ? "the disk refuses: no room" : null;
  Object.defineProperty(world.store, "writeError", { configurable: true, get: () => error, set: () => {} });
}

const REFUSED = "err internal the disk refuses: no room";

describe("while the disk is full", () => {
  test("while the disk is full, messages, blocks and known logins are refused, and other requests succeed", () => {
    const world = new World(["alice", "bob", "carol"]);
    const [alice] = world.online("alice", "bob") as [TestPeer, TestPeer];
    world.ask(alice, "block carol");
    fill(world, true);
    for (const line of ["message bob hello", "block bob", "unblock carol"])
      expect(world.ask(alice, line)).toEqual([REFUSED]);
    expect(world.ask(alice, "alive")).toEqual(["ok"]);
    expect(world.ask(alice, "online")).toEqual(["ok bob"]);
    expect(world.ask(alice, "broadcast hello")).toEqual(["ok 1"]);
    expect(world.ask(alice, "nonsense")).toEqual([expect.stringContaining("err unknown_command")]);
    const carol = world.connect();
    expect(world.ask(carol, "login carol secret resumable")).toEqual([REFUSED]);
    expect(world.ask(carol, "login carol secret")).toEqual([expect.stringContaining("ok ")]);
    expect(world.ask(carol, "logout")).toEqual(["ok"]);
    fill(world, false);
    expect(world.ask(alice, "message carol hello").at(-1)).toBe("ok stored");
  });

  test("while the disk is full, a broadcast of a resumable session is refused, or a crash would repeat it", () => {
    const world = new World(["alice", "bob"]);
    const [bob] = world.online("bob") as [TestPeer];
    const alice = world.connect();
    world.say(alice, "login alice secret resumable");
    alice.read();
    fill(world, true);
    expect(world.ask(alice, "broadcast hello")).toEqual([REFUSED]);
    world.announce();
    expect(bob.read()).toEqual(["joined alice"]);
    expect(world.ask(alice, "alive")).toEqual([expect.stringMatching(/^ok \d+$/)]);
    fill(world, false);
    expect(world.ask(alice, "broadcast hello")).toEqual(["ok 1"]);
    expect(bob.read()).toEqual(["broadcast alice hello"]);
  });

  test("while the disk is full, known sessions get their mailbox later, and plain ones at once", () => {
    const world = new World(["alice", "bob", "carol"]);
    const [alice] = world.online("alice") as [TestPeer];
    world.say(alice, "message bob one");
    world.say(alice, "message carol two");
    fill(world, true);
    const bob = world.connect();
    world.store.accepts = () => true; // The login is: it is about what is fed to the session.
    world.say(bob, "login bob secret resumable");
    world.endTurns();
    expect(bob.read()).toHaveLength(1);
    expect(world.ask(bob, "alive")).toEqual([expect.stringMatching(/^ok \d+$/)]);
    expect(world.login("carol").read().slice(1)).toEqual([expect.stringContaining("stored alice ")]);
    fill(world, false);
    world.pass(100); // A turn, whoever it is for.
    expect(bob.read().join(" ")).toContain("stored alice");
  });
});
