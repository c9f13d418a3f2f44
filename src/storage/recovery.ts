import type { Database, SQLQueryBindings } from "bun:sqlite";
import { randomInt } from "node:crypto";
import { existsSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { JOURNAL_SEGMENT_BYTES } from "../limits.ts";
import { wordEnd } from "../protocol/ascii.ts";
import { DataFolder } from "./data-folder.ts";
import { type Durability, StoreError, asStoreError, openDatabase } from "./database.ts";
import { JournalEntry, EntryReader } from "./journal-entry.ts";
import { Journal, segmentName, segmentsOf } from "./journal.ts";
import { type Announced, RecordReader, SEQUENCE_SPAN, announced, hasKnownLength } from "./record.ts";
import { FileFolder, type SegmentFolder, syncFolder } from "./segment.ts";
import { SQL, TRANSACTION } from "./sql.ts";
import { Store } from "./store.ts";

/** How recovery goes on. */
export interface RecoveryOptions {
  /** Takes what can be read of a damaged journal, and gives up the rest. */
  salvage: boolean;
  unixMs: number;
  /** How much of it is done, from 0 to 1. */
  progress: (part: number) => void;
}

/** What it found. */
export interface Recovered {
  records: number;
  messages: number;
  /** What was given up, in words for the operator; null when nothing was. */
  damage: string | null;
}

/** What the last run had reached, as SQLite knows it. */
interface Progress {
  /** Everything up to this record rests in SQLite. */
  sequence: number;
  /** The last record when that was committed. */
  newest: number;
  number: number;
}

/** Opens a data folder as it was promised to be, whatever ended the last server. Throws StoreError. */
export function openStore(
  path: string,
  durability: Durability,
  options: RecoveryOptions,
): { store: Store; recovered: Recovered } {
  if (path === ":memory:") {
    const store = new Store(openDatabase(path, durability));
    return { store, recovered: { records: 0, messages: 0, damage: null } };
  }
  const existing = existingFolder(path);
  const data = new DataFolder(path);
  let database: Database | null = null;
  try {
    database = openDatabase(path, durability);
    const recovered = new Recovery(database, new FileFolder(join(path, "journal")), options).run();
    const folder = new FileFolder(data.inside("journal"));
    const store = newStore(database, folder, durability, undefined, data);
    if (durability === "power") syncUpTo(existing, join(path, "journal"));
    return { store, recovered };
  } catch (error) {
    database?.close();
    data.close();
    throw asStoreError(error, path);
  }
}

/** The nearest folder at or above that path which is there. */
function existingFolder(path: string): string {
  const folder = resolve(path);
  return existsSync(folder) ? folder : existingFolder(dirname(folder));
}

/** The names of files and new folders are on the disk: in `folder`, and above it up to `top` and what that lies in. */
function syncUpTo(top: string, folder: string): void {
  for (let each = resolve(folder); ; each = dirname(each)) {
    syncFolder(each);
    if (each === top) return;
  }
}

/** A store behind whose journal nothing has to be recovered. */
export function newStore(
  database: Database,
  folder: SegmentFolder,
  durability: Durability,
  segmentBytes = JOURNAL_SEGMENT_BYTES,
  data: DataFolder | null = null,
): Store {
  const { sequence } = database.query<Progress, []>(SQL.selectProgress).get()!;
  const journal = durability === "none" ? null : new Journal(folder, sequence, seedOf(database), segmentBytes);
  data?.watch(journal);
  return new Store(database, journal, durability === "power", undefined, data);
}

/** What the checksums of the journal's records begin with; 0 for a journal that a version before 5 has left. */
export function seedOf(database: Database): number {
  return database.query<{ seed: number }, []>(SQL.selectSeed).get()?.seed ?? 0;
}

/**
 * Brings what only the journal knows into SQLite, in one transaction: whoever is killed in the middle begins again. The
 * facts are read twice, since what was confirmed in the end must not be inserted in the beginning; only watermarks are
 * held in memory.
 */
export class Recovery {
  readonly #database: Database;
  readonly #folder: SegmentFolder;
  readonly #options: RecoveryOptions;
  readonly #progress: Progress;
  readonly #segments: number[];
  readonly #segmentBytes: number;
  readonly #seed: number;
  /** Everything up to this record rests in SQLite. */
  readonly #settled: number;
  /** Null without the file `last`. */
  readonly #announced: Announced | null;
  readonly #confirmed = new Map<string, number>();
  readonly #received = new Map<number, number>();
  readonly #damages: string[] = [];
  #last: number;
  #number: number;
  #records = 0;
  #messages = 0;

  constructor(
    database: Database,
    folder: SegmentFolder,
    options: RecoveryOptions,
    segmentBytes = JOURNAL_SEGMENT_BYTES,
  ) {
    this.#database = database;
    this.#folder = folder;
    this.#options = options;
    this.#progress = database.query<Progress, []>(SQL.selectProgress).get()!;
    this.#segmentBytes = segmentBytes;
    const { sequence, number } = this.#progress;
    this.#last = sequence;
    this.#number = number;
    this.#announced = this.#readAnnounced();
    this.#seed = this.#announced?.seed ?? seedOf(database);
    const isForeign = this.#seed !== seedOf(database);
    if (isForeign && number > 0) {
      throw new StoreError(
        `the journal ${folder.path} and the database next to it belong to different data folders; put back the right ` +
          "one, or move one of them away and start once with --salvage, which keeps what is in the other",
      );
    }
    if (isForeign) this.#damages.push("records 1 and on were written for another database, which is missing");
    this.#settled = isForeign ? 0 : sequence;
    // A segment is settled as a whole or not at all.
    this.#segments = segmentsOf(folder).filter((first) => first > this.#settled);
  }

  #readAnnounced(): Announced | null {
    try {
      return announced(this.#folder);
    } catch (error) {
      this.#damages.push(`records ${this.#progress.sequence + 1} and on may be missing: ${(error as Error).message}`);
      return null;
    }
  }

  run(): Recovered {
    this.#read(0, (fact) => this.#learn(fact));
    const damage = this.#damages.length > 0 ? this.#damages.join("; ") : null;
    if (damage !== null && !this.#options.salvage) {
      throw new StoreError(
        `the journal ${this.#folder.path} is damaged: ${damage}. Nothing was changed. Put back what is missing, or ` +
          "start once with --salvage, which keeps everything that can be read",
      );
    }
    // Also where nothing was found: other files may hold later records, and a new journal must begin behind those.
    if (this.#segments.length > 0 || damage !== null || this.#seed === 0) this.#apply();
    this.#endSessions();
    return { records: this.#records, messages: this.#messages, damage };
  }

  #apply(): void {
    this.#database.run(TRANSACTION.begin);
    this.#read(0.5, (fact) => this.#insert(fact));
    for (const [user, upTo] of this.#confirmed) {
      this.#run(SQL.deleteMessages, user, upTo);
    }
    for (const [session, position] of this.#received) {
      this.#run(SQL.raiseReceived, position, session);
    }
    this.#run(SQL.deleteOrphanPositions);
    this.#run(SQL.updateProgress, this.#last + SEQUENCE_SPAN, 0, this.#number);
    if (seedOf(this.#database) === 0) this.#run(SQL.insertSeed, randomInt(1, 2 ** 32));
    this.#database.run(TRANSACTION.commit);
  }

  /** Ends the sessions that the last run did not end; without a journal they are deleted, their positions unknown. */
  #endSessions(): void {
    this.#run(SQL.deleteUnknownSessions);
    const count = this.#run(SQL.endOpenSessions, this.#options.unixMs);
    if (count === 0) return;
    this.#run(SQL.trimAllSessions);
  }

  /** What was reached in the end. */
  #learn(fact: EntryReader): void {
    const { kind, a, entries, numbers } = fact;
    const [first = 0, second = 0] = numbers;
    if (kind === JournalEntry.Stored || kind === JournalEntry.Began) this.#number = Math.max(this.#number, first);
    if (entries > 0) this.#number = Math.max(this.#number, fact.entry(entries - 1).number);
    if (kind === JournalEntry.Acked) this.#confirmed.set(a, Math.max(first, this.#confirmed.get(a) ?? 0));
    if (kind === JournalEntry.Received || kind === JournalEntry.Ended) {
      this.#received.set(first, Math.max(second, this.#received.get(first) ?? 0));
    }
  }

  #insert(fact: EntryReader): void {
    const { kind, flag, a, b, bytes, textStart, textEnd } = fact;
    const [first = 0, second = 0, third = 0] = fact.numbers;
    switch (kind) {
      case JournalEntry.Stored:
        return this.#store(a, first, second, b, bytes.subarray(textStart, textEnd));
      case JournalEntry.Sent:
      case JournalEntry.Delivered:
        return this.#stream(fact);
      case JournalEntry.Began:
        return void this.#run(
          SQL.insertSession,
          first,
          Buffer.from(b, "latin1"),
          a,
          flag,
          0,
          bytes.subarray(textStart, textEnd),
        );
      case JournalEntry.Ended:
        return void this.#run(SQL.endRecoveredSession, flag, third, first);
      case JournalEntry.Blocked:
        return void this.#run(SQL.insertBlock, a, b);
      case JournalEntry.Unblocked:
        return void this.#run(SQL.deleteBlock, a, b);
      case JournalEntry.WrongPasswords:
        if (first > 0) return void this.#run(SQL.insertLockout, a, b, first, second);
        return void this.#run(SQL.deleteLockout, a, b);
    }
  }

  /** Messages in a user's stream: those that are not confirmed wait, and the session had carried them. */
  #stream(fact: EntryReader): void {
    const { kind, a: user, bytes, entries } = fact;
    const [session = 0, unixMs = 0] = fact.numbers;
    const confirmed = this.#confirmed.get(user) ?? 0;
    for (let i = 0; i < entries; i++) {
      const { number, position } = fact.entry(i);
      if (number <= confirmed) continue;
      if (session !== 0) this.#run(SQL.insertPosition, session, number, position);
      if (kind === JournalEntry.Delivered) continue;
      const { start, end } = fact.line(position);
      const from = wordEnd(bytes, start, end) + 1;
      const fromEnd = wordEnd(bytes, from, end);
      this.#store(user, number, unixMs, bytes.toString("latin1", from, fromEnd), bytes.subarray(fromEnd + 1, end));
    }
  }

  #store(user: string, number: number, unixMs: number, from: string, text: Uint8Array): void {
    if (number <= (this.#confirmed.get(user) ?? 0)) return;
    this.#messages += this.#run(SQL.insertMessage, user, number, unixMs, from, text);
  }

  #run(sql: string, ...values: SQLQueryBindings[]): number {
    return this.#database.query(sql).run(...values).changes;
  }

  /** Every fact of every record that is not settled, in order. The first time it notes what is missing. */
  #read(done: number, each: (fact: EntryReader) => void): void {
    const { newest } = this.#progress;
    const isFirst = done === 0;
    const note = (damage: string): void => void (isFirst && this.#damages.push(damage));
    let last = this.#settled;
    const reached = (sequence: number, where: string): void => {
      const missing = sequence - 1 - last;
      if (missing > 0) note(`records ${last + 1} to ${sequence - 1} ${where} (${missing} in all)`);
    };
    for (const [i, first] of this.#segments.entries()) {
      const name = segmentName(first);
      reached(first, `are missing before ${name}`);
      const { bytes } = this.#folder.open(name);
      if (!hasKnownLength(bytes, first, this.#segmentBytes))
        note(`records ${first} and on may be missing: ${name} has ${bytes.length} bytes and not ${this.#segmentBytes}`);
      const reader = new RecordReader(bytes, first, this.#seed);
      for (;;) {
        if (!reader.next()) {
          const found = reader.goOn();
          if (found === 0) break;
          reached(found, `in ${name} cannot be read`);
        }
        if (reader.sequence <= last) continue;
        last = reader.sequence;
        if (isFirst) this.#records++;
        const facts = new EntryReader(bytes, reader.start, reader.end);
        while (facts.next()) each(facts);
        this.#options.progress(done + ((i + reader.at / bytes.length) / this.#segments.length) * 0.5);
      }
    }
    const written = Math.max(newest, this.#announced?.sequence ?? 0);
    const newestFile = this.#segments.at(-1);
    const where = newestFile === undefined ? "" : ` at the end of ${segmentName(newestFile)}`;
    reached(written + 1, `${this.#announced === null ? "and perhaps later ones " : ""}are missing${where}`);
    this.#last = Math.max(this.#last, last, written);
  }
}
