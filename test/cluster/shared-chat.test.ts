import { describe, expect, test } from "bun:test";
import { SharedJournal } from "../../src/cluster/shared-journal.ts";
import { WAITING_BYTES_MAX } from "../../src/limits.ts";
import { openDatabase } from "../../src/storage/database.ts";
import { Store } from "../../src/storage/store.ts";
import { TICK_MS } from "../../src/timer-wheel.ts";
import { SILENCE_MS, World } from "../support/chat.ts";
import { OTHER, ShardOwner } from "../support/shard-owner.ts";
import { Wire } from "../support/simulated-transport.ts";

const WITHOUT_RATE = { requestsPerSecondMax: 1e9 };

/** A chat of users u0, u1, … whose log of turns is a shared one, each with a connection. */
class Chat {
  readonly owner: ShardOwner;
  readonly world: World;
  readonly wires: Wire[] = [];

  private constructor(owner: ShardOwner, users: number) {
    this.owner = owner;
    const journal = new SharedJournal(owner.appender, () => owner.nowMs());
    const store = new Store(openDatabase(":memory:", "none"), journal, true);
    const names = Array.from({ length: users }, (_, i) => `u${i}`);
    this.world = new World(names, { store, clockMs: owner.clockMs, limits: WITHOUT_RATE });
    owner.nowMs = () => this.world.clockMs;
    owner.pause = () => this.world.later();
  }

  static async begin(users: number, options = " resumable"): Promise<Chat> {
    const chat = new Chat(await ShardOwner.claimed(), users);
    for (let i = 0; i < users; i++) {
      const wire = new Wire({}, chat.world);
      chat.wires.push(wire);
      wire.say(`login u${i} secret${options}`);
      await chat.later();
      expect(wire.read().at(-1)).toStartWith("ok token");
    }
    chat.world.announce();
    await chat.later();
    for (const wire of chat.wires) wire.read();
    return chat;
  }

  /** Everything that can happen now happens. */
  async later(): Promise<void> {
    for (let i = 0; i < 20; i++) await this.world.later();
  }

  /** Time passes, with the ticks of a server. */
  async pass(ms: number, eachTick: () => void = () => {}): Promise<void> {
    for (let passedMs = 0; passedMs < ms; passedMs += TICK_MS) {
      this.world.pass(TICK_MS);
      eachTick();
      await this.world.later();
    }
  }
}

describe("a chat on a shared log replies", () => {
  test("to a message after its record is stored", async () => {
    const chat = await Chat.begin(2);
    const { owner, world, wires } = chat;
    const { head } = owner.appender;
    owner.log.stop();
    expect(wires[0]!.say("message u1 one")).toEqual([]);
    await chat.later();
    expect([wires[0]!.read(), wires[1]!.read()]).toEqual([[], []]);
    expect(owner.log.data.records().has(head + 1)).toBe(false);
    owner.log.resume();
    await chat.later();
    expect(owner.log.data.records().has(head + 1)).toBe(true);
    expect([wires[0]!.read(), wires[1]!.read()]).toEqual([["ok sent"], ["message u0 one"]]);
    expect(world.faults).toEqual([]);
  });

  test("to turns that end during an append after one append for all of them", async () => {
    const chat = await Chat.begin(2);
    const { owner, wires } = chat;
    const before = owner.log.calls.append;
    owner.log.stop();
    for (let i = 0; i < 10; i++) wires[0]!.say(`message u1 ${i}`);
    owner.log.resume();
    await chat.later();
    expect(owner.log.calls.append - before).toBe(2);
    expect(wires[0]!.read()).toEqual(Array<string>(10).fill("ok sent"));
    expect(wires[1]!.read()).toEqual(Array.from({ length: 10 }, (_, i) => `message u0 ${i}`));
  });

  test("to a request without a record, after a silence, when the engine has confirmed the ownership", async () => {
    const chat = await Chat.begin(1);
    const { owner, world, wires } = chat;
    world.clockMs += 2_001;
    owner.log.stop();
    expect(wires[0]!.say("online")).toEqual([]);
    await chat.later();
    expect(wires[0]!.read()).toEqual([]);
    owner.log.resume();
    await chat.later();
    expect(wires[0]!.read()).toEqual(["ok"]);
  });

  test("to nothing, not even a request without a record, when another process owns the shard", async () => {
    const chat = await Chat.begin(2);
    const { owner, world, wires } = chat;
    await new ShardOwner(owner.log.data).claim(OTHER);
    world.clockMs += 3_000;
    for (const line of ["online", "alive", "message u1 one", "logout"]) wires[0]!.say(line);
    wires[1]!.say("online");
    await chat.pass(5_000);
    expect(wires.map((wire) => wire.read())).toEqual([[], []]);
    expect(owner.ends).toMatchObject([{ kind: "deposed" }]);
  });
});

test("the acknowledgement of a delivery is in the record of the next message, or in one of the next turn", async () => {
  const chat = await Chat.begin(2, "");
  const { owner, wires } = chat;
  await chat.pass(TICK_MS);
  const before = owner.log.calls.append;
  for (let i = 1; i <= 5; i++) {
    wires[0]!.say(`message u1 ${i}`);
    await chat.later();
    expect([wires[0]!.read(), wires[1]!.read()]).toEqual([["ok sent"], [`message u0 ${i}`]]);
    expect(owner.log.calls.append - before).toBe(i);
  }
  await chat.pass(TICK_MS);
  expect(owner.log.calls.append - before).toBe(6);
  await chat.pass(10 * TICK_MS);
  expect(owner.log.calls.append - before).toBe(6);
});

