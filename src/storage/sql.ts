import { SESSIONS_KEPT } from "../limits.ts";

/**
 * All SQL of the project: the schema, its upgrades from earlier versions, and each statement under a name. What the
 * rows mean and when they change is not decided here (tables.ts, recovery.ts).
 */

/** Stored in `user_version`. Each version from 1 on is upgraded when the database is opened. */
export const SCHEMA_VERSION = 8;

/**
 * Pages in SQLite's write-ahead log (256 MiB) at which a commit copies the log to the database itself, which takes some
 * 50 ms. The log grows that long only when the checkpoint thread (wal-checkpointer.ts) fails or is far behind.
 *
 * The log is not cut when it is written from its beginning again: the commit would wait for that, on some disks 0.2 s.
 */
const CHECKPOINT_PAGES = 65_536;

/** `received` is -1 without a journal while the session is alive; for `ended_by` see `ENDED_BY` (tables.ts). */
const SESSIONS = `
  CREATE TABLE sessions (
    number INTEGER PRIMARY KEY, token BLOB NOT NULL UNIQUE, user TEXT NOT NULL, resumable INTEGER NOT NULL,
    ended_by INTEGER NOT NULL, received INTEGER NOT NULL, ended_ms INTEGER, proof BLOB
  );
  CREATE INDEX sessions_of_user ON sessions (user);
  CREATE TABLE progress (sequence INTEGER NOT NULL, newest INTEGER NOT NULL, number INTEGER NOT NULL);
`;

/** The seed of the journal's checksums (journal.ts). Without a row the journal is of a version before 5. */
const JOURNAL = "CREATE TABLE IF NOT EXISTS journal (seed INTEGER NOT NULL);";

const LOCKOUTS = `
  CREATE TABLE lockouts (
    user TEXT NOT NULL, source TEXT NOT NULL, count INTEGER NOT NULL, until_ms INTEGER NOT NULL,
    PRIMARY KEY (user, source)
  ) WITHOUT ROWID;
`;

/** `until_ms` is the largest safe integer for a ban for good. An expired ban stays until the user is unbanned. */
const BANS = `
  CREATE TABLE bans (user TEXT PRIMARY KEY, until_ms INTEGER NOT NULL) WITHOUT ROWID;
  CREATE TABLE last_logins (user TEXT PRIMARY KEY, unix_ms INTEGER NOT NULL, address TEXT NOT NULL) WITHOUT ROWID;
`;

/** What was heard from the other shards of a cluster; see stored-outcomes.ts. */
const NEIGHBOURS = `
  CREATE TABLE neighbours (shard INTEGER PRIMARY KEY, heard INTEGER NOT NULL, replies BLOB NOT NULL);
`;

/** Rows are in the order of their numbers, so a commit writes few pages however many users have new messages. */
const MAILBOX = `
  CREATE TABLE mailbox (
    user TEXT NOT NULL, number INTEGER PRIMARY KEY, unix_ms INTEGER NOT NULL, sender TEXT NOT NULL, text BLOB NOT NULL
  );
  CREATE INDEX mailbox_of_user ON mailbox (user, number);
`;

/**
 * Positions of messages in the streams of known sessions. A row is a run of messages: the position and the number of
 * the last one, and those of the earlier ones (delivered-run.ts), null without any. Runs do not overlap.
 */
const DELIVERED = `
  CREATE TABLE delivered (
    session INTEGER NOT NULL, position INTEGER NOT NULL, number INTEGER NOT NULL, earlier BLOB,
    PRIMARY KEY (session, position)
  ) WITHOUT ROWID;
  CREATE TRIGGER forget AFTER DELETE ON sessions BEGIN DELETE FROM delivered WHERE session = old.number; END;
`;

/** Up to version 5 each message had a row. */
const DELIVERED_UPGRADE = `
  DROP TRIGGER IF EXISTS forget;
  ${DELIVERED}
  INSERT OR REPLACE INTO delivered SELECT session, position, number, NULL FROM carried ORDER BY number;
  DROP TABLE carried;
`;

/** The tables of a new database. */
export const SCHEMA = `
  ${MAILBOX}
  CREATE TABLE blocks (user TEXT NOT NULL, other TEXT NOT NULL, PRIMARY KEY (user, other)) WITHOUT ROWID;
  ${SESSIONS}
  ${DELIVERED}
  ${LOCKOUTS}
  ${BANS}
  ${NEIGHBOURS}
  INSERT INTO progress VALUES (0, 0, 0);
  ${JOURNAL}
  INSERT INTO journal VALUES (1 + abs(random() % 4294967295));
`;

