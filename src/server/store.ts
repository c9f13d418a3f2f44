import { Database, SQLiteError } from "bun:sqlite";
import { chmodSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import type { ChatStore } from "../chat/chat.ts";
import type { StoredMessage } from "../chat/mailbox.ts";

export type Durability = "none" | "process" | "power";

const SYNCHRONOUS: Record<Durability, string> = { none: "OFF", process: "NORMAL", power: "FULL" };
const SCHEMA_VERSION = 1;
const SCHEMA = `
  CREATE TABLE mailbox (
    user TEXT NOT NULL, number INTEGER NOT NULL, unix_ms INTEGER NOT NULL, sender TEXT NOT NULL, text BLOB NOT NULL,
    PRIMARY KEY (user, number)
  ) WITHOUT ROWID;
  CREATE TABLE blocks (user TEXT NOT NULL, other TEXT NOT NULL, PRIMARY KEY (user, other)) WITHOUT ROWID;
  PRAGMA user_version = ${SCHEMA_VERSION};
`;

/** What waits for a user. */
export interface Waiting {
  user: string;
  messages: number;
  bytes: number;
}

/** A data folder that cannot be used, and why, in words for the operator. */
export class StoreError extends Error {}

/**
 * What rests: mailboxes and blocks, in one SQLite file. The file is locked for this process alone, which is also the
 * lock on the data folder.
 */
export class Store implements ChatStore {
  readonly #database: Database;
  readonly #insert;
  readonly #select;
  readonly #size;
  readonly #delete;
  readonly #block;
  readonly #unblock;

  /** `folder` is made when it is missing; ":memory:" keeps nothing. Throws StoreError. */
  constructor(folder: string, durability: Durability) {
    this.#database = open(folder, durability);
    const database = this.#database;
    this.#insert = database.query("INSERT INTO mailbox VALUES (?, ?, ?, ?, ?)");
    this.#select = database.query<{ number: number; unixMs: number; from: string; text: Uint8Array }, [string, number]>(
      `SELECT number, unix_ms AS unixMs, sender AS "from", text FROM mailbox
       WHERE user = ? AND number > ? ORDER BY number`,
    );
    this.#size = database.query<{ messages: number; bytes: number }, [string, number]>(
      "SELECT count(*) AS messages, total(length(text)) AS bytes FROM mailbox WHERE user = ? AND number <= ?",
    );
    this.#delete = database.query("DELETE FROM mailbox WHERE user = ? AND number <= ?");
    this.#block = database.query("INSERT OR IGNORE INTO blocks VALUES (?, ?)");
    this.#unblock = database.query("DELETE FROM blocks WHERE user = ? AND other = ?");
  }

  lastNumber(): number {
    return this.#database.query<{ last: number }, []>("SELECT ifnull(max(number), 0) AS last FROM mailbox").get()!.last;
  }

  waiting(): Waiting[] {
    const sql = "SELECT user, count(*) AS messages, total(length(text)) AS bytes FROM mailbox GROUP BY user";
    return this.#database.query<Waiting, []>(sql).all();
  }

  blocks(): { user: string; other: string }[] {
    return this.#database.query<{ user: string; other: string }, []>("SELECT user, other FROM blocks").all();
  }

  keep(user: string, messages: readonly StoredMessage[]): void {
    const insertAll = (): void => {
      for (const { number, unixMs, from, text } of messages) this.#insert.run(user, number, unixMs, from, text);
    };
    if (messages.length === 1) insertAll();
    else this.#database.transaction(insertAll)();
  }

  read(user: string, after: number, bytes: number): StoredMessage[] {
    const messages: StoredMessage[] = [];
    let left = bytes;
    for (const message of this.#select.iterate(user, after)) {
      messages.push(message);
      left -= message.text.length + message.from.length + 32;
      if (left <= 0) break;
    }
    return messages;
  }

  drop(user: string, upTo: number): { messages: number; bytes: number } {
    const size = this.#size.get(user, upTo)!;
    this.#delete.run(user, upTo);
    return size;
  }

  block(user: string, other: string): void {
    this.#block.run(user, other);
  }

  unblock(user: string, other: string): void {
    this.#unblock.run(user, other);
  }

  close(): void {
    this.#database.close();
  }
}

function open(folder: string, durability: Durability): Database {
  if (folder === ":memory:") {
    const database = new Database(":memory:");
    database.run(SCHEMA);
    return database;
  }
  const file = join(folder, "heartline.sqlite");
  let database: Database | null = null;
  try {
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    database = new Database(file, { create: true });
    chmodSync(file, 0o600);
    database.run("PRAGMA locking_mode = EXCLUSIVE");
    database.run("PRAGMA journal_mode = WAL");
    database.run(`PRAGMA synchronous = ${SYNCHRONOUS[durability]}`);
    database.run("BEGIN IMMEDIATE");
    const version = database.query<{ user_version: number }, []>("PRAGMA user_version").get()!.user_version;
    if (version > SCHEMA_VERSION) throw new StoreError(`${file} was written by a newer Heartline`);
    if (version === 0) database.run(SCHEMA);
    database.run("COMMIT");
    return database;
  } catch (error) {
    database?.close();
    throw error instanceof StoreError ? error : new StoreError(explain(error, folder, file));
  }
}

function explain(error: unknown, folder: string, file: string): string {
  const { message } = error as Error;
  if (error instanceof SQLiteError) {
    if (error.code?.startsWith("SQLITE_BUSY")) return `the data folder ${folder} is in use by another server`;
    if (error.code === "SQLITE_NOTADB" || error.code?.startsWith("SQLITE_CORRUPT"))
      return `${file} is damaged: ${message}`;
  }
  return `the data folder ${folder} cannot be used: ${message}`;
}
