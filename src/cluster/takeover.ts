import { Database, SQLiteError } from "bun:sqlite";
import { open, readdir, rm, truncate } from "node:fs/promises";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { typed } from "../runtime/invocation.ts";
import { whyFailed } from "../storage/backup-copy.ts";
import { DATABASE, StoreError, asStoreError, openDatabase } from "../storage/database.ts";
import { JournalWriter, writeFully } from "../storage/journal-writer.ts";
import { type JournalFolder, type Recovered, Recovery, seedOf } from "../storage/recovery.ts";
import { mapped } from "../storage/segment.ts";
import { inSlices } from "../runtime/slices.ts";
import { PRAGMA, SCHEMA_VERSION, SQL } from "../storage/sql.ts";
import { RecordKind, decodeRecord } from "./log-record.ts";
import { ClusterError, LostRecordsError, type ShardState, type SharedLog } from "./shared-log.ts";

/**
 * The state of a shard, out of the shared log: an empty folder becomes a data folder, with the current snapshot as its
 * database and the records after it as its journal. The recovery of a single server does the rest: at once when a
 * process takes over the shard, and at the next start when the folder is a backup (shard-backup.ts).
 *
 * A record of the journal has the number of the record of the shared log. The last record of a turn has the entries of
 * the whole turn, the earlier ones are empty, and so are `Opened` and the records of a turn that `Opened` cut off: its
 * owner is deposed and has answered nobody.
 */

/** The folder of the journal in a data folder. */
export const JOURNAL = "journal";
const RESTORE = "restore the engine's data from a backup";

export interface Filled {
  /** The last record that the snapshot contains; 0 without one. */
  snapshot: number;
  /** Bytes of the records after it. */
  logBytes: number;
}

export interface TakeoverOptions {
  /** The time at which the open sessions of earlier owners end. */
  unixMs: number;
  /** Called with the part that is done, from 0 to 1. */
  progress: (part: number) => void;
}

export interface TakenOver extends Filled {
  /** Has everything up to record `upTo`. */
  database: Database;
  recovered: Recovered;
}

/**
 * Brings everything up to record `upTo`, which is this process's `Opened`, into a database in an empty folder. The
 * folder is worth nothing after this process: nothing is synced. Rejects with ClusterError when the log does not have
 * it all, and with StoreError when the disk refuses; any other error is one of the engine, and the next try needs
 * another empty folder.
 */
export async function takeOver(
  log: SharedLog,
  shard: number,
  upTo: number,
  folder: string,
  { unixMs, progress }: TakeoverOptions,
): Promise<TakenOver> {
  const filled = await fillFolder(log, shard, upTo, folder, false, (part) => progress(part / 2));
  const options = { unixMs, progress: (part: number) => progress((1 + part) / 2) };
  let database: Database | null = null;
  try {
    const copy = await recoverCopy(folder, true, options);
    const { recovered } = copy;
    database = copy.database;
    database.run(PRAGMA.writeAheadLog);
    const { number } = progressOf(database);
    database.query(SQL.updateProgress).run(upTo, upTo, number);
    await removeJournal(join(folder, JOURNAL));
    return { ...filled, database, recovered };
  } catch (error) {
    database?.close();
    const { code, message } = error as NodeJS.ErrnoException;
    if (error instanceof StoreError || code !== undefined) throw asStoreError(error, folder);
    throw new ClusterError(`the log of shard ${shard} cannot be read: ${message}; start the version that wrote it`);
  }
}

/**
 * Brings the journal of a data folder into its database. The folder is worth nothing after this process. `isChecked`:
 * see openDatabase.
 */
