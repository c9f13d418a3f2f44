import type { Database, SQLQueryBindings } from "bun:sqlite";
import { createHash } from "node:crypto";
import type { WrongPasswords } from "../auth/lockouts.ts";
import type { Outcomes } from "../chat/outcomes.ts";
import type { Amount, EndedSession, FinalReason, KnownSession, LastLogin, StoredMessage } from "../chat/store.ts";
import { MOVED_BYTES_MIN } from "../limits.ts";
import { type Delivered, lastDelivered, runsOf } from "./delivered-run.ts";
import { PendingChanges } from "./pending-changes.ts";
import { SQL } from "./sql.ts";
import { rowOf } from "./stored-outcomes.ts";

/** The messages in a user's mailbox from one sender. */
export interface Waiting extends Amount {
  user: string;
}

/** Wrong passwords, enough for a lockout or fewer, and when they are forgotten. */
export type StoredLockout = WrongPasswords & { untilUnixMs: number };

const NO_PROOF = new Uint8Array(0);
/** Bytes of the line `stored <from> <unix time in ms> <text>` without sender and text, rounded up. */
const LINE_OVERHEAD_BYTES = 32;

/**
 * Reads and changes the tables of the database. Changes are pending until a commit. Each read executes the pending
 * changes first, so that it sees them. This class does not know the journal.
 */
export class Tables {
  readonly changes: PendingChanges;
  readonly #database: Database;
  readonly #statements;

  constructor(database: Database) {
    this.#database = database;
    this.changes = new PendingChanges(database);
    this.#statements = prepare(database);
  }

