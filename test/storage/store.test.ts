import { afterEach, describe, expect, test } from "bun:test";
import { Database } from "bun:sqlite";
import { copyFileSync, mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { StoredMessage } from "../../src/chat/store.ts";
import { STORE_CHANGES_BYTES_MAX, STORE_CHANGES_HELD, WAL_COMMITS_MAX } from "../../src/limits.ts";
import type { UnackedMessage } from "../../src/stream/unacked-index.ts";
import { type Durability, StoreError, openDatabase } from "../../src/storage/database.ts";
import { NOTHING } from "../../src/storage/journal-entry.ts";
import { openStore } from "../../src/storage/recovery.ts";
import type { Checkpoints } from "../../src/storage/commits.ts";
import { Store } from "../../src/storage/store.ts";
import { WalCheckpointer } from "../../src/storage/wal-checkpointer.ts";

const folders: string[] = [];
const stores: Store[] = [];

function folder(): string {
  const path = mkdtempSync(join(tmpdir(), "heartline-"));
  folders.push(path);
  return path;
}

function open(path = ":memory:", durability: Durability = "process"): Store {
  const options = { salvage: false, unixMs: 1_700_000_000_000, progress: () => {} };
  const { store } = openStore(path, path === ":memory:" ? "none" : durability, options);
  stores.push(store);
  return store;
}

/** An orderly end of the store. */
function close(store: Store): void {
  stores.splice(stores.indexOf(store), 1);
  store.close();
}

afterEach(() => {
  for (const store of stores.splice(0)) store.close();
  if (folders.length > 0) Bun.gc(true); // Files of the journal use the disk for as long as they are mapped.
  for (const path of folders.splice(0)) rmSync(path, { recursive: true });
});

function message(number: number, text = `text ${number}`, from = "alice"): UnackedMessage {
  const unixMs = 1_700_000_000_000 + number;
  return {
    number,
    position: 10 * number,
    bytes: text.length,
    inMailbox: false,
    unixMs,
    from,
    text: Buffer.from(text, "latin1"),
  };
}

function texts(messages: readonly StoredMessage[]): string[] {
  return messages.map(({ text }) => Buffer.from(text).toString("latin1"));
}

function refusal(path: string): string {
  try {
    open(path);
  } catch (error) {
    if (error instanceof StoreError) return error.message;
    throw error;
  }
  throw new Error("it opens");
}

describe("a mailbox", () => {
  test("returns its messages in the order of their numbers, unchanged", () => {
    const store = open();
    store.requeued("bob", 0, 0, [message(5), message(7)]);
    store.requeued("bob", 0, 0, [message(2)]);
    store.requeued("bob", 0, 0, [message(6, "\x00\xff\r ", "carol")]);
    store.requeued("carol", 0, 0, [message(3)]);
    const messages = store.read("bob", 0, 1e6);
    expect(texts(messages)).toEqual(["text 2", "text 5", "\x00\xff\r ", "text 7"]);
    expect(messages[2]).toMatchObject({ number: 6, unixMs: 1_700_000_000_006, from: "carol" });
  });

  test("returns only messages above the given number", () => {
    const store = open();
    store.requeued(
      "bob",
      0,
      0,
      [1, 2, 3].map((number) => message(number)),
    );
    expect(texts(store.read("bob", 2, 1e6))).toEqual(["text 3"]);
    expect(store.read("bob", 3, 1e6)).toEqual([]);
  });

  test("returns portions of about the given number of bytes, and at least one message", () => {
    const store = open();
    store.requeued(
      "bob",
      0,
      0,
      Array.from({ length: 100 }, (_, i) => message(i + 1, "x".repeat(1000))),
    );
    expect(store.read("bob", 0, 1)).toHaveLength(1);
    const portion = store.read("bob", 0, 10_000).length;
    expect(portion).toBeGreaterThanOrEqual(9);
    expect(portion).toBeLessThanOrEqual(10);
    const all: number[] = [];
    for (let last = 0; ; last = all.at(-1)!) {
      const next = store.read("bob", last, 5000).map(({ number }) => number);
      if (next.length === 0) break;
      all.push(...next);
    }
    expect(all).toEqual(Array.from({ length: 100 }, (_, i) => i + 1));
  });

  test("drops its messages up to a number, and returns their amounts", () => {
    const store = open();
    store.requeued("bob", 0, 0, [message(1, "a"), message(2, "bb"), message(5, "ccc")]);
    store.requeued("carol", 0, 0, [message(3)]);
    expect(store.drop("bob", 2, 100)).toEqual([{ from: "alice", messages: 2, bytes: 3 }]);
    expect(store.drop("bob", 4, 100)).toEqual([]);
    expect(texts(store.read("bob", 0, 1e6))).toEqual(["ccc"]);
    expect(texts(store.read("carol", 0, 1e6))).toEqual(["text 3"]);
  });

  test("drops at most the given number of messages, the oldest first", () => {
    const store = open();
    const texts = [message(1, "a"), message(2, "bb"), { ...message(5, "ccc"), from: "carol" }, message(6)];
    store.requeued("bob", 0, 0, texts);
    expect(store.drop("bob", 5, 2)).toEqual([{ from: "alice", messages: 2, bytes: 3 }]);
    expect(store.drop("bob", 5, 2)).toEqual([{ from: "carol", messages: 1, bytes: 3 }]);
    expect(store.read("bob", 0, 1e6).map(({ number }) => number)).toEqual([6]);
  });

  test("has a message once when it is requeued twice", () => {
    const store = open();
    store.requeued("bob", 0, 0, [message(3)]);
    store.requeued("bob", 0, 0, [message(2), message(3), message(4)]);
    expect(texts(store.read("bob", 0, 1e6))).toEqual(["text 2", "text 3", "text 4"]);
  });

  test("is counted by user and sender", () => {
    const store = open();
    expect(store.waiting()).toEqual([]);
    store.requeued("bob", 0, 0, [message(1, "a"), message(9, "bb"), { ...message(10, "dddd"), from: "dave" }]);
    store.requeued("carol", 0, 0, [message(4, "ccc")]);
    expect(store.waiting().toSorted((a, b) => a.user.localeCompare(b.user))).toEqual([
      { user: "bob", from: "alice", messages: 2, bytes: 3 },
      { user: "bob", from: "dave", messages: 1, bytes: 4 },
      { user: "carol", from: "alice", messages: 1, bytes: 3 },
    ]);
  });

  test("stores numbers and times far beyond 32 bits", () => {
    const store = open();
    const large = { ...message(2 ** 52), unixMs: 2 ** 43 };
    store.requeued("bob", 0, 0, [large]);
    expect(store.read("bob", 2 ** 52 - 1, 1000)).toMatchObject([{ number: 2 ** 52, unixMs: 2 ** 43 }]);
  });

  test("does not store a message again that it has already", () => {
    const store = open();
    store.requeued("bob", 0, 0, [message(1), { ...message(2), inMailbox: true }]);
    expect(texts(store.read("bob", 0, 1000))).toEqual(["text 1"]);
  });
});

describe("an ended session", () => {
  const known = { number: 5, token: "t".repeat(22), user: "bob", resumable: true };
  const ended = { ...known, finalReason: "replaced" as const, received: 77, endedUnixMs: 1_700_000_000_000 };

  test("is found by its token, and not before its end", () => {
    const store = open();
    store.sessionBegan(known, NOTHING);
    expect(store.endedSession(known.token)).toBeNull();
    store.sessionEnded(ended);
    expect(store.endedSession(known.token)).toEqual(ended);
    expect(store.endedSession("u".repeat(22))).toBeNull();
  });

  test("has the number of the last message up to any position of its stream", () => {
    const store = open();
    store.sessionBegan(known, NOTHING);
    store.sessionEnded(ended);
    store.requeued("bob", 5, 77, [message(9), message(12)]);
    expect([89, 90, 119, 120, 1e6].map((position) => store.lastDelivered(5, position))).toEqual([0, 9, 9, 12, 12]);
    expect(store.lastDelivered(6, 1e6)).toBe(0);
  });

  test("has that number also among thousands of messages", () => {
    const store = open();
    const numbers = Array.from({ length: 9000 }, () => store.newNumber()).filter((number) => number % 7 > 3);
    const messages = numbers.map((number, i) => ({ ...message(number), position: 20 * (i + 1) }));
    store.requeued("bob", 5, 0, messages);
    for (let i = 0; i <= numbers.length; i += 13) {
      expect(store.lastDelivered(5, 20 * i + 19)).toBe(numbers[i - 1] ?? 0);
    }
  });
});

test("a block is stored once and in one direction, until it is removed", () => {
  const store = open();
  store.block("alice", "bob");
  store.block("alice", "bob");
  store.block("bob", "carol");
  store.unblock("bob", "alice");
  expect(store.blocks()).toEqual([
    { user: "alice", other: "bob" },
    { user: "bob", other: "carol" },
  ]);
  store.unblock("alice", "bob");
  expect(store.blocks()).toEqual([{ user: "bob", other: "carol" }]);
});

test("dropped messages make a commit due like stored ones, since SQLite writes their pages", () => {
  let commits = 0;
  const store = new Store(openDatabase(":memory:", "none"), null, false, { state: "idle", committed: () => commits++ });
  stores.push(store);
  const text = Buffer.alloc(1000, "x");
  const keep = (count: number): void => {
    for (let i = 0; i < count; i++) store.stored("bob", { ...message(store.newNumber()), text });
  };
  keep(Math.ceil(STORE_CHANGES_BYTES_MAX / text.length));
  store.save();
  expect(commits).toBe(1);
  store.drop("bob", 10, 100);
  store.save();
  expect(commits).toBe(1);
  store.drop("bob", 1e9, 100);
  store.save();
  expect(commits).toBe(2);
});

test.each([
  ["idle", true],
  ["finishing", false],
] as const)("the changes of a turn are executed in it while the checkpoint is %s: %p", (state, isExecuted) => {
  const database = openDatabase(":memory:", "process");
  const store = new Store(database, null, false, { state, committed: () => {} });
  stores.push(store);
  store.save();
  expect(database.inTransaction).toBe(false);
  store.stored("bob", message(1));
  store.save();
  expect(database.inTransaction).toBe(isExecuted);
  expect(texts(store.read("bob", 0, 1e9))).toHaveLength(1);
});

describe("SQLite's write-ahead log", () => {
  const text = Buffer.alloc(STORE_CHANGES_BYTES_MAX, "x");

  /** A store in that folder; `seen` counts the committed messages, on another connection. */
  function watched(path: string, wal: Checkpoints): { store: Store; seen: () => number } {
    const database = openDatabase(path, "process");
    const store = new Store(database, null, false, wal);
    stores.push(store);
    const count = "SELECT count(*) AS messages FROM mailbox";
    const seen = (): number => {
      using other = new Database(join(path, "heartline.sqlite"), { readonly: true });
      return other.query<{ messages: number }, []>(count).get()!.messages;
    };
    return { store, seen };
  }

  /** Waits until the thread is done; returns the states until then. */
  async function untilIdle(wal: WalCheckpointer): Promise<string[]> {
    let { state } = wal;
    const states: string[] = [state];
    const { promise, resolve } = Promise.withResolvers<void>();
    const changed = (next: typeof state): void => {
      state = next;
      if (state === "idle") resolve();
      else states.push(state);
    };
    Object.defineProperty(wal, "state", { get: () => state, set: changed, configurable: true });
    await promise;
    return states;
  }

  test("is copied to the database by a thread, in two passes, after WAL_COMMITS_MAX commits", async () => {
    const path = folder();
    const file = join(path, "heartline.sqlite");
    const wal = new WalCheckpointer(file);
    const { store } = watched(path, wal);
    for (let i = 1; i <= WAL_COMMITS_MAX; i++) {
      expect(wal.state).toBe("idle");
      store.stored("bob", { ...message(i), text });
      store.save();
    }
    expect(await untilIdle(wal)).toEqual(["copying", "finishing"]);
    const copy = join(folder(), "heartline.sqlite");
    copyFileSync(file, copy);
    using database = new Database(copy);
    expect(database.query("SELECT count(*) AS messages FROM mailbox").get()).toEqual({ messages: WAL_COMMITS_MAX });
  });

  test("gets commits during the first pass, and is written from its beginning after the second pass", async () => {
    const path = folder();
    const wal = new WalCheckpointer(join(path, "heartline.sqlite"));
    const { store } = watched(path, wal);
    const log = join(path, "heartline.sqlite-wal");
    const keep = (): void => {
      store.stored("bob", { ...message(store.newNumber()), text });
      store.save();
    };
    for (let i = 0; i < WAL_COMMITS_MAX; i++) keep();
    expect(wal.state).toBe("copying");
    const before = statSync(log).size;
    keep();
    const { size } = statSync(log);
    expect(size).toBeGreaterThan(before);
    await untilIdle(wal);
    for (let i = 1; i < WAL_COMMITS_MAX / 2; i++) keep();
    expect(statSync(log).size).toBe(size);
  });

  test("is not cut when it is written from its beginning, since a commit would wait for that", async () => {
    const path = folder();
    const wal = new WalCheckpointer(join(path, "heartline.sqlite"));
    const { store } = watched(path, wal);
    const log = join(path, "heartline.sqlite-wal");
    const long = Buffer.alloc((80 << 20) / WAL_COMMITS_MAX);
    for (let i = 1; i <= WAL_COMMITS_MAX; i++) {
      store.stored("bob", { ...message(i), text: long });
      store.save();
    }
    const { size } = statSync(log);
    expect(size).toBeGreaterThan(80 << 20);
    await untilIdle(wal);
    store.stored("bob", { ...message(store.newNumber()), text });
    store.save();
    expect(statSync(log).size).toBe(size);
  });

  test("is not copied when the thread fails, and the next try is after WAL_COMMITS_MAX commits", async () => {
    const wal = new WalCheckpointer(join(folder(), "nowhere", "heartline.sqlite"));
    for (let times = 0; times < 2; times++) {
      for (let i = 0; i < WAL_COMMITS_MAX; i++) wal.committed();
      expect(await untilIdle(wal)).toEqual(["copying"]);
    }
  });

  test("gets no commit during the second pass until STORE_CHANGES_HELD times as much waits, and reads find all of it", () => {
    const wal: Checkpoints = { state: "finishing", committed: () => {} };
    const { store, seen } = watched(folder(), wal);
    const keep = (): void => {
      store.stored("bob", { ...message(store.newNumber()), text });
      store.retry();
      store.save();
    };
    keep();
    keep();
    expect(store.read("bob", 0, 1e9)).toHaveLength(2);
    expect(seen()).toBe(0);
    for (let i = 3; i <= STORE_CHANGES_HELD; i++) keep();
    expect(seen()).toBe(STORE_CHANGES_HELD);
    keep();
    expect(seen()).toBe(STORE_CHANGES_HELD);
    wal.state = "idle";
    store.save();
    expect(seen()).toBe(STORE_CHANGES_HELD + 1);
  });

  test("is not locked by reads", () => {
    const database = openDatabase(":memory:", "process");
    const store = new Store(database);
    stores.push(store);
    store.read("bob", 0, 1e9);
    store.drop("bob", 5, 100);
    expect(database.inTransaction).toBe(false);
  });
});

describe("a data folder", () => {
  test.each(["none", "process", "power"] as const)(
    "keeps its contents after an orderly stop, with durability %s",
    (durability) => {
      const path = folder();
      const first = open(path, durability);
      const number = first.newNumber();
      first.requeued("bob", 0, 0, [message(3)]);
      first.block("alice", "bob");
      close(first);
      const second = open(path, durability);
      expect(texts(second.read("bob", 0, 1000))).toEqual(["text 3"]);
      expect(second.blocks()).toEqual([{ user: "alice", other: "bob" }]);
      expect(second.newNumber()).toBeGreaterThan(number);
    },
  );

  test("is created with its parents, readable only by its owner", () => {
    const path = join(folder(), "a/b");
    const store = open(path);
    store.block("alice", "bob");
    store.save();
    for (const each of [path, join(path, "journal")]) expect(statSync(each).mode & 0o777).toBe(0o700);
    const files = readdirSync(path, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
    expect(files.length).toBeGreaterThan(1);
    for (const { name, parentPath } of files) {
      expect([name, statSync(join(parentPath, name)).mode & 0o777]).toEqual([name, 0o600]);
    }
  });

  test("is refused to a second server until the first one closes it", () => {
    const path = folder();
    const first = open(path);
    expect(refusal(path)).toMatch(/in use/);
    expect(refusal(path)).toContain(path);
    close(first);
    open(path);
    expect(refusal(path)).toMatch(/in use/);
  });

  test("is refused by name when its path is a file or below a file, or its database is a folder", () => {
    const path = folder();
    writeFileSync(join(path, "file"), "");
    expect(refusal(join(path, "file/data"))).toContain("file/data");
    expect(refusal(join(path, "file"))).toContain("file");
    mkdirSync(join(path, "data/heartline.sqlite"), { recursive: true });
    expect(refusal(join(path, "data"))).toContain("data");
  });

  test("is refused when the database file is garbage, and the file stays unchanged", async () => {
    const path = folder();
    const file = join(path, "heartline.sqlite");
    const garbage = "no database at all ".repeat(1000);
    writeFileSync(file, garbage);
    expect(refusal(path)).toContain("damaged");
    expect(await Bun.file(file).text()).toBe(garbage);
  });

  test("of a newer version is refused", () => {
    const path = folder();
    close(open(path));
    const database = new Database(join(path, "heartline.sqlite"));
    database.run("PRAGMA user_version = 999");
    database.close();
    expect(refusal(path)).toContain("newer");
  });
});

describe("a failed commit", () => {
  /** A store whose database rolls back instead of committing while `refuses`. */
  function refusing(): { store: Store; disk: { refuses: boolean }; committed: () => StoredMessage[] } {
    const database = openDatabase(":memory:", "none");
    const disk = { refuses: false };
    const { run } = database;
    database.run = (sql, ...values) => {
      if (sql !== "COMMIT" || !disk.refuses) return run.call(database, sql, ...(values as []));
      run.call(database, "ROLLBACK");
      throw new Error("no room");
    };
    const store = new Store(database);
    stores.push(store);
    const committed = (): StoredMessage[] => {
      if (database.inTransaction) run.call(database, "ROLLBACK");
      return new Store(database).read("bob", 0, 1e6);
    };
    return { store, disk, committed };
  }

  test("loses no change, and is a write error until the next commit succeeds", () => {
    const { store, disk, committed } = refusing();
    disk.refuses = true;
    store.stored("bob", message(1));
    store.retry();
    store.save();
    expect(store.writeError).toContain("no room");
    store.stored("bob", message(2));
    expect(texts(store.read("bob", 0, 1e6))).toEqual(["text 1", "text 2"]);
    store.retry();
    store.save();
    expect(store.drop("bob", 1, 100)).toEqual([{ from: "alice", messages: 1, bytes: 6 }]);
    disk.refuses = false;
    store.retry();
    store.save();
    expect(store.writeError).toBeNull();
    expect(texts(committed())).toEqual(["text 2"]);
  });

  test("makes the close of the store throw", () => {
    const { store, disk } = refusing();
    store.stored("bob", message(1));
    disk.refuses = true;
    stores.length = 0;
    expect(() => store.close()).toThrow("no room");
  });
});
