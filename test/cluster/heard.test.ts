import { afterEach, describe, expect, test } from "bun:test";
import { Database } from "bun:sqlite";
import { rmSync } from "node:fs";
import { SharedJournal } from "../../src/cluster/shared-journal.ts";
import { Snapshots } from "../../src/cluster/snapshots.ts";
import { takeOver } from "../../src/cluster/takeover.ts";
import { Store } from "../../src/storage/store.ts";
import { UNIX_MS, World } from "../support/chat.ts";
import { newFolder, removeFolders } from "../support/folders.ts";
import type { ModelledEngine } from "../support/modelled-log.ts";
import { Random, seedsFor } from "../support/random.ts";
import { ShardOwner } from "../support/shard-owner.ts";

/** The shard of ann. That of bob is the one under test. */
const SHARD = 3;
/** So small that every few requests there is a compaction. */
const SEGMENT_BYTES = 2048;

afterEach(removeFolders);

/** An owner of bob's shard, on the log that all owners of a test share. */
class Owner {
  readonly process: ShardOwner;
  readonly world: World;
  readonly store: Store;
  readonly #snapshots: Snapshots;
  readonly failures: string[] = [];

  private constructor(process: ShardOwner, taken: Awaited<ReturnType<typeof takeOver>>) {
    this.process = process;
    const journal = new SharedJournal(process.appender, () => process.nowMs(), SEGMENT_BYTES, 2);
    this.store = new Store(taken.database, journal, true);
    this.world = new World(["ann", "bob"], { store: this.store, clockMs: process.clockMs });
    process.nowMs = () => this.world.clockMs;
    process.pause = () => this.world.later();
    this.#snapshots = new Snapshots({
      log: process.log,
      shard: 0,
      epoch: process.appender.epoch,
      journal,
      database: taken.database,
      filled: taken,
      published: () => {},
      failed: ({ message }) => void this.failures.push(message),
      logBytesMin: SEGMENT_BYTES,
      copy: async ({ database, target }) => {
        rmSync(target, { force: true });
        using source = new Database(database);
        source.run("VACUUM INTO ?", [target]);
        using copied = new Database(target, { readonly: true });
        return copied.query<{ sequence: number; newest: number }, []>("SELECT * FROM progress").get()!;
      },
    });
  }

  static async start(data?: ModelledEngine): Promise<Owner> {
    const process = new ShardOwner(data);
    expect(await process.claim()).toBe(true);
    const options = { unixMs: UNIX_MS, progress: () => {} };
    return new Owner(process, await takeOver(process.log, 0, process.appender.head, newFolder(), options));
  }

  get engine(): ModelledEngine {
    return this.process.log.data;
  }

  get snapshot(): number {
    return this.engine.shards[0]!.snapshot?.label.sequence ?? 0;
  }

  /** Everything that can happen now happens. */
  async later(): Promise<void> {
    for (let i = 0; i < 8; i++) await this.world.later();
  }

  /** A snapshot is taken when the log has more bytes than the database: so it gets entries that mean nothing. */
  async takeSnapshot(): Promise<void> {
    for (let turn = 0; turn < 3; turn++) {
      this.world.begin();
      for (let i = 0; i < 5000; i++) this.store.acked(this.world.account("ann"), 0);
      this.world.endTurns();
      await this.later();
    }
    this.#snapshots.step(0);
    await this.#snapshots.exclusively(async () => {});
  }

  /** The process is killed: nothing of it reaches the engine any more. */
  kill(): void {
    this.process.log.isAway = true;
  }

  /** What bob has, in the order of arrival. */
  get received(): string[] {
    return this.store.read("bob", 0, 1e9).map(({ from, text }) => `${from} ${Buffer.from(text).toString()}`);
  }
}

interface Forward {
  number: number;
  previous: number;
  request: string;
  /** The first outcome that left bob's shard; empty before. */
  outcome: string;
}

/** The shard of ann: it forwards each request until it has the outcome, as the rules say. */
class Neighbour {
  readonly forwards: Forward[] = [];
  /** The outcomes up to that index are known. */
  known = 0;
  owner: Owner;

  constructor(owner: Owner) {
    this.owner = owner;
  }

  accept(number: number, request: string): void {
    this.forwards.push({ number, previous: this.forwards.at(-1)?.number ?? 0, request, outcome: "" });
  }

