import { Database, SQLiteError } from "bun:sqlite";
import { chmodSync } from "node:fs";
import { join } from "node:path";

/** What `ok` outlives: nothing; the end of this process; the loss of power too. */
export type Durability = "none" | "process" | "power";

const SYNCHRONOUS: Record<Durability, string> = { none: "OFF", process: "NORMAL", power: "FULL" };
/** So long the write-ahead log becomes only when the thread that copies it (wal-checkpointer.ts) cannot. */
const CHECKPOINT_PAGES = 16_384;
const SCHEMA_VERSION = 5;
const SESSIONS = `
  CREATE TABLE sessions (
    number INTEGER PRIMARY KEY, token BLOB NOT NULL UNIQUE, user TEXT NOT NULL, resumable INTEGER NOT NULL,
    replaced INTEGER NOT NULL, received INTEGER NOT NULL, ended_ms INTEGER, proof BLOB
  );
  CREATE INDEX sessions_of_user ON sessions (user);
  CREATE TRIGGER forget AFTER DELETE ON sessions BEGIN DELETE FROM carried WHERE session = old.number; END;
  CREATE TABLE progress (sequence INTEGER NOT NULL, newest INTEGER NOT NULL, number INTEGER NOT NULL);
`;
/** The journal's checksums begin with its seed (journal.ts); no row while there is a journal of a version before 5. */
const JOURNAL = "CREATE TABLE IF NOT EXISTS journal (seed INTEGER NOT NULL);";

const LOCKOUTS = `
  CREATE TABLE lockouts (
    user TEXT NOT NULL, source TEXT NOT NULL, count INTEGER NOT NULL, until_ms INTEGER NOT NULL,
    PRIMARY KEY (user, source)
  ) WITHOUT ROWID;
`;
/** Texts lie in the order of their numbers, so that a commit writes few pages, and not as many as there are users. */
const MAILBOX = `
  CREATE TABLE mailbox (
    user TEXT NOT NULL, number INTEGER PRIMARY KEY, unix_ms INTEGER NOT NULL, sender TEXT NOT NULL, text BLOB NOT NULL
  );
  CREATE INDEX mailbox_of_user ON mailbox (user, number);
`;
const SCHEMA = `
  ${MAILBOX}
  CREATE TABLE carried (
    session INTEGER NOT NULL, number INTEGER NOT NULL, position INTEGER NOT NULL, PRIMARY KEY (session, number)
  ) WITHOUT ROWID;
  CREATE TABLE blocks (user TEXT NOT NULL, other TEXT NOT NULL, PRIMARY KEY (user, other)) WITHOUT ROWID;
  ${SESSIONS}
  ${LOCKOUTS}
  INSERT INTO progress VALUES (0, 0, 0);
  ${JOURNAL}
  INSERT INTO journal VALUES (1 + abs(random() % 4294967295));
`;
/** From versions up to 3. */
const MAILBOX_UPGRADE = `
  ALTER TABLE mailbox RENAME TO mailbox_3;
  ${MAILBOX}
  INSERT INTO mailbox SELECT user, number, unix_ms, sender, text FROM mailbox_3;
  DROP TABLE mailbox_3;
`;
/** From version 1, which had no journal. */
const UPGRADE = `
  DROP INDEX sessions_of_user;
  DROP TRIGGER forget;
  ALTER TABLE sessions RENAME TO sessions_1;
  ${SESSIONS}
  INSERT INTO sessions SELECT id, token, user, resumable, replaced, received, ended_ms, NULL FROM sessions_1;
  DROP TABLE sessions_1;
  INSERT INTO progress SELECT 0, 0, max(
    (SELECT ifnull(max(number), 0) FROM mailbox), (SELECT ifnull(max(number), 0) FROM carried),
    (SELECT ifnull(max(number), 0) FROM sessions));
`;

/** A data folder that cannot be used, and why, in words for the operator. */
export class StoreError extends Error {}

/** The database's name in its folder. */
export const DATABASE = "heartline.sqlite";

/** Opens the database of a data folder, which is there and locked; ":memory:" keeps nothing. Throws StoreError. */
export function openDatabase(folder: string, durability: Durability): Database {
  if (folder === ":memory:") {
    const database = new Database(":memory:");
    database.run(SCHEMA);
    return database;
  }
  const file = join(folder, DATABASE);
  let database: Database | null = null;
  try {
    database = new Database(file, { create: true });
    chmodSync(file, 0o600);
    database.run("PRAGMA journal_mode = WAL");
    checkPages(database, file);
    database.run(`PRAGMA synchronous = ${SYNCHRONOUS[durability]}`);
    database.run(`PRAGMA wal_autocheckpoint = ${CHECKPOINT_PAGES}`);
    // Else SQLite opens a file in the machine's folder for temporary ones, which may be full, and keeps it.
    database.run("PRAGMA temp_store = MEMORY");
    database.run("BEGIN IMMEDIATE");
    const version = database.query<{ user_version: number }, []>("PRAGMA user_version").get()!.user_version;
    if (version > SCHEMA_VERSION) throw new StoreError(`${file} was written by a newer Heartline`);
    if (version === 0) database.run(SCHEMA);
    if (version === 1) database.run(UPGRADE);
    if (version === 1 || version === 2) database.run(LOCKOUTS);
    if (version === 2 || version === 3) database.run("ALTER TABLE sessions ADD COLUMN proof BLOB");
    if (version > 0 && version < 4) database.run(MAILBOX_UPGRADE);
    if (version > 0 && version < 5) database.run(JOURNAL);
    if (version < SCHEMA_VERSION) database.run(`PRAGMA user_version = ${SCHEMA_VERSION}`);
    database.run("COMMIT");
    // SQLite keeps a descriptor of who closes while others are open, for the next one: now, and not some day.
    new Database(file).close();
    return database;
  } catch (error) {
    database?.close();
    throw asStoreError(error, folder);
  }
}

/** Now, while the journal still has what may be missing: damage that is found later has cost messages. */
function checkPages(database: Database, file: string): void {
  const { quick_check: verdict } = database.query<{ quick_check: string }, []>("PRAGMA quick_check(1)").get()!;
  if (verdict !== "ok") throw damaged(file, verdict.split("\n").at(-1)!);
}

function damaged(file: string, why: string): StoreError {
  return new StoreError(
    `${file} is damaged: ${why}. Put back a copy of the whole folder, or move this file away and start once with ` +
      "--salvage, which keeps what the journal still has",
  );
}

/** Why the data folder cannot be used, of whatever went wrong with it. */
export function asStoreError(error: unknown, folder: string): StoreError {
  if (error instanceof StoreError) return error;
  const { message } = error as Error;
  const file = join(folder, DATABASE);
  if (error instanceof SQLiteError) {
    if (error.code?.startsWith("SQLITE_BUSY")) return new StoreError(`${file} is in use by another program`);
    if (error.code === "SQLITE_NOTADB" || error.code?.startsWith("SQLITE_CORRUPT")) return damaged(file, message);
  }
  return new StoreError(`the data folder ${folder} cannot be used: ${message}`);
}
