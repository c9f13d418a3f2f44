import { afterEach, describe, expect, spyOn, test } from "bun:test";
import { Database } from "bun:sqlite";
import { createHash } from "node:crypto";
import {
  copyFileSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  truncateSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Account } from "../../src/chat/session.ts";
import { JOURNAL_SEGMENTS_KEPT, LIMITS_DEFAULT } from "../../src/limits.ts";
import { Connection } from "../../src/net/connection.ts";
import type { Transport } from "../../src/net/transport.ts";
import { createCore } from "../../src/server/core.ts";
import { Outbox } from "../../src/stream/outbox.ts";
import { type Durability, StoreError, openDatabase } from "../../src/storage/database.ts";
import { NOTHING } from "../../src/storage/journal-entry.ts";
import { Journal, segmentName, segmentsOf } from "../../src/storage/journal.ts";
import { RecordReader } from "../../src/storage/record.ts";
import { type Recovered, Recovery, newStore, openStore, seedOf } from "../../src/storage/recovery.ts";
import { FileFolder } from "../../src/storage/segment.ts";
import { Store } from "../../src/storage/store.ts";

const SEGMENT_BYTES = 4096;
const UNIX_MS = 1_700_000_000_000;
const TOKEN = "t".repeat(22);
const [alice, bob] = [new Account("alice"), new Account("bob")] as const;
const folders: string[] = [];

afterEach(() => {
  for (const path of folders.splice(0)) rmSync(path, { recursive: true });
});

function newPath(): string {
  const path = mkdtempSync(join(tmpdir(), "heartline-"));
  folders.push(path);
  return path;
}

/** The disk of several servers, one after another: it has what they wrote before they were killed. */
class Disk {
  readonly database = openDatabase(":memory:", "process");
  readonly folder = new FileFolder(join(newPath(), "journal"));
  recovered: Recovered = { records: 0, messages: 0, damage: null };

  /** A server starts, after the one before was killed at any point. */
  start({ salvage = false, progress = (_part: number): void => {} } = {}): Store {
    this.kill();
    this.recovered = new Recovery(
      this.database,
      this.folder,
      { salvage, unixMs: UNIX_MS, progress },
      SEGMENT_BYTES,
    ).run();
    return newStore(this.database, this.folder, "process", SEGMENT_BYTES);
  }

  kill(): void {
    if (this.database.inTransaction) this.database.run("ROLLBACK");
  }

  /** The file of the segment at that index. */
  file(index: number): string {
    return join(this.folder.path, segmentName(segmentsOf(this.folder).at(index)!));
  }
}

/** The outbox of a session; `message` appends a message to it, reports it to the store and returns its number. */
function newStream(store: Store, number: number, user = bob): { outbox: Outbox; message: (text: string) => number } {
  const outbox = new Outbox({ markDirty: () => {} }, number === 0);
  const message = (text: string): number => {
    const id = store.newNumber();
    outbox.appendMessage(id, UNIX_MS + id, Buffer.from("message alice "), Buffer.from(text), 0, text.length);
    store.appended(user, number, outbox);
    return id;
  };
  return { outbox, message };
}

function began(store: Store, token = TOKEN): number {
  const number = store.newNumber();
  store.sessionBegan({ number, token, user: "bob", resumable: true }, NOTHING);
  return number;
}

/** A chat with that store, whose turns end after each chunk. */
function chatOn(store: Store, names: readonly string[]) {
  const ends: (() => void)[] = [];
  let tokens = 0;
  const core = createCore({
    clock: { nowMs: () => 0, unixMs: () => UNIX_MS },
    store,
    users: names.map((name) => ({ name, password: "secret" })),
    passwords: { verify: () => true, prove: () => NOTHING },
    newToken: () => String(++tokens).padStart(22, "t"),
    idleTimeoutMs: 1e9,
    blockMs: 1e9,
    lockoutScope: "address",
    limits: { ...LIMITS_DEFAULT, requestsPerSecondMax: 0 },
    later: (end) => void ends.push(end),
    report: (error) => {
      throw error;
    },
  });
  const transport: Transport = {
    isEncrypted: false,
    isWebSocket: false,
    write: (_bytes, _start, count) => count,
    send: () => 0,
    pause: () => {},
    resume: () => {},
    shutdown: () => {},
    end: () => {},
    reset: () => {},
    handOver: () => {},
    closed: () => {},
    release: () => {},
  };
  const connect = (name: string, options = "") => {
    const connection = new Connection(core.connections, transport, "127.0.0.1");
    const send = (text: string): void => {
      core.turn.begin();
      connection.data(Buffer.from(text));
      for (let end = ends.shift(); end !== undefined; end = ends.shift()) end();
    };
    send(`login ${name} secret${options}\n`);
    return { connection, send };
  };
  return connect;
}

function waiting(store: Store, user = "bob"): string[] {
  return store.read(user, 0, 1e9).map(({ from, text }) => `${from} ${Buffer.from(text)}`);
}

