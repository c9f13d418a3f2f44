/**
 * Examines a data folder from outside, also while a server uses it: it reads names, lengths and two headers, and
 * creates, locks and writes nothing. The pages of the database and the records of the journal are checked when a server
 * opens the folder (database.ts, recovery.ts).
 */
import {
  accessSync,
  closeSync,
  constants,
  existsSync,
  fstatSync,
  openSync,
  readSync,
  readdirSync,
  statSync,
} from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { JOURNAL_SEGMENT_BYTES } from "../limits.ts";
import { DATABASE } from "./database.ts";
import { segmentName, segmentsOf } from "./journal.ts";
import { HEAD, LAST_BYTES, announced, hasKnownLength } from "./record.ts";
import { SCHEMA_VERSION } from "./sql.ts";

/** The header of an SQLite file (sqlite.org/fileformat.html): magic, size of a page, number of pages, user version. */
const SQLITE_HEADER_BYTES = 100;
const SQLITE_MAGIC = "SQLite format 3\0";
const PAGE_SIZE_AT = 16;
const PAGES_AT = 28;
const VERSION_AT = 60;
/** A page size of 1 stands for this one. */
const PAGE_BYTES_MAX = 65_536;

export interface Inspection {
  /** Why a server cannot use the folder, one line each. */
  errors: string[];
  /** What was examined. */
  examined: string;
  isMissing: boolean;
}

export function inspectFolder(path: string): Inspection {
  if (!existsSync(path)) {
    const above = nearestFolder(path);
    const fault = accessFault(above);
    return {
      errors: fault === null ? [] : [`it cannot be created in ${above}: ${fault}`],
      examined: "",
      isMissing: true,
    };
  }
  const fault = statSync(path).isDirectory() ? accessFault(path) : "it is not a folder";
  if (fault !== null) return { errors: [fault], examined: "", isMissing: false };
  const errors: string[] = [];
  const attempt = <T>(what: string, act: () => T): T | undefined => {
    try {
      return act();
    } catch (error) {
      errors.push(`${what}: ${(error as Error).message}`);
      return undefined;
    }
  };
  attempt(DATABASE, () => inspectDatabase(join(path, DATABASE)));
  const journal = join(path, "journal");
  const names = attempt("journal", () => (existsSync(journal) ? readdirSync(journal) : [])) ?? [];
  const folder = { names: () => names, open: (name: string) => ({ bytes: head(join(journal, name), LAST_BYTES + 1) }) };
  attempt("journal", () => announced(folder));
  const segments = segmentsOf(folder);
  for (const first of segments) {
    const name = segmentName(first);
    attempt(`journal/${name}`, () => inspectSegment(join(journal, name), first));
  }
  const lengths =
    segments.length === 1 ? "the length of 1 journal segment" : `the lengths of ${segments.length} journal segments`;
  const examined = `examined: the header of ${DATABASE}, ${lengths}`;
  return { errors, examined: `${examined}; a server checks every page and record when it starts`, isMissing: false };
}

/** The nearest folder above that path that exists. */
function nearestFolder(path: string): string {
  const above = dirname(resolve(path));
  return existsSync(above) ? above : nearestFolder(above);
}

function accessFault(folder: string): string | null {
  try {
    accessSync(folder, constants.R_OK | constants.W_OK | constants.X_OK);
    return statSync(folder).isDirectory() ? null : "it is not a folder";
  } catch (error) {
    return whyUnusable(error);
  }
}

/** The reason why a folder cannot be created or opened, in words for the operator. */
export function whyUnusable(error: unknown): string {
  const { code, message } = error as NodeJS.ErrnoException;
  if (code === "EACCES" || code === "EPERM") return "permission denied";
  if (code === "EROFS") return "the file system is read-only";
  if (code === "EEXIST") return "it is not a folder";
  if (code === "ENOTDIR") return "it is not in a folder";
  return message;
}

function inspectDatabase(file: string): void {
  const found = statSync(file, { throwIfNoEntry: false });
  if (found === undefined) return; // A server creates it.
  const bytes = head(file, SQLITE_HEADER_BYTES);
  if (found.size === 0) return; // As a killed server may leave it: the next one makes its tables.
  if (bytes.length < SQLITE_HEADER_BYTES || bytes.toString("latin1", 0, 16) !== SQLITE_MAGIC)
    throw new Error("it is not an SQLite database");
  if (bytes.readUInt32BE(VERSION_AT) > SCHEMA_VERSION) throw new Error("it was written by a newer Heartline");
  const pageBytes = bytes.readUInt16BE(PAGE_SIZE_AT);
  const expected = bytes.readUInt32BE(PAGES_AT) * (pageBytes === 1 ? PAGE_BYTES_MAX : pageBytes);
  // With a write-ahead log, its pages may be on their way into the file.
  if (found.size < expected && !existsSync(`${file}-wal`))
    throw new Error(`it is cut off: it has ${found.size} of ${expected} bytes`);
}

function inspectSegment(file: string, first: number): void {
  const found = statSync(file, { throwIfNoEntry: false });
  if (found === undefined) return; // A running server has freed it.
  if (!hasKnownLength(head(file, HEAD), first, JOURNAL_SEGMENT_BYTES, found.size))
    throw new Error(`it has ${found.size} bytes and not ${JOURNAL_SEGMENT_BYTES}; records may be missing`);
}

/** The first `count` bytes of a file, or fewer. Throws for a pipe or a device, which might never give any. */
function head(file: string, count: number): Buffer {
  const descriptor = openSync(file, constants.O_RDONLY | constants.O_NONBLOCK);
  try {
    if (!fstatSync(descriptor).isFile()) throw new Error(`${basename(file)} is not a regular file`);
    const bytes = Buffer.alloc(count);
    return bytes.subarray(0, readSync(descriptor, bytes, 0, count, 0));
  } finally {
    closeSync(descriptor);
  }
}
