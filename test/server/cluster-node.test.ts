import { afterEach, describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { CredentialsError, type Credentials } from "../../src/auth/credentials.ts";
import type { OwnershipEnd } from "../../src/cluster/appender.ts";
import { ClusterError, type OwnerInfo } from "../../src/cluster/shared-log.ts";
import { ClusterNode } from "../../src/server/cluster-node.ts";
import { Readiness } from "../../src/server/readiness.ts";
import { StoreError } from "../../src/storage/database.ts";
import { newAdmission } from "../support/cluster-port.ts";
import { ModelledEngine, ModelledLog } from "../support/modelled-log.ts";

const folders: string[] = [];
const nodes: Node[] = [];

afterEach(async () => {
  for (const node of nodes.splice(0)) await node.end();
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true, force: true });
});

function newFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), "heartline-"));
  folders.push(folder);
  return folder;
}

function usersOf(password: string): Credentials {
  return { users: [{ name: "alice", password }], sample: false };
}

interface Line {
  event: string;
  message: string;
}

/** A process of a cluster on a modelled engine. */
class Node {
  readonly log: ModelledLog;
  readonly readiness = new Readiness();
  readonly lines: Line[] = [];
  readonly folder = newFolder();
  /** What its credentials file has. */
  file: Credentials;
  readonly #credentials: Credentials;
  #node: ClusterNode | null = null;

  constructor(engine: ModelledEngine, credentials = usersOf("secret")) {
    this.log = new ModelledLog(engine);
    this.file = this.#credentials = credentials;
    nodes.push(this);
  }

  get node(): ClusterNode {
    return this.#node!;
  }

  async open(): Promise<this> {
    const note = ({ event }: { event: string }, message: string): void => void this.lines.push({ event, message });
    const options = {
      log: { level: "info", info: note, warn: note, error: note, fatal: note },
      readiness: this.readiness,
      credentials: this.#credentials,
      readCredentials: async () => this.file,
      ended: ({ kind, message }: OwnershipEnd) => note({ event: kind }, message),
    };
    const config = { url: "", listen: { host: "127.0.0.1", port: 0 }, direct: null, tls: null, folder: this.folder };
    this.#node = await ClusterNode.open(config, options, async () => this.log);
    return this;
  }

  /** Resolves when it owns the shard. */
  own(): ReturnType<ClusterNode["own"]> {
    return this.node.own(() => {});
  }

  get address(): string {
    return this.node.lines()[1]!.split(" ")[2]!;
  }

  /** Addresses of the spares that it knows. */
  get spares(): string[] {
    return this.node
      .lines()
      .filter((line) => line.startsWith("spare "))
      .map((line) => line.split(" ")[1]!);
  }

  events(): string[] {
    return this.lines.map(({ event }) => event);
  }

  async end(): Promise<void> {
    this.log.resume();
    this.log.isAway = false;
    await this.#node?.release();
    this.#node?.removeFiles();
  }
}

/** The owner's information, as the engine has it. */
function ownerOf(engine: ModelledEngine): OwnerInfo | null {
  return engine.shards[0]!.owner;
}

test("the first process owns the shard, and the next one after a release has what the first one stored", async () => {
  const engine = new ModelledEngine();
  const first = await new Node(engine).open();
  const { store } = (await first.own())!;
  expect(first.readiness.state).toBe("recovering");
  expect(first.events()).toEqual(["spare", "claimed"]);
  expect(first.node.lines()[1]).toMatch(/^node owner 127\.0\.0\.1:\d+ \S+ \d+ 0$/);
  expect(ownerOf(engine)).toMatchObject({ address: first.node.lines()[2]!.split(" ")[2] });
  store.block("alice", "bob");
  await store.save();
  expect(first.node.snapshots!.logBytes).toBe(
    engine
      .records()
      .values()
      .reduce((sum, { length }) => sum + length, 0),
  );
  expect(await first.node.release()).toBe(true);
  expect(ownerOf(engine)!.address).toBe("");
  const second = await new Node(engine).open();
  const owned = (await second.own())!;
  expect(owned.store.blocks()).toEqual([{ user: "alice", other: "bob" }]);
  expect(second.node.shards).toMatchObject([{ shard: 0, isHome: true, epoch: 3 }]);
});

test("a spare is released without touching the shard", async () => {
  const engine = new ModelledEngine();
  const owner = await new Node(engine).open();
  await owner.own();
  const spare = await new Node(engine).open();
  const owned = spare.own();
  expect(spare.readiness.obstacle).toBe("cluster: no owner");
  expect(spare.node.lines()[1]).toMatch(/^node spare 127\.0\.0\.1:\d+ \S+ \d+ -$/);
  expect(await spare.node.release()).toBe(true);
  expect(await owned).toBeNull();
  expect(ownerOf(engine)!.address).not.toBe("");
});