describe("after a kill", () => {
  test("wrong passwords still count unless they were forgotten", () => {
    const disk = new Disk();
    const store = disk.start();
    const wrong = (user: string, count: number, untilUnixMs: number): void =>
      store.wrongPasswords({ user, source: "2001:db8:0:0", count }, untilUnixMs);
    wrong("bob", 1, UNIX_MS + 1000);
    wrong("alice", 2, UNIX_MS + 1500);
    store.save();
    wrong("bob", 3, UNIX_MS + 2000);
    wrong("alice", 0, 0);
    store.save();
    const expected = [{ user: "bob", source: "2001:db8:0:0", count: 3, untilUnixMs: UNIX_MS + 2000 }];
    expect(disk.start().lockouts()).toEqual(expected);
    expect(disk.start().lockouts()).toEqual(expected);
  });

  test("users are still banned unless they were unbanned, and their last logins are known", () => {
    const disk = new Disk();
    const store = disk.start();
    store.banned("alice", UNIX_MS + 1000);
    store.banned("bob", Number.MAX_SAFE_INTEGER);
    store.banned("carol", UNIX_MS);
    store.loggedIn(bob, UNIX_MS, "192.0.2.1");
    store.save();
    store.banned("carol", 0);
    store.loggedIn(bob, UNIX_MS + 1, "2001:db8::1");
    store.save();
    store.banned("alice", 0); // Not saved.
    for (let i = 0; i < 2; i++) {
      const again = disk.start();
      expect(again.bans()).toEqual([
        { user: "alice", untilUnixMs: UNIX_MS + 1000 },
        { user: "bob", untilUnixMs: Number.MAX_SAFE_INTEGER },
      ]);
      expect(again.lastLogin("bob")).toEqual({ unixMs: UNIX_MS + 1, address: "2001:db8::1" });
      expect(again.lastLogin("alice")).toBeNull();
    }
  });

  test("a kicked session is known as kicked, and a replaced one as replaced", () => {
    const disk = new Disk();
    const store = disk.start();
    const tokens = { kicked: "k".repeat(22), replaced: "r".repeat(22), other: "o".repeat(22) };
    for (const [reason, token] of Object.entries(tokens)) {
      const session = { number: began(store, token), token, user: "bob", resumable: true };
      const finalReason = reason === "kicked" || reason === "replaced" ? reason : null;
      store.sessionEnded({ ...session, finalReason, received: 0, endedUnixMs: UNIX_MS });
    }
    store.save();
    const reasons = (from: Store): unknown[] =>
      Object.values(tokens).map((token) => from.endedSession(token)?.finalReason);
    expect(reasons(store)).toEqual(["kicked", "replaced", null]);
    expect(reasons(disk.start())).toEqual(["kicked", "replaced", null]);
  });

  test.each([false, true])("purged messages are gone, and no others, also when a commit came before: %p", (commits) => {
    const disk = new Disk();
    const store = disk.start();
    const keep = (text: string): number => {
      const number = store.newNumber();
      store.stored("bob", { number, unixMs: 5, from: "carol", text: Buffer.from(text) });
      return number;
    };
    const { message } = newStream(store, 0);
    message("in the stream");
    const after = keep("delivered");
    for (const text of ["one", "two", "three"]) keep(text);
    store.stored("alice", {
      number: store.newNumber(),
      unixMs: 5,
      from: "carol",
      text: Buffer.from("for another user"),
    });
    store.save();
    const upTo = store.newNumber();
    const last = keep("later");
    expect(store.purge("bob", after, upTo, 2)).toEqual([{ from: "carol", messages: 2, bytes: 6 }]);
    store.save();
    expect(store.purge("bob", after, upTo, 2)).toEqual([{ from: "carol", messages: 1, bytes: 5 }]);
    store.save();
    expect(store.purge("bob", after, upTo, 2)).toEqual([]);
    if (commits) store.commit();
    expect(last).toBeGreaterThan(upTo);
    const again = disk.start();
    expect(waiting(again)).toEqual(["alice in the stream", "carol delivered", "carol later"]);
    expect(waiting(again, "alice")).toEqual(["carol for another user"]);
  });

  test("unacknowledged messages of streams and mailboxes are in the mailbox, in order and with their times", () => {
    const disk = new Disk();
    const store = disk.start();
    const { message } = newStream(store, 0);
    const first = message("one");
    store.save();
    store.stored("bob", { number: store.newNumber(), unixMs: 5, from: "carol", text: Buffer.from([13, 0, 255]) });
    message("three of it");
    store.save();
    const again = disk.start();
    expect(disk.recovered).toEqual({ records: 2, messages: 3, damage: null });
    expect(again.read("bob", 0, 1e9)).toEqual([
      { number: first, unixMs: UNIX_MS + first, from: "alice", text: new Uint8Array(Buffer.from("one")) },
      { number: first + 1, unixMs: 5, from: "carol", text: new Uint8Array([13, 0, 255]) },
      {
        number: first + 2,
        unixMs: UNIX_MS + first + 2,
        from: "alice",
        text: new Uint8Array(Buffer.from("three of it")),
      },
    ]);
    expect(again.newNumber()).toBe(first + 3);
  });

  test("events of a turn that was not saved have no effect", () => {
    const disk = new Disk();
    const store = disk.start();
    const { message } = newStream(store, 0);
    message("saved");
    store.block("bob", "alice");
    store.save();
    message("not saved");
    store.unblock("bob", "alice");
    store.stored("carol", { number: store.newNumber(), unixMs: 5, from: "bob", text: Buffer.from("x") });
    const again = disk.start();
    expect([waiting(again), waiting(again, "carol"), again.blocks()]).toEqual([
      ["alice saved"],
      [],
      [{ user: "bob", other: "alice" }],
    ]);
  });

  test("acknowledged messages of streams and mailboxes are gone", () => {
    const disk = new Disk();
    const store = disk.start();
    store.stored("bob", { number: store.newNumber(), unixMs: 5, from: "carol", text: Buffer.from("in the mailbox") });
    const { message } = newStream(store, 0);
    const last = message("one");
    message("two");
    store.save();
    store.acked(bob, last);
    store.save();
    expect(waiting(disk.start())).toEqual(["alice two"]);
  });

  test("an open session has ended, with its received position and the positions of its messages", () => {
    const disk = new Disk();
    const store = disk.start();
    store.stored("bob", { number: store.newNumber(), unixMs: 5, from: "carol", text: Buffer.from("fed") });
    store.save();
    store.commit();
    const number = began(store);
    const { outbox, message } = newStream(store, number);
    outbox.appendFromMailbox(1, Buffer.from("stored carol 5 "), Buffer.from("fed"));
    const sent = message("one");
    store.received(number, 100);
    store.received(number, 250);
    store.save();
    const again = disk.start();
    expect(again.endedSession(TOKEN)).toEqual({
      number,
      token: TOKEN,
      user: "bob",
      resumable: true,
      finalReason: null,
      received: 250,
      endedUnixMs: UNIX_MS,
    });
    expect([18, 19, 36, 37].map((position) => again.lastDelivered(number, position))).toEqual([0, 1, 1, sent]);
    expect(waiting(again)).toEqual(["carol fed", "alice one"]);
  });

  test("positions are right whether the last run had moved all, some or none of the messages", () => {
    for (let moved = 2; moved <= 5; moved++) {
      const disk = new Disk();
      const store = disk.start();
      const number = began(store);
      const { outbox, message } = newStream(store, number);
      const ids = ["one", "two"].map(() => store.newNumber());
      for (const id of ids) outbox.appendMessage(id, UNIX_MS, Buffer.from("message alice "), Buffer.from("x"), 0, 1);
      // As if a segment that compaction has deleted had these two.
      outbox.copyNew({ accepted: () => {}, delivered: () => {} });
      for (const text of ["three", "four", "five"]) {
        ids.push(message(text));
        store.save();
      }
      store.requeued("bob", number, 0, outbox.messages(0, ids[moved - 1]!, 1e9));
      store.commit();
      const positions = outbox.messages(0, 1e9, 1e9).map(({ position }) => position);
      const again = disk.start();
      expect(positions.map((position) => again.lastDelivered(number, position))).toEqual(ids);
      expect(positions.map((position) => again.lastDelivered(number, position - 1))).toEqual([0, ...ids.slice(0, 4)]);
    }
  });

  test("the last eight sessions of a user are kept, over any number of kills", () => {
    const disk = new Disk();
    const tokens = Array.from({ length: 11 }, (_, i) => String(i).padStart(22, "t"));
    for (const token of tokens) {
      const store = disk.start();
      began(store, token);
      store.save();
    }
    const store = disk.start();
    expect(tokens.filter((token) => store.endedSession(token) !== null)).toEqual(tokens.slice(3));
    expect(disk.database.query("SELECT count(*) AS count FROM sessions").get()).toEqual({ count: 8 });
  });

  test("the proof of a session is found by the name of its user and its token", () => {
    const disk = new Disk();
    const store = disk.start();
    store.block("alice", "bob");
    store.save(); // The first record of a segment is committed at once; the next one is not.
    const proof = Buffer.from("\x00\xffproof", "latin1");
    store.sessionBegan({ number: store.newNumber(), token: TOKEN, user: "bob", resumable: true }, proof);
    store.save();
    for (const each of [disk.start(), disk.start()]) {
      expect(Buffer.from(each.proof("bob", TOKEN))).toEqual(proof);
      expect(each.proof("alice", TOKEN)).toHaveLength(0);
      expect(each.proof("bob", "u".repeat(22))).toHaveLength(0);
    }
  });

  test("a session that had ended keeps its end", () => {
    const disk = new Disk();
    const store = disk.start();
    const number = began(store);
    store.received(number, 70);
    const ended = {
      number,
      token: TOKEN,
      user: "bob",
      resumable: true,
      finalReason: "replaced" as const,
      received: 90,
      endedUnixMs: 17,
    };
    store.sessionEnded(ended);
    store.save();
    expect(disk.start().endedSession(TOKEN)).toEqual(ended);
  });

  test("the last block or unblock of each pair counts", () => {
    const disk = new Disk();
    const store = disk.start();
    store.block("alice", "bob");
    store.block("bob", "alice");
    store.save();
    store.unblock("alice", "bob");
    store.block("carol", "bob");
    store.unblock("carol", "bob");
    store.block("carol", "bob");
    store.save();
    expect(
      disk
        .start()
        .blocks()
        .toSorted((a, b) => a.user.localeCompare(b.user)),
    ).toEqual([
      { user: "bob", other: "alice" },
      { user: "carol", other: "bob" },
    ]);
  });

  test("compaction keeps each message once, and the number of segments small", () => {
    const disk = new Disk();
    const store = disk.start();
    const number = began(store);
    const { outbox, message } = newStream(store, number);
    const texts: string[] = [];
    let movedUpTo = 0;
    for (let i = 0; i < 300; i++) {
      texts.push(`alice ${i} ${"x".repeat(100)}`);
      message(texts.at(-1)!.slice(6));
      store.compact((upTo) => {
        const messages = outbox.messages(movedUpTo, upTo, 1e9);
        store.requeued("bob", number, 40 + i, messages);
        movedUpTo = messages.at(-1)?.number ?? movedUpTo;
        return true;
      });
      store.save();
      expect(segmentsOf(disk.folder).length).toBeLessThan(JOURNAL_SEGMENTS_KEPT + 3);
    }
    const again = disk.start();
    expect(waiting(again)).toEqual(texts);
    expect(again.lastDelivered(number, 1e9)).toBe(again.read("bob", 0, 1e9).at(-1)!.number);
  });

  test.each([
    ["long ago", 1000, 1],
    ["all the time", 10, 0],
  ])("a session that sent requests %s keeps its position when old segments are freed", (_when, interval, updates) => {
    const disk = new Disk();
    const store = disk.start();
    const connect = chatOn(store, ["alice", "bob", "carol"]);
    const [active, sender] = [connect("alice", " resumable"), connect("carol")];
    connect("bob");
    const { session } = active.connection;
    const requeued = spyOn(store, "requeued");
    const first = segmentsOf(disk.folder)[0]!;
    for (let i = 0; i < 400; i++) {
      if (i % interval === 0) active.send(`message bob ${i}\n`);
      sender.send(`message bob ${"x".repeat(200)}\n`);
    }
    expect(segmentsOf(disk.folder)[0]).toBeGreaterThan(first + 100);
    const known = requeued.mock.calls.filter(([user]) => user === "alice");
    expect(known).toHaveLength(updates);
    expect(disk.start().endedSession(session!.token)?.received).toBe(session!.received);
  });

  test("an orderly stop leaves nothing to recover", () => {
    const disk = new Disk();
    const store = disk.start();
    const { message } = newStream(store, 0);
    message("one");
    store.save();
    const { close } = disk.database;
    disk.database.close = () => {};
    store.requeued("bob", 0, 0, []);
    store.close();
    disk.database.close = close;
    disk.start();
    expect(disk.recovered).toEqual({ records: 0, messages: 0, damage: null });
  });
});

