import { expect, test } from "bun:test";
import { type TestPeer, World } from "../support/chat.ts";

const HALF_A_SECOND = 500;

test("all other users receive joined", () => {
  const world = new World(["alice", "bob", "carol"]);
  const [alice, bob] = world.online("alice", "bob") as [TestPeer, TestPeer];
  const carol = world.login("carol");
  world.announce();
  expect(alice.read()).toEqual(["joined carol"]);
  expect(bob.read()).toEqual(["joined carol"]);
  expect(carol.read()).toEqual([expect.stringMatching(/^ok /)]);
});

test("all other users receive left with the reason", () => {
  const world = new World(["alice", "bob", "carol", "dave"]);
  const [alice, bob, carol, dave] = world.online("alice", "bob", "carol", "dave") as TestPeer[];
  world.say(bob!, "logout");
  carol!.hangUp();
  dave!.pause();
  world.say(alice!, "alive");
  world.announce();
  expect(alice!.read()).toEqual(["left bob logout", "left carol disconnected", "ok"]);
});

test("joined and left of a user are not sent to users whom that user has blocked", () => {
  const world = new World(["alice", "bob", "carol"]);
  const [alice, bob, carol] = world.online("alice", "bob", "carol") as [TestPeer, TestPeer, TestPeer];
  world.say(alice, "block bob", "logout");
  world.announce();
  expect(bob.read()).toEqual([]);
  expect(carol.read()).toEqual(["left alice logout"]);
  const again = world.login("alice");
  world.announce();
  expect(bob.read()).toEqual([]);
  expect(carol.read()).toEqual(["joined alice"]);
  world.say(again, "unblock bob", "logout");
  world.announce();
  expect(bob.read()).toEqual(["left alice logout"]);
});

test("a blocked user receives no joined and left of the blocking user, who receives those of the blocked one", () => {
  const world = new World(["alice", "bob"]);
  const [alice, bob] = world.online("alice", "bob") as [TestPeer, TestPeer];
  expect(world.ask(alice, "block bob")).toEqual(["ok"]);
  bob.hangUp();
  world.announce();
  expect(alice.read()).toEqual(["left bob disconnected"]);
});

test("presence alone arrives at most half a second late", () => {
  for (let offsetMs = 0; offsetMs < 300; offsetMs += 7) {
    const world = new World(["alice", "bob"], { clockMs: 1000 + offsetMs });
    const [alice] = world.online("alice") as [TestPeer];
    world.pass(offsetMs);
    const bob = world.login("bob");
    world.pass(HALF_A_SECOND);
    expect(alice.read()).toEqual(["joined bob"]);
    bob.hangUp();
    world.pass(HALF_A_SECOND);
    expect(alice.read()).toEqual(["left bob disconnected"]);
  }
});

test("presence is sent together: a hundred logins in one turn cause one output", () => {
  const names = Array.from({ length: 100 }, (_, i) => `user${i}`);
  const world = new World(["alice", ...names]);
  const [alice] = world.online("alice") as [TestPeer];
  for (const name of names) world.login(name);
  expect(alice.read()).toEqual([]);
  world.pass(HALF_A_SECOND);
  expect(alice.read()).toEqual(names.map((name) => `joined ${name}`));
});

test("presence keeps its order with that user's other lines", () => {
  const world = new World(["alice", "bob"]);
  const [alice] = world.online("alice") as [TestPeer];
  const first = world.login("bob");
  world.say(first, "message alice one");
  first.hangUp();
  const second = world.login("bob");
  world.say(second, "broadcast two", "message alice three", "logout");
  world.announce();
  expect(alice.read()).toEqual([
    "joined bob",
    "message bob one",
    "left bob disconnected",
    "joined bob",
    "broadcast bob two",
    "message bob three",
    "left bob logout",
  ]);
});

test("a login receives no presence of the time before it", () => {
  const world = new World(["alice", "bob", "carol"]);
  world.login("bob").hangUp();
  world.login("carol");
  const alice = world.login("alice");
  world.announce();
  expect(alice.read()).toEqual([expect.stringMatching(/^ok /)]);
});