test("a spare is ready while it knows a living owner, and knows whom to relay to", async () => {
  const engine = new ModelledEngine();
  const owner = await new Node(engine).open();
  await owner.own();
  const spare = await new Node(engine).open();
  const { directory } = spare.node;
  const owned = spare.own();
  while (directory.epochOf(0) === 0) await Bun.sleep(1);
  const { host, port } = directory.ownerOf(0)!;
  expect(`${host}:${port}`).toBe(ownerOf(engine)!.address);
  expect([directory.epochOf(0), directory.home]).toEqual([1, null]);
  expect(spare.readiness.obstacle).toBeNull();
  await owner.node.release();
  await owned;
  expect([directory.ownerOf(0), directory.epochOf(0), directory.home]).toEqual([null, 2, 0]);
  expect(spare.readiness.obstacle).toBe("recovering");
});

test("the spares are listed at the owner and at each of them, until one owns a shard", async () => {
  const engine = new ModelledEngine();
  const owner = await new Node(engine).open();
  await owner.own();
  owner.node.serveGateways(...newAdmission());
  const spares = [await new Node(engine).open(), await new Node(engine).open()];
  const owned = spares.map((spare) => spare.own().then(() => spare));
  const addresses = spares.map(({ address }) => address).toSorted();
  for (const each of [owner, ...spares]) while (!Bun.deepEquals(each.spares, addresses)) await Bun.sleep(1);
  expect(owner.node.lines().at(-1)).toMatch(/^spare 127\.0\.0\.1:\d+ \d+\.\d+\.\d+\S* \d{1,4}$/);
  expect([owner, ...spares].map(({ node }) => node.livingSpares)).toEqual([2, 2, 2]);
  await owner.node.release();
  const next = await Promise.race(owned);
  expect(next.spares).toEqual(addresses.filter((address) => address !== next.address));
});

test("a spare without a living owner is not ready", async () => {
  const engine = new ModelledEngine();
  const owner = await new Node(engine).open();
  await owner.own();
  await owner.node.release();
  const spare = await new Node(engine).open();
  spare.log.outcome = () => "lost"; // No claim succeeds.
  const owned = spare.own();
  while (spare.node.shards.length === 0) await Bun.sleep(1);
  expect(spare.readiness.obstacle).toBe("cluster: no owner");
  spare.log.outcome = () => "done";
  await owned;
});

describe("in a cluster of several shards", () => {
  test("each process owns one, and the next is a spare that claims the one that is released", async () => {
    const engine = new ModelledEngine(3);
    const owners = [await new Node(engine).open(), await new Node(engine).open(), await new Node(engine).open()];
    await Promise.all(owners.map((owner) => owner.own()));
    const homes = owners.map(({ node }) => node.directory.home!);
    expect(homes.toSorted()).toEqual([0, 1, 2]);
    expect(owners[0]!.lines.map(({ message }) => message).join("\n")).toContain(`owns shard ${homes[0]}`);
    const spare = await new Node(engine).open();
    const owned = spare.own();
    while (spare.node.shards.length === 0) await Bun.sleep(1);
    expect(spare.readiness.obstacle).toBeNull();
    await owners[1]!.node.release();
    await owned;
    expect(spare.node.directory.home).toBe(homes[1]!);
    expect(engine.shards.map(({ epoch }) => epoch).toSorted()).toEqual([1, 1, 2]);
  });

  test("an owner follows the owners of the others", async () => {
    const engine = new ModelledEngine(2);
    const first = await new Node(engine).open();
    await first.own();
    const other = 1 - first.node.directory.home!;
    const changes: number[] = [];
    first.node.directory.changed.add((shard) => void changes.push(shard));
    const second = await new Node(engine).open();
    await second.own();
    while (!changes.includes(other)) await Bun.sleep(1);
    const { address } = engine.shards[other]!.owner!;
    expect(first.node.directory.ownerOf(other)).toMatchObject({ shard: other, epoch: 1 });
    expect(first.node.lines()).toContainEqual(
      expect.stringMatching(new RegExp(`^shard ${other} ${address} \\S+ 1 1 0 \\d+$`)),
    );
  });

  test("a spare whose disk refuses the working copy releases the shard at once", async () => {
    const engine = new ModelledEngine();
    const spare = await new Node(engine).open();
    rmSync(spare.folder, { recursive: true });
    await expect(spare.own()).rejects.toBeInstanceOf(StoreError);
    expect(ownerOf(engine)!.address).toBe("");
  });
});

