import { afterEach, describe, expect, test } from "bun:test";
import { existsSync, readdirSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { Database } from "bun:sqlite";
import { Account } from "../../src/chat/session.ts";
import { SharedJournal } from "../../src/cluster/shared-journal.ts";
import { ShardBackup } from "../../src/cluster/shard-backup.ts";
import { type CopyReply, type CopyRequest, type Published, Snapshots } from "../../src/cluster/snapshots.ts";
import { type TakenOver, takeOver } from "../../src/cluster/takeover.ts";
import { RECORD_COST_BYTES, SNAPSHOT_LOG_BYTES_MIN, SNAPSHOT_RETRY_MS } from "../../src/limits.ts";
import { BackupBusyError } from "../../src/storage/backup.ts";
import { openStore } from "../../src/storage/recovery.ts";
import { Store } from "../../src/storage/store.ts";
import { newFolder, removeFolders } from "../support/folders.ts";
import type { ModelledEngine } from "../support/modelled-log.ts";
import { INFO, ShardOwner, later, resolves } from "../support/shard-owner.ts";

const UNIX_MS = 1_700_000_000_000;
/** So small that a few messages need several. */
const SEGMENT_BYTES = 64 << 10;
const LOG_BYTES_MIN = 1 << 20;

afterEach(removeFolders);

interface Choices {
  /** The shard that the new owner takes over. */
  data?: ModelledEngine;
  copy?: (request: CopyRequest) => Promise<CopyReply>;
  logBytesMin?: number;
}

/** What the thread does. */
async function copyNow({ database, target }: CopyRequest): Promise<CopyReply> {
  rmSync(target, { force: true });
  using source = new Database(database);
  source.run("VACUUM INTO ?", [target]);
  using copied = new Database(target, { readonly: true });
  return copied.query<{ sequence: number; newest: number }, []>("SELECT * FROM progress").get()!;
}

/** The owner of a shard: takeover, store, journal and snapshots on a modelled log. */
class Owner {
  readonly process: ShardOwner;
  readonly taken: TakenOver;
  readonly journal: SharedJournal;
  readonly store: Store;
  readonly snapshots: Snapshots;
  readonly published: Published[] = [];
  readonly failures: string[] = [];
  nowMs = 0;

  private constructor(process: ShardOwner, taken: TakenOver, { copy, logBytesMin = LOG_BYTES_MIN }: Choices) {
    this.process = process;
    this.taken = taken;
    this.journal = new SharedJournal(process.appender, () => process.clockMs, SEGMENT_BYTES, 2);
    this.store = new Store(taken.database, this.journal, true);
    this.snapshots = new Snapshots({
      log: process.log,
      shard: 0,
      epoch: process.appender.epoch,
      journal: this.journal,
      database: taken.database,
      filled: taken,
      published: (snapshot) => void this.published.push(snapshot),
      failed: ({ message }) => void this.failures.push(message),
      logBytesMin,
      copy,
    });
  }

  static async start(choices: Choices = { copy: copyNow }): Promise<Owner> {
    const process = new ShardOwner(choices.data);
    expect(await process.claim()).toBe(true);
    const options = { unixMs: UNIX_MS, progress: () => {} };
    return new Owner(process, await takeOver(process.log, 0, process.appender.head, newFolder(), options), choices);
  }

  get engine(): ModelledEngine {
    return this.process.log.data;
  }

  get shard(): ModelledEngine["shards"][number] {
    return this.engine.shards[0]!;
  }

  /** A turn that stores a message of that many bytes. */
  turn(bytes: number): boolean | Promise<void> {
    const number = this.store.newNumber();
    this.store.stored("bob", { number, unixMs: UNIX_MS, from: "alice", text: Buffer.alloc(bytes, "m") });
    this.store.compact(() => true); // Everything is in the mailboxes already.
    return this.store.save();
  }

  /** Turns until the log is long enough for a snapshot. The messages are acknowledged, so the database stays small. */
  async fill(): Promise<void> {
    const bob = new Account("bob");
    while (this.snapshots.logBytes <= LOG_BYTES_MIN) {
      await this.#compacts();
      await this.turn(40_000);
      const upTo = this.waiting.at(-1)!;
      this.store.acked(bob, upTo);
      this.store.drop("bob", upTo, 1000);
    }
    await this.#compacts();
    await this.turn(100);
    this.store.commit();
  }

  /** Nothing is compacted while SQLite's log is copied. */
  async #compacts(): Promise<void> {
    while (this.store.isBusy) await later();
  }

  /** Begins a snapshot, and waits for its end. */
  async step(): Promise<void> {
    this.snapshots.step(this.nowMs);
    await this.snapshots.exclusively(async () => {});
    await later();
  }

  get waiting(): number[] {
    return this.store.read("bob", 0, 1e9).map(({ number }) => number);
  }
}

