import { Database } from "bun:sqlite";
import { openDatabase } from "../../src/storage/database.ts";
import { Journal } from "../../src/storage/journal.ts";
import { Recovery, seedOf } from "../../src/storage/recovery.ts";
import type { Preallocation, Segment, SegmentFolder } from "../../src/storage/segment.ts";
import type { TurnLog } from "../../src/storage/turn-log.ts";
import type { Random } from "../support/random.ts";
import { segmentIn } from "../support/segment.ts";

/** So small that some turns fill one. */
export const SEGMENT_BYTES = 2048;
/** Bytes of a record's head and of the checksum at its beginning, which is written last. */
const RECORD_HEAD = 16;
const CHECKSUM = 4;

/** Points of a turn at which a server is killed; null elsewhere stands for between two turns. */
export const KILL_POINTS = ["handled", "torn", "recorded", "uncommitted", "committed", "saved", "writing"] as const;
export type KillPoint = (typeof KILL_POINTS)[number];

/**
 * The database and the journal's segments, which survive restarts. A killed server runs to the end of its turn, but
 * nothing that it writes from then on reaches the disk.
 */
export class Disk implements SegmentFolder {
  readonly path = "journal";
  database: Database = this.#watched(openDatabase(":memory:", "process"));
  /** Full: commits and new segments fail. */
  refuses = false;
  isDead = false;
  /** The server is killed at that point of its next turn. */
  killPoint: KillPoint | null = null;
  /** Called after each complete record. */
  recorded: () => void = () => {};
  /** A double of SQLite's write-ahead log, which is being copied now and then. */
  readonly wal;
  readonly #random: Random;
  #files = new Map<string, Buffer>();
  /** The files at the moment of the kill. */
  #filesAtKill: Map<string, Buffer> | null = null;

  constructor(random: Random) {
    this.#random = random;
    this.wal = {
      get state() {
        return random.oneIn(3) ? "finishing" : "idle";
      },
      committed: () => {},
    };
  }

  /** The end of the simulation. */
  close(): void {
    Database.prototype.close.call(this.database);
  }

  /** The store commits through `run`: there is no other place to fail, or to be killed, within a commit. */
  #watched(database: Database): Database {
    const { run } = database;
    database.close = () => {};
    database.run = (sql, ...values) => {
      if (sql !== "COMMIT") return run.call(database, sql, ...(values as []));
      this.killAt("uncommitted");
      if (this.isDead || this.refuses) {
        run.call(database, "ROLLBACK");
        throw new Error("the disk refuses");
      }
      const done = run.call(database, sql);
      this.committed();
      this.killAt("committed");
      return done;
    };
    return database;
  }

  /** The server has committed. */
  protected committed(): void {}

  /** The record is complete. */
  protected kept(_body: Buffer): void {}

  /** A recovery is complete, and the journal is opened next. */
  protected recovered(): void {}

  /** The next start finds another database, and no journal. */
  protected replace(database: Database): void {
    this.close();
    this.database = this.#watched(database);
    this.removeFiles();
    this.refuses = false;
  }

  protected removeFiles(): void {
    this.#filesAtKill = null;
    this.#files = new Map();
  }

  names(): string[] {
    return [...this.#files.keys()];
  }

  open(name: string): Segment {
    return segmentIn(this.#files, name);
  }

  fill(name: string, bytes: number): Preallocation {
    let pieces = 3;
    return {
      step: () => {
        if (this.refuses) throw new Error("no room");
        if (--pieces > 0) return null;
        this.#files.set(name, Buffer.alloc(bytes));
        return this.open(name);
      },
    };
  }

  sync(): Promise<void> {
    return Promise.resolve();
  }

  syncNow(): void {}

  /** Kills the server when it is to be killed at that point. */
  killAt(death: KillPoint): boolean {
    if (this.killPoint !== death || this.isDead) return false;
    this.kill();
    return true;
  }

  /** Whether output to sockets is dropped. The server may be killed between the writes to two sockets. */
  get isGone(): boolean {
    if (this.killPoint === "writing" && this.#random.oneIn(2)) this.kill();
    return this.isDead;
  }

  kill(): void {
    this.killPoint = null;
    this.isDead = true;
    this.#filesAtKill = copied(this.#files);
  }

  /**
   * Recovery at the start of a server, which may be killed during it and is started again. Returns the journal, and how
   * many records were recovered.
   */
  start(unixMs: number): { journal: TurnLog; records: number } {
    if (this.#filesAtKill !== null) this.#files = this.#filesAtKill;
    this.#filesAtKill = null;
    this.isDead = false;
    this.killPoint = null;
    this.refuses = false; // A server does not start on a full disk.
    let isKilled = this.#random.oneIn(3);
    let records = -1;
    while (records < 0) {
      if (this.database.inTransaction) this.database.run("ROLLBACK");
      let steps = this.#random.between(1, 40);
      const progress = (): void => {
        if (isKilled && --steps === 0) throw new Error("killed");
      };
      try {
        records = new Recovery(this.database, this, { salvage: false, unixMs, progress }, SEGMENT_BYTES).run().records;
      } catch (error) {
        if (!isKilled || String(error) !== "Error: killed") throw error;
        isKilled = this.#random.oneIn(2);
      }
    }
    this.recovered();
    const { sequence } = this.database.query<{ sequence: number }, []>("SELECT sequence FROM progress").get()!;
    return { journal: this.newJournal(sequence, this.#random.between(1, 2)), records };
  }

  protected newJournal(sequence: number, segmentsKept: number): TurnLog {
    return new DiskJournal(this, sequence, segmentsKept);
  }

  /** Calls `append` of a journal for a record. The server may be killed within it or after it. */
  append(append: () => void, body: Buffer): void {
    const before = this.killPoint === "torn" ? copied(this.#files) : null;
    append();
    if (this.isDead) return;
    if (before !== null) return this.#tear(before);
    this.kept(body);
    this.recorded();
    this.killAt("recorded");
  }

  /** Kills the server within its last append: a part of the record is on the disk, in the order of the writes. */
  #tear(before: Map<string, Buffer>): void {
    this.kill();
    for (const [name, bytes] of this.#filesAtKill!) {
      const old = before.get(name) ?? Buffer.alloc(bytes.length);
      const first = bytes.findIndex((byte, i) => byte !== old[i]);
      if (first < 0) continue;
      const at = first - (first % 8);
      if (this.#random.oneIn(3)) old.copy(bytes, at, at, at + CHECKSUM);
      else {
        old.copy(bytes, at, at, at + RECORD_HEAD);
        const from = Math.min(bytes.length, at + RECORD_HEAD + this.#random.below(300));
        old.copy(bytes, from, from);
      }
    }
  }
}

class DiskJournal extends Journal {
  readonly #disk: Disk;

  constructor(disk: Disk, sequence: number, segmentsKept: number) {
    super(disk, sequence, seedOf(disk.database), SEGMENT_BYTES, segmentsKept);
    this.#disk = disk;
  }

  override append(body: Buffer, start: number, length: number, number: number): void {
    const copy = Buffer.from(body.subarray(start, start + length));
    this.#disk.append(() => super.append(body, start, length, number), copy);
  }
}

function copied(files: ReadonlyMap<string, Buffer>): Map<string, Buffer> {
  return new Map([...files].map(([name, bytes]) => [name, Buffer.from(bytes)]));
}