/** Version 1 has no journal. */
const SESSIONS_UPGRADE = `
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

/** Up to version 3 rows were in the order of users. */
const MAILBOX_UPGRADE = `
  ALTER TABLE mailbox RENAME TO mailbox_3;
  ${MAILBOX}
  INSERT INTO mailbox SELECT user, number, unix_ms, sender, text FROM mailbox_3;
  DROP TABLE mailbox_3;
`;

/** Statements that bring a database of `version` (0: a new one) to SCHEMA_VERSION, in order. */
export function upgrades(version: number): string[] {
  if (version === SCHEMA_VERSION) return [];
  const statements: string[] = [];
  if (version === 0) statements.push(SCHEMA);
  if (version === 1) statements.push(SESSIONS_UPGRADE);
  if (version === 1 || version === 2) statements.push(LOCKOUTS);
  if (version === 2 || version === 3) statements.push("ALTER TABLE sessions ADD COLUMN proof BLOB");
  if (version > 0 && version < 4) statements.push(MAILBOX_UPGRADE);
  if (version > 0 && version < 5) statements.push(JOURNAL);
  if (version > 0 && version < 6) statements.push(DELIVERED_UPGRADE);
  if (version > 1 && version < 7) statements.push("ALTER TABLE sessions RENAME COLUMN replaced TO ended_by");
  if (version > 0 && version < 7) statements.push(BANS);
  if (version > 0 && version < 8) statements.push(NEIGHBOURS);
  statements.push(`PRAGMA user_version = ${SCHEMA_VERSION}`);
  return statements;
}

/** Settings of a connection, and transactions. */
export const PRAGMA = {
  writeAheadLog: "PRAGMA journal_mode = WAL",
  /** For one long transaction without other readers: new pages are written once, in the write-ahead log twice. */
  rollbackJournal: "PRAGMA journal_mode = DELETE",
  /** 64 MiB of pages, and the default. */
  largeCache: "PRAGMA cache_size = -65536",
  defaultCache: "PRAGMA cache_size = -2000",
  /** By durability. */
  synchronous: {
    none: "PRAGMA synchronous = OFF",
    process: "PRAGMA synchronous = NORMAL",
    power: "PRAGMA synchronous = FULL",
  },
  autoCheckpoint: `PRAGMA wal_autocheckpoint = ${CHECKPOINT_PAGES}`,
  /** Copies the write-ahead log to the database while other connections continue. */
  checkpoint: "PRAGMA wal_checkpoint(PASSIVE)",
  /** Copies all of it, and cuts it to no bytes. */
  checkpointAll: "PRAGMA wal_checkpoint(TRUNCATE)",
  /** Else SQLite keeps a file open in the system's temporary folder, which may be full. */
  temporaryInMemory: "PRAGMA temp_store = MEMORY",
  /** Only a commit can find the disk full, and not a change in the middle of a transaction. */
  noSpill: "PRAGMA cache_spill = OFF",
  /** A file that is worth nothing before it is complete. */
  noJournal: "PRAGMA journal_mode = OFF",
  version: "PRAGMA user_version",
  check: "PRAGMA quick_check(1)",
} as const;

export const TRANSACTION = {
  /** The first read begins it. */
  beginRead: "BEGIN",
  begin: "BEGIN IMMEDIATE",
  beginExclusive: "BEGIN EXCLUSIVE",
  commit: "COMMIT",
} as const;

/** Statements on the tables, by the question or the change. */
export const SQL = {
  insertMessage: "INSERT OR IGNORE INTO mailbox VALUES (?, ?, ?, ?, ?)",
  selectMessages: `SELECT number, unix_ms AS unixMs, sender AS "from", text FROM mailbox
    WHERE user = ? AND number > ? ORDER BY number`,
  /** The number of the message at an offset among the oldest. */
  selectNumberAt: `SELECT number FROM mailbox WHERE user = ? AND number > ? AND number <= ?
    ORDER BY number LIMIT 1 OFFSET ?`,
  sumMessages: `SELECT sender AS "from", count(*) AS messages, total(length(text)) AS bytes FROM mailbox
    WHERE user = ? AND number > ? AND number <= ? GROUP BY sender`,
  sumAllMessages: `SELECT user, sender AS "from", count(*) AS messages, total(length(text)) AS bytes FROM mailbox
    GROUP BY user, sender`,
  deleteMessages: "DELETE FROM mailbox WHERE user = ? AND number > ? AND number <= ?",

  insertRun: "INSERT OR IGNORE INTO delivered VALUES (?, ?, ?, ?)",
  /** The last run that ends at that position or before. */
  selectRunBefore: `SELECT number FROM delivered WHERE session = ? AND position <= ? ORDER BY position DESC LIMIT 1`,
  /** The first run that ends after that position. */
  selectRunAfter: `SELECT earlier FROM delivered WHERE session = ? AND position > ? ORDER BY position LIMIT 1`,
  selectLastNumber: "SELECT max(number) AS number FROM mailbox WHERE user = ?",
  selectLastPosition: "SELECT max(position) AS position FROM delivered WHERE session = ?",
  deleteOrphanRuns: "DELETE FROM delivered WHERE session NOT IN (SELECT number FROM sessions)",

  insertSession: "INSERT OR IGNORE INTO sessions VALUES (?, ?, ?, ?, 0, ?, NULL, ?)",
  updateReceived: "UPDATE sessions SET received = ? WHERE number = ?",
  raiseReceived: "UPDATE sessions SET received = max(received, ?) WHERE number = ?",
  endSession: "UPDATE sessions SET ended_by = ?, received = ?, ended_ms = ? WHERE number = ?",
  endRecoveredSession: "UPDATE sessions SET ended_by = ?, ended_ms = ? WHERE number = ?",
  endOpenSessions: "UPDATE sessions SET ended_ms = ? WHERE ended_ms IS NULL",
  selectEndedSession: "SELECT * FROM sessions WHERE token = ? AND ended_ms IS NOT NULL",
  selectProof: "SELECT proof FROM sessions WHERE token = ? AND user = ?",
  /** Keeps the newest SESSIONS_KEPT ended sessions of a user. */
  trimSessions: `DELETE FROM sessions WHERE number IN (SELECT number FROM sessions
    WHERE user = ? AND ended_ms IS NOT NULL ORDER BY number DESC LIMIT -1 OFFSET ${SESSIONS_KEPT})`,
  /** The same for all users. */
  trimAllSessions: `DELETE FROM sessions WHERE number IN (SELECT number FROM (
    SELECT number, row_number() OVER (PARTITION BY user ORDER BY number DESC) AS age FROM sessions
  ) WHERE age > ${SESSIONS_KEPT})`,
  /** Sessions of a run without a journal: how far they were acted on is unknown. */
  deleteUnknownSessions: "DELETE FROM sessions WHERE received < 0",

  insertLockout: "INSERT OR REPLACE INTO lockouts VALUES (?, ?, ?, ?)",
  deleteLockout: "DELETE FROM lockouts WHERE user = ? AND source = ?",
  selectLockouts: "SELECT user, source, count, until_ms AS untilUnixMs FROM lockouts ORDER BY until_ms",

  insertBlock: "INSERT OR IGNORE INTO blocks VALUES (?, ?)",
  deleteBlock: "DELETE FROM blocks WHERE user = ? AND other = ?",
  selectBlocks: "SELECT user, other FROM blocks",

  insertBan: "INSERT OR REPLACE INTO bans VALUES (?, ?)",
  deleteBan: "DELETE FROM bans WHERE user = ?",
  selectBans: "SELECT user, until_ms AS untilUnixMs FROM bans",

  insertLastLogin: "INSERT OR REPLACE INTO last_logins VALUES (?, ?, ?)",
  selectLastLogin: "SELECT unix_ms AS unixMs, address FROM last_logins WHERE user = ?",

  /** Whole tables (transfer.ts), with their columns in the order of the table; `delivered` has the user after them. */
  selectAllMessages: "SELECT user, number, unix_ms, sender, text FROM mailbox ORDER BY number",
  selectAllSessions: `SELECT number, token, user, resumable, ended_by, received, ended_ms, proof FROM sessions
    ORDER BY number`,
  selectAllRuns: `SELECT session, position, delivered.number AS number, earlier, user FROM delivered
    JOIN sessions ON sessions.number = session ORDER BY session, position`,
  selectAllLastLogins: "SELECT user, unix_ms, address FROM last_logins",
  selectMessageNumbers: "SELECT number FROM mailbox ORDER BY number",
  selectSessionNumbers: "SELECT number FROM sessions ORDER BY number",
  countRows: `SELECT (SELECT count(*) FROM mailbox) + (SELECT count(*) FROM sessions) +
    (SELECT count(*) FROM delivered) AS rows`,
  insertEndedSession: "INSERT INTO sessions VALUES (?, ?, ?, ?, ?, ?, ?, ?)",

  insertNeighbour: "INSERT OR REPLACE INTO neighbours VALUES (?, ?, ?)",
  selectNeighbours: "SELECT shard, heard, replies FROM neighbours",

  /** Bytes of the database, with those that only its write-ahead log has. */
  selectSize: "SELECT page_count * page_size AS bytes FROM pragma_page_count(), pragma_page_size()",
  /** The database as one file without a log, in a new file. */
  copyInto: "VACUUM INTO ?",

  selectProgress: "SELECT * FROM progress",
  updateProgress: "UPDATE progress SET sequence = ?, newest = ?, number = ?",
  selectSeed: "SELECT seed FROM journal",
  insertSeed: "INSERT INTO journal VALUES (?)",
} as const;
