import type { Database } from "bun:sqlite";
import type { WrongPasswords } from "../auth/lockouts.ts";
import type { Outcomes } from "../chat/outcomes.ts";
import type { Account } from "../chat/session.ts";
import type {
  Amount,
  ChatStore,
  EndedSession,
  KnownSession,
  LastLogin,
  MoveOldMessages,
  StoredMessage,
} from "../chat/store.ts";
import { encode } from "../protocol/ascii.ts";
import type { UnackedMessage } from "../stream/unacked-index.ts";
import type { Outbox } from "../stream/outbox.ts";
import { type AskCopier, Backup } from "./backup.ts";
import { type Checkpoints, Commits } from "./commits.ts";
import { Compaction } from "./compaction.ts";
import type { DataFolder } from "./data-folder.ts";
import { StoreError } from "./database.ts";
import { JournalEntry, NOTHING } from "./journal-entry.ts";
import { PRAGMA, SQL } from "./sql.ts";
import { outcomesOf, readOutcomes } from "./stored-outcomes.ts";
import { type StoredLockout, Tables, type Waiting, endedBy, hashToken } from "./tables.ts";
import type { TurnLog } from "./turn-log.ts";
import { TurnRecord } from "./turn-record.ts";
import { WalCheckpointer } from "./wal-checkpointer.ts";

/**
 * What outlives the server. Each event of the chat becomes an entry in the turn's record of the journal, which makes it
 * durable, and a pending change of the database, which is committed with those of many turns. A commit never has a turn
 * whose record is not written yet: after any crash, a turn is there as a whole or not at all.
 *
 * Without a journal the changes of the last second are lost with the process.
 */
export class Store implements ChatStore {
  writeError: string | null = null;
  /** When the write error ends, in words for the operator. */
  writeErrorUntil = "";
  readonly #database: Database;
  readonly #tables: Tables;
  readonly #folder: DataFolder | null;
  readonly #journal: TurnLog | null;
  /** The record of this turn; null without a journal. */
  readonly #record: TurnRecord | null;
  readonly #compaction: Compaction;
  readonly #commits: Commits;
  readonly #backup: Backup;
  /** What was heard from other shards of a cluster. The database has it since the last compaction. */
  readonly #outcomes: Map<number, Outcomes>;
  /** Durability `power`: a turn is durable when it is synced to the disk, not when the kernel has it. */
  readonly #power: boolean;
  /** The highest message or session number that was given out. */
  #number: number;

  constructor(
    database: Database,
    journal: TurnLog | null = null,
    power = false,
    checkpoints: Checkpoints = new WalCheckpointer(database.filename),
    folder: DataFolder | null = null,
    copier?: AskCopier,
  ) {
    database.run(PRAGMA.noSpill);
    const { number, sequence } = database.query<{ number: number; sequence: number }, []>(SQL.selectProgress).get()!;
    this.#database = database;
    this.#tables = new Tables(database);
    this.#outcomes = readOutcomes(database);
    this.#folder = folder;
    this.#journal = journal;
    this.#record = journal === null ? null : new TurnRecord(journal);
    this.#compaction = new Compaction(journal, folder, sequence);
    this.#commits = new Commits(database, this.#tables.changes, journal, this.#compaction, checkpoints, power);
    this.#backup = new Backup(database, folder, copier);
    this.#power = power;
    this.#number = number;
  }

  accepts(bytes: number): boolean {
    return this.writeError === null && this.hasRoom(bytes);
  }

