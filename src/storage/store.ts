import type { Database, SQLQueryBindings, Statement } from "bun:sqlite";
import { createHash } from "node:crypto";
import type { WrongPasswords } from "../auth/lockouts.ts";
import type { Account } from "../chat/session.ts";
import type { Amount, ChatStore, EndedSession, KnownSession, StoredMessage } from "../chat/store.ts";
import { SESSIONS_KEPT, STORE_CHANGES_BYTES_MAX, STORE_CHANGES_HELD, STORE_CHANGES_MAX } from "../limits.ts";
import { encode } from "../protocol/ascii.ts";
import type { UnackedMessage } from "../stream/unacked-index.ts";
import type { Outbox } from "../stream/outbox.ts";
import { Arena } from "./arena.ts";
import type { DataFolder } from "./data-folder.ts";
import { StoreError } from "./database.ts";
import { JournalEntry, NOTHING } from "./journal-entry.ts";
import type { Journal } from "./journal.ts";
import { TurnRecord } from "./turn-record.ts";
import { WalCheckpointer } from "./wal-checkpointer.ts";

type Value = SQLQueryBindings;

const BEGIN = "BEGIN IMMEDIATE";

/** A change of the database that is not committed yet. */
interface Change {
  statement: Statement;
  values: Value[];
}

/** Hears of every commit, and says whether others should wait. */
export type WriteAhead = Pick<WalCheckpointer, "state" | "committed">;

/** What waits for a user of one sender. */
export interface Waiting extends Amount {
  user: string;
}

/**
 * What outlives the server. Each change goes as a fact into the turn's record of the journal, which makes it safe; and
 * into SQLite, where things rest, with those of many turns. They are only committed behind the records of them, so that
 * whatever the end, a turn is there as a whole or not at all.
 * Without a journal the last second's changes are lost with the process.
 */
export class Store implements ChatStore {
  writeError: string | null = null;
  /** When the trouble ends, in words for the operator. */
  writeErrorUntil = "";
  readonly #database: Database;
  readonly #folder: DataFolder | null;
  readonly #journal: Journal | null;
  readonly #wal: WriteAhead;
  /** What was synced to the disk counts, not what the kernel has. */
  readonly #power: boolean;
  /** Of this turn; null without a journal. */
  readonly #record: TurnRecord | null;
  #number: number;
  /** A commit that fails takes the transaction back: then its changes are made again. */
  #changes: Change[] = [];
  /** So many of them are in the open transaction. */
  #made = 0;
  /** Of messages in them. */
  #changedBytes = 0;
  /** Copies of their texts, since they may have to be made again when the chunks that these lay in are long gone. */
  readonly #texts = new Arena(2 * STORE_CHANGES_BYTES_MAX);
  #fault: unknown = null;
  #commitDue = false;
  #newest = 0;
  /** The part of the journal that is being given up, and the last record that is not needed any more. */
  #old: { number: number; sequence: number } | null = null;
  #settled: number;
  /** The journal has freed its records up to this one. */
  #freed = 0;

  readonly #insert;
  readonly #deliveredPosition;
  readonly #select;
  readonly #size;
  readonly #delete;
  readonly #begin;
  readonly #receive;
  readonly #end;
  readonly #trim;
  readonly #lock;
  readonly #unlock;
  readonly #block;
  readonly #unblock;