test("a process that cannot read the last record is refused at its start and at a claim, and appends nothing", async () => {
  const engine = new ModelledEngine();
  const owner = await new Node(engine).open();
  await owner.own();
  const spare = await new Node(engine).open();
  const owned = spare.own();
  (engine.records() as Map<number, Uint8Array>).get(1)![0] = 9; // As if the owner had a newer version.
  await expect(new Node(engine).open()).rejects.toThrow("the shared log has a record of format 9");
  await owner.node.release();
  await expect(owned).rejects.toThrow("the shared log has a record of format 9");
  await expect(owned).rejects.toBeInstanceOf(ClusterError);
  expect(engine.shards[0]).toMatchObject({ head: 1, epoch: 1 });
});

test("a spare that starts with other users than the living owner is refused, and appends nothing", async () => {
  const engine = new ModelledEngine();
  const owner = await new Node(engine).open();
  await owner.own();
  const other = await new Node(engine, usersOf("other")).open();
  const late = await new Node(engine, usersOf("other")).open();
  late.file = usersOf("secret"); // It was changed after the start.
  const owned = other.own();
  const accepted = late.own();
  await expect(owned).rejects.toThrow(
    /^the owner of shard 0 \(127\.0\.0\.1:\d+\) has other users or passwords .* same credentials file$/,
  );
  await expect(owned).rejects.toBeInstanceOf(ClusterError);
  expect(engine.shards[0]!.epoch).toBe(1);
  await late.node.release();
  expect(await accepted).toBeNull();
});

test("a claimer reads its credentials file again, and keeps its users when the file is invalid", async () => {
  const engine = new ModelledEngine();
  const first = await new Node(engine).open();
  first.file = usersOf("changed");
  expect((await first.own())!.credentials).toBe(first.file);
  const { credentials } = ownerOf(engine)!;
  await first.node.release();
  const second = await new Node(engine).open();
  Object.defineProperty(second, "file", {
    get: () => {
      throw new CredentialsError("cannot read it");
    },
  });
  expect((await second.own())!.credentials).toEqual(usersOf("secret"));
  expect(ownerOf(engine)!.credentials).not.toBe(credentials);
  expect(second.events()).toEqual(["spare", "reload", "claimed"]);
});

test("a reload of the owner publishes the fingerprint of its new users", async () => {
  const engine = new ModelledEngine();
  const owner = await new Node(engine).open();
  await owner.own();
  const before = ownerOf(engine)!.credentials;
  await owner.node.useCredentials(usersOf("new"));
  await owner.node.useCredentials(usersOf("newer"));
  while (ownerOf(engine)!.credentials === before) await Bun.sleep(1);
  expect(ownerOf(engine)!.credentials).toMatch(/^[0-9a-f]{24}$/);
});

test("a deposed owner reports it once, and says who owns the shard", async () => {
  const engine = new ModelledEngine();
  const owner = await new Node(engine).open();
  const { store } = (await owner.own())!;
  const info = { address: "10.0.0.9:6010", version: "1", credentials: "" };
  engine.shards[0]!.claim(1, Buffer.from("another Opened"), info);
  store.block("alice", "bob");
  void store.save();
  while (!owner.events().includes("deposed")) await Bun.sleep(1);
  expect(owner.lines.at(-1)!.message).toContain("(10.0.0.9:6010) owns shard 0 now");
});

test.each(["while it is idle", "when it is stopped"])(
  "an owner finds out that the engine has lost records %s, and releases nothing",
  async (when) => {
    const engine = new ModelledEngine();
    const node = await new Node(engine).open();
    const { store } = (await node.own())!;
    store.block("alice", "bob");
    await store.save();
    engine.lose(1); // An older copy of the engine's data was put back.
    if (when === "when it is stopped") expect(await node.node.release()).toBe(false);
    else while (!node.events().includes("behind")) await Bun.sleep(10);
    expect(node.lines.at(-1)).toMatchObject({
      event: "behind",
      message: expect.stringContaining("its last one is 1, and 2 was acknowledged"),
    });
    expect(ownerOf(engine)!.address).not.toBe("");
  },
);

test("a release that the engine does not answer fails", async () => {
  const engine = new ModelledEngine();
  const owner = await new Node(engine).open();
  await owner.own();
  owner.log.stop();
  expect(await owner.node.release()).toBe(false);
});

test("a data folder with the messages of a single server is refused, and stays as it is", async () => {
  const node = new Node(new ModelledEngine());
  writeFileSync(join(node.folder, "heartline.sqlite"), "messages");
  await expect(node.open()).rejects.toBeInstanceOf(StoreError);
  expect(readdirSync(node.folder)).toEqual(["heartline.sqlite"]);
});

test("the working copy is made anew for each claim, and removed at the end", async () => {
  const engine = new ModelledEngine();
  const node = new Node(engine);
  const copy = join(node.folder, "cluster");
  await node.open();
  await node.own();
  expect(readdirSync(copy)).toContain("heartline.sqlite");
  node.node.removeFiles();
  expect(existsSync(copy)).toBe(false);
  expect(existsSync(node.folder)).toBe(true);
});