export async function recoverCopy(
  folder: string,
  isChecked: boolean,
  options: TakeoverOptions,
): Promise<Pick<TakenOver, "database" | "recovered">> {
  const database = openDatabase(folder, "none", isChecked);
  try {
    database.run(PRAGMA.rollbackJournal);
    database.run(PRAGMA.largeCache);
    const recovery = new Recovery(database, readOnly(join(folder, JOURNAL)), { salvage: false, ...options });
    const recovered = await inSlices(recovery.steps());
    database.run(PRAGMA.defaultCache);
    return { database, recovered };
  } catch (error) {
    database.close();
    throw error;
  }
}

/**
 * A process that cannot read what the owner writes must not claim the shard, since a claim deposes the owner. Throws
 * ClusterError when the last record is of another version, and when an import is not complete (import.ts).
 */
export async function checkLastRecord(
  log: SharedLog,
  shard: number,
  { head, owner, snapshot }: ShardState,
): Promise<void> {
  if (owner?.imported === false) {
    throw new ClusterError(
      "the import of a data folder into this cluster is running or was cut off; " +
        `repeat ${typed("cluster", "import")} <data folder> until it succeeds`,
    );
  }
  if (head <= snapshot) return;
  let last: Uint8Array | null = null;
  try {
    for await (const { record } of log.read(shard, head, head)) last = record;
  } catch (error) {
    // It was trimmed since, or it is lost, which the takeover reports.
    if (!(error instanceof ClusterError)) throw error;
  }
  if (last !== null) decodeRecord(last);
}

/**
 * Fills an empty folder with everything up to record `upTo`. `isSynced`: it is on the disk then. See `takeOver` for
 * errors.
 */
export async function fillFolder(
  log: SharedLog,
  shard: number,
  upTo: number,
  folder: string,
  isSynced: boolean,
  progress: (part: number) => void,
): Promise<Filled> {
  const snapshot = await log.snapshot(shard);
  const file = join(folder, DATABASE);
  const disk = <T>(act: () => Promise<T> | T): Promise<T> => onDisk(folder, act);
  if (snapshot !== null) await writeParts(snapshot.parts, file, isSynced, disk, () => progress(0));
  else await disk(() => openDatabase(folder, isSynced ? "power" : "none").close());
  const { sequence, newest, seed } = await disk(() => inspect(file, shard));
  const label = snapshot?.label.sequence ?? 0;
  if (sequence !== label)
    throw new ClusterError(
      `the snapshot of shard ${shard} has the state after record ${sequence} and not ${label}; ${RESTORE}`,
    );
  const last = Math.max(sequence, newest);
  if (last > upTo) throw await newerSnapshot(log, shard, last);
  const journal = new JournalWriter(join(folder, JOURNAL), sequence, seed, isSynced);
  const turns = new Turns(shard);
  let logBytes = 0;
  try {
    for await (const { sequence: number, record } of log.read(shard, sequence + 1, upTo)) {
      if (number !== journal.sequence + 1)
        throw new ClusterError(`record ${journal.sequence + 1} of shard ${shard} is missing; ${RESTORE}`);
      logBytes += record.length;
      if (journal.append(turns.add(number, record))) continue;
      await disk(() => journal.flush());
      progress((number - sequence) / (upTo - sequence));
    }
    if (journal.sequence < upTo)
      throw new ClusterError(`records ${journal.sequence + 1} to ${upTo} of shard ${shard} are missing; ${RESTORE}`);
    await disk(() => journal.end());
  } finally {
    await journal.close();
  }
  return { snapshot: sequence, logBytes };
}

/** The error for a snapshot with a record that was acknowledged after the one up to which the log is read. */
async function newerSnapshot(log: SharedLog, shard: number, last: number): Promise<ClusterError> {
  const { head } = await log.state(shard);
  if (head < last) return new LostRecordsError(shard, head, last);
  return new ClusterError(`another process owns shard ${shard} now, and has stored a newer snapshot; start again`);
}

const NOTHING: readonly Uint8Array[] = [];

/** Joins the parts of turns. */
class Turns {
  readonly #shard: number;
  /** The parts of a turn that is not complete. */
  #parts: Uint8Array[] = [];
  /** The owner that wrote the last record; null before the first one. */
  #owner: Buffer | null = null;

