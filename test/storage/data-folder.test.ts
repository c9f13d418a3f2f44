import { afterEach, describe, expect, test } from "bun:test";
import { Database } from "bun:sqlite";
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DataFolder } from "../../src/storage/data-folder.ts";
import { StoreError } from "../../src/storage/database.ts";
import { openStore } from "../../src/storage/recovery.ts";
import type { Store } from "../../src/storage/store.ts";

const folders: string[] = [];
const opened: { close(): void }[] = [];

afterEach(() => {
  for (const each of opened.splice(0)) {
    try {
      each.close();
    } catch (error) {
      if (!(error instanceof StoreError)) throw error;
    }
  }
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true });
});

/** The path of a data folder that does not exist yet. */
function newPath(): string {
  folders.push(mkdtempSync(join(tmpdir(), "heartline-")));
  return join(folders.at(-1)!, "data");
}

function open(path: string): Store {
  const { store } = openStore(path, "process", { salvage: false, unixMs: 1_700_000_000_000, progress: () => {} });
  opened.push(store);
  return store;
}

function lock(path: string): DataFolder {
  const folder = new DataFolder(path);
  opened.push(folder);
  return folder;
}

function close(each: { close(): void }): void {
  opened.splice(opened.indexOf(each), 1);
  each.close();
}

function keep(store: Store, text: string): void {
  store.stored("bob", { number: store.newNumber(), unixMs: 1_700_000_000_000, from: "alice", text: Buffer.from(text) });
  store.save();
}

function kept(path: string): string[] {
  const store = open(path);
  const texts = store.read("bob", 0, 1e6).map(({ text }) => Buffer.from(text).toString());
  close(store);
  return texts;
}

const segmentOf = (path: string): string =>
  join(
    path,
    "journal",
    readdirSync(join(path, "journal")).find((name) => /^\d+$/.test(name))!,
  );
const aside = (path: string): string => `${path}.aside`;

describe("a running store accepts nothing", () => {
  test.each<[string, (path: string) => void, RegExp]>([
    ["when its folder is deleted", (path) => rmSync(path, { recursive: true }), /the data folder is gone/],
    ["when its folder is moved away", (path) => renameSync(path, aside(path)), /the data folder is gone/],
    [
      "when its folder is deleted and made again",
      (path) => {
        rmSync(path, { recursive: true });
        mkdirSync(path);
      },
      /the data folder was replaced/,
    ],
    [
      "when its folder is replaced by a copy",
      (path) => {
        renameSync(path, aside(path));
        cpSync(aside(path), path, { recursive: true });
      },
      /the data folder was replaced/,
    ],
    [
      "when its folder's path becomes a link to another folder",
      (path) => {
        renameSync(path, aside(path));
        mkdirSync(`${path}.other`);
        symlinkSync(`${path}.other`, path);
      },
      /the data folder was replaced/,
    ],
    ["when its database is deleted", (path) => rmSync(join(path, "heartline.sqlite")), /heartline\.sqlite was deleted/],
    [
      "when its write-ahead log is deleted",
      (path) => rmSync(join(path, "heartline.sqlite-wal")),
      /heartline\.sqlite-wal was deleted/,
    ],
    [
      "when its shared memory file is deleted",
      (path) => rmSync(join(path, "heartline.sqlite-shm")),
      /heartline\.sqlite-shm was deleted/,
    ],
    [
      "when its journal is deleted",
      (path) => rmSync(join(path, "journal"), { recursive: true }),
      /a file of the journal .* deleted/,
    ],
    [
      "when the journal's last position is deleted",
      (path) => rmSync(join(path, "journal/last")),
      /a file of the journal .* deleted/,
    ],
    ["when a segment is deleted", (path) => rmSync(segmentOf(path)), /a file of the journal .* deleted/],
    [
      "when a spare segment is deleted",
      (path) => {
        const spare = readdirSync(join(path, "journal")).find((name) => name.startsWith("spare"))!;
        rmSync(join(path, "journal", spare));
      },
      /a file of the journal .* deleted/,
    ],
  ])("%s", (_when, take, words) => {
    const path = newPath();
    const store = open(path);
    keep(store, "one");
    for (let tries = 0; tries < 100; tries++) store.retry(); // A spare is made piece by piece.
    expect(store.writeError).toBeNull();
    take(path);
    store.retry();
    expect(store.writeError).toMatch(words);
    keep(store, "two");
    expect(store.writeError).toMatch(words);
    expect(store.writeError).not.toContain(path);
  });

  test.each<[string, (path: string) => string]>([
    ["its folder", (path) => path],
    ["its database", (path) => join(path, "heartline.sqlite")],
    ["its journal", (path) => join(path, "journal")],
    ["a segment", segmentOf],
  ])("until %s is moved back, after it was moved away", (_what, of) => {
    const path = newPath();
    const store = open(path);
    keep(store, "one");
    const moved = of(path);
    renameSync(moved, aside(moved));
    store.retry();
    expect(store.writeError).not.toBeNull();
    renameSync(aside(moved), moved);
    store.retry();
    expect(store.writeError).toBeNull();
    keep(store, "two");
    close(store);
    expect(kept(path)).toEqual(["one", "two"]);
  });
});

