import type { Database } from "bun:sqlite";
import { Thread } from "../runtime/thread.ts";
import { WORKERS } from "../workers.ts";
import { type CopyReply, type CopyRequest, whyFailed } from "./backup-copy.ts";
import type { DataFolder } from "./data-folder.ts";
import { StoreError } from "./database.ts";

/**
 * Backups of a running server: a thread copies (backup-copy.ts), and this class arranges that the journal keeps what is
 * being copied. The event loop only exchanges messages with the thread, one for each piece: so the loop is not held,
 * nothing is written to the target by this thread, and a backup can be stopped between two pieces.
 */

/** A backup is running already. */
export class BackupBusyError extends StoreError {}

/** Replies to one request after another. */
export type AskCopier = (request: CopyRequest) => Promise<CopyReply>;

export class Backup {
  readonly #database: Database;
  readonly #folder: DataFolder | null;
  readonly #ask: AskCopier;
  /** Resolves when the running backup has ended; null while there is none. */
  #running: Promise<void> | null = null;
  #isStopping = false;

  /** `ask` is for tests: without it a thread copies. */
  constructor(database: Database, folder: DataFolder | null, ask: AskCopier = newThread()) {
    this.#database = database;
    this.#folder = folder;
    this.#ask = ask;
  }

  /** Copies the data folder to the new folder `target`. Throws StoreError: then there is no such folder. */
  async run(target: string): Promise<void> {
    const folder = this.#folder;
    if (folder === null) throw refused(target, "this server stores nothing (--data :memory:)");
    if (this.#running !== null) throw new BackupBusyError("another backup is running; try again when it has ended");
    if (this.#isStopping) throw refused(target, STOPPING);
    if (!folder.check()) throw refused(target, folder.loss!.what);
    const end = Promise.withResolvers<void>();
    this.#running = end.promise;
    try {
      await this.#copy(target, folder);
    } finally {
      this.#running = null;
      end.resolve();
    }
  }

  async #copy(target: string, folder: DataFolder): Promise<void> {
    const { journal } = folder;
    journal?.hold();
    try {
      const descriptor = descriptorOf(folder, target);
      let reply = await this.#ask({ begin: { database: this.#database.filename, descriptor, target } });
      while (reply.did !== "all") {
        if (reply.did === "failed") throw refused(target, reply.why);
        if (reply.did === "journal") journal?.release();
        if (this.#isStopping) reply = await this.#ask({ stop: STOPPING });
        else
          reply = await this.#ask({ go: reply.did === "snapshot" ? (journal?.after(reply.sequence) ?? null) : null });
      }
    } finally {
      journal?.release();
    }
  }

  /** Ends a running backup, and refuses further ones. Resolves when its files are removed. */
  async stop(): Promise<void> {
    this.#isStopping = true;
    await this.#running;
  }
}

export const STOPPING = "the server stops";

/** Throws StoreError. */
function descriptorOf(folder: DataFolder, target: string): number {
  try {
    return folder.databaseDescriptor;
  } catch (error) {
    throw refused(target, whyFailed(error));
  }
}

export function refused(target: string, why: string): StoreError {
  return new StoreError(`cannot back up to ${target}: ${why}`);
}

/** A thread that copies. */
function newThread(): AskCopier {
  let reply = Promise.withResolvers<CopyReply>();
  const thread = new Thread<CopyRequest, CopyReply>(
    WORKERS.backup,
    (answer) => reply.resolve(answer),
    (message) => reply.resolve({ did: "failed", why: `the thread ended: ${message}` }),
  );
  return (request) => {
    reply = Promise.withResolvers();
    thread.ask(request);
    return reply.promise;
  };
}
