import { afterEach, describe, expect, test } from "bun:test";
import { Database } from "bun:sqlite";
import {
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Account } from "../../src/chat/session.ts";
import { BackupBusyError } from "../../src/storage/backup.ts";
import { Copier, type CopyReply, type CopyRequest } from "../../src/storage/backup-copy.ts";
import { DataFolder } from "../../src/storage/data-folder.ts";
import { type Durability, StoreError, openDatabase } from "../../src/storage/database.ts";
import { Journal, segmentsOf } from "../../src/storage/journal.ts";
import { Recovery, openStore, seedOf } from "../../src/storage/recovery.ts";
import { FileFolder } from "../../src/storage/segment.ts";
import { Store } from "../../src/storage/store.ts";
import { Outbox } from "../../src/stream/outbox.ts";
import { Random, seedsFor } from "../support/random.ts";

const SEGMENT_BYTES = 4096;
/** Few steps, since each ends with a sync. */
const COARSE = { pieceBytes: 16 << 10, chunkBytes: 16 << 10, pauseMs: 0, walBytesMax: 1 << 30, roomBytes: 0 };
const PACE = { pieceBytes: 4096, chunkBytes: 4096, pauseMs: 0, walBytesMax: 1 << 30, roomBytes: 0 };
const UNIX_MS = 1_700_000_000_000;
const USERS = [new Account("alice"), new Account("bob")] as const;
const OPTIONS = { salvage: false, unixMs: UNIX_MS, progress: () => {} };
const folders: string[] = [];
const opened: { close(): void }[] = [];

afterEach(() => {
  for (const each of opened.splice(0).reverse()) each.close();
  if (folders.length > 0) Bun.gc(true); // Files of the journal use the disk for as long as they are mapped.
  for (const path of folders.splice(0)) rmSync(path, { recursive: true });
});

function newPath(): string {
  folders.push(mkdtempSync(join(tmpdir(), "heartline-")));
  return folders.at(-1)!;
}

/** What each user has not acknowledged, and who blocks whom. */
interface State {
  messages: string[];
  blocks: string[];
}

function stateOf(store: Store): State {
  const messages = USERS.flatMap(({ name }) =>
    store.read(name, 0, Number.POSITIVE_INFINITY).map(({ number, text }) => `${name} ${number} ${Buffer.from(text)}`),
  );
  return { messages, blocks: store.blocks().map(({ user, other }) => `${user} ${other}`) };
}

/** Opens a folder with small segments, as a server does. */
function open(
  path: string,
  durability: Durability,
  ask?: (request: CopyRequest) => Promise<CopyReply>,
  hasCheckpoint = (): boolean => true,
) {
  const data = new DataFolder(path);
  const database = openDatabase(path, durability);
  const { damage } = new Recovery(database, new FileFolder(join(path, "journal")), OPTIONS, SEGMENT_BYTES).run();
  expect(damage).toBeNull();
  const { sequence } = database.query<{ sequence: number }, []>("SELECT * FROM progress").get()!;
  const journal =
    durability === "none"
      ? null
      : new Journal(new FileFolder(data.inside("journal")), sequence, seedOf(database), SEGMENT_BYTES);
  data.watch(journal);
  /** Some commits are followed by a checkpoint, as far as SQLite can copy its log. */
  const checkpoint = (): void => {
    if (!hasCheckpoint()) return;
    using other = new Database(database.filename, { create: false, readwrite: true });
    other.run("PRAGMA wal_checkpoint(PASSIVE)");
  };
  const checkpoints = { state: "idle", committed: checkpoint } as const;
  const store = new Store(database, journal, durability === "power", checkpoints, data, ask);
  opened.push(store);
  return store;
}

/** A server whose users send and acknowledge at random, with a model of what it has promised. */
class Server {
  readonly path = join(newPath(), "data");
  readonly store: Store;
  hasCheckpoints = true;
  /** Called before each step of a backup. */
  beforeStep = (_request: CopyRequest): void => {};
  /** The error with which the next step of a backup fails; null when it does not. */
  refusal = (): Error | null => null;
  /** The state at the record that was the last one when the backup asked for the journal. */
  atSnapshot: State | null = null;
  readonly requests: CopyRequest[] = [];
  readonly #random: Random;
  readonly #streams = USERS.map(() => new Outbox({ markDirty: () => {} }, false));
  readonly #movedUpTo = USERS.map(() => 0);
  readonly #waiting: { user: number; number: number; text: string; position: number }[] = [];
  readonly #blocks = new Set<string>();

