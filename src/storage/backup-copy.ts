import { Database } from "bun:sqlite";
import {
  closeSync,
  fdatasyncSync,
  fstatSync,
  lstatSync,
  mkdirSync,
  openSync,
  readSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  statfsSync,
  writeSync,
} from "node:fs";
import { dirname, join, resolve } from "node:path";
import { BACKUP_ROOM_BYTES, BACKUP_WAL_BYTES_MAX } from "../limits.ts";
import { DATABASE, StoreError } from "./database.ts";
import type { JournalCopy } from "./journal.ts";
import { LAST_NAME, lastFile } from "./record.ts";
import { syncFolder } from "./segment.ts";
import { PRAGMA, SQL, TRANSACTION } from "./sql.ts";

/**
 * The copy of a data folder while a server uses it, piece by piece: the part of a backup that touches files (a thread
 * executes it: backup-worker.ts). What a server does meanwhile is arranged in backup.ts.
 *
 * The copy is what a crash leaves behind: the database of some commit, and the journal from before that commit up to a
 * record after it.
 *
 * - An open read transaction makes SQLite keep what the transaction sees (https://sqlite.org/walformat.html). If that
 *   needs the write-ahead log, the log is only appended to, and checkpoints write to the database file only what the
 *   log has at that time. So the log is copied first and then the file: both together have the state of the transaction
 *   or of a later commit, whatever a checkpoint does meanwhile. SQLite ignores an incomplete commit at the end.
 * - If the transaction needs only the file, the file does not change, but the log may be written from its beginning. A
 *   copy with the first half of the old log would take pages back to earlier states. So the header of the log is copied
 *   once more at the end: a new header does not fit the old frames, and SQLite ignores these.
 * - Then the journal, up to its last record at this time: no copied commit is later than that.
 * - The copy gets its name at its very end, when it is on the disk.
 */

/** Of SQLite's write-ahead log (https://sqlite.org/fileformat2.html, 4.1). */
const WAL_HEADER_BYTES = 32;

/** How fast a copy is, and what it may use. */
export interface Pace {
  /** Bytes that are synced at a time. After them the copy can be ended. */
  pieceBytes: number;
  /** Bytes that are read and written at a time, before a pause. */
  chunkBytes: number;
  pauseMs: number;
  /** The longest log of the database: from half of it on the copy is urgent, and above it the copy fails. */
  walBytesMax: number;
  /** Bytes that stay free on the disk of the copy. */
  roomBytes: number;
  /** No pauses, and one sync at the end of each file: the log must not become longer. */
  isUrgent?: boolean;
}

/**
 * Some 40 MB/s, with a tenth of a core; without pauses it would be half a core. The system calls are short, since a
 * kernel without preemption does not run the chat's thread before they end; each sync delays those of the chat.
 */
const PACE: Pace = {
  pieceBytes: 4 << 20,
  chunkBytes: 64 << 10,
  pauseMs: 1,
  walBytesMax: BACKUP_WAL_BYTES_MAX,
  roomBytes: BACKUP_ROOM_BYTES,
};

export interface CopySource {
  /** The file of the database. */
  database: string;
  /** An open descriptor of it: see `DataFolder.databaseDescriptor`. */
  descriptor: number;
  /** The new folder. */
  target: string;
}

/**
 * - `snapshot`: the copied database has everything up to record `sequence`. The next input is the journal after it.
 * - `journal`: the journal is copied, and its segments may change.
 */
export type CopyStep = { did: "piece" | "journal" } | { did: "snapshot"; sequence: number };