describe("a snapshot", () => {
  test("is published by the real thread when the log is long enough, and the log before it is trimmed", async () => {
    const owner = await Owner.start({});
    await owner.turn(100_000);
    await owner.step();
    expect(owner.published).toEqual([]);
    await owner.fill();
    await owner.step();
    expect(owner.failures).toEqual([]);
    const { sequence } = owner.shard.snapshot!.label;
    expect(owner.published).toMatchObject([{ sequence }]);
    expect(owner.snapshots.sequence).toBe(sequence);
    expect(Math.min(...owner.shard.records.keys())).toBe(sequence + 1);
    expect(owner.snapshots.logBytes).toBe(0);
    expect(readdirSync(dirname(owner.taken.database.filename)).filter((name) => name.includes("snapshot"))).toEqual([]);
    const { waiting } = owner;
    const next = await Owner.start({ data: owner.engine });
    expect(next.waiting).toEqual(waiting);
    expect(next.taken.snapshot).toBe(sequence);
  });

  test("is not taken while the log is shorter than the database, and not again before the log has grown", async () => {
    const owner = await Owner.start();
    for (let i = 0; i < 40; i++) await owner.turn(40_000);
    owner.store.commit();
    expect(owner.snapshots.logBytes).toBeGreaterThan(LOG_BYTES_MIN);
    await owner.step();
    expect(owner.published).toEqual([]);
    owner.store.drop("bob", Number.MAX_SAFE_INTEGER, 1000);
    owner.store.acked(new Account("bob"), owner.store.newNumber());
    for (let i = 0; i < 80; i++) await owner.turn(40_000);
    owner.store.commit();
    await owner.step();
    await owner.step();
    expect(owner.published).toHaveLength(1);
  });

  test("is taken of a log of many short records, which takes a takeover long to read", async () => {
    const owner = await Owner.start({ copy: copyNow, logBytesMin: SNAPSHOT_LOG_BYTES_MIN });
    const fill = async (records: number): Promise<void> => {
      while (owner.journal.sequence < records) await owner.turn(1);
      owner.store.drop("bob", Number.MAX_SAFE_INTEGER, 1e6);
      owner.store.acked(new Account("bob"), owner.store.newNumber());
      await owner.turn(1);
      owner.store.commit();
    };
    const due = SNAPSHOT_LOG_BYTES_MIN / RECORD_COST_BYTES;
    await fill(due - 10);
    await owner.step();
    expect(owner.published).toEqual([]);
    await fill(due + 10);
    await owner.step();
    expect(owner.published).toHaveLength(1);
  });

  test("is published when every turn that the copy may contain is in the shared log, and not before", async () => {
    const owner = await Owner.start();
    await owner.fill();
    owner.process.log.stop();
    void owner.turn(100);
    owner.store.commit();
    const stepped = owner.step();
    expect(await resolves(stepped)).toBe(false);
    expect(owner.process.log.calls.publish).toBe(0);
    owner.process.log.resume();
    await stepped;
    expect(owner.published).toHaveLength(1);
    const { waiting } = owner;
    expect((await Owner.start({ data: owner.engine })).waiting).toEqual(waiting);
  });

  test("with a turn that never reaches the shared log is not published, and the next owner has no such turn", async () => {
    const owner = await Owner.start();
    await owner.fill();
    owner.process.log.stop();
    const { waiting } = owner;
    void owner.turn(100);
    owner.store.commit();
    const next = await Owner.start({ data: owner.engine });
    const stepped = owner.step();
    owner.process.log.resume();
    expect(await resolves(stepped)).toBe(false);
    expect(owner.process.ends).toMatchObject([{ kind: "deposed" }]);
    expect(owner.process.log.calls.publish).toBe(0);
    expect(next.waiting).toEqual(waiting);
  });

  test("of a deposed owner is refused, and is not a failure", async () => {
    const owner = await Owner.start();
    await owner.fill();
    const next = new ShardOwner(owner.engine);
    expect(await next.claim(INFO)).toBe(true);
    await owner.step();
    expect(owner.published).toEqual([]);
    expect(owner.failures).toEqual([]);
    expect(owner.shard.snapshot).toBeNull();
  });

  test("that fails is reported once, and is taken again later", async () => {
    const owner = await Owner.start();
    await owner.fill();
    owner.process.log.outcome = (write) => (write === "publish" ? "lost" : "done");
    await owner.step();
    expect(owner.failures).toEqual(["the connection is lost"]);
    await owner.step();
    expect(owner.process.log.calls.publish).toBe(1);
    owner.nowMs += SNAPSHOT_RETRY_MS;
    await owner.step();
    expect(owner.process.log.calls.publish).toBe(2);
    expect(owner.failures).toHaveLength(1);
    owner.process.log.outcome = () => "done";
    owner.nowMs += SNAPSHOT_RETRY_MS;
    await owner.step();
    expect(owner.published).toHaveLength(1);
    expect(owner.failures).toHaveLength(1);
  });

  test("whose publication succeeded without an answer is found by the next try", async () => {
    const owner = await Owner.start();
    await owner.fill();
    owner.process.log.outcome = (write) => (write === "publish" ? "answer lost" : "done");
    await owner.step();
    owner.process.log.outcome = () => "done";
    owner.nowMs += SNAPSHOT_RETRY_MS;
    await owner.step();
    expect(owner.published).toHaveLength(1);
    expect(owner.process.log.calls.trim).toBe(1);
    expect(owner.failures).toHaveLength(1);
  });

  test("is taken one at a time, and none after the stop", async () => {
    let copies = 0;
    const copy = Promise.withResolvers<CopyReply>();
    const began = Promise.withResolvers<void>();
    const owner = await Owner.start({ copy: () => (copies++, began.resolve(), copy.promise) });
    await owner.fill();
    owner.snapshots.step(0);
    await began.promise;
    owner.snapshots.step(1000);
    await later();
    expect(copies).toBe(1);
    owner.snapshots.stop();
    copy.resolve({ failed: "too late" });
    await owner.step();
    expect(copies).toBe(1);
    expect(owner.failures).toEqual([]);
  });
});

