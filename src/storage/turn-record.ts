import type { Outbox } from "../stream/outbox.ts";
import type { StreamCopy } from "../stream/unacked-index.ts";
import type { Account } from "../chat/session.ts";
import { JournalEntry, EntryWriter, type EntryKind, HeldEntries, NOTHING } from "./journal-entry.ts";
import type { TurnLog } from "./turn-log.ts";

/** The most bytes that the entries of an accepted text take in addition to it: two entries with names and numbers. */
const ENTRIES_BYTES_MAX = 256;

/**
 * The journal entries of a turn, until they are written as one record. It reserves room in the journal for accepted
 * texts, and holds back entries that promise nothing while there is no room: so a turn can end on a full disk.
 */
export class TurnRecord implements StreamCopy {
  readonly #journal: TurnLog;
  /** An entry that promises something is added here, after room for it was reserved; all others by `note`. */
  readonly entries = new EntryWriter();
  /** Bytes that the record can have. */
  #roomBytes = 0;
  /** The part of them that is reserved for accepted texts. */
  #reservedBytes = 0;
  /** See `TurnLog.acksWait`. */
  acksWait: boolean;
  /** Bytes of acknowledgements in the entries, and whether these have waited for a turn. */
  #ackBytes = 0;
  #haveAcksWaited = false;
  /** Entries that wait until there is room. */
  readonly #held = new HeldEntries();
  /** The user and the session whose outbox `appended` copies from. */
  #to: Account | null = null;
  #session = 0;

  constructor(journal: TurnLog) {
    this.#journal = journal;
    this.acksWait = journal.acksWait;
    this.measure();
  }

  /** Asks the journal for its room, which may have changed. */
  measure(): void {
    this.#roomBytes = this.#journal.room;
  }

  /** The log is slow, or too many accepted texts wait for it. */
  get isCongested(): boolean {
    return this.#journal.isSlow || this.#reservedBytes > this.#journal.waitingBytesMax;
  }

  /** Reserves room for a text of `bytes`; false when neither the journal nor the disk has any. */
  hasRoom(bytes: number): boolean {
    this.#reservedBytes += bytes + ENTRIES_BYTES_MAX;
    if (this.#reservedBytes <= this.#roomBytes) return true;
    const hasRoom = this.#journal.fault === null && this.#journal.makeRoom(this.#reservedBytes);
    this.measure();
    return hasRoom;
  }

  /**
   * Adds an entry that promises nothing. Without room it waits, and a newer entry on the same subject replaces it: then
   * it returns false.
   */
  note(kind: EntryKind, flag: number, user: Uint8Array, other: Uint8Array, n0 = 0, n1 = 0, n2 = 0): boolean {
    const hasRoom = this.#roomBytes > 0 && this.#held.size === 0;
    if (hasRoom) this.entries.add(kind, flag, user, other, NOTHING, n0, n1, n2);
    else this.#held.hold(kind, flag, user, other, n0, n1, n2);
    return hasRoom;
  }

  /** The user has all messages up to that number. */
  acked(user: Account, upTo: number): void {
    const { entries } = this;
    const before = entries.length;
    this.note(JournalEntry.Acked, 0, user.nameBytes, NOTHING, upTo);
    this.#ackBytes += entries.length - before;
  }

  appended(to: Account, session: number, outbox: Outbox): void {
    this.#to = to;
    this.#session = session;
    outbox.copyNew(this);
  }

  accepted(
    fields: readonly number[],
    first: number,
    last: number,
    bytes: Uint8Array,
    start: number,
    end: number,
  ): void {
    const { nameBytes } = this.#to!;
    this.entries.addMessages(JournalEntry.Sent, nameBytes, this.#session, fields, first, last, bytes, start, end);
  }

  /** Recovery needs the positions only for known sessions. */
  delivered(fields: readonly number[], first: number, last: number): void {
    if (this.#session === 0) return;
    const { nameBytes } = this.#to!;
    this.entries.addMessages(JournalEntry.Delivered, nameBytes, this.#session, fields, first, last, NOTHING, 0, 0);
  }

  /**
   * Appends the record to the journal unless it is empty; `number` is the highest message number so far. False when the
   * disk has no room for it. At the end of the server (`isLast`), held entries may use the journal's reserve.
   */
  write(number: number, isLast = false): boolean {
    const { entries } = this;
    const journal = this.#journal;
    if (this.#held.size > 0) {
      const leftBytes = this.#roomBytes - this.#reservedBytes;
      this.#held.release(entries, isLast ? leftBytes + journal.reserveBytes : leftBytes);
    }
    if (entries.length > 0 && (isLast || !this.#mayWait())) {
      try {
        journal.append(entries.bytes, entries.start, entries.length, number);
      } catch {
        return false; // `TurnLog.fault` has the reason.
      }
      entries.restart(journal.region, journal.bodyStart);
      this.#ackBytes = 0;
      this.#haveAcksWaited = false;
      if (journal.fault === null) journal.prepare();
    }
    this.#reservedBytes = 0;
    return true;
  }

  /** Whether the entries are only acknowledgements that can be in the record of the next turn. */
  #mayWait(): boolean {
    if (!this.acksWait || this.entries.length > this.#ackBytes || this.#haveAcksWaited) return false;
    this.#haveAcksWaited = true;
    return true;
  }
}
