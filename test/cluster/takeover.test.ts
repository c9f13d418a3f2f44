import { afterEach, describe, expect, test } from "bun:test";
import { Database } from "bun:sqlite";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import type { Outcomes } from "../../src/chat/outcomes.ts";
import { Account } from "../../src/chat/session.ts";
import { RecordKind, encodeRecord, partsOf } from "../../src/cluster/log-record.ts";
import { ClusterError, LostRecordsError, type OwnerInfo } from "../../src/cluster/shared-log.ts";
import { fillFolder, takeOver } from "../../src/cluster/takeover.ts";
import { NOTHING } from "../../src/storage/journal-entry.ts";
import { Journal } from "../../src/storage/journal.ts";
import { openStore, seedOf } from "../../src/storage/recovery.ts";
import { FileFolder } from "../../src/storage/segment.ts";
import { Store } from "../../src/storage/store.ts";
import { SQL } from "../../src/storage/sql.ts";
import { rowOf } from "../../src/storage/stored-outcomes.ts";
import { OK_SENT, OK_STORED } from "../../src/protocol/reply.ts";
import { Outbox } from "../../src/stream/outbox.ts";
import { newFolder, removeFolders } from "../support/folders.ts";
import { ModelledEngine, ModelledLog } from "../support/modelled-log.ts";

const UNIX_MS = 1_700_000_000_000;
const INFO: OwnerInfo = { address: "127.0.0.1:1", version: "1", credentials: "c" };
const bob = new Account("bob");

afterEach(removeFolders);

/** The records of a shard, written by one owner after another. */
class Shard {
  readonly log: ModelledLog;
  #owner = Buffer.alloc(16);
  #counter = 0;

  /** With few bytes in a record, most turns are several ones. */
  constructor(recordBytesMax = 1 << 20) {
    this.log = new ModelledLog(new ModelledEngine(), recordBytesMax);
  }

  get head(): number {
    return this.log.data.shards[0]!.head;
  }

