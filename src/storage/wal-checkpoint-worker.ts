import { Database } from "bun:sqlite";
import { setPriority } from "node:os";

/** A thread that copies the write-ahead log of a database to it, and answers when that is done. */

declare const self: Worker;

/** Of this thread alone (Linux): on a core that they share it gives way to the chat. */
setPriority(19);

self.onmessage = ({ data: file }: MessageEvent<string>) => {
  {
    using database = new Database(file, { create: false, readwrite: true });
    database.run("PRAGMA synchronous = NORMAL");
    database.run("PRAGMA wal_checkpoint(PASSIVE)");
  }
  self.postMessage(null);
};