  insertMessage(user: string, { number, unixMs, from, text }: StoredMessage): void {
    this.changes.add(this.#statements.insertMessage, user, number, unixMs, from, this.changes.copy(text));
  }

  /** Positions of messages in the stream of a session, in order, after all that were inserted earlier. */
  insertDelivered(session: number, messages: readonly Delivered[]): void {
    for (const { position, number, earlier } of runsOf(messages)) {
      const copied = earlier === null ? null : this.changes.copy(earlier);
      this.changes.add(this.#statements.insertRun, session, position, number, copied);
    }
  }

  /** `received` is -1 when it is unknown until the session ends, as without a journal. */
  insertSession({ number, token, user, resumable }: KnownSession, received: number, proof: Uint8Array): void {
    const { insertSession } = this.#statements;
    this.changes.add(insertSession, number, hashToken(token), user, Number(resumable), received, proof);
  }

  updateReceived(session: number, position: number): void {
    this.changes.add(this.#statements.updateReceived, position, session);
  }

  /** Also deletes the oldest ended sessions of the user; the last SESSIONS_KEPT stay. */
  endSession({ number, user, finalReason, received, endedUnixMs }: EndedSession): void {
    this.changes.add(this.#statements.endSession, endedBy(finalReason), received, endedUnixMs, number);
    this.changes.add(this.#statements.trimSessions, user);
  }

  setLockout({ user, source, count }: WrongPasswords, untilUnixMs: number): void {
    if (count > 0) this.changes.add(this.#statements.insertLockout, user, source, count, untilUnixMs);
    else this.changes.add(this.#statements.deleteLockout, user, source);
  }

  /** 0 ends the ban. */
  setBan(user: string, untilUnixMs: number): void {
    if (untilUnixMs > 0) this.changes.add(this.#database.query(SQL.insertBan), user, untilUnixMs);
    else this.changes.add(this.#database.query(SQL.deleteBan), user);
  }

  setLastLogin(user: string, unixMs: number, address: string): void {
    this.changes.add(this.#statements.insertLastLogin, user, unixMs, address);
  }

  insertBlock(user: string, other: string): void {
    this.changes.add(this.#statements.insertBlock, user, other);
  }

  deleteBlock(user: string, other: string): void {
    this.changes.add(this.#statements.deleteBlock, user, other);
  }

  setOutcomes(shard: number, outcomes: Outcomes): void {
    this.changes.add(this.#database.query(SQL.insertNeighbour), ...rowOf(shard, outcomes));
  }

  /** Deletes the oldest messages with numbers in (after, upTo], at most `countMax`: those up to number `last`. */
  deleteMessages(user: string, after: number, upTo: number, countMax: number): { amounts: Amount[]; last: number } {
    const lastRow = this.#get<{ number: number }>(SQL.selectNumberAt, user, after, upTo, countMax - 1);
    const last = lastRow?.number ?? upTo;
    const amounts = this.#statements.sumMessages.all(user, after, last);
    if (amounts.length > 0) this.changes.add(this.#statements.deleteMessages, user, after, last);
    for (const { bytes } of amounts) this.changes.countBytes(bytes);
    return { amounts, last };
  }

  /** The oldest messages with numbers above `after`: at least one, then more until they count for `bytes` bytes. */
  messages(user: string, after: number, bytes: number): StoredMessage[] {
    this.changes.execute();
    const messages: StoredMessage[] = [];
    let bytesLeft = bytes;
    for (const message of this.#statements.selectMessages.iterate(user, after)) {
      messages.push(message);
      const lineBytes = message.text.length + message.from.length + LINE_OVERHEAD_BYTES;
      bytesLeft -= Math.max(MOVED_BYTES_MIN, lineBytes);
      if (bytesLeft <= 0) break;
    }
    return messages;
  }

  /** The number of the newest message; 0 without one. */
  lastNumber(user: string): number {
    return this.#get<{ number: number | null }>(SQL.selectLastNumber, user)!.number ?? 0;
  }

  waiting(): Waiting[] {
    return this.#all<Waiting>(SQL.sumAllMessages);
  }

  /** In the order of `untilUnixMs`. */
  lockouts(): StoredLockout[] {
    return this.#all<StoredLockout>(SQL.selectLockouts);
  }

  blocks(): { user: string; other: string }[] {
    return this.#all<{ user: string; other: string }>(SQL.selectBlocks);
  }

  bans(): { user: string; untilUnixMs: number }[] {
    return this.#all<{ user: string; untilUnixMs: number }>(SQL.selectBans);
  }

  lastLogin(user: string): LastLogin | null {
    return this.#get<LastLogin>(SQL.selectLastLogin, user);
  }

  endedSession(token: string): EndedSession | null {
    type Row = Record<"number" | "resumable" | "ended_by" | "received" | "ended_ms", number> & { user: string };
    const row = this.#get<Row>(SQL.selectEndedSession, hashToken(token));
    if (row === null) return null;
    const { number, user, received, ended_ms: endedUnixMs } = row;
    const finalReason = ENDED_BY[row.ended_by] ?? null;
    return { number, token, user, received, endedUnixMs, resumable: row.resumable === 1, finalReason };
  }

  proof(user: string, token: string): Uint8Array {
    return this.#get<{ proof: Uint8Array }>(SQL.selectProof, hashToken(token), user)?.proof ?? NO_PROOF;
  }

  /** The number of the last message whose position in the session's stream is at most `position`; 0 without one. */
  lastDelivered(session: number, position: number): number {
    const after = this.#get<{ earlier: Uint8Array | null }>(SQL.selectRunAfter, session, position);
    const number = lastDelivered(after?.earlier ?? null, position);
    if (number > 0) return number;
    return this.#get<{ number: number }>(SQL.selectRunBefore, session, position)?.number ?? 0;
  }

  #get<Row>(sql: string, ...values: SQLQueryBindings[]): Row | null {
    this.changes.execute();
    return this.#database.query<Row, SQLQueryBindings[]>(sql).get(...values);
  }

  #all<Row>(sql: string): Row[] {
    this.changes.execute();
    return this.#database.query<Row, []>(sql).all();
  }
}

/** The statements that run often. They are prepared once. */
function prepare(database: Database) {
  return {
    insertMessage: database.query(SQL.insertMessage),
    selectMessages: database.query<StoredMessage, [string, number]>(SQL.selectMessages),
    sumMessages: database.query<Amount, [string, number, number]>(SQL.sumMessages),
    deleteMessages: database.query(SQL.deleteMessages),
    insertRun: database.query(SQL.insertRun),
    insertSession: database.query(SQL.insertSession),
    updateReceived: database.query(SQL.updateReceived),
    endSession: database.query(SQL.endSession),
    trimSessions: database.query(SQL.trimSessions),
    insertLockout: database.query(SQL.insertLockout),
    deleteLockout: database.query(SQL.deleteLockout),
    insertBlock: database.query(SQL.insertBlock),
    deleteBlock: database.query(SQL.deleteBlock),
    insertLastLogin: database.query(SQL.insertLastLogin),
  };
}

/** What ended a session, by its number in the database and in the flag of a journal entry. */
const ENDED_BY: readonly (FinalReason | null)[] = [null, "replaced", "kicked"];

export function endedBy(reason: FinalReason | null): number {
  return ENDED_BY.indexOf(reason);
}

/** The database has only hashes of tokens, so that nobody who can read it can take over a session. */
export function hashToken(token: string): Uint8Array {
  return createHash("sha256").update(token).digest();
}
