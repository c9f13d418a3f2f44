import { afterEach, describe, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { JOURNAL_SEGMENTS_KEPT, JOURNAL_SPARES_MAX } from "../../src/limits.ts";
import { openDatabase } from "../../src/storage/database.ts";
import { Journal, segmentName, segmentsOf } from "../../src/storage/journal.ts";
import { RecordReader, announced } from "../../src/storage/record.ts";
import { newStore } from "../../src/storage/recovery.ts";
import { FileFolder, type Preallocation, type Segment } from "../../src/storage/segment.ts";

const SEGMENT_BYTES = 1024;
const SEED = 0xfedcba98;
const folders: string[] = [];

/** A folder whose disk refuses new segments while `refuses`. */
class TestFolder extends FileFolder {
  refuses = false;

  override fill(name: string, bytes: number): Preallocation {
    if (this.refuses) throw new Error("no room");
    return super.fill(name, bytes);
  }
}

function newFolder(): TestFolder {
  const path = mkdtempSync(join(tmpdir(), "heartline-"));
  folders.push(path);
  return new TestFolder(join(path, "journal"));
}

afterEach(() => {
  for (const path of folders.splice(0)) rmSync(path, { recursive: true });
});

function newJournal(folder = newFolder(), sequence = 0): { journal: Journal; folder: TestFolder } {
  return { journal: new Journal(folder, sequence, SEED, SEGMENT_BYTES), folder };
}

function append(journal: Journal, text: string, number = 0): void {
  const body = Buffer.from(text);
  journal.append(body, 0, body.length, number);
}

/** The records of all segments, as recovery reads them. */
function records(folder: FileFolder): [number, string][] {
  const found: [number, string][] = [];
  for (const first of segmentsOf(folder)) {
    const reader = new RecordReader(folder.open(segmentName(first)).bytes, first, SEED);
    while (reader.next()) found.push([reader.sequence, reader.bytes.toString("latin1", reader.start, reader.end)]);
  }
  return found;
}

/** The bytes of a segment with three records: the second begins at `middle`, the third is from `last` to `end`. */
function threeRecords(): { bytes: Buffer; middle: number; last: number; end: number } {
  const { journal, folder } = newJournal();
  for (const text of ["first", "the second record", "third and last"]) append(journal, text);
  const bytes = Buffer.from(folder.open(segmentName(1)).bytes);
  const reader = new RecordReader(bytes, 1, SEED);
  reader.next();
  const middle = reader.at;
  reader.next();
  const last = reader.at;
  reader.next();
  return { bytes, middle, last, end: reader.end };
}

function sequences(bytes: Buffer): number[] {
  const reader = new RecordReader(bytes, 1, SEED);
  const found: number[] = [];
  while (reader.next()) found.push(reader.sequence);
  return found;
}

test("records are read in order, over as many segments as they need", () => {
  const { journal, folder } = newJournal();
  const texts = Array.from({ length: 100 }, (_, i) => `${i} ${"x".repeat((i * 37) % 300)}`);
  for (const text of texts) append(journal, text);
  expect(records(folder)).toEqual(texts.map((text, i) => [i + 1, text]));
  expect(segmentsOf(folder).length).toBeGreaterThan(10);
  expect(journal.newest).toBe(segmentsOf(folder).at(-1)!);
});

test("a record whose body is at its final place already is not copied", () => {
  const { journal, folder } = newJournal();
  append(journal, "first");
  const { region: place, bodyStart } = journal;
  place!.bytes.write("in its place", bodyStart);
  journal.append(place!.bytes, bodyStart, 12, 0);
  append(journal, "third");
  expect(records(folder).map(([, text]) => text)).toEqual(["first", "in its place", "third"]);
});

test("a record that is longer than a segment gets a longer segment, and the next records do not", () => {
  const { journal, folder } = newJournal();
  const texts = ["short", "x".repeat(10 * SEGMENT_BYTES), "y".repeat(SEGMENT_BYTES - 16), "short again"];
  for (const text of texts) append(journal, text);
  expect(records(folder).map(([, text]) => text)).toEqual(texts);
});

describe("a reader of records", () => {
  test("reads all records before one that is cut, at whichever byte it was cut", () => {
    const { bytes, last, end } = threeRecords();
    for (let cut = last; cut < end; cut++) {
      const torn = Buffer.from(bytes).fill(0, cut, end);
      // A cut through zeros only changes nothing.
      if (torn.equals(bytes)) continue;
      const reader = new RecordReader(torn, 1, SEED);
      expect(sequences(torn)).toEqual([1, 2]);
      while (reader.next());
      expect(reader.skipDamage()).toBe(0);
    }
  });

  test("does not read a record with any bit changed, and finds the next one after it", () => {
    const { bytes, middle, last, end } = threeRecords();
    for (let bit = middle * 8; bit < end * 8; bit++) {
      const at = bit >> 3;
      const changed = Buffer.from(bytes);
      changed[at]! ^= 1 << (bit & 7);
      const reader = new RecordReader(changed, 1, SEED);
      while (reader.next());
      if (at >= last) expect([reader.sequence, reader.skipDamage()]).toEqual([2, 0]);
      // The bytes that align the end of a record belong to no record.
      else if (reader.sequence !== 3) expect([reader.sequence, reader.skipDamage()]).toEqual([1, 3]);
    }
  });
});

test("an old record in a segment that is used again is never read", () => {
  const { journal, folder } = newJournal();
  for (let i = 0; i < 40; i++) append(journal, `${i}`.padEnd(84));
  journal.free(journal.sequence);
  for (let i = 0; i < 5; i++) append(journal, `again ${i}`.padEnd(84));
  const found = records(folder);
  expect(found.map(([sequence]) => sequence)).toEqual(found.map((_, i) => found[0]![0] + i));
  expect(found.at(-1)).toEqual([45, "again 4".padEnd(84)]);
});

describe("old segments", () => {
  test("are all but the newest JOURNAL_SEGMENTS_KEPT; they are used again when they are freed, and the folder does not grow", () => {
    const { journal, folder } = newJournal();
    let names = 0;
    for (let i = 1; i <= 2000; i++) {
      append(journal, "x".repeat(100), i);
      const { old } = journal;
      if (old !== null) {
        expect(old.sequence).toBe(old.number - 1);
        journal.free(old.sequence);
        expect(segmentsOf(folder)[0]!).toBe(old.sequence + 1);
      }
      names = Math.max(names, folder.names().length);
    }
    expect(segmentsOf(folder)).toHaveLength(JOURNAL_SEGMENTS_KEPT);
    expect(names).toBeLessThanOrEqual(JOURNAL_SEGMENTS_KEPT + 1 + JOURNAL_SPARES_MAX);
  });

  test("are all but the newest one while the disk is full", () => {
    const { journal, folder } = newJournal();
    append(journal, "x".repeat(900));
    append(journal, "x".repeat(900));
    expect(journal.old).toBeNull();
    folder.refuses = true;
    journal.prepare();
    expect(journal.old).toEqual({ number: 0, sequence: 1 });
  });

  test("of a killed run become spares, and those of another size are removed", () => {
    const folder = newFolder();
    const { journal } = newJournal(folder);
    for (let i = 0; i < 30; i++) append(journal, "x".repeat(900));
    truncateSync(join(folder.path, segmentName(3)), 10);
    writeFileSync(join(folder.path, "spare-7"), "");
    writeFileSync(join(folder.path, "notes.txt"), "not of this program");
    const again = new Journal(folder, 1000, SEED, SEGMENT_BYTES);
    expect(readdirSync(folder.path).filter((name) => name.startsWith("spare-"))).toHaveLength(JOURNAL_SPARES_MAX);
    expect(segmentsOf(folder)).toEqual([]);
    for (let i = 0; i < 5; i++) append(again, `new ${i}`.padEnd(900));
    expect(records(folder).map(([sequence]) => sequence)).toEqual([1001, 1002, 1003, 1004, 1005]);
    expect(readdirSync(folder.path)).toContain("notes.txt");
  });
});

describe("a full disk", () => {
  test("is reported when no spare can be prepared, until one can", () => {
    const { journal, folder } = newJournal();
    append(journal, "x".repeat(900));
    folder.refuses = true;
    journal.prepare();
    expect(String(journal.fault)).toContain("no room");
    append(journal, "fits");
    expect(() => append(journal, "x".repeat(900))).toThrow("no room");
    expect(records(folder)).toHaveLength(2);
    folder.refuses = false;
    journal.prepare();
    expect(journal.fault).toBeNull();
    append(journal, "y".repeat(900));
    expect(records(folder).map(([sequence]) => sequence)).toEqual([1, 2, 3]);
  });

  test("is reported until an old segment is freed", () => {
    const { journal, folder } = newJournal();
    append(journal, "x".repeat(900));
    append(journal, "x".repeat(900));
    folder.refuses = true;
    journal.prepare();
    journal.free(1);
    expect(journal.fault).toBeNull();
    append(journal, "x".repeat(900));
    expect(records(folder).map(([sequence]) => sequence)).toEqual([2, 3]);
  });
});

test("a sync covers all records so far, and a new record needs the next sync", async () => {
  const { journal } = newJournal();
  expect(journal.isSynced).toBe(true);
  append(journal, "x".repeat(900));
  append(journal, "x".repeat(900));
  expect(journal.isSynced).toBe(false);
  await journal.sync();
  expect(journal.isSynced).toBe(true);
  append(journal, "x");
  expect(journal.isSynced).toBe(false);
  journal.syncNow();
  expect(journal.isSynced).toBe(true);
});

describe("a journal on a disk that counts syncs", () => {
  /** Notes syncs of bytes (`data`) and of names (`names`), and every `rename`. */
  class WatchedFolder extends TestFolder {
    readonly events: string[] = [];
    fails = false;

    override open(name: string): Segment {
      const segment = super.open(name);
      const { rename, sync, syncNow } = segment;
      segment.rename = (to) => {
        this.events.push("rename");
        rename.call(segment, to);
      };
      segment.sync = async () => {
        await sync.call(segment);
        if (this.fails) throw new Error("input/output error");
        this.events.push("data");
      };
      segment.syncNow = () => {
        syncNow.call(segment);
        if (this.fails) throw new Error("input/output error");
        this.events.push("data");
      };
      return segment;
    }

    override async sync(): Promise<void> {
      await super.sync();
      this.events.push("names");
    }

    override syncNow(): void {
      super.syncNow();
      this.events.push("names");
    }
  }

  function watched(): { journal: Journal; folder: WatchedFolder } {
    const path = mkdtempSync(join(tmpdir(), "heartline-"));
    folders.push(path);
    const folder = new WatchedFolder(join(path, "journal"));
    const journal = new Journal(folder, 0, SEED, SEGMENT_BYTES);
    expect(folder.events).toEqual(["data", "rename"]); // The file `last` is synced before it gets its name.
    folder.events.length = 0;
    return { journal, folder };
  }

  test.each(["sync", "syncNow"] as const)(
    "is synced when the bytes and then the name of its new segment are synced: %s",
    async (how) => {
      const { journal, folder } = watched();
      append(journal, "first");
      expect(journal.isSynced).toBe(false);
      await journal[how]();
      expect([folder.events, journal.isSynced]).toEqual([["rename", "data", "names"], true]);
      append(journal, "in the same segment");
      await journal[how]();
      expect(folder.events.slice(3)).toEqual(["data"]);
      append(journal, "x".repeat(980));
      await journal[how]();
      expect(folder.events.slice(4)).toEqual(["rename", "data", "names"]);
    },
  );

  test("announces with durability power only records that are synced", async () => {
    const { journal, folder } = watched();
    append(journal, "first");
    expect(announced(folder)).toEqual({ sequence: 0, seed: SEED });
    const synced = journal.sync();
    expect(announced(folder)!.sequence).toBe(0);
    await synced;
    expect(announced(folder)!.sequence).toBe(1);
    append(journal, "second");
    journal.syncNow();
    expect(announced(folder)!.sequence).toBe(2);
  });

  test("rejects every sync after a failed one, since the kernel reports a lost page once", async () => {
    for (const first of ["sync", "syncNow"] as const) {
      const { journal, folder } = watched();
      append(journal, "first");
      folder.fails = true;
      expect(async () => journal[first]()).toThrow("input/output error");
      folder.fails = false;
      expect(() => journal.syncNow()).toThrow("input/output error");
      expect(journal.sync()).rejects.toThrow("input/output error");
    }
  });

  test("makes a turn with durability power durable only after the name of its segment is synced", async () => {
    const path = mkdtempSync(join(tmpdir(), "heartline-"));
    folders.push(path);
    const folder = new WatchedFolder(join(path, "journal"));
    const store = newStore(openDatabase(":memory:", "power"), folder, "power", SEGMENT_BYTES);
    for (let i = 0; i < 100; i++) {
      folder.events.length = 0;
      store.stored("bob", { number: store.newNumber(), unixMs: 5, from: "alice", text: Buffer.alloc(300, "x") });
      await store.save();
      const { events } = folder;
      expect(events.indexOf("data")).toBeGreaterThanOrEqual(0);
      const named = events.indexOf("rename");
      if (named >= 0) expect(events.indexOf("names")).toBeGreaterThan(named);
    }
  });
});
