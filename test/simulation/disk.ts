import type { Database } from "bun:sqlite";
import { openDatabase } from "../../src/storage/database.ts";
import { Journal } from "../../src/storage/journal.ts";
import { Recovery, seedOf } from "../../src/storage/recovery.ts";
import type { Preallocation, Segment, SegmentFolder } from "../../src/storage/segment.ts";
import type { Random } from "../support/random.ts";
import { segmentIn } from "../support/segment.ts";

/** So small that some turns fill one. */
const SEGMENT_BYTES = 2048;
/** A record's head: its last bytes to be stored are the first ones, the checksum. */
const RECORD_HEAD = 16;
const CHECKSUM = 4;

/** When a server is killed: between its turns, or at one of these in the next one. */
export const DEATHS = ["handled", "torn", "recorded", "uncommitted", "committed", "saved", "writing"] as const;
export type Death = (typeof DEATHS)[number];

/**
 * What outlives a server: the database and the journal's segments. A server that is dead goes on to the end of its turn,
 * since it is in the middle of it, but nothing of that reaches the disk.
 */
export class Disk implements SegmentFolder {
  readonly path = "journal";
  readonly database: Database = openDatabase(":memory:", "process");
  /** It has no room for anything new. */
  refuses = false;
  isDead = false;
  /** The server will be killed there. */
  death: Death | null = null;
  /** Hears of every record that is on the disk as a whole. */
  recorded: () => void = () => {};
  /** The machine is gone, not only a server. */
  readonly close: () => void;
  /** Now and then it is being copied. */
  readonly wal;
  readonly #random: Random;
  #files = new Map<string, Buffer>();
  /** As it was when the server died. */
  #left: Map<string, Buffer> | null = null;

  constructor(random: Random) {
    this.#random = random;
    this.wal = {
      get state() {
        return random.oneIn(3) ? "finishing" : "idle";
      },
      committed: () => {},
    };
    const { run, close } = this.database;
    this.database.close = () => {};
    this.close = () => close.call(this.database);
    this.database.run = (sql, ...values) => {
      if (sql !== "COMMIT") return run.call(this.database, sql, ...(values as []));
      this.dies("uncommitted");
      if (this.isDead || this.refuses) {
        run.call(this.database, "ROLLBACK");
        throw new Error("the disk refuses");
      }
      const done = run.call(this.database, sql);
      this.dies("committed");
      return done;
    };
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

  /** If the server is to be killed here, it is. */
  dies(death: Death): boolean {
    if (this.death !== death || this.isDead) return false;
    this.die();
    return true;
  }

  /** Whether what the server writes to a socket goes nowhere: it may be killed between two sockets. */
  get isGone(): boolean {
    if (this.death === "writing" && this.#random.oneIn(2)) this.die();
    return this.isDead;
  }

  die(): void {
    this.death = null;
    this.isDead = true;
    this.#left = copied(this.#files);
  }

  /**
   * A server starts, after what the one before left; it may be killed while it recovers, too. Returns its journal, and
   * how many records it found.
   */
  start(unixMs: number): { journal: Journal; records: number } {
    if (this.#left !== null) this.#files = this.#left;
    this.#left = null;
    this.isDead = false;
    this.death = null;
    this.refuses = false; // No server starts without room.
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
    const { sequence } = this.database.query<{ sequence: number }, []>("SELECT sequence FROM progress").get()!;
    const journal = new Journal(this, sequence, seedOf(this.database), SEGMENT_BYTES, this.#random.between(1, 2));
    const { append } = journal;
    journal.append = (...record) => {
      const before = this.death === "torn" ? copied(this.#files) : null;
      append.apply(journal, record);
      if (this.isDead) return;
      if (before !== null) return this.#tear(before);
      this.recorded();
      this.dies("recorded");
    };
    return { journal, records };
  }

  /** Of the record that was just appended only a part is there, in the order in which it was stored. */
  #tear(before: Map<string, Buffer>): void {
    this.die();
    for (const [name, bytes] of this.#left!) {
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

function copied(files: ReadonlyMap<string, Buffer>): Map<string, Buffer> {
  return new Map([...files].map(([name, bytes]) => [name, Buffer.from(bytes)]));
}