/** Copies piece by piece. It removes its files when a step fails, and when it is ended before its end. */
export function* copyDataFolder(source: CopySource, pace: Pace): Generator<CopyStep, void, JournalCopy | null> {
  const { database: file, descriptor } = source;
  const target = resolve(source.target);
  checkTarget(source.target, dirname(resolve(file)));
  const partial = `${target}.partial`;
  makePartial(partial);
  try {
    const copy = join(partial, DATABASE);
    using connection = new Database(file, { create: false, readwrite: true });
    connection.run(TRANSACTION.beginRead);
    const { sequence } = connection.query<{ sequence: number }, []>(SQL.selectProgress).get()!;
    const wal = openSync(`${file}-wal`, "r");
    try {
      checkRoom(partial, fstatSync(descriptor).size + fstatSync(wal).size, pace.roomBytes);
      yield* copyFile(wal, `${copy}-wal`, pace);
      copyHeader(wal, `${copy}-wal`);
      const journal = yield { did: "snapshot", sequence };
      if (journal !== null) yield* copyJournal(journal, join(partial, "journal"), pace);
      yield { did: "journal" };
      const ownPace = { ...pace };
      for (const step of copyFile(descriptor, copy, ownPace)) {
        const walBytes = fstatSync(wal).size;
        if (walBytes > pace.walBytesMax) throw tooSlow(walBytes);
        ownPace.isUrgent = walBytes > pace.walBytesMax / 2;
        yield step;
      }
    } finally {
      closeSync(wal);
    }
    connection.run(TRANSACTION.commit);
    mergeWal(copy);
    yield { did: "piece" };
    syncFolder(partial);
    renameSync(partial, target);
    syncFolder(dirname(target));
  } catch (error) {
    rmSync(partial, { recursive: true, force: true });
    throw error;
  }
}

/** Throws unless the folder can be new there: it must not exist, and not be in the data folder. */
export function checkTarget(target: string, data: string): void {
  if (!target.startsWith("/")) throw new StoreError("the path is not absolute; give a path that begins with /");
  const path = resolve(target);
  if (lstatSync(path, { throwIfNoEntry: false }) !== undefined)
    throw new StoreError("it exists already; give the path of a new folder");
  const { dev, ino } = statSync(data);
  for (let above = realpathSync(dirname(path)); ; above = dirname(above)) {
    const found = statSync(above);
    if (found.dev === dev && found.ino === ino)
      throw new StoreError("it would be inside the data folder; give a path outside");
    if (above === dirname(above)) return;
  }
}

export function makePartial(partial: string): void {
  try {
    mkdirSync(partial, { mode: 0o700 });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
    throw new StoreError(`${partial} exists, perhaps of an attempt that was cut off; remove it, or give another path`);
  }
}

/** Throws when the disk cannot take that many bytes and keep `roomBytes`, which the server may need itself. */
export function checkRoom(folder: string, bytes: number, roomBytes: number): void {
  const { bavail, bsize } = statfsSync(folder);
  if (bavail * bsize >= bytes + roomBytes) return;
  const [free, needed] = [bavail * bsize, bytes + roomBytes].map((each) => Math.ceil(each / 2 ** 20));
  throw new StoreError(`the disk has too little room: ${free} MiB are free and ${needed} MiB needed; make room`);
}

function tooSlow(walBytes: number): StoreError {
  const waiting = `${Math.ceil(walBytes / 2 ** 20)} MiB of changes wait for its end`;
  return new StoreError(`copying is too slow: ${waiting}; use a faster disk, or try again when there is less traffic`);
}

/** Copies an open file, which may grow meanwhile. */
function* copyFile(from: number, to: string, pace: Pace): Generator<CopyStep, void, unknown> {
  const chunk = Buffer.allocUnsafe(pace.chunkBytes);
  yield* writeFile(to, fstatSync(from).size, pace, (at, count) => {
    const read = readSync(from, chunk, 0, count, at);
    return chunk.subarray(0, read);
  });
}

/** Copies the header of the log once more. */
function copyHeader(wal: number, to: string): void {
  const header = Buffer.alloc(WAL_HEADER_BYTES);
  if (readSync(wal, header, 0, header.length, 0) < header.length) return;
  const descriptor = openSync(to, "r+");
  try {
    writeSync(descriptor, header, 0, header.length, 0);
    fdatasyncSync(descriptor);
  } finally {
    closeSync(descriptor);
  }
}

/** Copies segments up to their last records; the rest is zeros, since the server writes there meanwhile. */
function* copyJournal(
  { path, segments, sequence, seed }: JournalCopy,
  to: string,
  pace: Pace,
): Generator<CopyStep, void, unknown> {
  const bytesAll = segments.reduce((sum, { bytes }) => sum + bytes, 0);
  checkRoom(dirname(to), bytesAll, pace.roomBytes);
  mkdirSync(to, { mode: 0o700 });
  const chunk = Buffer.allocUnsafe(pace.chunkBytes);
  for (const { name, bytes, recordBytes } of segments) {
    const from = openSync(join(path, name), "r");
    try {
      yield* writeFile(join(to, name), bytes, pace, (at, count) => {
        const read = Math.max(0, Math.min(count, recordBytes - at));
        readSync(from, chunk, 0, read, at);
        return chunk.subarray(0, count).fill(0, read);
      });
    } finally {
      closeSync(from);
    }
  }
  const last = lastFile(sequence, seed);
  yield* writeFile(join(to, LAST_NAME), last.length, pace, () => last);
  syncFolder(to);
}

