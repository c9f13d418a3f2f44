import { afterEach, describe, expect, test } from "bun:test";
import type { Database } from "bun:sqlite";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Account } from "../../src/chat/session.ts";
import { openDatabase } from "../../src/storage/database.ts";
import { NOTHING } from "../../src/storage/journal-entry.ts";
import { Recovery, newStore } from "../../src/storage/recovery.ts";
import { FileFolder, type Preallocation } from "../../src/storage/segment.ts";
import type { Store } from "../../src/storage/store.ts";

const SEGMENT_BYTES = 16 << 10;
const UNIX_MS = 1_700_000_000_000;
const bob = new Account("bob");
const folders: string[] = [];

afterEach(() => {
  for (const path of folders.splice(0)) rmSync(path, { recursive: true });
});

/** A disk that refuses new segments while `isFull`, and commits while `isDatabaseFull`. */
class Disk extends FileFolder {
  isFull = false;
  isDatabaseFull = false;
  readonly database: Database = openDatabase(":memory:", "process");

  constructor() {
    const path = mkdtempSync(join(tmpdir(), "heartline-"));
    folders.push(path);
    super(join(path, "journal"));
    const { run } = this.database;
    this.database.run = (sql, ...values) => {
      if (sql !== "COMMIT" || !this.isDatabaseFull) return run.call(this.database, sql, ...(values as []));
      run.call(this.database, "ROLLBACK");
      throw new Error("the database has no room");
    };
  }

  override fill(name: string, bytes: number): Preallocation {
    if (this.isFull) throw new Error("no room");
    return super.fill(name, bytes);
  }

  /** A server starts, after the one before was killed. */
  start(): Store {
    if (this.database.inTransaction) this.database.run("ROLLBACK");
    const options = { salvage: false, unixMs: UNIX_MS, progress: () => {} };
    new Recovery(this.database, this, options, SEGMENT_BYTES).run();
    return newStore(this.database, this, "process", SEGMENT_BYTES);
  }
}

function tokenOf(index: number): string {
  return String(index).padStart(22, "t");
}

/** A store with that many known sessions, which has noticed that its disk is full. */
function full(disk: Disk, sessions: number): { store: Store; numbers: number[] } {
  const store = disk.start();
  const numbers = Array.from({ length: sessions }, (_, i) => {
    const number = store.newNumber();
    store.sessionBegan({ number, token: tokenOf(i), user: `user${i}`, resumable: true }, NOTHING);
    return number;
  });
  disk.isFull = true;
  store.save();
  store.retry();
  expect(store.writeError).toContain("no room");
  return { store, numbers };
}

function keep(store: Store, text: string): void {
  store.stored("bob", { number: store.newNumber(), unixMs: 5, from: "alice", text: Buffer.from(text) });
}

function waiting(store: Store): string[] {
  return store.read("bob", 0, 1e9).map(({ text }) => Buffer.from(text).toString());
}

