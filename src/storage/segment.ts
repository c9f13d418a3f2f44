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
  writev,
  writevSync,
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

/** The new segment that is filled in the background; null until it is. Throws when the disk has refused it. */
export type Preallocation = () => Segment | null;

/** A folder of segments. Its methods throw when the disk refuses. */
export interface SegmentFolder {
  readonly path: string;
  names(): string[];
  open(name: string): Segment;
  /**
   * A new segment, filled with zeros: a full disk fails here, and no write to the mapped file fails later. Throws
   * unless the disk has room for two of that size.
   */
  fill(name: string, bytes: number): Segment;
  /** The same in the background. */
  preallocate(name: string, bytes: number): Preallocation;
  /** The promise resolves when the names of the files are on the disk. */
  sync(): Promise<void>;
  /** The same, synchronously. */
  syncNow(): void;
}

const PIECE = Buffer.alloc(256 << 10);
/** Pieces in one system call. The kernel takes 1024. */
const PIECES_MAX = 64;

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

  fill(name: string, bytes: number): Segment {
    const descriptor = this.#create(name, bytes);
    try {
      for (let done = 0; done < bytes;) done += writevSync(descriptor, zeros(bytes - done), done);
    } catch (error) {
      this.#discard(name, descriptor);
      throw error;
    }
    closeSync(descriptor);
    return this.open(name);
  }

  preallocate(name: string, bytes: number): Preallocation {
    const descriptor = this.#create(name, bytes);
    let done = 0;
    let failure: Error | null = null;
    let isWriting = false;
    return () => {
      if (isWriting) return null;
      if (failure !== null) {
        this.#discard(name, descriptor);
        throw failure;
      }
      if (done === bytes) {
        closeSync(descriptor);
        return this.open(name);
      }
      isWriting = true;
      writev(descriptor, zeros(bytes - done), done, (error, count) => {
        isWriting = false;
        if (error === null) done += count;
        else failure = error;
      });
      return null;
    };
  }

  /** Creates a file, and returns its descriptor. */
  #create(name: string, bytes: number): number {
    mkdirSync(this.path, { recursive: true, mode: 0o700 });
    const { bavail, bsize } = statfsSync(this.path);
    if (bavail * bsize < 2 * bytes) throw new Error("no space left on the disk");
    return openSync(join(this.path, name), "w", 0o600);
  }

  #discard(name: string, descriptor: number): void {
    closeSync(descriptor);
    unlinkSync(join(this.path, name));
  }

  async sync(): Promise<void> {
    const folder = await open(this.path);
    await folder.sync().finally(() => folder.close());
  }

  syncNow(): void {
    syncFolder(this.path);
  }
}

/** The next buffers to write of that many zeros. */
function zeros(bytes: number): Buffer[] {
  if (bytes < PIECE.length) return [PIECE.subarray(0, bytes)];
  return new Array<Buffer>(Math.min(PIECES_MAX, Math.floor(bytes / PIECE.length))).fill(PIECE);
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
    const map = size === 0 ? new Uint8Array(0) : Bun.mmap(file, { shared: true });
    this.bytes = Buffer.from(map.buffer, map.byteOffset, map.byteLength);
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