/** Writes a new file of that size; `chunk` returns its bytes from a position on. */
function* writeFile(
  path: string,
  bytes: number,
  pace: Readonly<Pace>,
  chunk: (at: number, count: number) => Uint8Array,
): Generator<CopyStep, void, unknown> {
  const descriptor = openSync(path, "wx", 0o600);
  try {
    let pieceStart = 0;
    for (let at = 0; at < bytes;) {
      const rest = chunk(at, Math.min(pace.chunkBytes, bytes - at));
      if (rest.length === 0) break;
      for (let done = 0; done < rest.length;) done += writeSync(descriptor, rest, done, rest.length - done, at + done);
      at += rest.length;
      if (pace.pauseMs > 0 && pace.isUrgent !== true) Bun.sleepSync(pace.pauseMs);
      if (at - pieceStart < pace.pieceBytes) continue;
      if (pace.isUrgent !== true) fdatasyncSync(descriptor);
      pieceStart = at;
      yield { did: "piece" };
    }
    fdatasyncSync(descriptor);
    yield { did: "piece" };
  } finally {
    closeSync(descriptor);
  }
}

/** Brings the copied log into the copied file, so that nobody can separate them. Shows that SQLite opens the copy. */
function mergeWal(file: string): void {
  using copy = new Database(file, { create: false, readwrite: true });
  copy.run(PRAGMA.checkpointAll);
}

/** The request to the thread: the first one begins a copy, `go` continues it, `stop` ends it. */
export type CopyRequest = { begin: CopySource } | { go: JournalCopy | null } | { stop: string };

/** The reply: a step, the end, or why the copy failed. */
export type CopyReply = CopyStep | { did: "all" } | { did: "failed"; why: string };

/** The copies of a thread, one after another. */
export class Copier {
  readonly #pace: Pace;
  #copy: ReturnType<typeof copyDataFolder> | null = null;

  constructor(pace = PACE) {
    this.#pace = pace;
  }

  answer(request: CopyRequest): CopyReply {
    if ("stop" in request) return this.fail(new StoreError(request.stop));
    if ("begin" in request) this.#copy = copyDataFolder(request.begin, this.#pace);
    return reply(() => this.#copy!.next("go" in request ? request.go : null));
  }

  /** Ends the copy as if its next step had failed with that error. */
  fail(error: unknown): CopyReply {
    return reply(() => this.#copy!.throw(error));
  }
}

function reply(step: () => IteratorResult<CopyStep, void>): CopyReply {
  try {
    return step().value ?? { did: "all" };
  } catch (error) {
    return { did: "failed", why: whyFailed(error) };
  }
}

const REASONS: Record<string, string> = {
  ENOENT: "the folder above it does not exist; create that first",
  ENOTDIR: "a file is in its path; give another path",
  EACCES: "the server's user may not write there; change the permissions, or give another path",
  EPERM: "the server's user may not write there; change the permissions, or give another path",
  EROFS: "that disk is read-only; give another path",
  ENAMETOOLONG: "the name is too long; give a shorter one",
  ENOSPC: "the disk is full; make room",
  EFBIG: "a file would be too long for that disk; give another path",
  EDQUOT: "the disk quota is used up; make room",
  SQLITE_FULL: "the disk is full; make room",
  ENOTEMPTY: "it exists already; give the path of a new folder",
  EMFILE: "the server has too many open files; raise the open-file limit",
};

/** In words for the operator. */
export function whyFailed(error: unknown): string {
  if (error instanceof StoreError) return error.message;
  const { code, message } = error as NodeJS.ErrnoException;
  return (Object.hasOwn(REASONS, code ?? "") ? REASONS[code!] : undefined) ?? `${message}; look at that disk`;
}
