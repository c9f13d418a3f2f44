import type { Database, SQLQueryBindings } from "bun:sqlite";
import { randomInt } from "node:crypto";
import { existsSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { JOURNAL_SEGMENT_BYTES } from "../limits.ts";
import type { Outcomes } from "../chat/outcomes.ts";
import { wordEnd } from "../protocol/ascii.ts";
import { DataFolder } from "./data-folder.ts";
import { type Durability, StoreError, asStoreError, openDatabase } from "./database.ts";
import { type Delivered, runsOf } from "./delivered-run.ts";
import { JournalEntry, EntryReader } from "./journal-entry.ts";
import { Journal, segmentName, segmentsOf } from "./journal.ts";
import { type Announced, RecordReader, SEQUENCE_SPAN, announced, hasKnownLength } from "./record.ts";
import { FileFolder, type Segment, type SegmentFolder, syncFolder } from "./segment.ts";
import { atOnce, inSlices } from "../runtime/slices.ts";
import { SQL, TRANSACTION } from "./sql.ts";
import { Store } from "./store.ts";
import { addEntry, outcomesOf, readOutcomes, rowOf } from "./stored-outcomes.ts";

/**
 * Opens a data folder after any end of the last server: locks it, and brings into the database what only the journal
 * has.
 */

export interface RecoveryOptions {
  /** Keeps what can be read of a damaged journal, and gives up the rest. */
  salvage: boolean;
  /** The time at which the open sessions of the last run end. */
  unixMs: number;
  /** Called when the folder is locked; recovery begins when its promise is resolved. Only `openStoreInSlices` waits. */
  locked?: () => Promise<void>;
  /** Called with the part that is done, from 0 to 1. */
  progress: (part: number) => void;
}

/** The result of a recovery. */
export interface Recovered {
  records: number;
  messages: number;
  /** What was given up, in words for the operator; null without damage. */
  damage: string | null;
}

export interface Opened {
  store: Store;
  recovered: Recovered;
}

/** What recovery needs of the folder of a journal. */
export interface JournalFolder extends Pick<SegmentFolder, "path" | "names"> {
  open(name: string): Pick<Segment, "bytes">;
}

/** Rows that one step deletes. */
const DELETED_ROWS_MAX = 1000;

/** The table `progress`: the state at the last commit. */
interface Progress {
  /** The database has everything up to this record. */
  sequence: number;
  /** The last record of the journal. */
  newest: number;
  /** The highest message or session number. */
  number: number;
}

/** Opens a data folder with everything that was promised, whatever ended the last server. Throws StoreError. */
export function openStore(...values: Parameters<typeof opening>): Opened {
  return atOnce(opening(...values));
}

/** The same; the event loop runs between slices. */
export async function openStoreInSlices(...values: Parameters<typeof opening>): Promise<Opened> {
  return inSlices(opening(...values));
}

function* opening(
  path: string,
  durability: Durability,
  options: RecoveryOptions,
): Generator<void | Promise<void>, Opened> {
  if (path === ":memory:") {
    if (options.locked !== undefined) yield options.locked();
    const store = new Store(openDatabase(path, durability));
    return { store, recovered: { records: 0, messages: 0, damage: null } };
  }
  const existing = existingFolder(path);
  const data = new DataFolder(path);
  if (options.locked !== undefined) yield options.locked();
  let database: Database | null = null;
  try {
    database = openDatabase(path, durability);
    const recovered = yield* new Recovery(database, new FileFolder(join(path, "journal")), options).steps();
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

/** The nearest folder at or above that path that exists. */
function existingFolder(path: string): string {
  const folder = resolve(path);
  return existsSync(folder) ? folder : existingFolder(dirname(folder));
}

/** Syncs the names of new files and folders to the disk: `folder` and its parents up to `top`. */
function syncUpTo(top: string, folder: string): void {
  for (let each = resolve(folder); ; each = dirname(each)) {
    syncFolder(each);
    if (each === top) return;
  }
}

/** A store with a new journal, after a recovery. */
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

/** The seed of the checksums in the journal's records; 0 for a journal of a version before 5. */
export function seedOf(database: Database): number {
  return database.query<{ seed: number }, []>(SQL.selectSeed).get()?.seed ?? 0;
}

/**
 * Brings into the database what only the journal has, in one transaction: after a kill in the middle, recovery begins
 * again. It reads the entries twice: first for the highest acknowledged number of each user, then for the messages
 * above it. So memory holds only those numbers.
 */
export class Recovery {
  readonly #database: Database;
  readonly #folder: JournalFolder;
  readonly #options: RecoveryOptions;
  readonly #progress: Progress;
  /** Sequence numbers of the first records of the segments that are read. */
  readonly #segments: number[];
  readonly #segmentBytes: number;
  readonly #seed: number;
  /** The database has everything up to this record. */
  readonly #committedSequence: number;
  /** Null without the file `last`. */
  readonly #announced: Announced | null;
  /** The highest acknowledged message number of each user. */
  readonly #ackedUpTo = new Map<string, number>();
  /** The position up to which the requests of each session were acted on. */
  readonly #received = new Map<number, number>();
  /** Position of the last message of each session that the database has. */
  readonly #positions = new Map<number, number>();
  /** What was heard from other shards; `#insert` changes it. */
  readonly #outcomes: Map<number, Outcomes>;
  readonly #damages: string[] = [];
  /** The last record, found or missing. */
  #lastSequence: number;
  /** The highest message or session number. */
  #number: number;
  #records = 0;
  #messages = 0;

  constructor(
    database: Database,
    folder: JournalFolder,
    options: RecoveryOptions,
    segmentBytes = JOURNAL_SEGMENT_BYTES,
  ) {
    this.#database = database;
    this.#folder = folder;
    this.#options = options;
    this.#progress = database.query<Progress, []>(SQL.selectProgress).get()!;
    this.#segmentBytes = segmentBytes;
    this.#outcomes = readOutcomes(database);
    const { sequence, number } = this.#progress;
    this.#lastSequence = sequence;
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
    this.#committedSequence = isForeign ? 0 : sequence;
    // Compaction covers whole segments, so a segment that begins earlier is not needed.
    this.#segments = segmentsOf(folder).filter((first) => first > this.#committedSequence);
  }

  #readAnnounced(): Announced | null {
    try {
      return announced(this.#folder);
    } catch (error) {
      this.#damages.push(`records ${this.#progress.sequence + 1} and on may be missing: ${(error as Error).message}`);
      return null;
    }
  }

  /** The whole recovery in one call. */
  run(): Recovered {
    return atOnce(this.steps());
  }

  /** The same in short steps. Nothing else may use the database until the last one. */
  *steps(): Generator<void, Recovered> {
    yield* this.#read(0, (entry) => this.#collect(entry));
    const damage = this.#damages.length > 0 ? this.#damages.join("; ") : null;
    if (damage !== null && !this.#options.salvage) {
      throw new StoreError(
        `the journal ${this.#folder.path} is damaged: ${damage}; nothing was changed; put back what is missing, or ` +
          "start once with --salvage, which keeps everything that can be read",
      );
    }
    // Damage without any record counts too: a file may have later records, and the new journal must begin after them.
    if (this.#segments.length > 0 || damage !== null || this.#seed === 0) yield* this.#apply();
    this.#endSessions();
    return { records: this.#records, messages: this.#messages, damage };
  }

  *#apply(): Generator<void> {
    this.#database.run(TRANSACTION.begin);
    yield* this.#read(0.5, (entry) => this.#insert(entry));
    for (const [user, upTo] of this.#ackedUpTo) yield* this.#deleteMessages(user, upTo);
    for (const [session, position] of this.#received) yield void this.#run(SQL.raiseReceived, position, session);
    for (const [shard, outcomes] of this.#outcomes) this.#run(SQL.insertNeighbour, ...rowOf(shard, outcomes));
    this.#run(SQL.deleteOrphanRuns);
    this.#run(SQL.updateProgress, this.#lastSequence + SEQUENCE_SPAN, 0, this.#number);
    if (seedOf(this.#database) === 0) this.#run(SQL.insertSeed, randomInt(1, 2 ** 32));
    this.#database.run(TRANSACTION.commit);
  }

  *#deleteMessages(user: string, upTo: number): Generator<void> {
    const query = this.#database.query<{ number: number }, [string, number, number, number]>(SQL.selectNumberAt);
    for (let after = 0; after < upTo;) {
      const last = query.get(user, after, upTo, DELETED_ROWS_MAX - 1)?.number ?? upTo;
      yield void this.#run(SQL.deleteMessages, user, after, last);
      after = last;
    }
  }

  /** Ends the open sessions of the last run. Sessions of a run without a journal are deleted. */
  #endSessions(): void {
    this.#run(SQL.deleteUnknownSessions);
    if (this.#run(SQL.endOpenSessions, this.#options.unixMs) > 0) this.#run(SQL.trimAllSessions);
  }

  /** In the first reading: the highest numbers and positions. */
  #collect(entry: EntryReader): void {
    const { kind, user, messageCount, numbers } = entry;
    const [first = 0, second = 0] = numbers;
    const isNumbered = kind === JournalEntry.Stored || kind === JournalEntry.Began || kind === JournalEntry.Acked;
    if (isNumbered) this.#number = Math.max(this.#number, first);
    if (messageCount > 0) this.#number = Math.max(this.#number, entry.message(messageCount - 1).number);
    if (kind === JournalEntry.Acked) this.#ackedUpTo.set(user, Math.max(first, this.#ackedUpTo.get(user) ?? 0));
    if (kind === JournalEntry.Received || kind === JournalEntry.Ended) {
      this.#received.set(first, Math.max(second, this.#received.get(first) ?? 0));
    }
  }

  /** In the second reading: everything that is not acknowledged. */
  #insert(entry: EntryReader): void {
    const { kind, flag, user, other } = entry;
    const [first = 0, second = 0, third = 0] = entry.numbers;
    const text = entry.bytes.subarray(entry.textStart, entry.textEnd);
    switch (kind) {
      case JournalEntry.Stored:
        return this.#insertMessage(user, first, second, other, text);
      case JournalEntry.Sent:
      case JournalEntry.Delivered:
        return this.#insertMessages(entry);
      case JournalEntry.Began:
        return void this.#run(SQL.insertSession, first, Buffer.from(other, "latin1"), user, flag, 0, text);
      case JournalEntry.Ended:
        return void this.#run(SQL.endRecoveredSession, flag, third, first);
      case JournalEntry.Blocked:
        return void this.#run(SQL.insertBlock, user, other);
      case JournalEntry.Unblocked:
        return void this.#run(SQL.deleteBlock, user, other);
      case JournalEntry.Banned:
        if (first > 0) return void this.#run(SQL.insertBan, user, first);
        return void this.#run(SQL.deleteBan, user);
      case JournalEntry.LoggedIn:
        return void this.#run(SQL.insertLastLogin, user, first, other);
      case JournalEntry.Purged:
        return void this.#run(SQL.deleteMessages, user, first, second);
      case JournalEntry.Heard:
        return addEntry(outcomesOf(this.#outcomes, first), entry);
      case JournalEntry.WrongPasswords:
        if (first > 0) return void this.#run(SQL.insertLockout, user, other, first, second);
        return void this.#run(SQL.deleteLockout, user, other);
    }
  }

  /** Messages in a user's stream: their positions, and those that are not in the mailbox. */
  #insertMessages(entry: EntryReader): void {
    const { kind, user, bytes, messageCount } = entry;
    const [session = 0, unixMs = 0] = entry.numbers;
    const ackedUpTo = this.#ackedUpTo.get(user) ?? 0;
    const delivered: Delivered[] = [];
    for (let i = 0; i < messageCount; i++) {
      const { number, position } = entry.message(i);
      if (number <= ackedUpTo) continue;
      delivered.push({ number, position });
      if (kind === JournalEntry.Delivered) continue;
      const { start, end } = entry.line(position);
      const from = wordEnd(bytes, start, end) + 1;
      const fromEnd = wordEnd(bytes, from, end);
      const text = bytes.subarray(fromEnd + 1, end);
      this.#insertMessage(user, number, unixMs, bytes.toString("latin1", from, fromEnd), text);
    }
    if (session !== 0) this.#insertDelivered(session, delivered);
  }

  /** The database has the first positions of a stream already, up to where the last run had moved its messages. */
  #insertDelivered(session: number, messages: readonly Delivered[]): void {
    let last = this.#positions.get(session);
    if (last === undefined) {
      const query = this.#database.query<{ position: number | null }, [number]>(SQL.selectLastPosition);
      last = query.get(session)!.position ?? 0;
    }
    for (const { position, number, earlier } of runsOf(messages.filter((message) => message.position > last))) {
      this.#run(SQL.insertRun, session, position, number, earlier);
    }
    this.#positions.set(session, Math.max(last, messages.at(-1)?.position ?? 0));
  }

  #insertMessage(user: string, number: number, unixMs: number, from: string, text: Uint8Array): void {
    if (number <= (this.#ackedUpTo.get(user) ?? 0)) return;
    this.#messages += this.#run(SQL.insertMessage, user, number, unixMs, from, text);
  }

  #run(sql: string, ...values: SQLQueryBindings[]): number {
    return this.#database.query(sql).run(...values).changes;
  }

  /**
   * Calls `each` with every entry after the committed records, in order. `done` is the progress before: the first
   * reading begins at 0, counts the records and collects the damage.
   */
  *#read(done: number, each: (entry: EntryReader) => void): Generator<void> {
    const isFirst = done === 0;
    const addDamage = (damage: string): void => void (isFirst && this.#damages.push(damage));
    let last = this.#committedSequence;
    /** The next record is `sequence`: all between the last one and that one are missing. */
    const expectNoGap = (sequence: number, where: string): void => {
      const missing = sequence - 1 - last;
      if (missing > 0) addDamage(`records ${last + 1} to ${sequence - 1} ${where} (${missing} in all)`);
    };
    for (const [i, first] of this.#segments.entries()) {
      const name = segmentName(first);
      expectNoGap(first, `are missing before ${name}`);
      const { bytes } = this.#folder.open(name);
      if (!hasKnownLength(bytes, first, this.#segmentBytes)) {
        const lengths = `${bytes.length} bytes and not ${this.#segmentBytes}`;
        addDamage(`records ${first} and on may be missing: ${name} has ${lengths}`);
      }
      const reader = new RecordReader(bytes, first, this.#seed);
      for (;;) {
        if (!reader.next()) {
          const sequence = reader.skipDamage();
          if (sequence === 0) break;
          expectNoGap(sequence, `in ${name} cannot be read`);
        }
        if (reader.sequence <= last) continue;
        last = reader.sequence;
        if (isFirst) this.#records++;
        const entries = new EntryReader(bytes, reader.start, reader.end);
        while (entries.next()) {
          each(entries);
          yield;
        }
        this.#options.progress(done + ((i + reader.at / bytes.length) / this.#segments.length) * 0.5);
      }
    }
    const written = Math.max(this.#progress.newest, this.#announced?.sequence ?? 0);
    const newestFile = this.#segments.at(-1);
    const where = newestFile === undefined ? "" : ` at the end of ${segmentName(newestFile)}`;
    expectNoGap(written + 1, `${this.#announced === null ? "and perhaps later ones " : ""}are missing${where}`);
    this.#lastSequence = Math.max(this.#lastSequence, last, written);
  }
}
