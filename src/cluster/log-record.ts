/**
 * The format of a record of the shared log: a head, and a body. The owner and the counter in the head make the bytes of
 * each record unique, so that a process recognizes its own ones.
 */
import { ClusterError, type OwnerInfo } from "./shared-log.ts";

/**
 * - Opened: a process has become the owner. It fences all earlier owners; the body is its OwnerInfo in JSON.
 * - Turn: the body has the journal entries of one turn (storage/journal-entry.ts), or part `part` of `parts` of them.
 */
export const RecordKind = { Opened: 1, Turn: 2 } as const;
export type RecordKind = (typeof RecordKind)[keyof typeof RecordKind];

export interface LogRecord {
  kind: RecordKind;
  /** Identifies an owner; random for each claim. */
  owner: Buffer;
  /** Counts the records of that owner, from 1. */
  counter: number;
  /** From 1 to `parts`: a body that is too long for one record is in several ones, cut anywhere. */
  part: number;
  parts: number;
  body: Buffer;
}

/**
 * Increased when a reader of the version before could not read what the writer of a record may write: a record, an
 * entry in it, or a snapshot. Such a process does not claim the shard (`checkLastRecord`). Earlier formats can be read:
 * 1 has no entries Heard, and snapshots of version 7 of the database.
 */
const FORMAT = 2;
/** Format and kind; part, parts and counter; owner. A multiple of 8, since journal entries are aligned. */
const KIND = 1;
const PART = 4;
const PARTS = 8;
const COUNTER = 16;
const OWNER = 24;
export const OWNER_BYTES = 16;
export const RECORD_HEAD_BYTES = OWNER + OWNER_BYTES;

export function encodeRecord({ kind, owner, counter, part, parts, body }: LogRecord): Buffer {
  const record = Buffer.alloc(RECORD_HEAD_BYTES + body.length);
  record[0] = FORMAT;
  record[KIND] = kind;
  record.writeUInt32LE(part, PART);
  record.writeUInt32LE(parts, PARTS);
  record.writeDoubleLE(counter, COUNTER);
  owner.copy(record, OWNER);
  body.copy(record, RECORD_HEAD_BYTES);
  return record;
}

/** Throws ClusterError when the record is of another version of the program, or of another program. */
export function decodeRecord(bytes: Uint8Array): LogRecord {
  const record = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
  const format = record[0] ?? 0;
  if (format < 1 || format > FORMAT || record.length < RECORD_HEAD_BYTES) {
    throw new ClusterError(
      `the shared log has a record of format ${format}, and this version reads formats up to ${FORMAT}; ` +
        "start the version of the other processes",
    );
  }
  const kind = record[KIND] as RecordKind;
  const part = record.readUInt32LE(PART);
  const parts = record.readUInt32LE(PARTS);
  const counter = record.readDoubleLE(COUNTER);
  const isKnown = kind === RecordKind.Turn || kind === RecordKind.Opened;
  if (!isKnown || part < 1 || part > parts) {
    throw new ClusterError(
      "the shared log has a record that this version cannot read; it is damaged, or of a newer one",
    );
  }
  const owner = record.subarray(OWNER, RECORD_HEAD_BYTES);
  return { kind, owner, counter, part, parts, body: record.subarray(RECORD_HEAD_BYTES) };
}

/** The OwnerInfo in the body of an `Opened`. */
export function openedInfo({ body }: LogRecord): OwnerInfo {
  return JSON.parse(body.toString()) as OwnerInfo;
}

/** How many records a turn's body needs. */
export function partsOf(bodyBytes: number, recordBytesMax: number): number {
  return Math.max(1, Math.ceil(bodyBytes / (recordBytesMax - RECORD_HEAD_BYTES)));
}
