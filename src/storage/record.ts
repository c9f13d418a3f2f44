import { MappedRegion } from "./journal-entry.ts";
import type { SegmentFolder } from "./segment.ts";

/** The format of the journal's files: records in segments, and the file that announces the last one. */

/** A record: crc32 of all that follows, bytes of the body, sequence number; then the body, and up to 7 bytes more. */
export const HEAD = 16;
export const LENGTH = 4;
export const SEQUENCE = 8;
const ALIGNMENT = 8;
/**
 * A new journal begins this many numbers after the last record of the one before, which is more than any journal has:
 * old records in a segment that is used again are never taken for the next record.
 */
export const SEQUENCE_SPAN = 2 ** 24;
/** The file that announces the last complete record; see `announced`. */
export const LAST_NAME = "last";
export const LAST_BYTES = 24;
/** No journal gets so far; a number beyond it is garbage. */
const SEQUENCE_MAX = 2 ** 52;

/** Content of the file `last`: these numbers, and the negated seed as a check. */
export interface Announced {
  /** Every record up to this one was written completely. */
  sequence: number;
  /** Of the checksums: see `RecordReader`. */
  seed: number;
}

/**
 * The file `last` decides whether a missing record was lost or never written: it has the number of the last complete
 * record, stored after that record (with durability `power` after its sync). Returns null when the file is missing;
 * throws when its content is invalid.
 */
export function announced(folder: SegmentFolder): Announced | null {
  if (!folder.names().includes(LAST_NAME)) return null;
  const { bytes } = folder.open(LAST_NAME);
  if (bytes.length !== LAST_BYTES) throw new Error(`${LAST_NAME} has ${bytes.length} of ${LAST_BYTES} bytes`);
  const { numbers } = new MappedRegion(bytes);
  const [sequence = 0, seed = 0, check] = numbers;
  const isNumber = Number.isInteger(sequence) && sequence >= 0 && sequence <= SEQUENCE_MAX;
  if (!isNumber || seed === 0 || check !== -seed) throw new Error(`${LAST_NAME} holds no record's number`);
  return { sequence, seed };
}

/** The length of every segment is known: a multiple of the ordinary one, or what its one long record needs. */
export function hasKnownLength(bytes: Buffer, first: number, segmentBytes: number): boolean {
  if (bytes.length > 0 && bytes.length % segmentBytes === 0) return true;
  if (bytes.length <= segmentBytes || bytes.readDoubleLE(SEQUENCE) !== first) return false;
  return bytes.length === HEAD + aligned(bytes.readUInt32LE(LENGTH)); // As versions before 5 of the database did it.
}

export function aligned(bytes: number): number {
  return Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;
}

/**
 * The records of a segment, one after another. Their checksums begin with a number that only this data folder knows: so
 * nothing that came from outside looks like a record, be it in a message's text or in another folder's file.
 */
export class RecordReader {
  /** The record is bytes[start..end), and this its number. */
  sequence: number;
  start = 0;
  end = 0;
  readonly bytes: Buffer;
  readonly #seed: number;
  #at = 0;

  /** `first`: the number of the segment's first record. */
  constructor(bytes: Buffer, first: number, seed: number) {
    this.bytes = bytes;
    this.sequence = first - 1;
    this.#seed = seed;
  }

  /** Where the next record should begin. */
  get at(): number {
    return this.#at;
  }

  /** The next record into the fields; false when the records end here, well or not: see `goOn`. */
  next(): boolean {
    return this.#take(this.#at, this.sequence + 1);
  }

  /**
   * After invalid bytes: finds the next valid record of the same run. Returns its number, and `next` reads the one
   * after it; 0 when there is none, as at the end of a healthy journal.
   */
  goOn(): number {
    for (let at = this.#at; at + HEAD <= this.bytes.length; at += ALIGNMENT) {
      const sequence = this.bytes.readDoubleLE(at + SEQUENCE);
      const ahead = sequence - this.sequence;
      if (ahead > 0 && ahead < SEQUENCE_SPAN && this.#take(at, sequence)) return sequence;
    }
    return 0;
  }

  #take(at: number, sequence: number): boolean {
    const { bytes } = this;
    if (at + HEAD > bytes.length || bytes.readDoubleLE(at + SEQUENCE) !== sequence) return false;
    const end = at + HEAD + bytes.readUInt32LE(at + LENGTH);
    if (end > bytes.length) return false;
    if (bytes.readUInt32LE(at) !== Bun.hash.crc32(bytes.subarray(at + LENGTH, end), this.#seed)) return false;
    this.sequence = sequence;
    this.start = at + HEAD;
    this.end = end;
    this.#at = at + HEAD + aligned(end - this.start);
    return true;
  }
}
