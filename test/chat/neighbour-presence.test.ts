import { beforeEach, expect, test } from "bun:test";
import { NeighbourPresence } from "../../src/chat/neighbour-presence.ts";
import { PRESENCE_DELAY_MS, PRESENCE_GRACE_MS } from "../../src/limits.ts";
import { type TestPeer, World } from "../support/chat.ts";

let world: World;
let alice: TestPeer;
let neighbour: NeighbourPresence;

beforeEach(() => {
  world = new World(["alice", "bob", "carol", "dave"]);
  [alice] = world.online("alice") as [TestPeer];
  neighbour = new NeighbourPresence(world.chat.presence, world.chat.announcements, world.chat.wheel);
});

/** A link begins, and lists these users. */
function linkUp(...names: string[]): void {
  neighbour.linkUp();
  for (const name of names) neighbour.listed([world.account(name)]);
  neighbour.listed([]);
}

/** What alice has received after delayed events were sent. */
function received(): string[] {
  world.pass(2 * PRESENCE_DELAY_MS);
  return alice.read();
}

test("users of another shard are announced and listed, and count as receivers of broadcasts", () => {
  linkUp("carol", "bob");
  expect(received()).toEqual(["joined carol", "joined bob"]);
  expect(world.ask(alice, "online")).toEqual(["ok bob carol"]);
  expect(world.ask(alice, "broadcast hi")).toEqual(["ok 2"]);
  neighbour.left(world.account("bob"), "logout");
  expect(received()).toEqual(["left bob logout"]);
  expect(world.ask(alice, "online")).toEqual(["ok carol"]);
});

test("nothing of the list counts before its end", () => {
  neighbour.linkUp();
  neighbour.listed([world.account("bob")]);
  expect(received()).toEqual([]);
  neighbour.linkLost();
  neighbour.listed([]);
  expect(received()).toEqual([]);
  expect(world.ask(alice, "online")).toEqual(["ok"]);
});

test("users who are back within the grace time are not announced again", () => {
  linkUp("bob", "carol");
  received();
  neighbour.linkLost();
  world.pass(PRESENCE_GRACE_MS / 2);
  expect(world.ask(alice, "online")).toEqual(["ok bob carol"]);
  linkUp("bob");
  neighbour.joined(world.account("carol"));
  world.pass(2 * PRESENCE_GRACE_MS);
  expect(received()).toEqual([]);
  expect(world.ask(alice, "online")).toEqual(["ok bob carol"]);
});

test("users who are not back within the grace time have left", () => {
  linkUp("bob", "carol", "dave");
  received();
  neighbour.linkLost();
  linkUp("bob");
  neighbour.joined(world.account("dave"));
  world.pass(PRESENCE_GRACE_MS - PRESENCE_DELAY_MS);
  expect(received()).toEqual(["left carol disconnected"]);
  expect(world.ask(alice, "online")).toEqual(["ok bob dave"]);
});

test("users of a shard that stays unreachable have left after the grace time", () => {
  linkUp("bob");
  received();
  neighbour.linkLost();
  world.pass(PRESENCE_GRACE_MS - 1000);
  expect(received()).toEqual([]);
  world.pass(1000);
  expect(received()).toEqual(["left bob disconnected"]);
  linkUp("bob");
  expect(received()).toEqual(["joined bob"]);
});

test("blocks hide users of other shards as they hide those of one's own", () => {
  world.account("bob").block(world.account("alice"));
  linkUp("bob", "carol");
  expect(received()).toEqual(["joined carol"]);
  expect(world.ask(alice, "online")).toEqual(["ok carol"]);
  expect(world.ask(alice, "broadcast hi")).toEqual(["ok 1"]);
  neighbour.left(world.account("bob"), "logout");
  expect(received()).toEqual([]);
});

test("a broadcast of another shard goes to all users of this one except those who blocked its sender", () => {
  const [dave] = world.online("dave") as [TestPeer];
  received();
  world.account("alice").block(world.account("bob"));
  world.begin();
  const text = Buffer.from("hello all");
  world.chat.announcements.relayBroadcast(world.account("bob"), text, 0, text.length);
  world.endTurns();
  expect(alice.read()).toEqual([]);
  expect(dave.read()).toEqual(["broadcast bob hello all"]);
});

test("what begins at this shard goes to its neighbours, and what comes from one does not", () => {
  const lines: string[] = [];
  world.chat.announcements.toNeighbours = (head, bytes, start, end) =>
    void lines.push(Buffer.concat([head, bytes.subarray(start, end)]).toString());
  linkUp("bob");
  const carol = world.login("carol");
  world.say(carol, "broadcast hi", "logout");
  expect(lines).toEqual(["joined carol", "broadcast carol hi", "left carol logout"]);
});
