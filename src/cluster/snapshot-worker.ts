import { Database } from "bun:sqlite";
import { rmSync } from "node:fs";
import { setPriority } from "node:os";
import { WORKER_READY } from "../runtime/thread.ts";
import { PRAGMA, SQL } from "../storage/sql.ts";
import type { CopyReply, CopyRequest } from "./snapshots.ts";

/** The thread of snapshots.ts: copies the database of a running server to one file, and reads what the copy has. */

declare const self: Worker;

/** Lowest priority, on Linux for this thread only: on a shared core the chat runs first. */
setPriority(19);

self.onmessage = ({ data: { database: file, target } }: MessageEvent<CopyRequest>) => {
  self.postMessage(copy(file, target));
};
self.postMessage(WORKER_READY);

function copy(file: string, target: string): CopyReply {
  try {
    rmSync(target, { force: true });
    using database = new Database(file, { create: false, readwrite: true });
    database.run(PRAGMA.synchronous.none);
    database.run(SQL.copyInto, [target]);
    using copied = new Database(target, { readonly: true });
    return copied.query<{ sequence: number; newest: number }, []>(SQL.selectProgress).get()!;
  } catch (error) {
    return { failed: (error as Error).message };
  }
}
