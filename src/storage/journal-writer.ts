import { type FileHandle, mkdir, open, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { JOURNAL_SEGMENT_BYTES } from "../limits.ts";
import { segmentName } from "./journal.ts";
import { HEAD, LAST_NAME, aligned, lastFile, writeHead } from "./record.ts";
import { FileFolder } from "./segment.ts";

/**
 * Writes the journal of a data folder that no server uses: a stream of records that exist elsewhere, with the numbers
 * that they have there. The event loop runs meanwhile, and memory has one chunk. (journal.ts writes the records of a
 * server, each complete when its turn ends.)
 */

/** Bytes that are written at a time. */
const CHUNK_BYTES = 1 << 20;
/** A segment has about this length, a multiple of the usual one: recovery maps one segment at a time. */
const SEGMENT_BYTES = 16 * JOURNAL_SEGMENT_BYTES;

export class JournalWriter {
  /** Number of the last record. */
  sequence: number;
  readonly #path: string;
  readonly #seed: number;
  /** Everything is on the disk when the journal is complete. */
  readonly #isSynced: boolean;
  /** The chunk: `#length` bytes, which begin with record `#first`. */
  #chunk = Buffer.alloc(CHUNK_BYTES);
  #length = 0;
  #first = 0;
  /** The newest segment, and how many bytes it has. */
  #file: FileHandle | null = null;
  #fileBytes = 0;

  /** The next record is `sequence` + 1. `path` is a new folder; its parent exists. */
  constructor(path: string, sequence: number, seed: number, isSynced: boolean) {
    this.#path = path;
    this.sequence = sequence;
    this.#seed = seed;
    this.#isSynced = isSynced;
  }

  /** Adds a record whose body is these pieces. `flush` is due when it returns false. */
  append(pieces: readonly Uint8Array[]): boolean {
    const length = pieces.reduce((sum, piece) => sum + piece.length, 0);
    const bytes = HEAD + aligned(length);
    if (this.#length + bytes > this.#chunk.length) this.#grow(this.#length + bytes);
    if (this.#length === 0) this.#first = this.sequence + 1;
    let at = this.#length + HEAD;
    for (const piece of pieces) {
      this.#chunk.set(piece, at);
      at += piece.length;
    }
    this.#length += bytes;
    this.#chunk.fill(0, at, this.#length);
    writeHead(this.#chunk, this.#length - bytes, ++this.sequence, length, this.#seed);
    return this.#length < CHUNK_BYTES;
  }

  #grow(bytesMin: number): void {
    const larger = Buffer.alloc(2 ** Math.ceil(Math.log2(bytesMin)));
    this.#chunk.copy(larger, 0, 0, this.#length);
    this.#chunk = larger;
  }

  /** Writes the chunk. */
  async flush(): Promise<void> {
    if (this.#length === 0) return;
    if (this.#fileBytes >= SEGMENT_BYTES) await this.#endSegment();
    if (this.#file === null) {
      await mkdir(this.#path, { recursive: true, mode: 0o700 });
      this.#file = await open(join(this.#path, segmentName(this.#first)), "wx", 0o600);
    }
    await this.#write(this.#chunk.subarray(0, this.#length));
    this.#length = 0;
    if (this.#chunk.length > 2 * CHUNK_BYTES) this.#chunk = Buffer.alloc(CHUNK_BYTES);
  }

  async #write(bytes: Uint8Array): Promise<void> {
    await writeFully(this.#file!, bytes, this.#fileBytes);
    this.#fileBytes += bytes.length;
  }

  /** The rest of a segment is zeros, and not a hole: a server uses it again, and a full disk must fail here. */
  async #endSegment(): Promise<void> {
    if (this.#file === null) return;
    const zeros = Buffer.alloc(CHUNK_BYTES);
    while (this.#fileBytes % JOURNAL_SEGMENT_BYTES !== 0) {
      const left = JOURNAL_SEGMENT_BYTES - (this.#fileBytes % JOURNAL_SEGMENT_BYTES);
      await this.#write(zeros.subarray(0, left));
    }
    if (this.#isSynced) await this.#file.datasync();
    await this.close();
  }

  /** Completes the journal. */
  async end(): Promise<void> {
    await this.flush();
    await this.#endSegment();
    await mkdir(this.#path, { recursive: true, mode: 0o700 });
    const options = { mode: 0o600, flush: this.#isSynced };
    await writeFile(join(this.#path, LAST_NAME), lastFile(this.sequence, this.#seed), options);
    if (this.#isSynced) await new FileFolder(this.#path).sync();
  }

  /** Closes the open file, if there is one. */
  async close(): Promise<void> {
    const file = this.#file;
    this.#file = null;
    this.#fileBytes = 0;
    await file?.close();
  }
}

/** Writes all the bytes, from that position of the file on. */
export async function writeFully(file: FileHandle, bytes: Uint8Array, position: number): Promise<void> {
  for (let done = 0; done < bytes.length;) {
    const { bytesWritten } = await file.write(bytes, done, bytes.length - done, position + done);
    done += bytesWritten;
  }
}
