import { afterEach, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { JOURNAL_SEGMENTS_KEPT } from "../../src/limits.ts";
import { openDatabase } from "../../src/storage/database.ts";
import { Journal, segmentsOf } from "../../src/storage/journal.ts";
import { FileFolder } from "../../src/storage/segment.ts";
import type { Checkpoints } from "../../src/storage/commits.ts";
import { Store } from "../../src/storage/store.ts";

const SEGMENT_BYTES = 4096;
const folders: string[] = [];

afterEach(() => {
  for (const path of folders.splice(0)) rmSync(path, { recursive: true });
});

/** A store whose journal has twice as many segments as it keeps. */
function setUp(): { store: Store; checkpoints: Checkpoints; segments: () => number } {
  const path = mkdtempSync(join(tmpdir(), "heartline-"));
  folders.push(path);
  const folder = new FileFolder(join(path, "journal"));
  const checkpoints: Checkpoints = { state: "idle", committed: () => {} };
  const journal = new Journal(folder, 0, 1, SEGMENT_BYTES);
  const store = new Store(openDatabase(":memory:", "process"), journal, false, checkpoints);
  const segments = (): number => segmentsOf(folder).length;
  while (segments() < 2 * JOURNAL_SEGMENTS_KEPT) {
    store.stored("bob", { number: store.newNumber(), unixMs: 5, from: "alice", text: Buffer.alloc(100) });
    store.save();
  }
  return { store, checkpoints, segments };
}

describe("compaction", () => {
  test("moves a bounded part in each turn, and frees the old segments after all parts", () => {
    const { store, segments } = setUp();
    const before = segments();
    const calls: [number, number][] = [];
    for (let turn = 1; turn <= 5; turn++) {
      store.compact((upTo, bytesMax) => calls.push([upTo, bytesMax]) === 3);
      store.save();
      expect(segments()).toBe(turn < 3 ? before : JOURNAL_SEGMENTS_KEPT);
    }
    const [[upTo, bytesMax]] = calls as [[number, number]];
    expect(calls).toEqual([1, 2, 3].map(() => [upTo, bytesMax]));
    expect(upTo).toBeWithin(1, store.newNumber());
    expect(bytesMax).toBeWithin(1024, 64 << 10);
  });

  test("waits while the write-ahead log of SQLite is copied", () => {
    const { store, checkpoints, segments } = setUp();
    const before = segments();
    let calls = 0;
    const turn = (): void => {
      store.compact(() => ++calls > 0);
      store.save();
    };
    checkpoints.state = "finishing";
    turn();
    expect([calls, segments()]).toEqual([0, before]);
    checkpoints.state = "idle";
    turn();
    expect([calls, segments()]).toEqual([1, JOURNAL_SEGMENTS_KEPT]);
  });

  test("keeps the old segments until a commit succeeds", () => {
    const { store, segments } = setUp();
    const before = segments();
    store.compact(() => true);
    expect(segments()).toBe(before);
    store.commit();
    expect(segments()).toBe(JOURNAL_SEGMENTS_KEPT);
  });
});
