import type { Outbox } from "../stream/outbox.ts";
import type { StreamCopy } from "../stream/unacked-index.ts";
import type { Account } from "../chat/session.ts";
import { JournalEntry, EntryWriter, type EntryKind, HeldEntries, NOTHING } from "./journal-entry.ts";
import type { Journal } from "./journal.ts";

/** The most bytes that a text's facts take in a record besides the text: two facts with their names and numbers. */
const PROMISE_BYTES = 256;

/**
 * The facts of a turn, until they are written as a record of the journal, whose room it knows: it accepts no
 * text beyond that, and holds back facts that promise nothing while there is none. So a turn can end on a full disk.
 */
export class TurnRecord implements StreamCopy {
  readonly #journal: Journal;
  readonly #entries = new EntryWriter();
  /** Bytes that the record can have, and the part of them that is reserved for accepted texts. */
  #room = 0;
  #promised = 0;
  /** Facts that wait until there is room. */
  readonly #held = new HeldEntries();
  /** Whose stream is being copied. */
  #to: Account | null = null;
  #session = 0;

  constructor(journal: Journal) {
    this.#journal = journal;
    this.measure();
  }

  /** The journal's room has changed. */
  measure(): void {
    this.#room = this.#journal.room;
  }

  /** Reserves room for a text of `bytes`; false when neither the journal nor the disk has any. */
  hasRoom(bytes: number): boolean {
    this.#promised += bytes + PROMISE_BYTES;
    if (this.#promised <= this.#room) return true;
    const { fault } = this.#journal;
    const isDone = fault === null && this.#journal.makeRoom(this.#promised);
    this.measure();
    return isDone;
  }

  add(kind: EntryKind, flag: number, a: Uint8Array, b: Uint8Array, text: Uint8Array, n0 = 0, n1 = 0, n2 = 0): void {
    this.#entries.add(kind, flag, a, b, text, n0, n1, n2);
  }

  /** Adds a fact that promises nothing: it waits while there is no room, and a newer one replaces it meanwhile. */
  note(kind: EntryKind, flag: number, a: Uint8Array, b: Uint8Array, n0 = 0, n1 = 0, n2 = 0): void {
    if (this.#room > 0 && this.#held.size === 0) this.#entries.add(kind, flag, a, b, NOTHING, n0, n1, n2);
    else this.#held.hold(kind, flag, a, b, n0, n1, n2);
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
    this.#entries.addMessages(JournalEntry.Sent, nameBytes, this.#session, fields, first, last, bytes, start, end);
  }

  /** Recovery needs the positions only for known sessions. */
  delivered(fields: readonly number[], first: number, last: number): void {
    if (this.#session === 0) return;
    const { nameBytes } = this.#to!;
    this.#entries.addMessages(JournalEntry.Delivered, nameBytes, this.#session, fields, first, last, NOTHING, 0, 0);
  }

  /**
   * Writes the record unless it is empty; `number` is the highest message number before it. False when
   * the disk has no room for it. With `end` the held facts use the reserve.
   */
  write(number: number, end = false): boolean {
    const facts = this.#entries;
    const journal = this.#journal;
    if (this.#held.size > 0) this.#held.release(facts, this.#room - this.#promised + (end ? journal.reserve : 0));
    if (facts.length > 0) {
      try {
        journal.append(facts.bytes, facts.start, facts.length, number);
      } catch {
        return false; // The journal keeps the fault.
      }
      facts.restart(journal.region, journal.bodyStart);
      if (journal.fault === null) journal.prepare();
    }
    this.#promised = 0;
    return true;
  }
}
