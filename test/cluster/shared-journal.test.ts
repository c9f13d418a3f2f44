import { describe, expect, test } from "bun:test";
import { decodeRecord } from "../../src/cluster/log-record.ts";
import { SharedJournal } from "../../src/cluster/shared-journal.ts";
import { APPEND_SLOW_MS, OWNERSHIP_PROVEN_MS, SHARED_SEGMENT_RECORDS } from "../../src/limits.ts";
import { openDatabase } from "../../src/storage/database.ts";
import { Store } from "../../src/storage/store.ts";
import { OTHER, ShardOwner, later, resolves } from "../support/shard-owner.ts";

const SEGMENT_BYTES = 4096;

async function setUp(recordBytesMax?: number): Promise<{ owner: ShardOwner; journal: SharedJournal }> {
  const owner = await ShardOwner.claimed(recordBytesMax);
  return { owner, journal: new SharedJournal(owner.appender, () => owner.clockMs, SEGMENT_BYTES, 2) };
}

function append(journal: SharedJournal, text: string, number = 0): void {
  const body = Buffer.from(text);
  journal.append(body, 0, body.length, number);
  body.fill(0); // The caller uses its buffer again.
}

function stored(owner: ShardOwner): string[] {
  return [...owner.log.data.records().values()].slice(1).map((bytes) => decodeRecord(bytes).body.toString());
}

describe("the records of a shared journal", () => {
  test("are synced when they are stored in the shared log, and have its numbers", async () => {
    const { owner, journal } = await setUp();
    expect([journal.sequence, journal.isSynced]).toEqual([1, true]);
    append(journal, "one");
    expect([journal.sequence, journal.isSynced, stored(owner)]).toEqual([2, false, []]);
    owner.log.stop();
    const synced = journal.sync();
    expect([await resolves(synced), journal.isSynced]).toEqual([false, false]);
    owner.log.resume();
    await synced;
    expect([journal.isSynced, stored(owner)]).toEqual([true, ["one"]]);
  });

  test("have the number of their last part", async () => {
    const { owner, journal } = await setUp(128);
    append(journal, "x".repeat(200));
    expect(journal.sequence).toBe(4);
    await journal.sync();
    expect(owner.appender.head).toBe(4);
  });

  test("of a sync without a new record are those of the sync before", async () => {
    const { owner, journal } = await setUp();
    append(journal, "one");
    owner.log.stop();
    const first = journal.sync();
    const second = journal.sync();
    expect(await resolves(second)).toBe(false);
    owner.log.resume();
    await Promise.all([first, second]);
    expect(stored(owner)).toEqual(["one"]);
  });
});

describe("without an acknowledged write of the last OWNERSHIP_PROVEN_MS, a shared journal is not synced", () => {
  test("before a beat is acknowledged", async () => {
    const { owner, journal } = await setUp();
    owner.clockMs += OWNERSHIP_PROVEN_MS + 1;
    expect(journal.isSynced).toBe(false);
    await journal.sync();
    expect([journal.isSynced, owner.log.calls.beat]).toEqual([true, 1]);
  });

  test("after an append that took longer, before a beat is acknowledged", async () => {
    const { owner, journal } = await setUp();
    append(journal, "one");
    owner.log.stop();
    const synced = journal.sync();
    await later();
    owner.clockMs += OWNERSHIP_PROVEN_MS + 1;
    owner.log.resume();
    await synced;
    expect([stored(owner), owner.log.calls.beat]).toEqual([["one"], 1]);
  });

  test("ever again when another process owns the shard", async () => {
    const { owner, journal } = await setUp();
    await new ShardOwner(owner.log.data).claim(OTHER);
    owner.clockMs += OWNERSHIP_PROVEN_MS + 1;
    expect(await resolves(journal.sync())).toBe(false);
    expect(owner.ends).toMatchObject([{ kind: "deposed" }]);
  });
});

test("a shared journal is slow from APPEND_SLOW_MS after the begin of a sync until its end", async () => {
  const { owner, journal } = await setUp();
  append(journal, "one");
  owner.log.stop();
  const synced = journal.sync();
  owner.clockMs += APPEND_SLOW_MS;
  expect(journal.isSlow).toBe(false);
  owner.clockMs++;
  expect(journal.isSlow).toBe(true);
  owner.log.resume();
  await synced;
  expect([journal.isSlow, journal.syncSeconds.seconds > 1]).toEqual([false, true]);
});

describe("the segments of a shared journal", () => {
  test("are old when newer ones have enough bytes, and are freed up to a record", async () => {
    const { journal } = await setUp();
    expect([journal.newest, journal.old]).toEqual([0, null]);
    for (let i = 0; i < 6; i++) append(journal, "x".repeat(SEGMENT_BYTES / 2), 10 * i);
    expect([journal.newest, journal.old]).toEqual([6, { number: 20, sequence: 3 }]);
    journal.free(2);
    expect(journal.old).toEqual({ number: 20, sequence: 3 });
    journal.free(3);
    expect(journal.old).toBeNull();
    journal.free(journal.sequence);
    expect(journal.newest).toBe(6);
  });

  test("are old when newer ones have enough records, however short", async () => {
    const { journal } = await setUp();
    for (let i = 0; i < 2 * SHARED_SEGMENT_RECORDS; i++) append(journal, "");
    expect(journal.old).toBeNull();
    append(journal, "");
    expect(journal.old).toEqual({ number: 0, sequence: SHARED_SEGMENT_RECORDS + 1 });
  });

  test("that are old move to the database, whose progress follows", async () => {
    const { journal } = await setUp();
    const database = openDatabase(":memory:", "none");
    const store = new Store(database, journal, true, { state: "idle", committed: () => {} });
    const progress = (): number =>
      database.query<{ sequence: number }, []>("SELECT sequence FROM progress").get()!.sequence;
    const before = progress();
    const moves: number[] = [];
    for (let turn = 0; turn < 200; turn++) {
      store.stored("bob", { number: store.newNumber(), unixMs: 5, from: "alice", text: Buffer.alloc(100) });
      store.compact((upTo) => moves.push(upTo) > 0);
      await store.save();
    }
    expect(moves.length).toBeGreaterThan(2);
    expect(before).toBe(0);
    expect(progress()).toBeGreaterThan(journal.sequence - 100);
    expect(progress()).toBeLessThan(journal.sequence - 20);
  });
});
