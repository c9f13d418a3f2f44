import { Database, SQLiteError } from "bun:sqlite";
import { createHash } from "node:crypto";
import { chmodSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import type { ChatStore } from "../chat/chat.ts";
import type { Amount, EndedSession, StoredMessage } from "../chat/mailbox.ts";
import { SESSIONS_KEPT, SESSIONS_KEPT_MS } from "../limits.ts";

export type Durability = "none" | "process" | "power";

const SYNCHRONOUS: Record<Durability, string> = { none: "OFF", process: "NORMAL", power: "FULL" };
const SCHEMA_VERSION = 1;
const SCHEMA = `
  CREATE TABLE mailbox (
    user TEXT NOT NULL, number INTEGER NOT NULL, unix_ms INTEGER NOT NULL, sender TEXT NOT NULL, text BLOB NOT NULL,
    PRIMARY KEY (user, number)
  ) WITHOUT ROWID;
  CREATE TABLE sessions (
    id INTEGER PRIMARY KEY, token BLOB NOT NULL UNIQUE, user TEXT NOT NULL, resumable INTEGER NOT NULL,
    replaced INTEGER NOT NULL, received INTEGER NOT NULL, ended_ms INTEGER NOT NULL
  );
  CREATE INDEX sessions_of_user ON sessions (user);
  CREATE TABLE carried (
    session INTEGER NOT NULL, number INTEGER NOT NULL, position INTEGER NOT NULL, PRIMARY KEY (session, number)
  ) WITHOUT ROWID;
  CREATE TRIGGER forget AFTER DELETE ON sessions BEGIN DELETE FROM carried WHERE session = old.id; END;
  CREATE TABLE blocks (user TEXT NOT NULL, other TEXT NOT NULL, PRIMARY KEY (user, other)) WITHOUT ROWID;
  PRAGMA user_version = ${SCHEMA_VERSION};
`;

/** What waits for a user. */
export interface Waiting extends Amount {
  user: string;
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
    this.#size = database.query<Amount, [string, number]>(
      "SELECT count(*) AS messages, total(length(text)) AS bytes FROM mailbox WHERE user = ? AND number <= ?",
    );
    this.#delete = database.query("DELETE FROM mailbox WHERE user = ? AND number <= ?");
    this.#block = database.query("INSERT OR IGNORE INTO blocks VALUES (?, ?)");
    this.#unblock = database.query("DELETE FROM blocks WHERE user = ? AND other = ?");
  }

  /** The highest number that is still known: of a message that waits, or that an ended session had carried. */
  lastNumber(): number {
    const numbers = "SELECT number FROM mailbox UNION ALL SELECT number FROM carried";
    return this.#database.query<{ last: number }, []>(`SELECT ifnull(max(number), 0) AS last FROM (${numbers})`).get()!
      .last;
  }

  waiting(): Waiting[] {
    const sql = "SELECT user, count(*) AS messages, total(length(text)) AS bytes FROM mailbox GROUP BY user";
    return this.#database.query<Waiting, []>(sql).all();
  }

  blocks(): { user: string; other: string }[] {
    return this.#database.query<{ user: string; other: string }, []>("SELECT user, other FROM blocks").all();
  }

  keep(user: string, { number, unixMs, from, text }: StoredMessage): void {
    this.#insert.run(user, number, unixMs, from, text);
  }

  settle(user: string, messages: readonly StoredMessage[], ended: EndedSession | null): void {
    this.#database.transaction(() => {
      for (const message of messages) this.keep(user, message);
      if (ended !== null) this.#remember(ended);
    })();
  }

  #remember({ token, user, resumable, replaced, received, endedUnixMs, carried }: EndedSession): void {
    const run = (sql: string, ...values: (string | number | Uint8Array)[]): number =>
      Number(this.#database.query(sql).run(...values).lastInsertRowid);
    const insert = "INSERT INTO sessions VALUES (NULL, ?, ?, ?, ?, ?, ?)";
    const id = run(insert, hash(token), user, Number(resumable), Number(replaced), received, endedUnixMs);
    for (const { number, position } of carried) run("INSERT INTO carried VALUES (?, ?, ?)", id, number, position);
    run("DELETE FROM sessions WHERE user = ? AND ended_ms < ?", user, endedUnixMs - SESSIONS_KEPT_MS);
    const oldest = "SELECT id FROM sessions WHERE user = ? ORDER BY id DESC LIMIT -1 OFFSET ?";
    run(`DELETE FROM sessions WHERE id IN (${oldest})`, user, SESSIONS_KEPT);
  }

  ended(token: string): Omit<EndedSession, "carried"> | null {
    const row = this.#database
      .query<{ user: string; resumable: number; replaced: number; received: number; ended_ms: number }, [Uint8Array]>(
        "SELECT user, resumable, replaced, received, ended_ms FROM sessions WHERE token = ?",
      )
      .get(hash(token));
    if (row === null) return null;
    const { user, received, ended_ms: endedUnixMs } = row;
    return { token, user, received, endedUnixMs, resumable: row.resumable === 1, replaced: row.replaced === 1 };
  }

  dropCarried(user: string, token: string, position: number): Amount {
    const carried = `FROM mailbox WHERE user = ? AND number IN (
      SELECT number FROM carried JOIN sessions ON session = id WHERE token = ? AND position <= ?)`;
    const values: [string, Uint8Array, number] = [user, hash(token), position];
    const sql = `SELECT count(*) AS messages, total(length(text)) AS bytes ${carried}`;
    const amount = this.#database.query<Amount, typeof values>(sql).get(...values)!;
    this.#database.query(`DELETE ${carried}`).run(...values);
    return amount;
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

  drop(user: string, upTo: number): Amount {
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

/** Tokens are kept as hashes: who reads the file can take over no session. */
function hash(token: string): Uint8Array {
  return createHash("sha256").update(token).digest();
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
