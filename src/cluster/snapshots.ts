import type { Database } from "bun:sqlite";
import { open, rm, stat } from "node:fs/promises";
import { RECORD_COST_BYTES, SNAPSHOT_LOG_BYTES_MIN, SNAPSHOT_PART_BYTES, SNAPSHOT_RETRY_MS } from "../limits.ts";
import { Thread } from "../runtime/thread.ts";
import { SQL } from "../storage/sql.ts";
import type { TurnLog } from "../storage/turn-log.ts";
import { WORKERS } from "../workers.ts";
import type { SharedLog } from "./shared-log.ts";
import type { Filled } from "./takeover.ts";

/**
 * The owner's snapshots: a copy of its database becomes the beginning of the shared log, and the records that it
 * contains are deleted. So neither the log nor the time of a takeover grows without bound.
 *
 * - The copy is labelled with `progress.sequence` of the copy itself. It may contain changes of later turns, as the
 *   database after a crash may: replay repeats these.
 * - Turns are in the database before they are in the shared log, and perhaps never get there. So a copy is published
 *   when the shared log has every turn that it may contain.
 */

export interface CopyRequest {
  database: string;
  /** The new file. */
  target: string;
}

/** `sequence`: the copy contains everything up to this record; `newest`: the last record that it has changes of. */
export type CopyReply = { sequence: number; newest: number } | { failed: string };

export interface SnapshotOptions {
  log: SharedLog;
  shard: number;
  /** Of this owner. */
  epoch: number;
  journal: Pick<TurnLog, "sequence" | "bytesWritten" | "sync">;
  database: Database;
  /** What the shared log had at the takeover. */
  filled: Filled;
  published: (snapshot: Published) => void;
  /** Called once for consecutive failures. A later call of `step` tries again. */
  failed: (error: Error) => void;
  /** See SNAPSHOT_LOG_BYTES_MIN. */
  logBytesMin?: number;
  /** Copies the database; by default a thread does. */
  copy?: (request: CopyRequest) => Promise<CopyReply>;
}

export interface Published {
  /** The last record that it contains. */
  sequence: number;
  bytes: number;
  /** Of the log since the snapshot before. */
  logBytes: number;
}

export class Snapshots {
  /** How many were published. */
  count = 0;
  /** The last record that the current snapshot contains. */
  sequence: number;
  readonly #options: SnapshotOptions;
  readonly #copy: (request: CopyRequest) => Promise<CopyReply>;
  /** Bytes of the log since the snapshot, without those that the journal has counted after `#countedFrom`. */
  #logBytes: number;
  #countedFrom = 0;
  /** Resolves when the work that was asked for is done: a snapshot and a backup do not overlap. */
  #last: Promise<unknown> = Promise.resolve();
  #isRunning = false;
  #isStopped = false;
  /** After a failure: the time of the next try. */
  #retryMs = Number.NEGATIVE_INFINITY;
  #hasFailed = false;

  constructor(options: SnapshotOptions) {
    this.#options = options;
    this.#copy = options.copy ?? newThread();
    this.sequence = options.filled.snapshot;
    this.#logBytes = options.filled.logBytes;
  }

  /** Bytes of the log that a takeover would read now. */
  get logBytes(): number {
    return this.#logBytes + this.#options.journal.bytesWritten - this.#countedFrom;
  }

  /** To read the log takes a takeover longer than to read that many bytes. */
  #isLongerThan(bytes: number): boolean {
    const records = this.#options.journal.sequence - this.sequence;
    return this.logBytes > bytes || records * RECORD_COST_BYTES > Math.max(bytes, SNAPSHOT_LOG_BYTES_MIN);
  }

  /** Called about once a second: begins a snapshot when one is due. */
  step(nowMs: number): void {
    const { logBytesMin = SNAPSHOT_LOG_BYTES_MIN } = this.#options;
    if (this.#isRunning || this.#isStopped || nowMs < this.#retryMs || !this.#isLongerThan(logBytesMin)) return;
    this.#isRunning = true;
    void this.exclusively(() => this.#take())
      .then(
        () => void (this.#hasFailed = false),
        (error: Error) => {
          this.#retryMs = nowMs + SNAPSHOT_RETRY_MS;
          if (this.#hasFailed || this.#isStopped) return;
          this.#hasFailed = true;
          this.#options.failed(error);
        },
      )
      .finally(() => void (this.#isRunning = false));
  }

  /** Calls `act` when no snapshot is being taken; none begins before its promise is resolved. */
  exclusively<Result>(act: () => Promise<Result>): Promise<Result> {
    const acted = this.#last.then(act);
    this.#last = acted.catch(() => {});
    return acted;
  }

  /** No further snapshot begins. A running one is given up with the process: its parts are of no use to anybody. */
  stop(): void {
    this.#isStopped = true;
  }

  async #take(): Promise<void> {
    const { database, journal, log, shard, published } = this.#options;
    const { filename } = database;
    const { bytes } = database.query<{ bytes: number }, []>(SQL.selectSize).get()!;
    const { sequence: moved } = database.query<{ sequence: number }, []>(SQL.selectProgress).get()!;
    if (this.#isStopped || !this.#isLongerThan(bytes) || moved <= this.sequence) return;
    const { logBytes } = this;
    const writtenBytes = journal.bytesWritten;
    const target = `${filename}-snapshot`;
    try {
      const copied = await this.#copy({ database: filename, target });
      if ("failed" in copied) throw new Error(`the database cannot be copied: ${copied.failed}`);
      await journal.sync();
      const { sequence } = copied;
      if (this.#isStopped || !(await this.#publish(sequence, target))) return;
      this.count++;
      this.sequence = sequence;
      this.#logBytes = 0;
      this.#countedFrom = writtenBytes;
      published({ sequence, bytes: (await stat(target)).size, logBytes });
    } finally {
      await rm(target, { force: true });
    }
    await log.trim(shard);
  }

  /** False when another process is the owner. */
  async #publish(sequence: number, file: string): Promise<boolean> {
    const { log, shard, epoch } = this.#options;
    const partBytes = Math.min(SNAPSHOT_PART_BYTES, log.recordBytesMax);
    if (await log.publishSnapshot(shard, { epoch, sequence }, partsOf(file, partBytes))) return true;
    // An earlier try may have succeeded without its answer.
    const state = await log.state(shard);
    return state.epoch === epoch && state.snapshot === sequence;
  }
}

/** The bytes of a file, in parts. Each one has memory of its own: the engine may keep several. */
export async function* partsOf(path: string, bytes: number): AsyncIterable<Uint8Array> {
  const file = await open(path);
  try {
    for (;;) {
      const { buffer, bytesRead } = await file.read(Buffer.allocUnsafeSlow(bytes), 0, bytes);
      if (bytesRead === 0) return;
      yield buffer.subarray(0, bytesRead);
    }
  } finally {
    await file.close();
  }
}

/** A thread that copies. */
function newThread(): (request: CopyRequest) => Promise<CopyReply> {
  let reply = Promise.withResolvers<CopyReply>();
  const thread = new Thread<CopyRequest, CopyReply>(
    WORKERS.snapshot,
    (answer) => reply.resolve(answer),
    (message) => reply.resolve({ failed: `the thread ended: ${message}` }),
  );
  return (request) => {
    reply = Promise.withResolvers();
    thread.ask(request);
    return reply.promise;
  };
}
