import { Database } from "bun:sqlite";
import {
  accessSync,
  closeSync,
  constants,
  existsSync,
  fstatSync,
  mkdirSync,
  openSync,
  readlinkSync,
  rmSync,
  statSync,
} from "node:fs";
import { join } from "node:path";
import { DATABASE, StoreError } from "./database.ts";
import type { Journal } from "./journal.ts";
import { TRANSACTION } from "./sql.ts";
import { lock } from "../runtime/kernel.ts";
import { whyUnusable } from "./inspection.ts";

/** Earlier versions lock a database of this name instead of the folder. */
export const FORMER_LOCK = "lock";

/** A part of the data folder disappeared while the server runs. In words for the operator. */
export interface Loss {
  what: string;
  /** What makes the server accept messages again. */
  until: string;
  /** What happens to the messages in mailboxes when the server stops; null when the next start finds them. */
  fate: string | null;
}

/**
 * The folder of the database and the journal: locked for this process, and checked once a second. The check is needed
 * because writes to open and mapped files still succeed after the files were deleted, moved or replaced.
 */
export class DataFolder {
  readonly path: string;
  readonly #descriptor: number;
  readonly #identity: string;
  /** The identity (device and inode) of each file of the database, by name. */
  readonly #files = new Map<string, string>();
  /** The journal in the folder; null without one, and before `watch`. */
  journal: Journal | null = null;
  /** See `databaseDescriptor`; -1 while there is none. */
  #databaseDescriptor = -1;
  /** What the last check found missing; null when nothing is. */
  loss: Loss | null = null;

  /** Creates the folder if it is missing, and locks it. Throws StoreError. */
  constructor(path: string) {
    this.path = path;
    let descriptor = -1;
    try {
      mkdirSync(path, { recursive: true, mode: 0o700 });
      descriptor = openSync(path, constants.O_RDONLY | constants.O_DIRECTORY);
      const refusal = lock(descriptor);
      if (refusal === "taken" || isLockedByFormer(join(path, FORMER_LOCK)))
        throw new StoreError(
          `the data folder ${path} is in use by another server; stop that one, or --data names another folder`,
        );
      if (refusal !== null) throw new Error(`it cannot be locked: ${refusal}`);
    } catch (error) {
      if (descriptor >= 0) closeSync(descriptor);
      if (error instanceof StoreError) throw error;
      throw new StoreError(`the data folder ${path} cannot be used: ${whyUnusable(error)}; --data names another one`);
    }
    this.#descriptor = descriptor;
    const { dev, ino } = fstatSync(descriptor);
    this.#identity = `${dev} ${ino}`;
  }

  /** A path to a file of this folder. On Linux it stays valid when the folder is moved. */
  inside(name: string): string {
    const link = `/proc/self/fd/${this.#descriptor}`;
    return join(existsSync(link) ? link : this.path, name);
  }

  /** The database and the journal are open: `check` looks for their files from now on. */
  watch(journal: Journal | null): void {
    this.journal = journal;
    for (const name of [DATABASE, `${DATABASE}-wal`, `${DATABASE}-shm`]) {
      const identity = identityOf(join(this.path, name));
      if (identity !== null) this.#files.set(name, identity);
    }
  }

  /** Checks that all files are in place, with a dozen calls of stat. False when not: see `loss`. */
  check(): boolean {
    this.loss = this.#findLoss();
    return this.loss === null;
  }

  #findLoss(): Loss | null {
    try {
      const identity = identityOf(this.path);
      if (identity !== this.#identity) return this.#lossOfFolder(identity === null);
      for (const [name, known] of this.#files) {
        if (identityOf(join(this.path, name)) === known) continue;
        return lossOfFile(name, name === DATABASE ? "are lost, since it is not in the data folder" : null);
      }
      if (this.journal?.isWhole === false) return lossOfFile("a file of the journal", null);
      accessSync(this.path, constants.R_OK | constants.W_OK | constants.X_OK);
      return null;
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      return { what: `the data folder cannot be used: ${code}`, until: "it can be", fate: null };
    }
  }

  #lossOfFolder(isMissing: boolean): Loss {
    const what = isMissing ? "the data folder is gone" : "the data folder was replaced by another one";
    const isDeleted = fstatSync(this.#descriptor).nlink === 0;
    if (isDeleted) {
      const until = `the server is restarted; before that, deleted files can be copied from /proc/${process.pid}/fd`;
      return { what, until, fate: "are lost" };
    }
    let now = "elsewhere";
    try {
      now = readlinkSync(this.inside("."));
    } catch {
      // Only Linux gives the new path.
    }
    return { what, until: `it is back at ${this.path} (now it is ${now})`, fate: `are in ${now}` };
  }

  /**
   * An open descriptor of the database's file, to read it past SQLite. It stays open until `close`, since close(2) on
   * any descriptor of a file releases all locks that this process has on it, those of SQLite too
   * (https://sqlite.org/howtocorrupt.html, 2.2).
   */
  get databaseDescriptor(): number {
    if (this.#databaseDescriptor < 0) this.#databaseDescriptor = openSync(this.inside(DATABASE), "r");
    return this.#databaseDescriptor;
  }

  /** Unlocks the folder. The database is closed. */
  close(): void {
    if (this.#databaseDescriptor >= 0) closeSync(this.#databaseDescriptor);
    closeSync(this.#descriptor);
  }
}

function lossOfFile(name: string, fate: string | null): Loss {
  const keeps = "the server is restarted, which keeps what was promised";
  const until = fate === null ? keeps : "the same file is back, or the server is restarted without it";
  return { what: `${name} was deleted or replaced in the data folder`, until, fate };
}

/** Device and inode of the file at that path; null without one. */
function identityOf(path: string): string | null {
  const found = statSync(path, { throwIfNoEntry: false });
  return found === undefined ? null : `${found.dev} ${found.ino}`;
}

/** Whether a server of an earlier version uses the folder. If none does, its lock is removed. */
function isLockedByFormer(file: string): boolean {
  if (!existsSync(file)) return false;
  try {
    using database = new Database(file, { create: false, readwrite: true });
    database.run(TRANSACTION.beginExclusive);
  } catch (error) {
    if ((error as { code?: string }).code?.startsWith("SQLITE_BUSY")) return true;
  }
  rmSync(file);
  return false;
}
