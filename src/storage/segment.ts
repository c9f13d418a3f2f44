import {
  closeSync,
  existsSync,
  fdatasync,
  fdatasyncSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  renameSync,
  statSync,
  statfsSync,
  unlinkSync,
  writeSync,
} from "node:fs";
import { open } from "node:fs/promises";
import { join } from "node:path";

/**
 * Files of the journal, mapped into memory, and the folder they are in. What they contain is not known here
 * (journal.ts, record.ts).
 */

/** A file of fixed size, mapped into memory: bytes that are written to it survive the end of this process. */
export interface Segment {
  name: string;
  readonly bytes: Buffer;
  rename(name: string): void;
  remove(): void;
  /** Whether a file of its name is still this one. */
  isThere(): boolean;
  /** The promise resolves when all bytes that were written before the call are on the disk. */
  sync(): Promise<void>;
  /** The same, synchronously. */
  syncNow(): void;
}

/** Fills a new file with zeros. A full disk fails here, and no write to the mapped file fails later. */
export interface Preallocation {
  /** Writes the next piece; the segment after the last one. When the disk refuses, it removes the file and throws. */
  step(): Segment | null;
}

/** A folder of segments. Its methods throw when the disk refuses. */
export interface SegmentFolder {
  readonly path: string;
  names(): string[];
  open(name: string): Segment;
  /** Begins a new segment. Throws unless the disk has room for two of that size. */
  fill(name: string, bytes: number): Preallocation;
  /** The promise resolves when the names of the files are on the disk. */
  sync(): Promise<void>;
  /** The same, synchronously. */
  syncNow(): void;
}

const PIECE = Buffer.alloc(256 << 10);

/** Segments as files of a folder. The folder is created with its first file. */
export class FileFolder implements SegmentFolder {
  readonly path: string;

  constructor(path: string) {
    this.path = path;
  }

  names(): string[] {
    return existsSync(this.path) ? readdirSync(this.path) : [];
  }

  open(name: string): Segment {
    return new FileSegment(this.path, name);
  }

  fill(name: string, bytes: number): Preallocation {
    mkdirSync(this.path, { recursive: true, mode: 0o700 });
    const { bavail, bsize } = statfsSync(this.path);
    if (bavail * bsize < 2 * bytes) throw new Error("no space left on the disk");
    const file = join(this.path, name);
    const descriptor = openSync(file, "w", 0o600);
    let done = 0;
    return {
      step: () => {
        try {
          done += writeSync(descriptor, PIECE, 0, Math.min(PIECE.length, bytes - done), done);
        } catch (error) {
          closeSync(descriptor);
          unlinkSync(file);
          throw error;
        }
        if (done < bytes) return null;
        closeSync(descriptor);
        return this.open(name);
      },
    };
  }

  async sync(): Promise<void> {
    const folder = await open(this.path);
    await folder.sync().finally(() => folder.close());
  }

  syncNow(): void {
    syncFolder(this.path);
  }
}

/** Syncs the names of a folder's files to the disk. */
export function syncFolder(path: string): void {
  const descriptor = openSync(path, "r");
  try {
    fsyncSync(descriptor);
  } finally {
    closeSync(descriptor);
  }
}

/** A file that is not empty, mapped into memory. */
export function mapped(file: string): Buffer {
  const map = Bun.mmap(file, { shared: true });
  return Buffer.from(map.buffer, map.byteOffset, map.byteLength);
}

class FileSegment implements Segment {
  name: string;
  readonly bytes: Buffer;
  readonly #folder: string;
  readonly #descriptor: number;
  readonly #inode: number;

  constructor(folder: string, name: string) {
    const file = join(folder, name);
    this.name = name;
    this.#folder = folder;
    this.#descriptor = openSync(file, "r+");
    const { size, ino } = statSync(file);
    this.#inode = ino;
    this.bytes = size === 0 ? Buffer.alloc(0) : mapped(file);
  }

  rename(name: string): void {
    renameSync(join(this.#folder, this.name), join(this.#folder, name));
    this.name = name;
  }

  remove(): void {
    closeSync(this.#descriptor);
    unlinkSync(join(this.#folder, this.name));
  }

  isThere(): boolean {
    return statSync(join(this.#folder, this.name), { throwIfNoEntry: false })?.ino === this.#inode;
  }

  sync(): Promise<void> {
    return new Promise((resolve, reject) => {
      fdatasync(this.#descriptor, (error) => (error === null ? resolve() : reject(error)));
    });
  }

  syncNow(): void {
    fdatasyncSync(this.#descriptor);
  }
}