describe("a killed recovery", () => {
  test("has the same result as one that is not killed, at any point and any number of times", () => {
    const disk = new Disk();
    let store = disk.start();
    const { message } = newStream(store, 0);
    const texts = Array.from({ length: 40 }, (_, i) => `message ${i}`);
    for (const text of texts) {
      message(text);
      store.save();
    }
    for (let steps = 1; steps < 90; steps += 7) {
      let left = steps;
      const progress = (): void => {
        if (--left === 0) throw new Error("killed");
      };
      try {
        store = disk.start({ progress });
        break;
      } catch (error) {
        expect(String(error)).toContain("killed");
      }
    }
    disk.kill();
    expect(waiting(disk.start())).toEqual(texts.map((text) => `alice ${text}`));
  });
});

describe("a damaged journal", () => {
  /** Some segments with records of one message each: `message 0`, `message 1` and so on. */
  function written(): Disk {
    const disk = new Disk();
    const store = disk.start();
    const { message } = newStream(store, 0);
    for (let i = 0; i < 200; i++) {
      message(`message ${i}`);
      store.save();
      if (i === 195) copyFileSync(disk.file(-1), join(disk.folder.path, "../copy"));
    }
    expect(segmentsOf(disk.folder).length).toBeGreaterThan(3);
    return disk;
  }

  const DAMAGES: Record<string, (disk: Disk) => void> = {
    "a changed byte in the middle": (disk) => {
      const bytes = readFileSync(disk.file(1));
      bytes[1000]! ^= 1;
      writeFileSync(disk.file(1), bytes);
    },
    "the first segment missing": (disk) => unlinkSync(disk.file(0)),
    "one in the middle missing": (disk) => unlinkSync(disk.file(2)),
    "the newest missing": (disk) => unlinkSync(disk.file(-1)),
    "an empty segment": (disk) => writeFileSync(disk.file(1), ""),
    "the newest empty": (disk) => writeFileSync(disk.file(-1), ""),
    "the newest cut in the middle of its records": (disk) => truncateSync(disk.file(-1), recordsOf(disk).at(-2)!),
    "the newest without its last record, exactly": (disk) => zero(disk, recordsOf(disk).at(-1)!),
    "the newest all zeros": (disk) => zero(disk, 0),
    "garbage at the head of the last record": (disk) => change(disk, recordsOf(disk).at(-1)!),
    "a changed byte in the last record's text": (disk) => change(disk, recordsOf(disk).at(-1)! + 80),
    "an older copy of the newest put back": (disk) => copyFileSync(join(disk.folder.path, "../copy"), disk.file(-1)),
    "two segments swapped": (disk) => {
      const [one, other] = [readFileSync(disk.file(1)), readFileSync(disk.file(2))];
      writeFileSync(disk.file(1), other);
      writeFileSync(disk.file(2), one);
    },
    "a segment copied over another one": (disk) => copyFileSync(disk.file(1), disk.file(2)),
    "a segment under another one's name": (disk) => renameSync(disk.file(2), join(disk.folder.path, segmentName(9000))),
    "a segment of another data folder in the place of one": (disk) => {
      const other = written();
      copyFileSync(other.file(1), disk.file(1));
    },
  };

  /** Where the records of the newest segment begin. */
  function recordsOf(disk: Disk): number[] {
    const first = segmentsOf(disk.folder).at(-1)!;
    const reader = new RecordReader(readFileSync(disk.file(-1)), first, seedOf(disk.database));
    const starts: number[] = [];
    for (let { at } = reader; reader.next(); { at } = reader) starts.push(at);
    return starts;
  }

  function zero(disk: Disk, from: number): void {
    writeFileSync(disk.file(-1), readFileSync(disk.file(-1)).fill(0, from));
  }

  function change(disk: Disk, at: number): void {
    const bytes = readFileSync(disk.file(-1));
    bytes[at]! ^= 0x55;
    writeFileSync(disk.file(-1), bytes);
  }

  test.each(Object.keys(DAMAGES))("is refused with a message that names --salvage: %s", (damage) => {
    const disk = written();
    DAMAGES[damage]!(disk);
    const before = readdirSync(disk.folder.path);
    for (let i = 0; i < 2; i++) {
      expect(() => disk.start()).toThrow(StoreError);
      expect(() => disk.start()).toThrow(/damaged: records \d+ .*--salvage/);
    }
    expect(readdirSync(disk.folder.path)).toEqual(before);
  });

  test.each(Object.keys(DAMAGES))(
    "gives all readable messages to a salvage, and is undamaged after it: %s",
    (damage) => {
      const disk = written();
      DAMAGES[damage]!(disk);
      const found = waiting(disk.start({ salvage: true }));
      expect(disk.recovered.damage).toContain("records");
      expect(found.length).toBeGreaterThan(100);
      expect(found.length).toBeLessThan(200);
      expect(found).toEqual([...found].sort((a, b) => Number(a.split(" ")[2]) - Number(b.split(" ")[2])));
      const again = disk.start();
      expect([waiting(again), disk.recovered.damage]).toEqual([found, null]);
      newStream(again, 0).message("continues");
      again.save();
      expect(waiting(disk.start())).toEqual([...found, "alice continues"]);
    },
  );
});

