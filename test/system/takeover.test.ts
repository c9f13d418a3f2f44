/** The state of a shard goes into a real engine and comes out of it: snapshots, the log after them, backups. */
import { afterAll, afterEach, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Account } from "../../src/chat/session.ts";
import { Appender } from "../../src/cluster/appender.ts";
import { initLog, openLog } from "../../src/cluster/open-log.ts";
import { SharedJournal } from "../../src/cluster/shared-journal.ts";
import type { SharedLog } from "../../src/cluster/shared-log.ts";
import { ShardBackup } from "../../src/cluster/shard-backup.ts";
import { Snapshots } from "../../src/cluster/snapshots.ts";
import { takeOver } from "../../src/cluster/takeover.ts";
import { openStore } from "../../src/storage/recovery.ts";
import { Store } from "../../src/storage/store.ts";
import { NatsEngine, hasNats } from "../support/nats-engine.ts";
import { PostgresEngine, postgresPrograms } from "../support/postgres-engine.ts";

const UNIX_MS = 1_700_000_000_000;
const INFO = { address: "127.0.0.1:6010", version: "1", credentials: "c" };
const LOG_BYTES_MIN = 4 << 20;
const LIMIT_MS = 120_000;
const OPTIONS = { salvage: false, unixMs: UNIX_MS, progress: () => {} };
const bob = new Account("bob");
const folders: string[] = [];
const logs: SharedLog[] = [];

afterAll(async () => {
  await PostgresEngine.closeAll();
  await NatsEngine.closeAll();
});

afterEach(async () => {
  for (const log of logs.splice(0)) await log.close();
  for (const path of folders.splice(0)) rmSync(path, { recursive: true, force: true });
});

function newPath(): string {
  const path = mkdtempSync(join(tmpdir(), "heartline-"));
  folders.push(path);
  return path;
}

function numbersIn(store: Store): number[] {
  return store.read("bob", 0, 1e9).map(({ number }) => number);
}

/** An owner of the shard, without a server. */
class Owner {
  readonly store: Store;
  readonly snapshots: Snapshots;
  readonly backup: ShardBackup;
  readonly failures: Error[] = [];

  private constructor(log: SharedLog, appender: Appender, taken: Awaited<ReturnType<typeof takeOver>>) {
    const journal = new SharedJournal(appender, undefined, 256 << 10, 2);
    const { database } = taken;
    this.store = new Store(database, journal, true);
    this.snapshots = new Snapshots({
      log,
      shard: 0,
      epoch: appender.epoch,
      journal,
      database,
      filled: taken,
      published: () => {},
      failed: (error) => void this.failures.push(error),
      logBytesMin: LOG_BYTES_MIN,
    });
    this.backup = new ShardBackup(log, 0, this.snapshots, database.filename, () => appender.head);
  }

  static async start(url: string, ended: () => void = () => {}): Promise<Owner> {
    const log = await openLog(url);
    logs.push(log);
    const appender = new Appender({ log, shard: 0, ended });
    expect(await appender.claim((await log.state(0)).head, INFO)).toBe(true);
    return new Owner(log, appender, await takeOver(log, 0, appender.head, newPath(), OPTIONS));
  }

  /** A turn that stores a message of that many bytes; its number. */
  async turn(bytes: number): Promise<number> {
    const number = this.store.newNumber();
    this.store.stored("bob", { number, unixMs: UNIX_MS, from: "alice", text: Buffer.alloc(bytes, number) });
    this.store.compact(() => true); // Everything is in the mailboxes already.
    await this.store.save();
    return number;
  }

  /** Several megabytes of turns, some longer than a record, of which most are acknowledged; then perhaps a snapshot. */
  async work(): Promise<void> {
    let number = 0;
    for (let i = 0; i < 30; i++) number = await this.turn(i % 10 === 9 ? 2_500_000 : 100_000);
    this.store.acked(bob, number - 5);
    this.store.drop("bob", number - 5, 1000);
    this.store.block(`user${number}`, "bob");
    await this.turn(10);
    this.store.commit();
    this.snapshots.step(0);
  }
}

const engines: [string, (() => Promise<string>) | null][] = [
  [
    "PostgreSQL",
    postgresPrograms === null ? null : async () => (await PostgresEngine.start("fsync=off")).url("postgres"),
  ],
  ["NATS JetStream", hasNats ? async () => `nats://${(await NatsEngine.start()).address}` : null],
];

for (const [name, start] of engines)
  test.skipIf(start === null)(
    `the state of a shard is the same at each owner after another, from snapshots and records in ${name}, and in backups`,
    async () => {
      const url = await start!();
      await initLog(url, 1);
      let ends = 0;
      let expected: unknown[] = [];
      let blocks = 0;
      for (let round = 1; round <= 3; round++) {
        const owner = await Owner.start(url, () => void ends++);
        expect(numbersIn(owner.store)).toEqual(expected as number[]);
        expect(owner.store.blocks()).toHaveLength(blocks);
        await owner.work();
        await owner.work();
        const target = join(newPath(), "backup");
        const [last, blocked] = [numbersIn(owner.store).at(-1)!, owner.store.blocks()];
        const backedUp = owner.backup.run(target); // Waits for the snapshot, and the work goes on.
        await owner.work();
        await backedUp;
        const { store, recovered } = openStore(target, "process", OPTIONS);
        expect(recovered.damage).toBeNull();
        expect(numbersIn(store).at(-1)).toBeGreaterThanOrEqual(last);
        expect(store.blocks()).toEqual(expect.arrayContaining(blocked));
        store.close();
        await owner.snapshots.exclusively(async () => {});
        expect(owner.failures).toEqual([]);
        expect(owner.snapshots.count).toBeGreaterThan(0);
        expected = numbersIn(owner.store);
        blocks = owner.store.blocks().length;
      }
      expect(ends).toBe(0);
    },
    LIMIT_MS,
  );
