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

/** A file of fixed size, mapped into memory: what is stored into its bytes survives the end of this process. */
export interface Segment {
  name: string;
  readonly bytes: Buffer;
  rename(name: string): void;
  remove(): void;
  /** Whether its name still leads to it. */
  isThere(): boolean;
  /** What was stored by now is on the disk when the promise resolves; the loop goes on meanwhile. */
  sync(): Promise<void>;
  /** The same, and the loop waits. */
  syncNow(): void;
}

/** A segment that is being filled with zeros, so that a full disk shows here and nowhere else. */
export interface Preallocation {
  /** Writes the next piece; the segment when that was the last one. Throws when the disk refuses: that was all then. */
  step(): Segment | null;
}

/** Where segments are. Methods throw when the disk refuses. */
export interface SegmentFolder {
  readonly path: string;
  names(): string[];
  open(name: string): Segment;
  /** Begins a new segment, when there is room for it and as much again. */
  fill(name: string, bytes: number): Preallocation;
  /** The names too are on the disk when the promise resolves. */
  sync(): Promise<void>;
  /** The same, and the loop waits. */
  syncNow(): void;
}

const PIECE = Buffer.alloc(256 << 10);

/** Segments as files of a folder, which is made when there is something to put into it. */
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

/** The names of a folder are on the disk when it returns. */
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
    const empty = size === 0;
    this.#inode = ino;
    const map = empty ? new Uint8Array(0) : Bun.mmap(file, { shared: true });
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