describe("closing a store", () => {
  test.each<[string, (path: string) => void]>([
    ["its write-ahead log", (path) => rmSync(join(path, "heartline.sqlite-wal"))],
    ["its shared memory file", (path) => rmSync(join(path, "heartline.sqlite-shm"))],
    ["its journal", (path) => rmSync(join(path, "journal"), { recursive: true })],
    ["a segment", (path) => rmSync(segmentOf(path))],
  ])("keeps everything that was accepted although %s was deleted", (_what, take) => {
    const path = newPath();
    const store = open(path);
    keep(store, "one");
    store.commit();
    take(path);
    keep(store, "two");
    close(store);
    expect(kept(path)).toEqual(["one", "two"]);
  });

  test("reports how many messages are lost with a deleted folder, and does not create the folder again", () => {
    const path = newPath();
    const store = open(path);
    for (const text of ["one", "two", "three"]) keep(store, text);
    rmSync(path, { recursive: true });
    expect(() => close(store)).toThrow(/^the data folder is gone: 3 messages .* lost$/);
    expect(existsSync(path)).toBe(false);
  });

  test("reports the new path of a folder that was moved, and keeps everything in it", () => {
    const path = newPath();
    const store = open(path);
    keep(store, "one");
    renameSync(path, aside(path));
    keep(store, "two");
    expect(() => close(store)).toThrow(`are in ${aside(path)}`);
    expect(kept(aside(path))).toEqual(["one", "two"]);
  });

  test("changes nothing in a copy that replaced its folder", () => {
    const path = newPath();
    const store = open(path);
    keep(store, "one");
    store.commit();
    renameSync(path, aside(path));
    cpSync(aside(path), path, { recursive: true });
    keep(store, "two");
    expect(() => close(store)).toThrow("was replaced");
    expect(kept(path)).toEqual(["one"]);
    expect(kept(aside(path))).toEqual(["one", "two"]);
  });
});

test("a path that cannot be a data folder is reported in words, with what to do", () => {
  const file = newPath();
  writeFileSync(file, "");
  const advice = "--data names another one";
  expect(() => lock(file)).toThrow(`the data folder ${file} cannot be used: it is not a folder; ${advice}`);
  expect(() => lock(join(file, "x"))).toThrow(
    `the data folder ${file}/x cannot be used: it is not in a folder; ${advice}`,
  );
});

describe("the lock of a data folder", () => {
  const IN_USE = "is in use by another server";

  test("holds until the folder is closed, even when all files in it are deleted", () => {
    const path = newPath();
    const store = open(path);
    for (const name of readdirSync(path)) rmSync(join(path, name), { recursive: true });
    expect(() => lock(path)).toThrow(IN_USE);
    expect(() => close(store)).toThrow(StoreError);
    lock(path);
  });

  test("holds for every path to the folder", () => {
    const path = newPath();
    const first = lock(path);
    symlinkSync(path, aside(path));
    expect(() => lock(aside(path))).toThrow(IN_USE);
    renameSync(path, `${path}.moved`);
    expect(() => lock(`${path}.moved`)).toThrow(IN_USE);
    close(first);
    lock(`${path}.moved`);
  });

  test("is not inherited by a child process", async () => {
    const path = newPath();
    const first = lock(path);
    const child = Bun.spawn(["cat"], { stdin: "pipe", stdout: "pipe" });
    child.stdin.write("it runs");
    await child.stdin.flush();
    await child.stdout.getReader().read();
    close(first);
    lock(path);
    child.kill();
    await child.exited;
  });

  test("respects a running server of an earlier version, and removes the lock file of one that has ended", () => {
    const path = newPath();
    mkdirSync(path);
    const file = join(path, "lock");
    const former = new Database(file, { create: true });
    former.run("PRAGMA locking_mode = EXCLUSIVE");
    former.run("PRAGMA journal_mode = MEMORY");
    former.query("SELECT count(*) FROM sqlite_master").get();
    expect(() => lock(path)).toThrow(IN_USE);
    former.close();
    close(lock(path));
    expect(existsSync(file)).toBe(false);
  });
});