  /** A link begins: its handshake, and all outcomes that are kept. */
  connect(owner: Owner): void {
    this.owner = owner;
    const { foreignRequests } = owner.world;
    expect(foreignRequests.answered(SHARD, this.forwards[this.known - 1]?.number ?? 0)).toBe(true);
    const kept = [...foreignRequests.kept(SHARD)];
    const heard = foreignRequests.heard(SHARD);
    const expected = this.forwards.slice(this.known).filter(({ number }) => number <= heard);
    expect(kept.map(([number]) => number)).toEqual(expected.map(({ number }) => number));
    for (const [number, reply] of kept)
      this.#outcome(
        this.forwards.find((each) => each.number === number)!,
        reply,
      );
  }

  /** Forwards a request in the turn that has begun. The outcome arrives when the turn is durable. */
  forward(forward: Forward, arrived: (reply: Uint8Array) => void): void {
    const line = Buffer.from(forward.request);
    const { foreignRequests } = this.owner.world;
    const reply = foreignRequests.receive(SHARD, "ann", forward.number, forward.previous, line, 0, line.length);
    if (typeof reply === "string") throw new Error(`${forward.number} after ${forward.previous} is a ${reply}`);
    arrived(reply);
  }

  #outcome(forward: Forward, reply: Uint8Array): void {
    const text = Buffer.from(reply).toString();
    if (forward.outcome === "") forward.outcome = text;
    expect([forward.number, text]).toEqual([forward.number, forward.outcome]);
  }

  /** Some turns, with all requests from the index `from` on. False: killed at one of them. */
  async forwardFrom(from: number, random: Random, killAtTurn: number): Promise<boolean> {
    const { owner } = this;
    let turns = 0;
    for (let at = from; at < this.forwards.length;) {
      if (turns++ === killAtTurn) owner.process.log.outcome = () => random.pick(["lost", "answer lost"]);
      const outcomes: [Forward, Uint8Array][] = [];
      const writes = owner.process.log.calls.append;
      owner.world.begin();
      for (let i = random.between(1, 6); i > 0 && at < this.forwards.length; i--, at++) {
        const forward = this.forwards[at]!;
        this.forward(forward, (reply) => void outcomes.push([forward, reply]));
      }
      owner.world.endTurns();
      if (turns > killAtTurn) {
        for (let i = 0; owner.process.log.calls.append === writes && i < 100; i++) await owner.world.later();
        owner.kill();
        return false;
      }
      await owner.later();
      for (const [forward, reply] of outcomes) this.#outcome(forward, reply);
      if (random.below(10) < 7) {
        this.known = random.between(this.known, at);
        if (this.known > 0) owner.world.foreignRequests.answered(SHARD, this.forwards[this.known - 1]!.number);
      }
      if (random.below(10) === 0) await owner.takeSnapshot();
    }
    return true;
  }
}

describe.each(seedsFor("heard", 4))("forwarded requests, seed %d", (seed) => {
  test("are acted on once and keep their outcomes, over kills, compactions, snapshots and new links", async () => {
    const random = new Random(seed);
    const neighbour = new Neighbour(await Owner.start());
    let number = 0;
    for (let round = 0; round < 8; round++) {
      for (let i = random.between(0, 40); i > 0; i--) {
        number += random.between(1, 3);
        const request = random.pick(["message bob", "message bob", "message bob", "message nobody", "block"]);
        neighbour.accept(number, request === "block" ? "block bob" : `${request} ${number}`);
      }
      const isAlive = await neighbour.forwardFrom(neighbour.known, random, random.between(0, 20));
      expect(neighbour.owner.failures).toEqual([]);
      if (isAlive && random.below(2) === 0) neighbour.connect(neighbour.owner);
      else {
        neighbour.owner.kill();
        neighbour.connect(await Owner.start(neighbour.owner.engine));
      }
    }
    const { owner } = neighbour;
    await owner.takeSnapshot();
    expect(owner.snapshot).toBeGreaterThan(0);
    expect(await neighbour.forwardFrom(neighbour.known, random, Number.POSITIVE_INFINITY)).toBe(true);
    expect(owner.world.faults).toEqual([]);
    const sent = neighbour.forwards.filter(({ outcome }) => outcome === "ok stored\n");
    expect(owner.received).toEqual(sent.map(({ request }) => request.replace("message bob", "ann")));
    for (const { request, outcome } of neighbour.forwards) {
      const expected = request.startsWith("message nobody") ? "err unknown_user\n" : /^ok( stored)?\n$/;
      expect(outcome).toMatch(expected);
    }
  });
});