describe("a journal with the file last", () => {
  function written(): Disk {
    const disk = new Disk();
    const store = disk.start();
    const { message } = newStream(store, 0);
    for (let i = 0; i < 10; i++) {
      message(`message ${i}`);
      store.save();
    }
    return disk;
  }

  test.each(["zeros", "garbage", "nothing", "a changed seed"])("is refused when the file has %s", (what) => {
    const disk = written();
    const file = join(disk.folder.path, "last");
    const bytes = readFileSync(file);
    if (what === "a changed seed") bytes[12]! ^= 1;
    else bytes.fill(what === "zeros" ? 0 : 0xa5);
    writeFileSync(file, what === "nothing" ? "" : bytes);
    expect(() => disk.start()).toThrow(/damaged: records 1 and on may be missing: last /);
    expect(waiting(disk.start({ salvage: true }))).toHaveLength(10);
    expect([waiting(disk.start()).length, disk.recovered.damage]).toEqual([10, null]);
  });

  test("opens without the file, as a journal of an earlier version", () => {
    const disk = written();
    unlinkSync(join(disk.folder.path, "last"));
    expect(waiting(disk.start())).toHaveLength(10);
  });

  test("keeps a complete record that is not announced, after a kill between the two", () => {
    const disk = written();
    const file = join(disk.folder.path, "last");
    const bytes = readFileSync(file);
    bytes.writeDoubleLE(9, 0);
    writeFileSync(file, bytes);
    expect(waiting(disk.start())).toHaveLength(10);
    expect(disk.recovered).toMatchObject({ records: 10, damage: null });
  });

  test("opens when the record after the last one is incomplete", () => {
    const disk = written();
    const bytes = readFileSync(disk.file(0));
    const reader = new RecordReader(bytes, 1, seedOf(disk.database));
    while (reader.next());
    const torn = Buffer.from(bytes.subarray(0, reader.at));
    torn.copy(bytes, reader.at, 0, 100);
    bytes.writeDoubleLE(reader.sequence + 1, reader.at + 8);
    writeFileSync(disk.file(0), bytes);
    expect(waiting(disk.start())).toHaveLength(10);
    expect(disk.recovered.damage).toBeNull();
  });

  test("is refused with a new database, and a salvage reads all of it", () => {
    const disk = written();
    const other = new Disk();
    const open = (salvage: boolean): Recovered =>
      new Recovery(other.database, disk.folder, { salvage, unixMs: UNIX_MS, progress: () => {} }, SEGMENT_BYTES).run();
    expect(() => open(false)).toThrow(/records 1 and on were written for another database, which is missing/);
    expect(open(true)).toMatchObject({ records: 10, messages: 10 });
  });

  test("is refused with the database of another data folder, even by a salvage", () => {
    const disk = written();
    const other = written();
    other.start();
    const options = { salvage: true, unixMs: UNIX_MS, progress: () => {} };
    const open = (): unknown => new Recovery(other.database, disk.folder, options, SEGMENT_BYTES).run();
    expect(open).toThrow(/belong to different data folders/);
  });

  test("opens a journal of the version without seed and file, and has both from then on", () => {
    const disk = new Disk();
    disk.database.run("DELETE FROM journal");
    disk.kill();
    const { sequence } = disk.database.query<{ sequence: number }, []>("SELECT sequence FROM progress").get()!;
    const old = new Store(disk.database, new Journal(disk.folder, sequence, 0, SEGMENT_BYTES));
    const { message } = newStream(old, 0);
    for (let i = 0; i < 50; i++) {
      message(`message ${i}`);
      old.save();
    }
    unlinkSync(join(disk.folder.path, "last"));
    const again = disk.start();
    expect(waiting(again)).toHaveLength(50);
    expect(disk.recovered.damage).toBeNull();
    expect(seedOf(disk.database)).toBeGreaterThan(0);
    expect(readdirSync(disk.folder.path)).toContain("last");
  });
});

