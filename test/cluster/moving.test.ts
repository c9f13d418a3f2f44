/** `heartline cluster import` and `export` over a modelled log. */
import { afterEach, describe, expect, test } from "bun:test";
import { cpSync, mkdirSync, readFileSync, readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { Account } from "../../src/chat/session.ts";
import { exportCluster } from "../../src/cluster/export.ts";
import { importFolder } from "../../src/cluster/import.ts";
import { ClusterError } from "../../src/cluster/shared-log.ts";
import { checkLastRecord, takeOver } from "../../src/cluster/takeover.ts";
import { shardOf } from "../../src/protocol/shard.ts";
import { NOTHING } from "../../src/storage/journal-entry.ts";
import { openStore } from "../../src/storage/recovery.ts";
import { SQL } from "../../src/storage/sql.ts";
import type { Store } from "../../src/storage/store.ts";
import { StoreError } from "../../src/storage/database.ts";
import { Numbers } from "../../src/storage/transfer.ts";
import { Outbox } from "../../src/stream/outbox.ts";
import { UNIX_MS, World } from "../support/chat.ts";
import { newFolder, removeFolders } from "../support/folders.ts";
import { ModelledEngine, ModelledLog } from "../support/modelled-log.ts";
import { MovingClient, type Stage } from "../support/moving-client.ts";
import { Random, seedsFor } from "../support/random.ts";
import { ShardCluster } from "../support/shard-node.ts";
import { INFO, ShardOwner } from "../support/shard-owner.ts";
import { SHARDS, USERS } from "../support/shards.ts";

const OPTIONS = { unixMs: UNIX_MS, progress: (): void => {} };
const AT_ONCE = { ...OPTIONS, sleep: async (): Promise<void> => {} };
const WITHOUT_RATE = { requestsPerSecondMax: 1e9 };
/** They never log in. */
const BANNED: string[] = ["amy", "frank"];
const CHATTING: string[] = USERS.flat().filter((user) => !BANNED.includes(user));

afterEach(removeFolders);

function open(path: string): Store {
  return openStore(path, "process", { salvage: false, ...OPTIONS }).store;
}

function worldOn(path: string, firstToken: number): World {
  return new World(USERS.flat(), { store: open(path), limits: WITHOUT_RATE, firstToken });
}

function embedded(world: World): Stage {
  return { worldOf: () => world, arrive: () => world.later() };
}

/** As a server that is stopped. */
function stop(world: World): void {
  world.begin();
  world.chat.shutdown();
  world.endTurns();
  world.chat.mailboxScheduler.finish();
  world.store.close();
}

/** The folder as it is after the server was killed. */
function killed(path: string): string {
  const copy = join(newFolder(), "data");
  cpSync(path, copy, { recursive: true });
  return copy;
}

/** Names, lengths and contents of all files. */
function contents(folder: string): string[] {
  const names = readdirSync(folder, { recursive: true }) as string[];
  return names.sort().map((name) => {
    const path = join(folder, name);
    return statSync(path).isFile() ? `${name} ${Bun.hash(readFileSync(path))}` : name;
  });
}

function shardOfUser(user: string): number {
  return shardOf(Buffer.from(user), 0, user.length, SHARDS);
}

/** What clients did, and what they must find: each accepted message once, in the order in which they were accepted. */
class Chatting {
  readonly #random: Random;
  readonly #clients = CHATTING.map((name) => new MovingClient(name));
  readonly #accepted = new Map(CHATTING.map((name) => [name, [] as string[]]));
  readonly #blocks = new Set<string>();
  readonly bans = new Map<string, number>();
  #count = 0;

  constructor(random: Random) {
    this.#random = random;
  }

  async run(stage: Stage, steps: number): Promise<void> {
    const random = this.#random;
    for (let i = 0; i < steps; i++) {
      const client = random.pick(this.#clients);
      const other = random.pick(this.#clients);
      const act = random.below(12);
      if (!client.isOnline) {
        if (act < 6) await client.login(stage);
      } else if (act < 6 && client !== other) await this.#say(stage, client, other.name);
      else if (act === 6) client.read(random.below(4));
      else if (act === 7) {
        client.read();
        await client.acknowledge(stage);
      } else if (act === 8) client.end();
      else if (act === 9 && client !== other) await this.#block(stage, client, other.name);
      else if (act === 10) this.#ban(stage, random.pick(BANNED));
      else if (act === 11) {
        await client.ask(stage, "logout");
        client.end();
      }
    }
  }

  /** The servers are stopped or killed. Some clients read what they have before. */
  end(): void {
    for (const client of this.#clients) {
      if (client.isOnline) client.read(this.#random.below(5));
      client.end();
    }
  }

  async #say(stage: Stage, client: MovingClient, to: string): Promise<void> {
    const { name } = client;
    const text = `text ${++this.#count} ${"x".repeat(this.#random.below(200))}`;
    const reply = await client.ask(stage, `message ${to} ${text}`);
    if (this.#blocks.has(`${to} ${name}`)) expect(reply).toBe("err blocked");
    else {
      expect(reply).toMatch(/^ok (sent|stored)$/);
      this.#accepted.get(to)!.push(`${name} ${text}`);
    }
  }

  async #block(stage: Stage, client: MovingClient, other: string): Promise<void> {
    const block = `${client.name} ${other}`;
    const verb = this.#blocks.delete(block) ? "unblock" : "block";
    if (verb === "block") this.#blocks.add(block);
    expect(await client.ask(stage, `${verb} ${other}`)).toStartWith("ok");
  }

  #ban(stage: Stage, user: string): void {
    const world = stage.worldOf(user);
    const untilMs = UNIX_MS + 1e6 + this.#random.below(1e6);
    world.begin();
    world.store.banned(user, untilMs);
    world.endTurns();
    this.bans.set(user, untilMs);
  }

  /** All clients log in, and read everything. */
  async check(stage: Stage, store: Store): Promise<void> {
    expect(blocksOf(store)).toEqual([...this.#blocks].sort());
    expect(new Map(store.bans().map(({ user, untilUnixMs }) => [user, untilUnixMs]))).toEqual(this.bans);
    for (const client of this.#clients) {
      await client.login(stage);
      client.read();
      expect(client.events).toEqual(this.#accepted.get(client.name)!);
    }
  }

  /** The blocks that a shard must know: those of its users, and those against them. */
  blocksAt(shard: number): string[] {
    return [...this.#blocks].filter((block) => block.split(" ").map(shardOfUser).includes(shard)).sort();
  }
}

function blocksOf(store: Store): string[] {
  return store
    .blocks()
    .map(({ user, other }) => `${user} ${other}`)
    .sort();
}

function clusterStage(cluster: ShardCluster): Stage {
  return { worldOf: (user) => cluster.nodes[shardOfUser(user)]!.world, arrive: () => cluster.carry() };
}

function kill(cluster: ShardCluster): void {
  for (const node of cluster.nodes) node.kill();
}

/** The servers are stopped, with what is on its way between them. */
async function release(cluster: ShardCluster): Promise<void> {
  for (const { process } of cluster.nodes) await process.appender.beat({ ...INFO, address: "" });
  kill(cluster);
}

describe("from a server into a cluster and back, each accepted message arrives once and in order, also after=", () => {
  test.each(seedsFor("moving", 8))(
    "seed %d",
    async (seed) => {
      const random = new Random(seed);
      const chatting = new Chatting(random);
      let path = join(newFolder(), "data");
      let firstToken = 1;
      for (let round = 0; round < 2; round++) {
        const world = worldOn(path, firstToken);
        await chatting.run(embedded(world), 60);
        chatting.end();
        if (random.below(2) === 0) stop(world);
        else path = killed(path);

        const engine = new ModelledEngine(SHARDS);
        const before = contents(path);
        await importFolder(new ModelledLog(engine, random.pick([1 << 20, 1000])), path, OPTIONS);
        expect(contents(path)).toEqual(before);
        const cluster = await ShardCluster.start(engine, firstToken);
        for (const { owner, world } of cluster.nodes)
          expect(blocksOf(world.store)).toEqual(chatting.blocksAt(owner.shard));
        await chatting.run(clusterStage(cluster), 40);
        chatting.end();
        await cluster.settle();
        if (random.below(2) === 0) await release(cluster);
        else kill(cluster);

        path = join(newFolder(), "exported");
        await exportCluster(new ModelledLog(engine), path, AT_ONCE);
        firstToken += 100_000_000;
      }
      const world = worldOn(path, firstToken);
      await chatting.check(embedded(world), world.store);
      stop(world);
    },
    60_000,
  );
});

const TOKEN = "t".repeat(22);

/** A folder with a message for each user, and one of everything else. */
function smallFolder(): string {
  const path = join(newFolder(), "data");
  const store = open(path);
  for (const user of USERS.flat()) {
    const number = store.newNumber();
    store.stored(user, { number, unixMs: UNIX_MS + number, from: "alice", text: Buffer.from(`for ${user}`) });
  }
  store.block("alice", "bob");
  store.sessionBegan({ number: store.newNumber(), token: TOKEN, user: "bob", resumable: true }, Buffer.from("proof"));
  store.banned("erin", UNIX_MS + 1);
  store.wrongPasswords({ user: "dave", source: "192.0.2.1", count: 2 }, UNIX_MS + 2);
  store.loggedIn(new Account("carol"), UNIX_MS - 3, "192.0.2.2");
  store.save();
  store.close();
  return path;
}

/** The users of a shard that have their message, when a server takes the shard over. */
async function usersAt(engine: ModelledEngine, shard: number): Promise<string[]> {
  const log = new ModelledLog(engine);
  const { head } = await log.state(shard);
  const { database } = await takeOver(log, shard, head, newFolder(), OPTIONS);
  const users = database.query<{ user: string }, []>(SQL.selectAllMessages).all();
  return users.map(({ user }) => user);
}

async function refused(promise: Promise<unknown>): Promise<string> {
  const error = await promise.then(
    () => null,
    (error) => error,
  );
  expect(error).toBeInstanceOf(StoreError);
  expect(error.message).not.toContain("\n");
  return error.message;
}

describe("an import", () => {
  test("that is cut off at any write to the engine is never served in part, and can be repeated", async () => {
    const path = smallFolder();
    let cuts = 0;
    for (let isCut = true; isCut; cuts++) {
      const engine = new ModelledEngine(SHARDS);
      const log = new ModelledLog(engine);
      let left = cuts;
      log.outcome = () => {
        if (left-- === 0) throw new ClusterError("cut off");
        return "done";
      };
      isCut = await importFolder(log, path, OPTIONS).then(
        () => false,
        () => true,
      );
      const states = await log.states();
      const isServed = await Promise.all(
        states.map((state, shard) =>
          checkLastRecord(log, shard, state).then(
            () => state.head > 0,
            () => false,
          ),
        ),
      );
      if (isServed.includes(true)) {
        for (const [shard, users] of USERS.entries()) expect(await usersAt(engine, shard)).toEqual([...users]);
      }
      log.outcome = () => "done";
      expect(await importFolder(log, path, OPTIONS)).toEqual({ messages: 8, sessions: 1, blocks: 1, bans: 1 });
      for (const [shard, users] of USERS.entries()) {
        await checkLastRecord(log, shard, await log.state(shard));
        expect(await usersAt(engine, shard)).toEqual([...users]);
      }
    }
    expect(cuts).toBe(3 * SHARDS + 1); // Claim, snapshot and release of each shard.
  }, 60_000);

  test("that was cut off in its last step is completed also when a server owns one of the shards", async () => {
    const path = smallFolder();
    const log = new ModelledLog(new ModelledEngine(SHARDS));
    let beats = 0;
    log.outcome = (write) => {
      if (write === "beat" && ++beats === 2) throw new ClusterError("cut off");
      return "done";
    };
    await refused(importFolder(log, path, OPTIONS));
    const owner = new ShardOwner(log.data);
    expect(await owner.claim()).toBe(true);
    await expect(checkLastRecord(log, 1, await log.state(1))).rejects.toThrow(/was cut off; repeat .* cluster import/);
    expect(await importFolder(log, path, OPTIONS)).toBeNull();
    await checkLastRecord(log, 1, await log.state(1));
    expect(await usersAt(log.data, 1)).toEqual([...USERS[1]]);
    expect((await log.state(0)).epoch).toBe(owner.appender.epoch);
  });

  test("is refused when a server has owned a shard, and changes nothing", async () => {
    const owner = new ShardOwner(new ModelledEngine(SHARDS), undefined, 1);
    await owner.claim();
    const before = await owner.log.states();
    expect(await refused(importFolder(owner.log, smallFolder(), OPTIONS))).toBe(
      "cannot import into this cluster: a server has owned shard 1 already, and nothing was changed; " +
        "create a new cluster for the import",
    );
    expect(await owner.log.states()).toEqual(before);
  });

  test("is refused while a server uses the folder, and for a folder that has no messages of a server", async () => {
    const log = new ModelledLog(new ModelledEngine(SHARDS));
    const path = join(newFolder(), "data");
    const store = open(path);
    expect(await refused(importFolder(log, path, OPTIONS))).toBe(
      `cannot import ${path}: a server uses it; stop that one`,
    );
    store.close();
    const empty = newFolder();
    expect(await refused(importFolder(log, empty, OPTIONS))).toBe(
      `cannot import ${empty}: it is not a data folder, since it has no heartline.sqlite; give the folder of --data`,
    );
    expect(await refused(importFolder(log, join(empty, "none"), OPTIONS))).toBe(
      `cannot import ${empty}/none: there is no such folder; give the folder of --data`,
    );
    expect((await log.states()).map(({ head }) => head)).toEqual([0, 0]);
    expect(readdirSync(empty)).toEqual([]);
  });

  test("is refused for a damaged folder and for the backup of a shard with requests, and changes nothing", async () => {
    const log = new ModelledLog(new ModelledEngine(SHARDS));
    const path = join(newFolder(), "data");
    const store = open(path);
    store.stored("#1", { number: store.newNumber(), unixMs: UNIX_MS, from: "bob", text: Buffer.from("1 0 block al") });
    store.save();
    store.close();
    expect(await refused(importFolder(log, path, OPTIONS))).toStartWith(
      `cannot import ${path}: it is the backup of a shard, with requests for users of other shards`,
    );
    const damaged = killed(smallFolder());
    await Bun.write(join(damaged, "journal", "last"), "x");
    expect(await refused(importFolder(log, damaged, OPTIONS))).toStartWith(
      `cannot import ${damaged}: the journal ${damaged}/journal is damaged: `,
    );
    expect((await log.states()).map(({ head }) => head)).toEqual([0, 0]);
  });
});

describe("an export", () => {
  async function imported(): Promise<ModelledLog> {
    const log = new ModelledLog(new ModelledEngine(SHARDS));
    await importFolder(log, smallFolder(), OPTIONS);
    return log;
  }

  test("of a cluster without a server since the import has everything", async () => {
    const target = join(newFolder(), "out");
    const moved = await exportCluster(await imported(), target, AT_ONCE);
    expect(moved).toEqual({ messages: 8, sessions: 1, blocks: 1, bans: 1 });
    expect(readdirSync(target)).toEqual(["heartline.sqlite"]);
    const store = open(target);
    expect(store.endedSession(TOKEN)).toMatchObject({ user: "bob", resumable: true, endedUnixMs: UNIX_MS });
    expect(Buffer.from(store.proof("bob", TOKEN)).toString()).toBe("proof");
    expect(store.blocks()).toEqual([{ user: "alice", other: "bob" }]);
    expect(store.bans()).toEqual([{ user: "erin", untilUnixMs: UNIX_MS + 1 }]);
    expect(store.lockouts()).toEqual([{ user: "dave", source: "192.0.2.1", count: 2, untilUnixMs: UNIX_MS + 2 }]);
    expect(store.lastLogin("carol")).toEqual({ unixMs: UNIX_MS - 3, address: "192.0.2.2" });
    for (const user of USERS.flat())
      expect(store.read(user, 0, 1).map(({ text }) => Buffer.from(text).toString())).toEqual([`for ${user}`]);
    store.close();
  });

  test("has the positions of a client in the middle of a run of messages", async () => {
    const path = join(newFolder(), "data");
    const before = open(path);
    const outbox = new Outbox({ markDirty: () => {} }, false);
    const [alice, session] = [new Account("alice"), before.newNumber()];
    before.sessionBegan({ number: session, token: TOKEN, user: "alice", resumable: true }, NOTHING);
    const positions: number[] = [];
    for (const text of ["one", "two", "three"]) {
      const number = before.newNumber();
      before.stored("bob", { number, unixMs: UNIX_MS, from: "dave", text: Buffer.from("of the other shard") });
      outbox.appendMessage(before.newNumber(), UNIX_MS, Buffer.from("message bob "), Buffer.from(text), 0, text.length);
      positions.push(outbox.end);
    }
    before.appended(alice, session, outbox); // One entry of the journal has the three.
    before.save();
    const log = new ModelledLog(new ModelledEngine(SHARDS));
    await importFolder(log, killed(path), OPTIONS);
    const target = join(newFolder(), "out");
    await exportCluster(log, target, AT_ONCE);
    const store = open(target);
    const numbers = store.read("alice", 0, 1e6).map(({ number }) => number);
    expect(numbers).toHaveLength(3);
    const { number } = store.endedSession(TOKEN)!;
    expect(positions.map((position) => store.lastDelivered(number, position))).toEqual(numbers);
    expect(positions.map((position) => store.lastDelivered(number, position - 1))).toEqual([
      expect.any(Number),
      ...numbers.slice(0, 2),
    ]);
    expect(store.lastDelivered(number, positions[0]! - 1)).toBeLessThan(numbers[0]!);
    store.close();
  });

  test("of a new cluster is an empty data folder", async () => {
    const target = join(newFolder(), "out");
    await exportCluster(new ModelledLog(new ModelledEngine(SHARDS)), target, AT_ONCE);
    const store = open(target);
    expect(store.waiting()).toEqual([]);
    expect(store.newNumber()).toBe(1);
    store.close();
  });

  test("is refused while a server owns a shard, and when one does before the end", async () => {
    const log = await imported();
    const folder = newFolder();
    const target = join(folder, "out");
    const start = (): Promise<boolean> => new ShardOwner(log.data, undefined, 1).claim();
    let isStarted = false;
    const progress = (): void => {
      if (!isStarted) void start();
      isStarted = true;
    };
    const reason = `cannot export to ${target}: the server 10.0.0.1:6010 uses shard 1; stop all servers of the cluster first`;
    expect(await refused(exportCluster(log, target, { ...AT_ONCE, progress }))).toBe(reason);
    const owner = new ShardOwner(log.data);
    const beat = async (): Promise<void> => {
      await owner.claim();
      await owner.appender.beat();
    };
    expect(await refused(exportCluster(log, target, { ...AT_ONCE, sleep: beat }))).toContain("uses shard 0; stop all");
    expect(readdirSync(folder)).toEqual([]);
  });

  test("claims a shard whose owner is silent, which then is deposed", async () => {
    const log = await imported();
    const owner = new ShardOwner(log.data);
    await owner.claim();
    await exportCluster(log, join(newFolder(), "out"), AT_ONCE);
    void owner.append("it was only paused");
    for (let i = 0; i < 50; i++) await Bun.sleep(0);
    expect(owner.ends).toMatchObject([{ kind: "deposed" }]);
    expect((await log.states()).map(({ owner }) => owner!.address)).toEqual(["", ""]);
  });

  test("is refused where something exists, and without an import that is complete", async () => {
    const log = await imported();
    const target = join(newFolder(), "out");
    mkdirSync(target);
    expect(await refused(exportCluster(log, target, AT_ONCE))).toBe(
      `cannot export to ${target}: it exists already; give the path of a new folder`,
    );
    log.outcome = (write) => {
      if (write === "publish") throw new ClusterError("cut off");
      return "done";
    };
    await refused(importFolder(log, smallFolder(), OPTIONS));
    expect(await refused(exportCluster(log, `${target}2`, AT_ONCE))).toContain("was cut off; repeat ");
  });

  test("is refused while a shard has not acted on a request of another one", async () => {
    const cluster = await ShardCluster.start();
    const [alice, bob] = [new MovingClient("alice"), new MovingClient("bob")];
    const stage = clusterStage(cluster);
    await alice.login(stage);
    await bob.login(stage);
    expect(await alice.ask(stage, "message bob first")).toBe("ok sent");
    cluster.pipe(0, 1).isFull = true; // Of shard 1 to shard 0.
    await expect(alice.ask(stage, "message bob second")).rejects.toThrow("message bob second");
    await release(cluster);
    const target = join(newFolder(), "out");
    expect(await refused(exportCluster(new ModelledLog(cluster.engine), target, AT_ONCE))).toBe(
      `cannot export to ${target}: 1 request waits in shard 1 for shard 0; start the servers of the cluster, ` +
        "and stop them again when they are connected with each other",
    );
  });

  test("has the effect of a request once when only its reply is missing", async () => {
    const cluster = await ShardCluster.start();
    const alice = new MovingClient("alice");
    const stage = clusterStage(cluster);
    await alice.login(stage);
    await cluster.settle();
    const wire = alice.ask({ ...stage, arrive: () => cluster.later() }, "message bob hi");
    await wire.catch(() => {});
    const pipe = cluster.pipe(0, 1);
    while (pipe.stepQ()) await cluster.later(); // Shard 0 acts on it, and its outcome never arrives.
    expect(pipe.toP.some((line) => line.startsWith("outcome "))).toBe(true);
    await release(cluster);
    const target = join(newFolder(), "out");
    expect(await exportCluster(new ModelledLog(cluster.engine), target, AT_ONCE)).toMatchObject({ messages: 1 });
    const store = open(target);
    expect(store.read("bob", 0, 1e6).map(({ from, text }) => `${from} ${Buffer.from(text)}`)).toEqual(["alice hi"]);
    expect(store.waiting()).toEqual([{ user: "bob", from: "alice", messages: 1, bytes: 2 }]);
    store.close();
  });
});

test("new numbers compare with those of the mailbox as the old ones did", () => {
  const random = new Random(1);
  for (let run = 0; run < 200; run++) {
    const old = [...new Set(Array.from({ length: random.below(10) }, () => 1 + random.below(30)))].sort(
      (a, b) => a - b,
    );
    const numbers = new Numbers(random.below(100), old);
    for (let any = 0; any < 40; any++)
      for (const waiting of old) expect(numbers.of(waiting) <= numbers.of(any)).toBe(waiting <= any);
    expect(new Set(old.map((each) => numbers.of(each))).size).toBe(old.length);
  }
});
