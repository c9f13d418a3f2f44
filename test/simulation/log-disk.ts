import { Database } from "bun:sqlite";
import type { Appender } from "../../src/cluster/appender.ts";
import { SharedJournal } from "../../src/cluster/shared-journal.ts";
import { openDatabase } from "../../src/storage/database.ts";
import { Journal } from "../../src/storage/journal.ts";
import { seedOf } from "../../src/storage/recovery.ts";
import { SQL } from "../../src/storage/sql.ts";
import type { TurnLog } from "../../src/storage/turn-log.ts";
import type { Random } from "../support/random.ts";
import { Disk, SEGMENT_BYTES } from "./disk.ts";

/** So few that some turns are several records. */
const RECORD_BYTES_MAX = 300;

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
    this.#commitsPerSnapshot = random.pick([0, 1, 1, 3, 10]);
  }

  protected override kept(body: Buffer): void {
    for (let part = 1; part < partsOf(body); part++) this.#log.push(Buffer.alloc(0));
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
    this.removeFiles();
    this.#log.push(Buffer.alloc(0)); // `Opened`.
    const { number } = this.database.query<{ number: number }, []>(SQL.selectProgress).get()!;
    this.database.query(SQL.updateProgress).run(this.#log.length, this.#log.length, number);
  }

  protected override newJournal(sequence: number, segmentsKept: number): TurnLog {
    if (sequence !== this.#log.length) throw new Error(`the log ends with ${this.#log.length} and not ${sequence}`);
    return new LogJournal(this, sequence, segmentsKept);
  }
}

/** How many records a turn needs. */
function partsOf({ length }: Buffer): number {
  return Math.max(1, Math.ceil(length / RECORD_BYTES_MAX));
}

/** The journal of an owner, on an engine that stores each record at once, or kills the server. */
class LogJournal extends SharedJournal {
  readonly #disk: LogDisk;

  constructor(disk: LogDisk, head: number, segmentsKept: number) {
    const encode = (body: Buffer): Buffer[] => Array.from({ length: partsOf(body) }, () => body);
    super({ head, encode } as Appender, () => 0, 2 * RECORD_BYTES_MAX, segmentsKept);
    this.#disk = disk;
  }

  override get isSynced(): boolean {
    return true;
  }

  override append(body: Buffer, start: number, length: number, number: number): void {
    const copy = Buffer.from(body.subarray(start, start + length));
    this.#disk.append(() => super.append(body, start, length, number), copy);
  }
}
