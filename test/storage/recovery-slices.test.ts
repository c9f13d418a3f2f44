import { Database } from "bun:sqlite";
import { afterEach, expect, jest, spyOn, test } from "bun:test";
import { cpSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Account } from "../../src/chat/session.ts";
import { SQL } from "../../src/storage/sql.ts";
import { openStore, openStoreInSlices } from "../../src/storage/recovery.ts";
import type { Store } from "../../src/storage/store.ts";

const UNIX_MS = 1_700_000_000_000;
const OPTIONS = { salvage: false, unixMs: UNIX_MS, progress: () => {} };
const bob = new Account("bob");
const folders: string[] = [];

afterEach(() => {
  jest.restoreAllMocks();
  for (const path of folders.splice(0)) rmSync(path, { recursive: true });
});

/** The data folder of a server that was killed after `run`. */
function killedAfter(run: (store: Store) => void): string {
  const path = mkdtempSync(join(tmpdir(), "heartline-"));
  folders.push(path);
  const { store } = openStore(join(path, "running"), "process", OPTIONS);
  run(store);
  cpSync(join(path, "running"), join(path, "killed"), { recursive: true });
  store.close();
  return join(path, "killed");
}

function keep(store: Store, count: number): void {
  for (let i = 0; i < count; i++) {
    store.stored("bob", { number: store.newNumber(), unixMs: UNIX_MS, from: "alice", text: Buffer.from("hello") });
  }
}

/**
 * Recovers on a clock that moves by one millisecond at each reading, so once per step. Returns the number of steps, of
 * turns of the event loop meanwhile, and the most steps between two of these.
 */
async function recover(path: string): Promise<{ store: Store; steps: number; turns: number; longest: number }> {
  let [steps, turns, longest, last] = [0, 0, 0, 0];
  const clock = spyOn(performance, "now").mockImplementation(() => ++steps);
  let isOver = false;
  const turn = (): void => {
    if (isOver) return;
    turns++;
    longest = Math.max(longest, steps - last);
    last = steps;
    setImmediate(turn);
  };
  setImmediate(turn);
  const { store } = await openStoreInSlices(path, "process", OPTIONS);
  isOver = true;
  clock.mockRestore();
  return { store, steps, turns, longest };
}

test("the event loop runs during a recovery, and no slice has more steps than its time allows", async () => {
  const path = killedAfter((store) => {
    for (let i = 0; i < 500; i++) {
      keep(store, 1);
      store.save();
    }
  });
  const { store, steps, turns, longest } = await recover(path);
  expect(store.read("bob", 0, 1e9)).toHaveLength(500);
  store.close();
  expect(steps).toBeGreaterThan(900);
  expect(longest).toBeLessThan(30);
  expect(turns).toBeGreaterThan(steps / 30);
});

test("a record with the messages of a long turn is recovered in several slices", async () => {
  const path = killedAfter((store) => {
    keep(store, 900);
    store.save();
  });
  const { store, turns, longest } = await recover(path);
  expect(store.read("bob", 0, 1e9)).toHaveLength(900);
  store.close();
  expect(turns).toBeGreaterThan(50);
  expect(longest).toBeLessThan(30);
});

test("many acknowledged messages of one user are deleted in several steps", async () => {
  const path = killedAfter((store) => {
    keep(store, 3500);
    store.save();
    store.commit();
    store.acked(bob, 3400);
    store.save();
  });
  const query = spyOn(Database.prototype, "query");
  const { store } = await recover(path);
  const deletions = query.mock.calls.filter(([sql]) => sql === SQL.deleteMessages).length;
  query.mockRestore();
  expect(store.read("bob", 0, 1e9)).toHaveLength(100);
  store.close();
  expect(deletions).toBeGreaterThan(3);
});
