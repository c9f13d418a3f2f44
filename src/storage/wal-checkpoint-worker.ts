import { Database } from "bun:sqlite";
import { setPriority } from "node:os";
import { WORKER_READY } from "../runtime/thread.ts";
import { PRAGMA } from "./sql.ts";

/** The thread of wal-checkpointer.ts: copies the write-ahead log of a database to the database, and then replies. */

declare const self: Worker;

/** Lowest priority, on Linux for this thread only: on a shared core the chat runs first. */
setPriority(19);

self.onmessage = ({ data: file }: MessageEvent<string>) => {
  {
    using database = new Database(file, { create: false, readwrite: true });
    database.run(PRAGMA.synchronous.process);
    database.run(PRAGMA.checkpoint);
  }
  self.postMessage(null);
};
self.postMessage(WORKER_READY);
