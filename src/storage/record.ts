import { MappedRegion } from "./journal-entry.ts";

/**
 * The format of the journal's files: records in segments, and the file `last`, which announces the last complete
 * record. The entries in a record have their own format (journal-entry.ts).
 */

/** A record: crc32 of everything after it, bytes of the body, sequence number; then the body, and up to 7 bytes. */
export const HEAD = 16;
export const LENGTH = 4;
export const SEQUENCE = 8;
const ALIGNMENT = 8;
/**
 * The sequence numbers of a new journal begin this much after the last record of the journal before it. No journal has
 * as many records, so an old record in a segment that is used again is never read as the next record.
 */
export const SEQUENCE_SPAN = 2 ** 24;
/** The file that announces the last complete record; see `announced`. */
export const LAST_NAME = "last";
export const LAST_BYTES = 24;
/** No journal reaches this number: a higher one is damage. */
const SEQUENCE_MAX = 2 ** 52;

/** The content of the file `last`: these numbers, and the negated seed as a check. */
export interface Announced {
  /** Every record up to this one was written completely. */
  sequence: number;
  /** The seed of the checksums: see `RecordReader`. */
  seed: number;
}

/**
 * The file `last` decides whether a missing record was lost or never written: it has the number of the last complete
 * record, stored after that record (with durability `power` after its sync). Returns null when the file is missing;
 * throws when its content is invalid.
 */
export function announced(folder: { names(): string[]; open(name: string): { bytes: Buffer } }): Announced | null {
  if (!folder.names().includes(LAST_NAME)) return null;
  const { bytes } = folder.open(LAST_NAME);
  if (bytes.length !== LAST_BYTES) throw new Error(`${LAST_NAME} has ${bytes.length} of ${LAST_BYTES} bytes`);
  const { numbers } = new MappedRegion(bytes);
  const [sequence = 0, seed = 0, check] = numbers;
  const isNumber = Number.isInteger(sequence) && sequence >= 0 && sequence <= SEQUENCE_MAX;
  if (!isNumber || seed === 0 || check !== -seed) throw new Error(`${LAST_NAME} holds no record's number`);
  return { sequence, seed };
}

/**
 * A segment has a multiple of the usual length, or exactly the length of its one long record. `bytes` may be the
 * beginning of the segment only.
 */
export function hasKnownLength(bytes: Buffer, first: number, segmentBytes: number, length = bytes.length): boolean {
  if (length > 0 && length % segmentBytes === 0) return true;
  if (length <= segmentBytes || bytes.readDoubleLE(SEQUENCE) !== first) return false;
  return length === HEAD + aligned(bytes.readUInt32LE(LENGTH)); // Before version 5 of the database.
}

export function aligned(bytes: number): number {
  return Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;
}

/** Completes a record at `at` in `target`, whose body of `length` bytes is in its place already. */
export function writeHead(target: Buffer, at: number, sequence: number, length: number, seed: number): void {
  target.writeDoubleLE(sequence, at + SEQUENCE);
  target.writeUInt32LE(length, at + LENGTH);
  target.writeUInt32LE(Bun.hash.crc32(target.subarray(at + LENGTH, at + HEAD + length), seed), at);
}

/** The content of the file `last`. */
export function lastFile(sequence: number, seed: number): Buffer {
  const bytes = Buffer.alloc(LAST_BYTES);
  new MappedRegion(bytes).numbers.set([sequence, seed, -seed]);
  return bytes;
}

/**
 * Reads the records of a segment, one after another. Their checksums begin with a secret seed of this data folder: no
 * bytes from outside look like a record, neither in a message's text nor in a file of another folder.
 */
export class RecordReader {
  /** The number of the record that was read last; its body is bytes[start..end). */
  sequence: number;
  start = 0;
  end = 0;
  readonly bytes: Buffer;
  readonly #seed: number;
  #at = 0;

  /** `first` is the number of the segment's first record. */
  constructor(bytes: Buffer, first: number, seed: number) {
    this.bytes = bytes;
    this.sequence = first - 1;
    this.#seed = seed;
  }

  /** Where the next record begins. */
  get at(): number {
    return this.#at;
  }

  /** Reads the next record into the fields; false at the end of the records, and at damage: see `skipDamage`. */
  next(): boolean {
    return this.#readAt(this.#at, this.sequence + 1);
  }

  /**
   * After `next` returned false: reads the next valid record of the same run, and returns its number. 0 when there is
   * none, as at the end of an undamaged journal.
   */
  skipDamage(): number {
    for (let at = this.#at; at + HEAD <= this.bytes.length; at += ALIGNMENT) {
      const sequence = this.bytes.readDoubleLE(at + SEQUENCE);
      const ahead = sequence - this.sequence;
      if (ahead > 0 && ahead < SEQUENCE_SPAN && this.#readAt(at, sequence)) return sequence;
    }
    return 0;
  }

  #readAt(at: number, sequence: number): boolean {
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