  #record(kind: RecordKind, part: number, parts: number, body: Buffer): Buffer {
    return encodeRecord({ kind, owner: this.#owner, counter: ++this.#counter, part, parts, body });
  }

  /** A process claims the shard. */
  async open(): Promise<void> {
    this.#owner = Buffer.from(Bun.randomUUIDv7("buffer"));
    this.#counter = 0;
    const record = this.#record(RecordKind.Opened, 1, 1, Buffer.from(JSON.stringify(INFO)));
    await this.log.claim(0, this.head, record, INFO);
  }

  /** The owner appends a turn, or only its first parts. */
  async append(body: Buffer, partsMax = Number.POSITIVE_INFINITY): Promise<void> {
    const parts = partsOf(body.length, this.log.recordBytesMax);
    const bytes = Math.ceil(body.length / parts);
    for (let part = 1; part <= Math.min(parts, partsMax); part++) {
      const piece = body.subarray(bytes * (part - 1), bytes * part);
      await this.log.append(0, this.head, this.#record(RecordKind.Turn, part, parts, piece));
    }
  }

  /** The next owner: its store, of which each turn becomes a body of `turns`. */
  async takeOver(): Promise<Owner> {
    await this.open();
    const path = newFolder();
    const { database } = await takeOver(this.log, 0, this.head, path, { unixMs: UNIX_MS, progress: () => {} });
    return new Owner(database);
  }
}

class Owner {
  readonly store: Store;
  readonly database: Database;
  /** The entries of the turns that were saved. */
  readonly turns: Buffer[] = [];

  constructor(database: Database) {
    const { turns } = this;
    const { sequence } = progress(database);
    const journal = new (class extends Journal {
      override append(body: Buffer, start: number, length: number, number: number): void {
        turns.push(Buffer.from(body.subarray(start, start + length)));
        super.append(body, start, length, number);
      }
    })(new FileFolder(join(newFolder(), "journal")), sequence, seedOf(database));
    this.database = database;
    this.store = new Store(database, journal);
  }

  /** What it has saved goes to the shared log. */
  async append(shard: Shard): Promise<void> {
    this.store.save();
    for (const body of this.turns.splice(0)) await shard.append(body);
  }

  stored(text: string, user = "bob"): number {
    const number = this.store.newNumber();
    this.store.stored(user, { number, unixMs: UNIX_MS + number, from: "alice", text: Buffer.from(text) });
    return number;
  }

  began(token: string): number {
    const number = this.store.newNumber();
    this.store.sessionBegan({ number, token, user: "bob", resumable: true }, NOTHING);
    return number;
  }

  /** A stream of a session; the function appends a message to it. */
  stream(session: number): (text: string) => number {
    const outbox = new Outbox({ markDirty: () => {} }, session === 0);
    return (text) => {
      const number = this.store.newNumber();
      outbox.appendMessage(number, UNIX_MS + number, Buffer.from("message alice "), Buffer.from(text), 0, text.length);
      this.store.appended(bob, session, outbox);
      return number;
    };
  }

  /** Everything that a later owner must know. */
  get state(): unknown {
    return {
      waiting: this.store.read("bob", 0, 1e9).map(({ number, unixMs, from, text }) => {
        return [number, unixMs, from, Buffer.from(text).toString()];
      }),
      blocks: this.store.blocks(),
      bans: this.store.bans(),
      lockouts: this.store.lockouts(),
      login: this.store.lastLogin("bob"),
      heard: [1, 2].map((shard) => this.store.outcomes(shard)).map((outcomes) => [outcomes.heard, ...texts(outcomes)]),
    };
  }
}

function texts(outcomes: Outcomes): string[] {
  return [...outcomes].map(([number, reply]) => `${number} ${Buffer.from(reply).toString().trimEnd()}`);
}

function progress(database: Database): { sequence: number; newest: number; number: number } {
  return database.query<{ sequence: number; newest: number; number: number }, []>("SELECT * FROM progress").get()!;
}

/** A database that needs no write-ahead log (sqlite.org/fileformat.html, 1.3.3). */
function copyOf(database: Database): Buffer {
  return database.serialize().fill(1, 18, 20);
}

async function snapshotOf(shard: Shard, sequence: number, database: Database): Promise<boolean> {
  const bytes = copyOf(database);
  const parts = async function* (): AsyncIterable<Uint8Array> {
    for (let at = 0; at < bytes.length; at += shard.log.recordBytesMax) {
      yield bytes.subarray(at, at + shard.log.recordBytesMax);
    }
  };
  const published = await shard.log.publishSnapshot(0, { epoch: shard.log.data.shards[0]!.epoch, sequence }, parts());
  await shard.log.trim(0);
  return published;
}

describe.each([1 << 20, 100])("with records of at most %p bytes, a new owner", (recordBytesMax) => {
  test("of a new cluster has an empty state, and its journal continues after Opened", async () => {
    const { store, database, state } = await new Shard(recordBytesMax).takeOver();
    expect(progress(database).sequence).toBe(1);
    expect(state).toEqual({ waiting: [], blocks: [], bans: [], lockouts: [], login: null, heard: [[0], [0]] });
    expect(store.newNumber()).toBe(1);
  });

  test("has everything of all owners before it, and each message once", async () => {
    const shard = new Shard(recordBytesMax);
    const first = await shard.takeOver();
    const session = first.began("t".repeat(22));
    const send = first.stream(session);
    const [one, two, three] = [send("one"), send("two"), send("three")];
    first.store.block("alice", "bob");
    first.store.banned("alice", UNIX_MS + 1000);
    first.store.received(session, 77);
    first.store.wrongPasswords({ user: "bob", source: "192.0.2.1", count: 2 }, UNIX_MS + 5);
    await first.append(shard);
    const fourth = first.stored("four");
    first.store.acked(bob, one!);
    first.store.heard(1, 7, OK_SENT);
    first.store.heard(2, 3, Buffer.from("err unknown_user\n"));
    await first.append(shard);
    first.stored("lost, since its turn was never appended");
    first.store.save();

    const second = await shard.takeOver();
    expect(second.state).toMatchObject({
      waiting: [[two], [three], [fourth]].map(([number]) => [number, expect.anything(), "alice", expect.anything()]),
    });
    expect(second.store.endedSession("t".repeat(22))).toMatchObject({ received: 77, endedUnixMs: UNIX_MS });
    second.store.acked(bob, two!);
    second.store.unblock("alice", "bob");
    const fifth = second.stored("five");
    second.store.outcomes(1).forget(7);
    second.store.heard(1, 12, OK_STORED);
    second.store.heard(1, 15, Buffer.from("err internal some words\n"));
    second.store.purge("bob", 0, three!, 10);
    second.store.loggedIn(bob, UNIX_MS + 9, "192.0.2.9");
    await second.append(shard);

    const third = await shard.takeOver();
    expect(third.state).toEqual({
      waiting: [
        [fourth, UNIX_MS + fourth, "alice", "four"],
        [fifth, UNIX_MS + fifth, "alice", "five"],
      ],
      blocks: [],
      bans: [{ user: "alice", untilUnixMs: UNIX_MS + 1000 }],
      lockouts: [{ user: "bob", source: "192.0.2.1", count: 2, untilUnixMs: UNIX_MS + 5 }],
      login: { unixMs: UNIX_MS + 9, address: "192.0.2.9" },
      heard: [
        [15, "12 ok stored", "15 err internal some words"],
        [3, "3 err unknown_user"],
      ],
    });
    expect(third.store.newNumber()).toBeGreaterThan(fifth);
    expect(progress(third.database)).toMatchObject({ sequence: shard.head, newest: shard.head });
  });

  test("has the state of the snapshot and of the records after it, when those before it are trimmed", async () => {
    const shard = new Shard(recordBytesMax);
    const first = await shard.takeOver();
    first.stored("in the snapshot");
    first.store.heard(1, 5, OK_SENT);
    first.store.heard(1, 6, OK_STORED);
    await first.append(shard);
    first.store.outcomes(1).forget(5);
    first.store.heard(2, 9, OK_STORED);
    await first.append(shard);
    first.database.query(SQL.insertNeighbour).run(...rowOf(1, first.store.outcomes(1)));
    first.database.query(SQL.insertNeighbour).run(...rowOf(2, first.store.outcomes(2)));
    first.store.commit();
    first.database.query("UPDATE progress SET sequence = ?").run(shard.head);
    expect(await snapshotOf(shard, shard.head, first.database)).toBe(true);
    first.stored("after it");
    first.store.heard(2, 10, OK_SENT);
    await first.append(shard);
    const { state } = first;
    expect(shard.log.data.records().has(1)).toBe(false);
    expect((await shard.takeOver()).state).toEqual(state);
  });
});

test("a turn that a claim cut off has no effect, and the next owner's turns have theirs", async () => {
  const shard = new Shard(100);
  const first = await shard.takeOver();
  first.stored("x".repeat(300));
  first.store.save();
  const [body] = first.turns;
  const parts = partsOf(body!.length, 100);
  expect(parts).toBeGreaterThan(3);
  await shard.append(body!, parts - 1);
  const second = await shard.takeOver();
  expect(second.state).toMatchObject({ waiting: [] });
  const number = second.stored("y".repeat(300));
  await second.append(shard);
  expect((await shard.takeOver()).state).toMatchObject({
    waiting: [[number, UNIX_MS + number, "alice", "y".repeat(300)]],
  });
});

test("only the database remains in the folder, and the progress goes from 0 to 1", async () => {
  const shard = new Shard();
  const owner = await shard.takeOver();
  for (let i = 0; i < 20; i++) {
    owner.stored("z".repeat(200_000));
    await owner.append(shard);
  }
  await shard.open();
  const path = newFolder();
  const parts: number[] = [];
  const options = { unixMs: UNIX_MS, progress: (part: number) => void parts.push(part) };
  const { recovered, logBytes, snapshot } = await takeOver(shard.log, 0, shard.head, path, options);
  expect(readdirSync(path).filter((name) => !name.startsWith("heartline.sqlite"))).toEqual([]);
  expect(recovered.messages).toBe(20);
  expect(logBytes).toBeGreaterThan(4_000_000);
  expect(snapshot).toBe(0);
  expect(parts.toSorted((a, b) => a - b)).toEqual(parts);
  expect(parts[0]).toBeLessThan(0.5);
  expect(parts.at(-1)).toBeLessThanOrEqual(1);
});

describe("a takeover is refused with one line", () => {
  async function refusal(
    shard: Shard,
    head = shard.head,
    kind: typeof ClusterError | typeof LostRecordsError = ClusterError,
  ): Promise<string> {
    const options = { unixMs: UNIX_MS, progress: () => {} };
    const error = await takeOver(shard.log, 0, head, newFolder(), options).then(
      () => null,
      (reason: unknown) => reason,
    );
    expect((error as Error).constructor).toBe(kind);
    const { message } = error as Error;
    expect(message).not.toContain("\n");
    return message;
  }

  /** A shard with a few records. */
  async function newShard(): Promise<{ shard: Shard; owner: Owner }> {
    const shard = new Shard(100);
    const owner = await shard.takeOver();
    owner.stored("m".repeat(200));
    await owner.append(shard);
    return { shard, owner };
  }

  test("when a record is missing", async () => {
    const { shard } = await newShard();
    (shard.log.data.records() as Map<number, Uint8Array>).delete(3);
    expect(await refusal(shard)).toContain("record 3");
  });

  test("when the engine leaves out a record, or ends early", async () => {
    for (const [skipped, expected] of [
      [3, "record 3 of shard 0 is missing"],
      [5, "records 5 to 5 of shard 0 are missing"],
    ] as const) {
      const { shard } = await newShard();
      expect(shard.head).toBe(5);
      const { read } = shard.log;
      shard.log.read = async function* (...range) {
        for await (const each of read.apply(this, range)) if (each.sequence !== skipped) yield each;
      };
      expect(await refusal(shard)).toContain(expected);
    }
  });

  test("when the snapshot is missing", async () => {
    const { shard, owner } = await newShard();
    owner.database.query("UPDATE progress SET sequence = ?").run(4);
    expect(await snapshotOf(shard, 4, owner.database)).toBe(true);
    shard.log.data.shards[0]!.snapshot = null;
    expect(await refusal(shard)).toContain("record 1 is missing");
  });

  test("when the snapshot has a state that was acknowledged after the engine's head", async () => {
    const { shard, owner } = await newShard();
    owner.store.commit();
    owner.database.query("UPDATE progress SET sequence = ?, newest = ?").run(4, 5);
    expect(await snapshotOf(shard, 4, owner.database)).toBe(true);
    shard.log.data.lose(4);
    expect(await refusal(shard, 4, LostRecordsError)).toBe(
      "the engine has lost records of shard 0: its last one is 4, and 5 was acknowledged; make the engine continue " +
        "with the server that has them, or restore a backup",
    );
  });

  test("when a later owner has stored the snapshot, and the engine has lost nothing", async () => {
    const { shard, owner } = await newShard();
    owner.store.commit();
    owner.database.query("UPDATE progress SET sequence = ?").run(5);
    expect(await snapshotOf(shard, 5, owner.database)).toBe(true);
    expect(await refusal(shard, 4)).toBe(
      "another process owns shard 0 now, and has stored a newer snapshot; start again",
    );
  });

  test("when the snapshot is of another state than its label, of a newer version, or damaged", async () => {
    const { shard, owner } = await newShard();
    owner.database.query("UPDATE progress SET sequence = ?").run(4);
    const { snapshot } = shard.log.data.shards[0]!;
    const outcomes: [number, string, string][] = [
      [5, "SELECT 1", "has the state after record 4 and not 5"],
      [4, "PRAGMA user_version = 99", "was written by a newer Heartline; start that version"],
      [4, "DROP TABLE progress", "the snapshot of shard 0 is damaged: no such table: progress"],
    ];
    for (const [sequence, change, expected] of outcomes) {
      shard.log.data.shards[0]!.snapshot = snapshot;
      using changed = Database.deserialize(copyOf(owner.database));
      changed.run(change);
      expect(await snapshotOf(shard, sequence, changed)).toBe(true);
      expect(await refusal(shard)).toContain(expected);
    }
  });

  test("when a turn has an entry that this version does not know", async () => {
    const { shard } = await newShard();
    await shard.append(Buffer.alloc(16, 99));
    expect(await refusal(shard)).toBe(
      "the log of shard 0 cannot be read: an entry of the unknown kind 99; start the version that wrote it",
    );
  });

  test("when a record is of another format, of a deposed owner, or a part without the one before", async () => {
    const { shard } = await newShard();
    const records = shard.log.data.records() as Map<number, Uint8Array>;
    const changes: [number, (record: Buffer) => void, string][] = [
      [4, (record) => void (record[0] = 9), "the shared log has a record of format 9"],
      [4, (record) => record.fill(7, 24, 40), "record 4 of shard 0 is of an owner that was deposed before"],
      [4, (record) => record.writeUInt32LE(4, 4), "record 4 of shard 0 is part 4 of 4 of a turn without part 3"],
    ];
    for (const [sequence, change, expected] of changes) {
      const original = records.get(sequence)!;
      const changed = Buffer.from(original);
      change(changed);
      records.set(sequence, changed);
      expect(await refusal(shard)).toContain(expected);
      records.set(sequence, original);
    }
  });
});

test("a filled folder opens as an ordinary data folder, with everything up to that record", async () => {
  for (const hasSnapshot of [false, true]) {
    const shard = new Shard(100);
    const owner = await shard.takeOver();
    owner.stored("one".repeat(100));
    await owner.append(shard);
    owner.store.commit();
    owner.database.query("UPDATE progress SET sequence = ?, newest = ?").run(shard.head, shard.head);
    if (hasSnapshot) await snapshotOf(shard, shard.head, owner.database);
    owner.store.block("alice", "bob");
    await owner.append(shard);
    const second = await shard.takeOver();
    const session = second.began("u".repeat(22));
    second.stream(session)("two");
    await second.append(shard);
    const path = newFolder();
    await fillFolder(shard.log, 0, shard.head, path, true, () => {});
    expect(existsSync(join(path, "journal", "last"))).toBe(true);
    const { store, recovered } = openStore(path, "process", { salvage: false, unixMs: UNIX_MS, progress: () => {} });
    expect(recovered.damage).toBeNull();
    expect(store.read("bob", 0, 1e6).map(({ text }) => Buffer.from(text).toString())).toEqual([
      "one".repeat(100),
      "two",
    ]);
    expect(store.blocks()).toEqual([{ user: "alice", other: "bob" }]);
    expect(store.endedSession("u".repeat(22))).not.toBeNull();
    store.close();
  }
});