describe("a backup", () => {
  function backupOf({ process: { log, appender }, snapshots, taken: { database } }: Owner): ShardBackup {
    return new ShardBackup(log, 0, snapshots, database.filename, () => appender.head);
  }

  test("opens as an ordinary data folder with everything acknowledged, with and without a snapshot", async () => {
    const owner = await Owner.start();
    for (const name of ["without", "with"]) {
      await owner.turn(70_000);
      const target = join(newFolder(), name);
      await backupOf(owner).run(target);
      const { store, recovered } = openStore(target, "process", {
        salvage: false,
        unixMs: UNIX_MS,
        progress: () => {},
      });
      expect(store.read("bob", 0, 1e9).map(({ number }) => number)).toEqual(owner.waiting);
      expect(recovered.damage).toBeNull();
      store.close();
      await owner.fill();
      await owner.step();
    }
    expect(owner.published).toHaveLength(2);
  });

  test("is refused when the engine has lost acknowledged records", async () => {
    const owner = await Owner.start();
    await owner.turn(100);
    const { head } = owner.process.appender;
    owner.shard.records.delete(owner.shard.head--); // An old copy of the engine's data was put back.
    const target = join(newFolder(), "backup");
    await expect(backupOf(owner).run(target)).rejects.toThrow(
      `the engine has lost records of shard 0: its last one is ${head - 1}, and ${head} was acknowledged; `,
    );
    expect(existsSync(target)).toBe(false);
  });

  test("is refused with one line: for a path that exists or is in the working folder, or while the engine is away", async () => {
    const owner = await Owner.start();
    const backup = backupOf(owner);
    const existing = newFolder();
    await expect(backup.run(existing)).rejects.toThrow(
      `cannot back up to ${existing}: it exists already; give the path of a new folder`,
    );
    const inside = join(dirname(owner.taken.database.filename), "backup");
    await expect(backup.run(inside)).rejects.toThrow("it would be inside the data folder; give a path outside");
    const target = join(newFolder(), "backup");
    owner.process.log.isAway = true;
    await expect(backup.run(target)).rejects.toThrow(
      `cannot back up to ${target}: the shared log does not answer: the engine is away; try again when it does`,
    );
    expect(existsSync(`${target}.partial`)).toBe(false);
  });

  test("is refused while another one is running", async () => {
    const owner = await Owner.start();
    owner.process.log.stop();
    const backup = backupOf(owner);
    const first = backup.run(join(newFolder(), "first"));
    await expect(backup.run(join(newFolder(), "second"))).rejects.toThrow(BackupBusyError);
    owner.process.log.resume();
    await first;
  });

  test("ends without a trace when the server stops", async () => {
    const owner = await Owner.start();
    for (let i = 0; i < 40; i++) await owner.turn(100_000);
    const backup = backupOf(owner);
    const above = newFolder();
    owner.process.log.stop();
    const run = backup.run(join(above, "backup"));
    await later();
    const stopped = backup.stop();
    owner.process.log.resume();
    await expect(run).rejects.toThrow("the server stops");
    await stopped;
    expect(readdirSync(above)).toEqual([]);
    await expect(backup.run(join(above, "backup"))).rejects.toThrow("the server stops");
  });

  test("waits for a snapshot that is being published, and no snapshot begins before its end", async () => {
    const owner = await Owner.start();
    await owner.fill();
    const { log } = owner.process;
    const target = join(newFolder(), "backup");
    const copy = backupOf(owner);
    const running = copy.run(target);
    owner.snapshots.step(0);
    await running;
    expect(existsSync(join(target, "heartline.sqlite"))).toBe(true);
    expect(log.calls.publish).toBe(0);
    await owner.step();
    expect(log.calls.publish).toBe(1);
  });
});