  constructor(shard: number) {
    this.#shard = shard;
  }

  /** Returns the body of the record in the journal, in pieces. Throws ClusterError. */
  add(sequence: number, record: Uint8Array): readonly Uint8Array[] {
    const { kind, owner, part, parts, body } = decodeRecord(record);
    const isFenced = this.#owner !== null && !owner.equals(this.#owner);
    this.#owner = owner;
    if (kind === RecordKind.Opened) {
      this.#parts = [];
      return NOTHING;
    }
    const where = `record ${sequence} of shard ${this.#shard}`;
    if (isFenced) throw new ClusterError(`${where} is of an owner that was deposed before; ${RESTORE}`);
    if (part !== this.#parts.length + 1)
      throw new ClusterError(`${where} is part ${part} of ${parts} of a turn without part ${part - 1}; ${RESTORE}`);
    this.#parts.push(body);
    if (part < parts) return NOTHING;
    const complete = this.#parts;
    this.#parts = [];
    return complete;
  }
}

async function writeParts(
  parts: AsyncIterable<Uint8Array>,
  path: string,
  isSynced: boolean,
  disk: <T>(act: () => Promise<T> | T) => Promise<T>,
  progress: () => void,
): Promise<void> {
  const file = await disk(() => open(path, "wx", 0o600));
  try {
    let at = 0;
    for await (const part of ahead(parts)) {
      await disk(() => writeFully(file, part, at));
      at += part.length;
      progress();
    }
    if (isSynced) await disk(() => file.sync());
  } finally {
    await file.close();
  }
}

/** The engine sends the next part while the caller writes one. */
async function* ahead<Part>(parts: AsyncIterable<Part>): AsyncIterable<Part> {
  const iterator = parts[Symbol.asyncIterator]();
  try {
    for (let next = iterator.next(); ;) {
      const { done, value } = await next;
      if (done === true) return;
      next = iterator.next();
      next.catch(() => {}); // It is awaited in the next round, unless the caller has failed.
      yield value;
    }
  } finally {
    await iterator.return?.();
  }
}

interface Progress {
  sequence: number;
  newest: number;
  number: number;
}

function progressOf(database: Database): Progress {
  return database.query<Progress, []>(SQL.selectProgress).get()!;
}

/** What a snapshot says of itself. Throws ClusterError. */
function inspect(file: string, shard: number): Progress & { seed: number } {
  try {
    using database = new Database(file, { create: false, readwrite: true });
    const { user_version: version } = database.query<{ user_version: number }, []>(PRAGMA.version).get()!;
    if (version > SCHEMA_VERSION)
      throw new ClusterError(`the snapshot of shard ${shard} was written by a newer Heartline; start that version`);
    return { ...progressOf(database), seed: seedOf(database) };
  } catch (error) {
    if (!(error instanceof SQLiteError)) throw error;
    throw new ClusterError(`the snapshot of shard ${shard} is damaged: ${error.message}; ${RESTORE}`);
  }
}

/** Errors of the disk become StoreError. */
async function onDisk<T>(folder: string, act: () => Promise<T> | T): Promise<T> {
  try {
    return await act();
  } catch (error) {
    if (error instanceof ClusterError || error instanceof StoreError) throw error;
    throw new StoreError(`the data folder ${folder} cannot be used: ${whyFailed(error)}`);
  }
}

/** The journal of a folder, for recovery: no descriptor stays open. */
function readOnly(path: string): JournalFolder {
  return { path, names: () => readdirSync(path), open: (name) => ({ bytes: mapped(join(path, name)) }) };
}

/** Frees the disk at once: the files are still mapped until the memory is collected. */
async function removeJournal(path: string): Promise<void> {
  for (const name of await readdir(path)) await truncate(join(path, name));
  await rm(path, { recursive: true });
}