  hasRoom(bytes: number): boolean {
    if (this.#record === null || this.#record.hasRoom(bytes)) return true;
    this.#updateWriteError();
    return false;
  }

  /** What the journal has counted; null without one. */
  get journal(): Pick<TurnLog, "bytesWritten" | "syncSeconds"> | null {
    return this.#journal;
  }

  get isBusy(): boolean {
    return this.#commits.isBusy;
  }

  get isCongested(): boolean {
    return this.#record !== null && this.#record.isCongested;
  }

  /** Turns wait for so long to become durable that no client can be expected to do anything. */
  get isSlow(): boolean {
    return this.#journal?.isSlow === true;
  }

  /** Bytes of the entries that are in no record yet: while the log is slow, those of several turns. */
  get waitingBytes(): number {
    return this.#record?.entries.length ?? 0;
  }

  newNumber(): number {
    return ++this.#number;
  }

  raiseNumber(user: Account, number: number): boolean {
    if (number <= this.#number) return false;
    this.#number = number;
    // Not by `acked`: this entry must not wait. Recovery takes the number from it.
    this.#record?.entries.add(JournalEntry.Acked, 0, user.nameBytes, NOTHING, NOTHING, number);
    return true;
  }

  appended(to: Account, session: number, outbox: Outbox): void {
    this.#record?.appended(to, session, outbox);
  }

  stored(user: string, message: StoredMessage): void {
    const { number, unixMs, from, text } = message;
    this.#tables.insertMessage(user, message);
    this.#record?.entries.add(JournalEntry.Stored, 0, encode(user), encode(from), text, number, unixMs);
  }

  acked(user: Account, upTo: number): void {
    this.#record?.acked(user, upTo);
  }

  requeued(user: string, session: number, received: number, messages: readonly UnackedMessage[]): void {
    for (const message of messages) if (!message.inMailbox) this.#tables.insertMessage(user, message);
    if (session !== 0) this.#tables.insertDelivered(session, messages);
    if (session !== 0 && this.#journal !== null) this.#tables.updateReceived(session, received);
  }

  sessionBegan(session: KnownSession, proof: Uint8Array): void {
    const { number, token, user, resumable } = session;
    // Until the session ends, only the journal has its received position; without a journal it is unknown (-1).
    this.#tables.insertSession(session, this.#journal === null ? -1 : 0, proof);
    this.#record?.entries.add(JournalEntry.Began, Number(resumable), encode(user), hashToken(token), proof, number);
  }

  received(session: number, position: number): number {
    const isNoted = this.#record?.note(JournalEntry.Received, 0, NOTHING, NOTHING, session, position) ?? true;
    return isNoted ? this.#number : 0;
  }

  sessionEnded(session: EndedSession): void {
    const { number, received, endedUnixMs, finalReason } = session;
    this.#tables.endSession(session);
    const flag = endedBy(finalReason);
    this.#record?.note(JournalEntry.Ended, flag, NOTHING, NOTHING, number, received, endedUnixMs);
  }

  wrongPasswords(wrong: WrongPasswords, untilUnixMs: number): void {
    const { user, source, count } = wrong;
    this.#tables.setLockout(wrong, untilUnixMs);
    this.#record?.note(JournalEntry.WrongPasswords, 0, encode(user), encode(source), count, untilUnixMs);
  }

  banned(user: string, untilUnixMs: number): void {
    this.#tables.setBan(user, untilUnixMs);
    this.#record?.entries.add(JournalEntry.Banned, 0, encode(user), NOTHING, NOTHING, untilUnixMs);
  }

  loggedIn(user: Account, unixMs: number, address: string): void {
    this.#tables.setLastLogin(user.name, unixMs, address);
    this.#record?.note(JournalEntry.LoggedIn, 0, user.nameBytes, encode(address), unixMs);
  }

  block(user: string, other: string): void {
    this.#tables.insertBlock(user, other);
    this.#record?.entries.add(JournalEntry.Blocked, 0, encode(user), encode(other), NOTHING);
  }

  unblock(user: string, other: string): void {
    this.#tables.deleteBlock(user, other);
    this.#record?.entries.add(JournalEntry.Unblocked, 0, encode(user), encode(other), NOTHING);
  }

  heard(shard: number, number: number, reply: Uint8Array): void {
    const outcomes = this.outcomes(shard);
    outcomes.add(number, reply);
    this.#record?.entries.add(JournalEntry.Heard, 0, NOTHING, NOTHING, reply, shard, number, outcomes.answered);
  }

  outcomes(shard: number): Outcomes {
    return outcomesOf(this.#outcomes, shard);
  }

  compact(move: MoveOldMessages): void {
    if (this.isBusy || !this.#compaction.step(move)) return;
    this.#moveOutcomes();
    this.#commits.makeDue();
  }

  #moveOutcomes(): void {
    for (const [shard, outcomes] of this.#outcomes) this.#tables.setOutcomes(shard, outcomes);
  }

  read(user: string, after: number, bytes: number): StoredMessage[] {
    return this.#tables.messages(user, after, bytes);
  }

  lastStored(user: string): number {
    return this.#tables.lastNumber(user);
  }

  drop(user: string, upTo: number, countMax: number): Amount[] {
    return this.#tables.deleteMessages(user, 0, upTo, countMax).amounts;
  }

  purge(user: string, after: number, upTo: number, countMax: number): Amount[] {
    const { amounts, last } = this.#tables.deleteMessages(user, after, upTo, countMax);
    if (amounts.length > 0)
      this.#record?.entries.add(JournalEntry.Purged, 0, encode(user), NOTHING, NOTHING, after, last);
    return amounts;
  }

  lastLogin(user: string): LastLogin | null {
    return this.#tables.lastLogin(user);
  }

  endedSession(token: string): EndedSession | null {
    return this.#tables.endedSession(token);
  }

  lastDelivered(session: number, position: number): number {
    return this.#tables.lastDelivered(session, position);
  }

  /** The proof that a session of that user began with, alive or ended; empty without one. */
  proof(user: string, token: string): Uint8Array {
    return this.#tables.proof(user, token);
  }

  /** For the start of the server: the contents of the mailboxes by user and sender, lockouts, blocks, and bans. */
  waiting(): Waiting[] {
    return this.#tables.waiting();
  }

  lockouts(): StoredLockout[] {
    return this.#tables.lockouts();
  }

  blocks(): { user: string; other: string }[] {
    return this.#tables.blocks();
  }

  bans(): { user: string; untilUnixMs: number }[] {
    return this.#tables.bans();
  }

  /**
   * The turn has ended: everything in it becomes durable. True when it is, or a promise that resolves when it is; false
   * when the disk has no room, and the next turn must try again.
   */
  save(): boolean | Promise<void> {
    if (!this.#write()) return false;
    if (this.#commits.commitIfDue(this.#number)) this.#updateWriteError();
    const journal = this.#journal;
    return !this.#power || journal === null || journal.isSynced || journal.sync();
  }

  /** The server is about to stop: from now on each turn is recorded with all of its acknowledgements. */
  ending(): void {
    if (this.#record !== null) this.#record.acksWait = false;
  }

  /** Writes the turn's record; false when the disk has no room for it. */
  #write(isLast = false): boolean {
    const isWritten = this.#record?.write(this.#number, isLast) ?? true;
    if (!this.#power) this.#journal?.announce();
    this.#updateWriteError();
    return isWritten;
  }

  /** Called about once a second: checks the data folder, and makes the end of the turn retry what the disk refused. */
  retry(): void {
    this.#folder?.check();
    this.#journal?.prepare();
    this.#commits.retry();
    this.#updateWriteError();
  }

  /** Commits all pending changes. When the disk refuses, a later commit tries again. */
  commit(): void {
    this.#commits.commit(this.#number);
    this.#updateWriteError();
  }

  /**
   * Copies the data folder to the new folder of that absolute path, with everything that was durable before the call.
   * Resolves when the copy is on the disk. Throws StoreError, BackupBusyError when another backup is running.
   */
  async backup(path: string): Promise<void> {
    if (this.#journal === null) {
      this.commit(); // With a journal, the copy has what is not committed yet.
      if (this.writeError !== null) throw new StoreError(`cannot back up to ${path}: ${this.writeError}`);
    }
    return this.#backup.run(path);
  }

  /** Ends a running backup without its result. Called before `close`. */
  stopBackup(): Promise<void> {
    return this.#backup.stop();
  }

  /** After anything that the disk may have refused or has room for again. */
  #updateWriteError(): void {
    this.#record?.measure();
    const error = this.#commits.error ?? this.#journal?.fault ?? null;
    this.writeError = error === null ? null : `the disk refuses: ${error instanceof Error ? error.message : error}`;
    this.writeErrorUntil = "there is room";
    const loss = this.#folder?.loss ?? null;
    if (loss !== null) ({ what: this.writeError, until: this.writeErrorUntil } = loss);
  }

  /**
   * Brings everything into the database, after the chat has moved all messages to the mailboxes. Throws when the disk
   * refuses, and StoreError when the data folder is gone.
   */
  close(): void {
    try {
      this.#write(true);
      this.#moveOutcomes();
      this.#compaction.moveAll();
      this.commit();
      if (this.#commits.error !== null) throw this.#commits.error;
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