  constructor(random = new Random(1), durability: Durability = "process", pace = PACE) {
    this.#random = random;
    const copier = new Copier(pace);
    const ask = async (request: CopyRequest): Promise<CopyReply> => {
      if ("go" in request && request.go !== null) this.atSnapshot = this.state;
      this.requests.push(request);
      this.beforeStep(request);
      const refusal = this.refusal();
      if (refusal !== null) return copier.fail(refusal);
      return copier.answer(request);
    };
    this.store = open(this.path, durability, ask, () => this.hasCheckpoints && random.oneIn(3));
  }

  get state(): State {
    const messages = USERS.flatMap(({ name }, index) =>
      this.#waiting.filter(({ user }) => user === index).map(({ number, text }) => `${name} ${number} ${text}`),
    );
    return { messages, blocks: [...this.#blocks].sort() };
  }

  turn(): void {
    for (let acts = 1 + this.#random.below(4); acts > 0; acts--) {
      const user = this.#random.below(USERS.length);
      const act = this.#random.below(10);
      if (act < 7) this.send(user, act < 3, "x".repeat(1 + this.#random.below(400)));
      else if (act < 9) this.#ack(user);
      else this.#block(user);
    }
    this.store.compact(this.#moveOld);
    expect(this.store.save()).toBe(true);
  }

  send(user: number, isStored: boolean, text: string): void {
    const number = this.store.newNumber();
    const outbox = this.#streams[user]!;
    if (isStored) {
      this.store.stored(USERS[user]!.name, { number, unixMs: UNIX_MS, from: "carol", text: Buffer.from(text) });
    } else {
      outbox.appendMessage(number, UNIX_MS, Buffer.from("message carol "), Buffer.from(text), 0, text.length);
      this.store.appended(USERS[user]!, 0, outbox);
    }
    this.#waiting.push({ user, number, text, position: outbox.end });
  }

  #ack(user: number): void {
    const own = this.#waiting.filter((message) => message.user === user);
    const last = own[this.#random.below(own.length + 1)];
    if (last === undefined) return;
    const outbox = this.#streams[user]!;
    outbox.durable = outbox.sent = outbox.end;
    outbox.ack(Math.max(outbox.acked, last.position));
    this.store.acked(USERS[user]!, last.number);
    this.store.drop(USERS[user]!.name, last.number, 1e9);
    for (const message of own)
      if (message.number <= last.number) this.#waiting.splice(this.#waiting.indexOf(message), 1);
  }

  #block(user: number): void {
    const [name, other] = [USERS[user]!.name, USERS[1 - user]!.name];
    const isOn = this.#blocks.delete(`${name} ${other}`);
    if (isOn) return this.store.unblock(name, other);
    this.#blocks.add(`${name} ${other}`);
    this.store.block(name, other);
  }

  readonly #moveOld = (upTo: number): boolean => {
    for (const [index, { name }] of USERS.entries()) {
      const stream = this.#streams[index]!;
      const messages = stream.messages(this.#movedUpTo[index]!, upTo, 1e9);
      this.store.requeued(name, 0, 0, messages);
      this.#movedUpTo[index] = messages.at(-1)?.number ?? this.#movedUpTo[index]!;
    }
    return true;
  };

  get segments(): number[] {
    return segmentsOf(new FileFolder(join(this.path, "journal")));
  }
}

/** The texts in the mailboxes of a backup, as the server finds them at its start. */
function textsOf(path: string): string[] {
  const store = open(path, "process");
  return USERS.flatMap(({ name }) =>
    store.read(name, 0, Number.POSITIVE_INFINITY).map(({ text }) => `${name} ${Buffer.from(text)}`),
  );
}

function filesOf(path: string): string[] {
  return readdirSync(path, { recursive: true, encoding: "utf8" }).sort();
}

/** The reason why that backup fails. */
async function whyFails(backup: Promise<void>): Promise<string> {
  const error = await backup.then(
    () => null,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(StoreError);
  return (error as Error).message;
}

describe("a backup", () => {
  test.each(seedsFor("backup", 12))(
    "has every message of its snapshot once, with turns, commits, checkpoints and new segments between its steps (%i)",
    async (seed) => {
      const random = new Random(seed);
      const server = new Server(random);
      for (let turns = random.below(120); turns > 0; turns--) server.turn();
      const target = join(newPath(), "copy");
      const [first] = server.segments;
      server.beforeStep = () => {
        for (let turns = random.below(6); turns > 0; turns--) server.turn();
        if (random.oneIn(4)) server.store.commit();
      };
      await server.store.backup(target);
      expect(filesOf(target).filter((name) => name.startsWith("heartline"))).toEqual(["heartline.sqlite"]);
      const copy = open(target, "process");
      expect(server.atSnapshot).not.toBeNull();
      expect(stateOf(copy)).toEqual(server.atSnapshot!);
      for (let turns = 0; turns < 20; turns++) server.turn();
      expect(server.segments.length).toBeLessThan(8);
      expect(server.segments[0]).not.toBe(first);
      expect(stateOf(server.store).messages.length).toBeLessThanOrEqual(server.state.messages.length);
    },
  );

  test.each([10, 20, 30, 40, 50])(
    "is complete when SQLite begins its log anew before step %i, while the old log is copied",
    async (step) => {
      const server = new Server(new Random(2));
      server.hasCheckpoints = false;
      for (let turns = 0; turns < 100; turns++) server.turn();
      server.store.commit();
      const file = join(server.path, "heartline.sqlite");
      using other = new Database(file, { create: false, readwrite: true });
      other.run("PRAGMA wal_checkpoint(PASSIVE)");
      server.beforeStep = () => {
        if (server.requests.length !== step) return;
        for (let turns = 0; turns < 60; turns++) server.turn();
        server.store.commit();
      };
      const target = join(newPath(), "copy");
      await server.store.backup(target);
      expect(stateOf(open(target, "process"))).toEqual(server.state);
    },
  );

  test.each<Durability>(["none", "process", "power"])(
    "has what was saved before the call and opens as a data folder, with durability %s",
    async (durability) => {
      const server = new Server(new Random(1), durability);
      server.send(0, true, "stored");
      server.send(1, true, "in the database");
      server.store.save();
      server.store.commit();
      server.send(1, true, "in the journal");
      server.store.save();
      const target = join(newPath(), "copy");
      await server.store.backup(target);
      expect(textsOf(target)).toEqual(["alice stored", "bob in the database", "bob in the journal"]);
    },
  );

  test("is a folder with mode 0700 of files with mode 0600: the database, segments with records, and last", async () => {
    const server = new Server();
    for (let turns = 0; turns < 40; turns++) server.turn();
    const target = join(newPath(), "copy");
    await server.store.backup(target);
    const modes = Object.fromEntries(filesOf(target).map((name) => [name, statSync(join(target, name)).mode & 0o777]));
    const segments = segmentsOf(new FileFolder(join(target, "journal"))).map(
      (first) => `journal/${String(first).padStart(16, "0")}`,
    );
    expect(segments.length).toBeGreaterThan(1);
    const files = ["heartline.sqlite", "journal/last", ...segments];
    expect(modes).toEqual({ journal: 0o700, ...Object.fromEntries(files.map((name) => [name, 0o600])) });
    expect(statSync(target).mode & 0o777).toBe(0o700);
  });

  test("has all pages of a database that is longer than a piece, by the real thread", async () => {
    const path = join(newPath(), "data");
    const { store } = openStore(path, "process", OPTIONS);
    const text = Buffer.alloc(4000, "y");
    for (let i = 0; i < 400; i++) {
      store.stored("alice", { number: store.newNumber(), unixMs: UNIX_MS, from: "carol", text });
      if (i % 10 === 0) store.save();
    }
    store.save();
    const target = join(newPath(), "copy");
    await store.backup(target);
    opened.push(store);
    const copy = openStore(target, "process", OPTIONS);
    opened.push(copy.store);
    expect(copy.recovered.damage).toBeNull();
    expect(copy.store.read("alice", 0, 1e9)).toHaveLength(400);
  }, 60_000);

  test("is refused while another one is running, which is not disturbed", async () => {
    const server = new Server();
    const folder = newPath();
    const second = Promise.withResolvers<unknown>();
    server.beforeStep = () => server.store.backup(join(folder, "second")).catch(second.resolve);
    await server.store.backup(join(folder, "first"));
    const error = await second.promise;
    expect(error).toBeInstanceOf(BackupBusyError);
    expect(error).toHaveProperty("message", "another backup is running; try again when it has ended");
    expect(readdirSync(folder)).toEqual(["first"]);
    server.beforeStep = () => {};
    await server.store.backup(join(folder, "third"));
    expect(readdirSync(folder).sort()).toEqual(["first", "third"]);
  });

  test("leaves the journal as bounded as before, and opens no further files after the first one", async () => {
    const server = new Server();
    for (let turns = 0; turns < 200; turns++) server.turn();
    const descriptors = (): number => readdirSync("/proc/self/fd").length;
    await server.store.backup(join(newPath(), "copy"));
    const before = descriptors();
    for (let i = 0; i < 3; i++) await server.store.backup(join(newPath(), "copy"));
    expect(descriptors()).toBe(before);
    for (let turns = 0; turns < 50; turns++) server.turn();
    expect(server.segments.length).toBeLessThan(8);
  });

  test("does not release the locks of SQLite on the database", async () => {
    const server = new Server();
    const lockOf = (): string[] => {
      const { ino } = statSync(join(server.path, "heartline.sqlite"));
      return readFileSync("/proc/locks", "latin1")
        .split("\n")
        .filter((line) => line.includes(` ${process.pid} `) && line.includes(`:${ino} `))
        .map((line) => line.replace(/^\d+: /, ""));
    };
    const before = lockOf();
    expect(before).not.toEqual([]);
    await server.store.backup(join(newPath(), "copy"));
    expect(lockOf()).toEqual(before);
  });
});

describe("a backup that cannot be made leaves no folder and says why", () => {
  /** A server, and a folder for backups that must be empty at the end. */
  function setUp(): { server: Server; folder: string } {
    const server = new Server();
    server.send(0, true, "kept");
    server.store.save();
    return { server, folder: newPath() };
  }

  test("for a path that is not absolute", async () => {
    const { server } = setUp();
    const why = "cannot back up to copy: the path is not absolute; give a path that begins with /";
    expect(await whyFails(server.store.backup("copy"))).toBe(why);
  });

  test.each(["a folder", "a file", "a link to nowhere"])("for a path where %s exists", async (what) => {
    const { server, folder } = setUp();
    const target = join(folder, "copy");
    if (what === "a folder") mkdirSync(target);
    else if (what === "a file") writeFileSync(target, "mine");
    else symlinkSync("nowhere", target);
    const why = `cannot back up to ${target}: it exists already; give the path of a new folder`;
    expect(await whyFails(server.store.backup(target))).toBe(why);
    expect(filesOf(folder)).toEqual(["copy"]);
  });

  test("for a folder in a folder that does not exist, or in a file", async () => {
    const { server, folder } = setUp();
    const [missing, file] = [join(folder, "missing/copy"), join(folder, "file/copy")];
    writeFileSync(join(folder, "file"), "");
    expect(await whyFails(server.store.backup(missing))).toBe(
      `cannot back up to ${missing}: the folder above it does not exist; create that first`,
    );
    expect(await whyFails(server.store.backup(file))).toBe(
      `cannot back up to ${file}: a file is in its path; give another path`,
    );
    expect(filesOf(folder)).toEqual(["file"]);
  });

  test.skipIf(process.platform !== "linux")("for a folder that may not be written to", async () => {
    const { server } = setUp();
    expect(await whyFails(server.store.backup("/sys/heartline"))).toBe(
      "cannot back up to /sys/heartline: the server's user may not write there; change the permissions, " +
        "or give another path",
    );
  });

  test("for the data folder, and for a folder in it, also through a link", async () => {
    const { server, folder } = setUp();
    expect(await whyFails(server.store.backup(server.path))).toContain("it exists already");
    symlinkSync(join(server.path, "journal"), join(folder, "link"));
    const before = filesOf(server.path);
    for (const target of [join(server.path, "copy"), join(server.path, "journal/copy"), join(folder, "link/copy")]) {
      expect(await whyFails(server.store.backup(target))).toBe(
        `cannot back up to ${target}: it would be inside the data folder; give a path outside`,
      );
    }
    expect(filesOf(server.path)).toEqual(before);
  });

  test("next to what a backup left that was cut off", async () => {
    const { server, folder } = setUp();
    const target = join(folder, "copy");
    mkdirSync(`${target}.partial`);
    expect(await whyFails(server.store.backup(target))).toBe(
      `cannot back up to ${target}: ${target}.partial exists, perhaps of an attempt that was cut off; remove it, ` +
        "or give another path",
    );
    expect(filesOf(folder)).toEqual(["copy.partial"]);
  });

  test("while the data folder is moved away", async () => {
    const { server, folder } = setUp();
    renameSync(server.path, `${server.path}2`);
    const target = join(folder, "copy");
    const why = await whyFails(server.store.backup(target));
    expect(why).toBe(`cannot back up to ${target}: the data folder is gone`);
    renameSync(`${server.path}2`, server.path);
    await server.store.backup(target);
  });

  test("when the server has no descriptor left", async () => {
    const { server, folder } = setUp();
    const target = join(folder, "copy");
    const error = Object.assign(new Error("EMFILE: too many open files"), { code: "EMFILE" });
    const why = `cannot back up to ${target}: the server has too many open files; raise the open-file limit`;
    const own = Object.getOwnPropertyDescriptor(DataFolder.prototype, "databaseDescriptor")!;
    const get = (): number => {
      throw error;
    };
    Object.defineProperty(DataFolder.prototype, "databaseDescriptor", { ...own, get });
    try {
      expect(await whyFails(server.store.backup(target))).toBe(why);
    } finally {
      Object.defineProperty(DataFolder.prototype, "databaseDescriptor", own);
    }
    server.refusal = () => (server.requests.length > 1 ? error : null);
    expect(await whyFails(server.store.backup(target))).toBe(why);
    expect(filesOf(folder)).toEqual([]);
  });

  test("for a folder that somebody else fills meanwhile, which stays", async () => {
    const { server, folder } = setUp();
    const target = join(folder, "copy");
    server.beforeStep = (request) => {
      if ("begin" in request) return;
      mkdirSync(target, { recursive: true });
      writeFileSync(join(target, "own"), "");
    };
    const why = `cannot back up to ${target}: it exists already; give the path of a new folder`;
    expect(await whyFails(server.store.backup(target))).toBe(why);
    expect(filesOf(folder)).toEqual(["copy", "copy/own"]);
  });

  test("for a server that stores nothing", async () => {
    const store = new Store(openDatabase(":memory:", "none"));
    const why = "cannot back up to /copy: this server stores nothing (--data :memory:)";
    expect(await whyFails(store.backup("/copy"))).toBe(why);
  });

  test("when SQLite's log becomes too long while the database is copied", async () => {
    const server = new Server(new Random(1), "process", { ...PACE, walBytesMax: 40_000 });
    const folder = newPath();
    for (let turns = 0; turns < 40; turns++) server.turn();
    server.store.commit();
    server.beforeStep = () => {
      for (let turns = 0; turns < 5; turns++) server.turn();
      server.store.commit();
    };
    const target = join(folder, "copy");
    expect(await whyFails(server.store.backup(target))).toMatch(
      /^cannot back up to \S+: copying is too slow: \d+ MiB of changes wait for its end; use a faster disk, or try again/,
    );
    expect(filesOf(folder)).toEqual([]);
  });

  test("on a disk with too little room", async () => {
    const server = new Server(new Random(1), "process", { ...PACE, roomBytes: 2 ** 60 });
    const folder = newPath();
    const target = join(folder, "copy");
    expect(await whyFails(server.store.backup(target))).toMatch(
      /^cannot back up to \S+: the disk has too little room: \d+ MiB are free and \d+ MiB needed; make room$/,
    );
    expect(filesOf(folder)).toEqual([]);
  });

  test("when the server stops, at any step", async () => {
    const folder = newPath();
    const whole = new Server(new Random(1), "process", COARSE);
    for (let turns = 0; turns < 20; turns++) whole.turn();
    await whole.store.backup(join(newPath(), "copy"));
    const steps = whole.requests.length;
    expect(steps).toBeGreaterThan(10);
    for (let stopAt = 1; stopAt < steps; stopAt++) {
      const server = new Server(new Random(1), "process", COARSE);
      for (let turns = 0; turns < 20; turns++) server.turn();
      let stopped: Promise<void> | null = null;
      server.beforeStep = () => {
        if (server.requests.length === stopAt) stopped = server.store.stopBackup();
      };
      const target = join(folder, "copy");
      expect(await whyFails(server.store.backup(target))).toBe(`cannot back up to ${target}: the server stops`);
      await stopped!;
      expect(filesOf(folder)).toEqual([]);
      expect(await whyFails(server.store.backup(target))).toBe(`cannot back up to ${target}: the server stops`);
    }
  }, 60_000);

  test("when the disk refuses, at any step, and the next backup is complete", async () => {
    const folder = newPath();
    const full = Object.assign(new Error("ENOSPC: no space left on device, write"), { code: "ENOSPC" });
    const target = join(folder, "copy");
    let failures = 0;
    for (let refuseAt = 2; failures === refuseAt - 2; refuseAt++) {
      const server = new Server(new Random(1), "process", COARSE);
      for (let turns = 0; turns < 20; turns++) server.turn();
      server.refusal = () => (server.requests.length === refuseAt ? full : null);
      const why = await server.store.backup(target).catch(({ message }) => message);
      if (why === undefined) break;
      failures++;
      expect(why).toBe(`cannot back up to ${target}: the disk is full; make room`);
      expect(filesOf(folder)).toEqual([]);
      for (let turns = 0; turns < 80; turns++) server.turn();
      expect(server.segments.length).toBeLessThan(8);
      server.refusal = () => null;
      const again = join(newPath(), "copy");
      await server.store.backup(again);
      expect(stateOf(open(again, "process"))).toEqual(server.state);
    }
    expect(failures).toBeGreaterThan(10);
  }, 60_000);
});