describe("a longer segment for one long record", () => {
  function written(): Disk {
    const disk = new Disk();
    newStream(disk.start(), 0).message("first");
    const store = disk.start();
    newStream(store, 0).message("x".repeat(10 * SEGMENT_BYTES));
    store.save();
    return disk;
  }

  test("is refused when it is truncated", () => {
    for (const bytes of [SEGMENT_BYTES, 10 * SEGMENT_BYTES, 10 * SEGMENT_BYTES + 8]) {
      const disk = written();
      expect(statSync(disk.file(-1)).size % SEGMENT_BYTES).toBe(0);
      truncateSync(disk.file(-1), bytes);
      expect(() => disk.start()).toThrow(/damaged: records \d+ .*are missing at the end of/);
    }
  });

  test("opens with exactly the length of its record, as earlier versions wrote it", () => {
    const disk = written();
    truncateSync(disk.file(-1), 16 + 8 * Math.ceil(readFileSync(disk.file(-1)).readUInt32LE(4) / 8));
    expect(waiting(disk.start())).toEqual([`alice ${"x".repeat(10 * SEGMENT_BYTES)}`]);
  });
});

test("a text with the bytes of a record is never read as a record", () => {
  const disk = new Disk();
  const store = disk.start();
  const forged = Buffer.alloc(16 + 88);
  const victim = new Journal(new FileFolder(join(newPath(), "journal")), 4, 0, SEGMENT_BYTES);
  victim.append(Buffer.alloc(88), 0, 88, 0);
  victim.region!.bytes.copy(forged, 0, 0, forged.length); // A complete record, made without the seed.
  newStream(store, 0).message("first");
  store.save();
  for (let shift = 0; shift < 8; shift++) {
    const text = Buffer.concat([Buffer.alloc(shift, "x"), forged]);
    store.stored("bob", { number: store.newNumber(), unixMs: 5, from: "carol", text });
  }
  expect(waiting(disk.start())).toEqual(["alice first"]); // The turn with the texts was not saved.
  expect(disk.recovered).toEqual({ records: 1, messages: 1, damage: null });
});

