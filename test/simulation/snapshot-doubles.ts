import { Database } from "bun:sqlite";
import { rmSync } from "node:fs";
import type { SharedJournal } from "../../src/cluster/shared-journal.ts";
import type { SharedLog } from "../../src/cluster/shared-log.ts";
import type { CopyReply, CopyRequest } from "../../src/cluster/snapshots.ts";
import { SQL } from "../../src/storage/sql.ts";
import type { TurnLog } from "../../src/storage/turn-log.ts";
import type { SimulatedLog } from "./cluster-log.ts";

// What the snapshots of a simulated owner are given in place of the log, the journal, the database and the thread.

/** A log whose calls are counted; the parts of a snapshot are read from the disk before that. */
export function callsCounted(log: SimulatedLog, count: (change: number) => void): SharedLog {
  const counted = <Result>(call: () => Promise<Result>): Promise<Result> => {
    count(1);
    return call().finally(() => count(-1));
  };
  return {
    recordBytesMax: log.partBytesMax,
    publishSnapshot: async (shard, label, parts) => {
      const read = await Array.fromAsync(parts);
      return counted(() => log.publishSnapshot(shard, label, listed(read)));
    },
    state: (shard) => counted(() => log.state(shard)),
    trim: (shard) => counted(() => log.trim(shard)),
  } as Pick<SharedLog, "recordBytesMax" | "publishSnapshot" | "state" | "trim"> as SharedLog;
}

async function* listed<Item>(items: readonly Item[]): AsyncIterable<Item> {
  yield* items;
}

/** A journal whose running syncs are counted. */
export function waitsCounted(
  journal: SharedJournal,
  count: (change: number) => void,
): Pick<TurnLog, "sequence" | "bytesWritten" | "sync"> {
  return {
    get sequence() {
      return journal.sequence;
    },
    get bytesWritten() {
      return journal.bytesWritten;
    },
    sync: () => {
      count(1);
      return journal.sync().finally(() => count(-1));
    },
  };
}

/** A snapshot is due although the log is much shorter than the database. */
export function withoutSize(database: Database): Database {
  const query = (sql: string): unknown =>
    sql === SQL.selectSize ? { get: () => ({ bytes: 0 }) } : database.query(sql);
  return { filename: database.filename, query } as unknown as Database;
}

/** Like src/cluster/snapshot-worker.ts. */
export async function copyDatabase({ database: file, target }: CopyRequest): Promise<CopyReply> {
  rmSync(target, { force: true });
  using database = new Database(file, { create: false, readwrite: true });
  database.run(SQL.copyInto, [target]);
  using copied = new Database(target, { readonly: true });
  return copied.query<{ sequence: number; newest: number }, []>(SQL.selectProgress).get()!;
}