test("before the server stops, a turn with nothing but an acknowledgement is recorded before it counts as saved", async () => {
  const chat = await Chat.begin(2, "");
  const { owner, world, wires } = chat;
  await chat.pass(TICK_MS);
  const before = owner.log.calls.append;
  world.store.ending();
  let appends = 0;
  world.begin();
  wires[0]!.connection.data(Buffer.from("message u1 one\n"));
  const saved = world.turn.saved().then(() => world.turn.saved());
  void saved.then(() => (appends = owner.log.calls.append - before));
  await chat.later();
  expect(appends).toBe(2);
});

test("above WAITING_BYTES_MAX of entries no connection is read until an append is over, and all go on after it", async () => {
  const chat = await Chat.begin(8);
  const { owner, wires } = chat;
  owner.log.stop();
  wires[0]!.say("message u1 first");
  const text = "x".repeat(4000);
  let sent = 0;
  for (let round = 0; round < 100; round++) {
    for (const [i, wire] of wires.entries()) {
      if (!wire.reading) continue;
      wire.feed(`message u${(i + 1) % wires.length} ${text}\n`.repeat(10));
      sent += 10;
    }
  }
  expect(wires.map(({ reading }) => reading)).toEqual(Array<boolean>(8).fill(false));
  expect(sent * text.length).toBeWithin(0.9 * WAITING_BYTES_MAX, 1.5 * WAITING_BYTES_MAX);
  owner.log.resume();
  await chat.later();
  const replies = wires.map((wire) => wire.read().filter((line) => !line.startsWith("message ")));
  expect(replies.flat()).toEqual(Array<string>(sent + 1).fill("ok sent"));
  expect(wires.map(({ reading }) => reading)).toEqual(Array<boolean>(8).fill(true));
});

test("while an append is older than a second no connection is read, and all go on after it", async () => {
  const chat = await Chat.begin(2);
  const { owner, wires } = chat;
  owner.log.stop();
  wires[0]!.say("message u1 one");
  await chat.pass(900);
  wires[0]!.say("message u1 two");
  expect(wires[0]!.reading).toBe(true);
  await chat.pass(200);
  wires[0]!.say("message u1 three");
  expect(wires[0]!.reading).toBe(false);
  owner.log.resume();
  await chat.later();
  expect([wires[0]!.reading, wires[0]!.read()]).toEqual([true, Array<string>(3).fill("ok sent")]);
});

describe("an engine that stops for a minute under load", () => {
  test.each(["stops", "fails"])(
    "and %s, loses, refuses and ends nothing, and everything goes on by itself",
    async (how) => {
      const chat = await Chat.begin(64);
      const { owner, world, wires } = chat;
      let bytes = 0;
      const sent = wires.map(() => 0);
      const load = (): void => {
        for (const [i, wire] of wires.entries()) {
          if (!wire.reading) continue;
          const lines = `message u${(i + 1) % 64} ${sent[i]} ${"x".repeat(1000)}\n`;
          wire.feed(lines);
          bytes += lines.length;
          sent[i]!++;
        }
      };
      await chat.pass(2_000, load);
      for (const wire of wires) wire.connection.session!.outbox.ack(wire.connection.session!.outbox.furthest);
      bytes = 0;
      if (how === "stops") owner.log.stop();
      else owner.log.isAway = true;
      await chat.pass(60_000, load);
      // Besides the limit, each connection has one chunk.
      expect(bytes).toBeLessThan(1.5 * WAITING_BYTES_MAX);
      expect(world.chat.outboxMemory.bytes).toBeLessThan(4 * WAITING_BYTES_MAX);
      expect(wires.filter(({ reading, shut }) => reading || shut)).toEqual([]);
      if (how === "stops") owner.log.resume();
      else owner.log.isAway = false;
      await chat.pass(2_000);
      const all = wires.map((wire) => wire.read());
      const replies = all.map((lines) => lines.filter((line) => !line.startsWith("message ")));
      expect(replies.map((lines) => lines.length)).toEqual(sent);
      expect(new Set(replies.flat())).toEqual(new Set(["ok sent"]));
      const received = all.map((lines) => lines.filter((line) => line.startsWith("message ")).length);
      expect(received).toEqual(sent.map((_, i) => sent[(i + 63) % 64]!));
      expect(wires.every(({ reading }) => reading)).toBe(true);
      expect([world.faults, owner.ends]).toEqual([[], []]);
    },
  );

  test("does not count as silence of the clients, and afterwards they have as much time as before", async () => {
    const chat = await Chat.begin(2);
    const { owner, wires } = chat;
    owner.log.stop();
    await chat.pass(3 * SILENCE_MS);
    owner.log.resume();
    await chat.pass(SILENCE_MS - 10_000);
    expect(wires.map(({ shut }) => shut)).toEqual([false, false]);
    wires[0]!.say("alive");
    await chat.pass(10_000);
    expect(wires.map((wire) => wire.read().at(-1))).toEqual(["left u1 expired", "goodbye expired"]);
  });
});
