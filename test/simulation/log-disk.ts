import { Database } from "bun:sqlite";
import { openDatabase } from "../../src/storage/database.ts";
import { Journal } from "../../src/storage/journal.ts";
import { seedOf } from "../../src/storage/recovery.ts";
import { SQL } from "../../src/storage/sql.ts";
import type { Random } from "../support/random.ts";
import { Disk, SEGMENT_BYTES } from "./disk.ts";

/**
 * What remains of the owners of a shard: a log with the records of all of them, and now and then a snapshot. Each start
 * is a takeover: it recovers from the newest snapshot and all records after it, whoever wrote them.
 */
export class LogDisk extends Disk {
  /** The bodies of all records; the first one has number 1. Empty for the beginning of an owner. */
  readonly #log: Buffer[] = [];
  #snapshot: Uint8Array | null = null;
  #snapshotSequence = 0;
  /** One of so many commits is followed by a snapshot; 0: none is. */
  readonly #commitsPerSnapshot: number;
  readonly #choices: Random;
  #isServing = false;

  constructor(random: Random) {
    super(random);
    this.#choices = random;
    this.#commitsPerSnapshot = random.pick([0, 0, 1, 5, 40]);
  }

  protected override kept(sequence: number, body: Buffer): void {
    if (sequence !== this.#log.length + 1) throw new Error(`record ${sequence} after ${this.#log.length}`);
    this.#log.push(body);
  }

  protected override committed(): void {
    const every = this.#commitsPerSnapshot;
    if (!this.#isServing || every === 0 || !this.#choices.oneIn(every)) return;
    this.#snapshot = this.database.serialize();
    this.#snapshotSequence = this.database.query<{ sequence: number }, []>(SQL.selectProgress).get()!.sequence;
  }

  override start(unixMs: number): ReturnType<Disk["start"]> {
    const snapshot = this.#snapshot;
    this.#isServing = false;
    this.replace(snapshot === null ? openDatabase(":memory:", "process") : Database.deserialize(snapshot));
    const journal = new Journal(this, this.#snapshotSequence, seedOf(this.database), SEGMENT_BYTES);
    for (const body of this.#log.slice(this.#snapshotSequence)) journal.append(body, 0, body.length, 0);
    journal.announce();
    return { ...super.start(unixMs), records: 0 }; // A takeover recovers records after an orderly stop too.
  }

  protected override recovered(): void {
    this.#isServing = true;
    this.#log.push(Buffer.alloc(0)); // `Opened`.
    const { number } = this.database.query<{ number: number }, []>(SQL.selectProgress).get()!;
    this.database.query(SQL.updateProgress).run(this.#log.length, this.#log.length, number);
  }
}