  constructor(
    database: Database,
    journal: Journal | null = null,
    power = false,
    wal: WriteAhead = new WalCheckpointer(database.filename),
    folder: DataFolder | null = null,
  ) {
    this.#database = database;
    this.#folder = folder;
    this.#wal = wal;
    this.#journal = journal;
    this.#record = journal === null ? null : new TurnRecord(journal);
    this.#power = power;
    // Only a commit may find that the disk is full, and not a change in the middle of a transaction.
    database.run("PRAGMA cache_spill = OFF");
    const progress = database.query<{ number: number; sequence: number }, []>("SELECT number, sequence FROM progress");
    ({ number: this.#number, sequence: this.#settled } = progress.get()!);
    this.#insert = database.query("INSERT OR IGNORE INTO mailbox VALUES (?, ?, ?, ?, ?)");
    this.#deliveredPosition = database.query("INSERT OR IGNORE INTO carried VALUES (?, ?, ?)");
    this.#select = database.query<{ number: number; unixMs: number; from: string; text: Uint8Array }, [string, number]>(
      `SELECT number, unix_ms AS unixMs, sender AS "from", text FROM mailbox
       WHERE user = ? AND number > ? ORDER BY number`,
    );
    this.#size = database.query<Amount, [string, number]>(
      `SELECT sender AS "from", count(*) AS messages, total(length(text)) AS bytes FROM mailbox
       WHERE user = ? AND number <= ? GROUP BY sender`,
    );
    this.#delete = database.query("DELETE FROM mailbox WHERE user = ? AND number <= ?");
    this.#begin = database.query("INSERT OR IGNORE INTO sessions VALUES (?, ?, ?, ?, 0, ?, NULL, ?)");
    this.#receive = database.query("UPDATE sessions SET received = ? WHERE number = ?");
    this.#end = database.query("UPDATE sessions SET replaced = ?, received = ?, ended_ms = ? WHERE number = ?");
    this.#trim = database.query(
      `DELETE FROM sessions WHERE number IN (SELECT number FROM sessions WHERE user = ? AND ended_ms IS NOT NULL
       ORDER BY number DESC LIMIT -1 OFFSET ${SESSIONS_KEPT})`,
    );
    this.#lock = database.query("INSERT OR REPLACE INTO lockouts VALUES (?, ?, ?, ?)");
    this.#unlock = database.query("DELETE FROM lockouts WHERE user = ? AND source = ?");
    this.#block = database.query("INSERT OR IGNORE INTO blocks VALUES (?, ?)");
    this.#unblock = database.query("DELETE FROM blocks WHERE user = ? AND other = ?");
  }

  accepts(bytes: number): boolean {
    return this.writeError === null && this.hasRoom(bytes);
  }

  hasRoom(bytes: number): boolean {
    if (this.#record === null || this.#record.hasRoom(bytes)) return true;
    this.#judge();
    return false;
  }

  get isBehind(): boolean {
    return this.#wal.state === "finishing";
  }

  newNumber(): number {
    return ++this.#number;
  }

  waiting(): Waiting[] {
    this.#make();
    const sums = "count(*) AS messages, total(length(text)) AS bytes";
    const sql = `SELECT user, sender AS "from", ${sums} FROM mailbox GROUP BY user, sender`;
    return this.#database.query<Waiting, []>(sql).all();
  }

  /** Wrong passwords that are not forgotten, those first that will be. */
  lockouts(): (WrongPasswords & { untilUnixMs: number })[] {
    this.#make();
    const sql = "SELECT user, source, count, until_ms AS untilUnixMs FROM lockouts ORDER BY until_ms";
    return this.#database.query<WrongPasswords & { untilUnixMs: number }, []>(sql).all();
  }

  blocks(): { user: string; other: string }[] {
    this.#make();
    return this.#database.query<{ user: string; other: string }, []>("SELECT user, other FROM blocks").all();
  }

  wrote(to: Account, session: number, outbox: Outbox): void {
    this.#record?.wrote(to, session, outbox);
  }

  keep(user: string, message: StoredMessage): void {
    const { number, unixMs, from, text } = message;
    this.#keep(user, message);
    this.#record?.add(JournalEntry.Stored, 0, encode(user), encode(from), text, number, unixMs);
  }

  #keep(user: string, { number, unixMs, from, text }: StoredMessage): void {
    this.#changedBytes += text.length;
    this.#change(this.#insert, user, number, unixMs, from, this.#texts.copy(text));
  }

  acked(user: Account, upTo: number): void {
    this.#record?.note(JournalEntry.Acked, 0, user.nameBytes, NOTHING, upTo);
  }

  began({ number, token, user, resumable }: KnownSession, proof: Uint8Array): void {
    const received = this.#journal === null ? -1 : 0; // Until it ends, the journal alone knows how far it came.
    this.#change(this.#begin, number, hash(token), user, Number(resumable), received, proof);
    this.#record?.add(JournalEntry.Began, Number(resumable), encode(user), hash(token), proof, number);
  }

  /** What a session of that user, which still goes on or is known, began with; empty when there is none. */
  proof(user: string, token: string): Uint8Array {
    this.#make();
    const sql = "SELECT proof FROM sessions WHERE token = ? AND user = ?";
    return this.#database.query<{ proof: Uint8Array }, [Value, string]>(sql).get(hash(token), user)?.proof ?? NOTHING;
  }

  received(session: number, position: number): void {
    this.#record?.note(JournalEntry.Received, 0, NOTHING, NOTHING, session, position);
  }

  ends({ number, user, replaced, received, endedUnixMs }: EndedSession): void {
    this.#change(this.#end, Number(replaced), received, endedUnixMs, number);
    this.#change(this.#trim, user);
    this.#record?.note(JournalEntry.Ended, Number(replaced), NOTHING, NOTHING, number, received, endedUnixMs);
  }

  get spillUpTo(): number | null {
    this.#old ??= this.#journal?.old ?? null;
    return this.#old === null || this.#old.sequence === this.#settled ? null : this.#old.number;
  }

  spill(user: string, session: number, received: number, carried: readonly UnackedMessage[]): void {
    for (const message of carried) {
      if (!message.spilled) this.#keep(user, message);
      if (session !== 0) this.#change(this.#deliveredPosition, session, message.number, message.position);
    }
    if (session !== 0 && this.#journal !== null) this.#change(this.#receive, received, session);
  }

  spilled(): void {
    this.#settled = this.#old!.sequence;
    this.#commitDue = true;
  }

  read(user: string, after: number, bytes: number): StoredMessage[] {
    this.#make();
    const messages: StoredMessage[] = [];
    let left = bytes;
    for (const message of this.#select.iterate(user, after)) {
      messages.push(message);
      left -= message.text.length + message.from.length + 32;
      if (left <= 0) break;
    }
    return messages;
  }

  drop(user: string, upTo: number, most: number): Amount[] {
    this.#make();
    const sql = "SELECT number FROM mailbox WHERE user = ? AND number <= ? ORDER BY number LIMIT 1 OFFSET ?";
    const nth = this.#database.query<{ number: number }, [string, number, number]>(sql).get(user, upTo, most - 1);
    const last = nth?.number ?? upTo;
    const amounts = this.#size.all(user, last);
    if (amounts.length > 0) this.#change(this.#delete, user, last);
    for (const { bytes } of amounts) this.#changedBytes += bytes;
    return amounts;
  }

  ended(token: string): EndedSession | null {
    this.#make();
    type Row = Record<"number" | "resumable" | "replaced" | "received" | "ended_ms", number> & { user: string };
    const sql = "SELECT * FROM sessions WHERE token = ? AND ended_ms IS NOT NULL";
    const row = this.#database.query<Row, [Value]>(sql).get(hash(token));
    if (row === null) return null;
    const { number, user, received, ended_ms: endedUnixMs } = row;
    return { number, token, user, received, endedUnixMs, resumable: row.resumable === 1, replaced: row.replaced === 1 };
  }

  /** Positions rise with numbers: a few dozen look-ups find it (binary search). */
  lastDelivered(session: number, position: number): number {
    this.#make();
    const sql = "SELECT number, position FROM carried WHERE session = ? AND number >= ? ORDER BY number LIMIT 1";
    const next = this.#database.query<{ number: number; position: number }, [number, number]>(sql);
    let [last, high] = [0, this.#number];
    for (let low = 1; low <= high;) {
      const middle = low + Math.floor((high - low) / 2);
      const row = next.get(session, middle);
      if (row !== null && row.position <= position) low = (last = row.number) + 1;
      else high = middle - 1;
    }
    return last;
  }

  wrongPasswords({ user, source, count }: WrongPasswords, untilUnixMs: number): void {
    if (count > 0) this.#change(this.#lock, user, source, count, untilUnixMs);
    else this.#change(this.#unlock, user, source);
    this.#record?.note(JournalEntry.WrongPasswords, 0, encode(user), encode(source), count, untilUnixMs);
  }

  block(user: string, other: string): void {
    this.#change(this.#block, user, other);
    this.#record?.add(JournalEntry.Blocked, 0, encode(user), encode(other), NOTHING);
  }

  unblock(user: string, other: string): void {
    this.#change(this.#unblock, user, other);
    this.#record?.add(JournalEntry.Unblocked, 0, encode(user), encode(other), NOTHING);
  }

  /**
   * The turn has ended: what was said in it becomes safe. True when it is, or a promise that resolves when it is; false
   * when the disk has no room for it, and it must be tried again.
   */
  save(): boolean | Promise<void> {
    if (!this.#write()) return false;
    const journal = this.#journal;
    // A commit that failed is tried again by `retry`: it makes all changes once more, which is too much for each turn.
    if (journal !== null && journal.newest !== this.#newest && this.#fault === null) this.#commitDue = true;
    if (this.#isCommitDue()) this.commit();
    return !this.#power || journal === null || journal.isSynced || journal.sync();
  }

  #isCommitDue(): boolean {
    const much = Math.max(this.#changes.length / STORE_CHANGES_MAX, this.#changedBytes / STORE_CHANGES_BYTES_MAX);
    if (this.isBehind && much < STORE_CHANGES_HELD) return false;
    return this.#commitDue || (this.#fault === null && much >= 1);
  }

  /** Writes the turn's record; false when the disk has no room for it. */
  #write(end = false): boolean {
    const isWritten = this.#record?.write(this.#number, end) ?? true;
    if (!this.#power) this.#journal?.announce();
    this.#judge();
    return isWritten;
  }

  /** Now and then: what the disk refused is tried again when the turn ends, and the data folder is checked. */
  retry(): void {
    this.#folder?.check();
    this.#journal?.prepare();
    this.#commitDue ||= this.#fault !== null || (this.#journal === null && this.#changes.length > 0);
    this.#judge();
  }

  /** Commits what the journal has. When the disk refuses, it is tried again later. */
  commit(): void {
    this.#commitDue = false;
    const sequence = this.#settled;
    const newest = this.#journal?.newest ?? 0;
    try {
      this.#make();
      if (!this.#database.inTransaction) this.#database.run(BEGIN);
      if (this.#power && this.#journal?.isSynced === false) this.#journal.syncNow();
      this.#database
        .query("UPDATE progress SET sequence = ?, newest = ?, number = ?")
        .run(sequence, this.#journal?.sequence ?? 0, this.#number);
      this.#database.run("COMMIT");
      this.#wal.committed();
      this.#changes = [];
      this.#texts.clear();
      this.#changedBytes = 0;
      this.#fault = null;
      this.#newest = newest;
      // Records are given up when the database has their messages, and is still there.
      if (sequence !== this.#freed && this.#folder?.check() !== false) this.#journal?.free((this.#freed = sequence));
      if (this.#old?.sequence === sequence) this.#old = null;
    } catch (error) {
      this.#fault = error;
    }
    this.#judge();
  }

  #judge(): void {
    this.#record?.measure();
    const fault = this.#fault ?? this.#journal?.fault ?? null;
    this.writeError = fault === null ? null : `the disk refuses: ${fault instanceof Error ? fault.message : fault}`;
    this.writeErrorUntil = "there is room";
    const loss = this.#folder?.loss ?? null;
    if (loss !== null) ({ what: this.writeError, until: this.writeErrorUntil } = loss);
  }

  #change(statement: Statement, ...values: Value[]): void {
    this.#changes.push({ statement, values });
  }

  /** Every change is in the transaction, for who reads or commits. It is only open while there are any. */
  #make(): void {
    const { inTransaction } = this.#database;
    if (!inTransaction) this.#made = 0;
    if (this.#made === this.#changes.length) return;
    if (!inTransaction) this.#database.run(BEGIN);
    for (; this.#made < this.#changes.length; this.#made++) {
      const { statement, values } = this.#changes[this.#made]!;
      statement.run(...values);
    }
  }

  /** Every session has been settled: SQLite has it all. Throws when the disk refuses; StoreError when it is gone. */
  close(): void {
    try {
      this.#write(true);
      this.#settled = this.#journal?.sequence ?? this.#settled;
      this.commit();
      if (this.#fault !== null) throw this.#fault;
      this.#folder?.check();
      const { what, fate = null } = this.#folder?.loss ?? {};
      const count = this.waiting().reduce((sum, { messages }) => sum + messages, 0);
      if (fate !== null) throw new StoreError(`${what}: ${count} messages that wait for their users ${fate}`);
    } finally {
      this.#database.close();
      this.#folder?.close();
    }
  }
}

/** Tokens are kept as hashes: who reads the file can take over no session. */
function hash(token: string): Uint8Array {
  return createHash("sha256").update(token).digest();
}
