import { statSync } from "node:fs";
import { rename, rm } from "node:fs/promises";
import { dirname, resolve } from "node:path";
import { BACKUP_ROOM_BYTES } from "../limits.ts";
import { BackupBusyError, STOPPING, refused } from "../storage/backup.ts";
import { checkRoom, checkTarget, makePartial, whyFailed } from "../storage/backup-copy.ts";
import { StoreError } from "../storage/database.ts";
import { FileFolder } from "../storage/segment.ts";
import { ClusterError, type SharedLog, lostRecords } from "./shared-log.ts";
import type { Snapshots } from "./snapshots.ts";
import { fillFolder } from "./takeover.ts";

/**
 * Backups of a shard: a data folder with everything that was acknowledged before the request, which an ordinary server
 * opens. It is filled from the shared log, as at a takeover (takeover.ts): the owner's own files are not needed.
 */
export class ShardBackup {
  readonly #log: SharedLog;
  readonly #shard: number;
  readonly #snapshots: Snapshots;
  /** The owner's database, which is about as large as the backup. */
  readonly #database: string;
  /** Number of the last record that was acknowledged to this process. */
  readonly #acknowledged: () => number;
  /** Resolves when the running backup has ended; null while there is none. */
  #running: Promise<unknown> | null = null;
  #isStopping = false;

  constructor(log: SharedLog, shard: number, snapshots: Snapshots, database: string, acknowledged: () => number) {
    this.#log = log;
    this.#shard = shard;
    this.#snapshots = snapshots;
    this.#database = database;
    this.#acknowledged = acknowledged;
  }

  /** Makes the new folder `target`. Rejects with StoreError: then there is no such folder. */
  async run(target: string): Promise<void> {
    if (this.#running !== null) throw new BackupBusyError("another backup is running; try again when it has ended");
    // No snapshot is published meanwhile: after it the records that this one reads are deleted.
    const running = this.#snapshots.exclusively(() => this.#make(target));
    this.#running = running.catch(() => {});
    try {
      await running;
    } catch (error) {
      throw refused(target, whyFailed(error));
    } finally {
      this.#running = null;
    }
  }

  async #make(target: string): Promise<void> {
    const path = resolve(target);
    const partial = `${path}.partial`;
    this.#checkStop();
    checkTarget(target, dirname(this.#database));
    const acknowledged = this.#acknowledged();
    const { head } = await engine(() => this.#log.state(this.#shard));
    if (head < acknowledged) throw new StoreError(lostRecords(this.#shard, head, acknowledged));
    makePartial(partial);
    try {
      const bytes = statSync(this.#database).size + this.#snapshots.logBytes;
      checkRoom(partial, bytes, BACKUP_ROOM_BYTES);
      await engine(() => fillFolder(this.#log, this.#shard, head, partial, true, () => this.#checkStop()));
      await new FileFolder(partial).sync();
      await rename(partial, path);
      await new FileFolder(dirname(path)).sync();
    } catch (error) {
      await rm(partial, { recursive: true, force: true });
      throw error;
    }
  }

  #checkStop(): void {
    if (this.#isStopping) throw new StoreError(STOPPING);
  }

  /** Ends a running backup, and refuses further ones. Resolves when its files are removed. */
  async stop(): Promise<void> {
    this.#isStopping = true;
    await this.#running;
  }
}

/** Errors of the engine become StoreError. */
export async function engine<Result>(act: () => Promise<Result>): Promise<Result> {
  try {
    return await act();
  } catch (error) {
    if (error instanceof StoreError) throw error;
    const { message } = error as Error;
    if (error instanceof ClusterError) throw new StoreError(message);
    throw new StoreError(`the shared log does not answer: ${message}; try again when it does`);
  }
}