describe("a journal folder with exchanged files", () => {
  test("is refused, and a salvage never reads records in the wrong file", () => {
    const disk = new Disk();
    const store = disk.start();
    const { message } = newStream(store, 0);
    for (const text of ["one", "two", "three"]) {
      message(text);
      store.save();
    }
    const spare = join(
      disk.folder.path,
      readdirSync(disk.folder.path).find((name) => name.startsWith("spare-"))!,
    );
    writeFileSync(spare, readFileSync(disk.file(0)));
    writeFileSync(disk.file(0), "");
    expect(() => disk.start()).toThrow(/records 1 to 3 are missing at the end of 0000000000000001 \(3 in all\)/);
    const again = disk.start({ salvage: true });
    expect(waiting(again)).toEqual([]);
    newStream(again, 0).message("new");
    again.save();
    expect([waiting(disk.start()), disk.recovered.damage]).toEqual([["alice new"], null]);
  });

  test("ignores a file whose name is above every sequence number", () => {
    const disk = new Disk();
    const store = disk.start();
    newStream(store, 0).message("one");
    store.save();
    writeFileSync(join(disk.folder.path, "9999999999999999"), "not of this program");
    expect(waiting(disk.start())).toEqual(["alice one"]);
  });
});

describe("a data folder", () => {
  function open(path: string, durability: Durability): Store {
    return openStore(path, durability, { salvage: false, unixMs: UNIX_MS, progress: () => {} }).store;
  }

  test("loses nothing when it is opened with different durabilities, one after another", () => {
    const path = newPath();
    for (const [i, durability] of (["process", "none", "power", "process"] as const).entries()) {
      const store = open(path, durability);
      expect(waiting(store)).toHaveLength(i);
      store.stored("bob", { number: store.newNumber(), unixMs: 5, from: "carol", text: Buffer.from(durability) });
      store.save();
      store.close();
    }
  });

  /** Undoes what versions 7 and 8 have for operators and clusters. */
  const OPERATORS_6 = `
    DROP TABLE neighbours;
    ALTER TABLE sessions RENAME COLUMN ended_by TO replaced;
    DROP TABLE bans;
    DROP TABLE last_logins;
  `;

  /** Makes the positions of messages those of version 5, with one of them. */
  const DELIVERED_5 = `
    DROP TABLE delivered;
    DROP TRIGGER IF EXISTS forget;
    CREATE TABLE carried (
      session INTEGER NOT NULL, number INTEGER NOT NULL, position INTEGER NOT NULL, PRIMARY KEY (session, number)
    ) WITHOUT ROWID;
    CREATE TRIGGER forget AFTER DELETE ON sessions BEGIN DELETE FROM carried WHERE session = old.number; END;
    INSERT INTO carried VALUES (3, 41, 77), (3, 42, 90);
  `;

  test("of version 5 is upgraded, and keeps the positions of messages", () => {
    const path = newPath();
    const database = openDatabase(path, "process");
    database.run(`${DELIVERED_5} INSERT INTO sessions VALUES (3, x'00', 'bob', 1, 0, 123, 9, NULL)`);
    database.run(OPERATORS_6);
    database.run("PRAGMA user_version = 5");
    database.close();
    const store = open(path, "process");
    expect([76, 77, 89, 90].map((position) => store.lastDelivered(3, position))).toEqual([0, 41, 41, 42]);
    store.close();
  });

  test.each([2, 3])("of version %d is upgraded", (version) => {
    const path = newPath();
    const database = openDatabase(path, "process");
    database.run(DELIVERED_5);
    if (version === 2) database.run("DROP TABLE lockouts");
    database.run(OPERATORS_6);
    database.run(`
      ALTER TABLE sessions DROP COLUMN proof;
      INSERT INTO sessions VALUES (3, x'00', 'bob', 1, 0, 123, 9);
      DROP TABLE mailbox;
      CREATE TABLE mailbox (
        user TEXT NOT NULL, number INTEGER NOT NULL, unix_ms INTEGER NOT NULL, sender TEXT NOT NULL, text BLOB NOT NULL,
        PRIMARY KEY (user, number)
      ) WITHOUT ROWID;
      INSERT INTO mailbox VALUES ('bob', 42, 5, 'carol', 'two'), ('bob', 41, 5, 'alice', 'one');
      INSERT INTO blocks VALUES ('alice', 'bob');
      PRAGMA user_version = ${version};
    `);
    database.close();
    const { store } = openStore(path, "process", { salvage: false, unixMs: UNIX_MS, progress: () => {} });
    expect(waiting(store)).toEqual(["alice one", "carol two"]);
    expect(store.blocks()).toEqual([{ user: "alice", other: "bob" }]);
    store.sessionBegan({ number: store.newNumber(), token: TOKEN, user: "bob", resumable: true }, Buffer.from("proof"));
    store.wrongPasswords({ user: "alice", source: "", count: 1 }, UNIX_MS);
    expect(store.lockouts()).toHaveLength(1);
    store.close();
    expect(mailboxOf(path)).toBe(mailboxOf(newPath()));
  });

  test("of version 6 is upgraded, and keeps replaced sessions", () => {
    const path = newPath();
    const before = open(path, "process");
    const ended = { number: before.newNumber(), token: TOKEN, user: "bob", resumable: true };
    before.sessionBegan(ended, NOTHING);
    before.save();
    before.sessionEnded({ ...ended, finalReason: "replaced", received: 9, endedUnixMs: 17 });
    before.close();
    const database = new Database(join(path, "heartline.sqlite"));
    database.run(`${OPERATORS_6} PRAGMA user_version = 6`);
    database.close();
    const store = open(path, "process");
    expect(store.endedSession(TOKEN)).toEqual({ ...ended, finalReason: "replaced", received: 9, endedUnixMs: 17 });
    expect([store.bans(), store.lastLogin("bob")]).toEqual([[], null]);
    store.banned("bob", UNIX_MS);
    store.loggedIn(bob, UNIX_MS, "192.0.2.1");
    store.close();
    const again = open(path, "process");
    expect(again.bans()).toEqual([{ user: "bob", untilUnixMs: UNIX_MS }]);
    expect(again.lastLogin("bob")).toEqual({ unixMs: UNIX_MS, address: "192.0.2.1" });
    again.close();
  });

  test("of version 7 is upgraded, and keeps what is heard from other shards over an orderly stop", () => {
    const path = newPath();
    const database = openDatabase(path, "process");
    database.run("DROP TABLE neighbours; PRAGMA user_version = 7");
    database.close();
    const store = open(path, "process");
    expect(store.outcomes(1).heard).toBe(0);
    store.heard(1, 4, Buffer.from("ok sent\n"));
    store.heard(1, 9, Buffer.from("ok stored\n"));
    store.outcomes(1).forget(4);
    store.close();
    const again = open(path, "process");
    expect([...again.outcomes(1)]).toEqual([[9, Buffer.from("ok stored\n")]]);
    expect([again.outcomes(1).heard, again.outcomes(2).heard]).toEqual([9, 0]);
    again.close();
  });

  function mailboxOf(path: string): unknown {
    const database = openDatabase(path, "process");
    const { sql } = database.query<{ sql: string }, []>("SELECT sql FROM sqlite_schema WHERE name = 'mailbox'").get()!;
    database.close();
    return sql;
  }

  test("of version 1, without a journal, is upgraded and loses nothing", () => {
    const path = newPath();
    const database = new Database(join(path, "heartline.sqlite"), { create: true });
    database.run(`
      CREATE TABLE mailbox (
        user TEXT NOT NULL, number INTEGER NOT NULL, unix_ms INTEGER NOT NULL, sender TEXT NOT NULL, text BLOB NOT NULL,
        PRIMARY KEY (user, number)
      ) WITHOUT ROWID;
      CREATE TABLE sessions (
        id INTEGER PRIMARY KEY, token BLOB NOT NULL UNIQUE, user TEXT NOT NULL, resumable INTEGER NOT NULL,
        replaced INTEGER NOT NULL, received INTEGER NOT NULL, ended_ms INTEGER NOT NULL
      );
      CREATE INDEX sessions_of_user ON sessions (user);
      CREATE TABLE carried (
        session INTEGER NOT NULL, number INTEGER NOT NULL, position INTEGER NOT NULL, PRIMARY KEY (session, number)
      ) WITHOUT ROWID;
      CREATE TRIGGER forget AFTER DELETE ON sessions BEGIN DELETE FROM carried WHERE session = old.id; END;
      CREATE TABLE blocks (user TEXT NOT NULL, other TEXT NOT NULL, PRIMARY KEY (user, other)) WITHOUT ROWID;
      PRAGMA user_version = 1;
      INSERT INTO mailbox VALUES ('bob', 41, 5, 'alice', 'old');
      INSERT INTO carried VALUES (3, 41, 77);
      INSERT INTO blocks VALUES ('alice', 'bob');
    `);
    const token = createHash("sha256").update(TOKEN).digest();
    database.query("INSERT INTO sessions VALUES (3, ?, 'bob', 1, 0, 123, 9)").run(token);
    database.close();
    const store = open(path, "process");
    expect(waiting(store)).toEqual(["alice old"]);
    expect(store.endedSession(TOKEN)).toMatchObject({ number: 3, received: 123, endedUnixMs: 9 });
    expect(store.lastDelivered(3, 77)).toBe(41);
    expect(store.blocks()).toEqual([{ user: "alice", other: "bob" }]);
    expect(store.newNumber()).toBe(42);
    store.close();
  });
});

test("no change is committed before its record is written", () => {
  const disk = new Disk();
  const store = disk.start();
  for (let i = 0; i < 3000; i++) {
    store.stored("bob", { number: store.newNumber(), unixMs: 5, from: alice.name, text: Buffer.from("x") });
  }
  disk.kill();
  expect(waiting(disk.start())).toEqual([]);
});