describe("while the disk is full", () => {
  const NOTES: Record<string, (store: Store, numbers: readonly number[], turn: number) => void> = {
    "positions of sessions": (store, numbers, turn) => {
      for (const number of numbers) store.received(number, turn);
    },
    "acknowledged messages": (store, _numbers, turn) => store.acked(bob, Math.min(turn, 8)),
    "wrong passwords": (store, _numbers, turn) =>
      store.wrongPasswords({ user: "bob", source: `10.0.0.${turn % 250}`, count: 1 + (turn % 3) }, UNIX_MS + turn),
    "sessions that end": (store, numbers, turn) => {
      const index = turn % numbers.length;
      const { [index]: number = 0 } = numbers;
      const known = { number, token: tokenOf(index), user: `user${index}`, resumable: true };
      store.sessionEnded({ ...known, finalReason: null, received: turn, endedUnixMs: UNIX_MS });
    },
  };

  test.each(Object.keys(NOTES))("every turn can end, however many entries of this kind it has: %s", (what) => {
    const disk = new Disk();
    const { store, numbers } = full(disk, 8);
    for (let turn = 1; turn <= 3000; turn++) {
      NOTES[what]!(store, numbers, turn);
      expect(store.save()).toBe(true);
    }
    expect(store.accepts(1)).toBe(false);
    disk.isFull = false;
    store.retry();
    expect(store.writeError).toBeNull();
    expect(store.accepts(1)).toBe(true);
    keep(store, "there is room again");
    expect(store.save()).toBe(true);
    expect(waiting(disk.start())).toEqual(["there is room again"]);
  });

  test("positions that waited are in the first record after there is room again", () => {
    const disk = new Disk();
    const { store, numbers } = full(disk, 8);
    for (let turn = 1; turn <= 3000; turn++) {
      NOTES["positions of sessions"]!(store, numbers, turn);
      store.save();
    }
    disk.isFull = false;
    store.retry();
    expect(store.accepts(1)).toBe(true);
    keep(store, "accepted");
    store.received(numbers[3]!, 3001);
    store.save();
    const again = disk.start();
    const received = numbers.map((_, i) => again.endedSession(tokenOf(i))!.received);
    expect(received).toEqual([3000, 3000, 3000, 3001, 3000, 3000, 3000, 3000]);
  });

  test("positions that waited are written to the reserve of the journal when the server stops and the database is full too", () => {
    const disk = new Disk();
    const { store, numbers } = full(disk, 8);
    for (let turn = 1; turn <= 3000; turn++) {
      NOTES["positions of sessions"]!(store, numbers, turn);
      store.save();
    }
    disk.isDatabaseFull = true;
    disk.database.close = () => {};
    expect(() => store.close()).toThrow("the database has no room");
    disk.isFull = disk.isDatabaseFull = false;
    const again = disk.start();
    expect(numbers.map((_, i) => again.endedSession(tokenOf(i))!.received)).toEqual(Array(8).fill(3000));
  });

  test("a turn accepts no more than its record has room for, and everything that it accepted is recorded", () => {
    const disk = new Disk();
    const store = disk.start();
    keep(store, "first");
    store.save();
    disk.isFull = true; // The store has not noticed it yet.
    const text = "x".repeat(100);
    let accepted = 0;
    while (store.accepts(text.length)) {
      keep(store, text);
      accepted++;
    }
    expect(store.writeError).toContain("no room");
    expect(accepted).toBeGreaterThan(20);
    expect(store.save()).toBe(true);
    disk.isFull = false;
    store.retry();
    expect([store.writeError, store.accepts(1)]).toEqual([null, true]);
    expect(waiting(disk.start())).toHaveLength(1 + accepted);
  });

  test("while the database refuses commits, nothing is accepted, and every turn can end", () => {
    const disk = new Disk();
    const store = disk.start();
    disk.isDatabaseFull = true;
    keep(store, "kept in the journal");
    expect(store.save()).toBe(true);
    store.commit();
    expect([store.accepts(1), store.hasRoom(1)]).toEqual([false, true]);
    for (let turn = 0; turn < 3000; turn++) {
      store.wrongPasswords({ user: "bob", source: `10.0.0.${turn % 250}`, count: 1 }, UNIX_MS);
      expect(store.save()).toBe(true);
    }
    disk.isDatabaseFull = false;
    store.retry();
    store.save();
    expect(store.accepts(1)).toBe(true);
    expect(waiting(disk.start())).toEqual(["kept in the journal"]);
  });
});

test("a turn with more than a segment has room for is recorded as a whole while the disk has room", () => {
  const disk = new Disk();
  const store = disk.start();
  const texts = Array.from({ length: 100 }, (_, i) => `${i} `.padEnd(1000, "x"));
  for (const text of texts) {
    expect(store.accepts(text.length)).toBe(true);
    keep(store, text);
  }
  expect(store.save()).toBe(true);
  keep(store, "after it");
  expect(store.save()).toBe(true);
  expect(waiting(disk.start())).toEqual([...texts, "after it"]);
});
