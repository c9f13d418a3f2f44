/**
 * Moves the contents of a data folder into a new cluster: what a server without a cluster has becomes the first
 * snapshots of the shards. The folder is only read.
 *
 * 1. A copy of the folder is recovered, as at the start of a server, and divided by shard (storage/transfer.ts).
 * 2. All shards are claimed by `Opened` records without an address, and with `imported: false` in their OwnerInfo. No
 *    server owns a shard of such a cluster (`checkLastRecord`), so an import that is cut off from here on is never
 *    served in part.
 * 3. The snapshots are published, each for the record of its claim.
 * 4. Only then the shards are marked with `imported: true`, one after another, and are free for servers.
 *
 * A repetition begins anew: while no server has owned a shard, it claims all of them again, and its snapshots replace
 * those of the import before. When a server owns one already, all snapshots were published: the last step is completed.
 */
import { Database } from "bun:sqlite";
import { closeSync, constants, existsSync, mkdirSync, mkdtempSync, openSync, readdirSync, statSync } from "node:fs";
import { copyFile, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { version } from "../../package.json";
import { BACKUP_ROOM_BYTES, SNAPSHOT_PART_BYTES } from "../limits.ts";
import { lock } from "../runtime/kernel.ts";
import { checkRoom, whyFailed } from "../storage/backup-copy.ts";
import { DATABASE, StoreError, asStoreError } from "../storage/database.ts";
import { DataFolder, FORMER_LOCK } from "../storage/data-folder.ts";
import { segmentName, segmentsOf } from "../storage/journal.ts";
import { whyUnusable } from "../storage/inspection.ts";
import { LAST_NAME } from "../storage/record.ts";
import { inSlices } from "../runtime/slices.ts";
import { SQL } from "../storage/sql.ts";
import { type Moved, split } from "../storage/transfer.ts";
import { claimOnce } from "./claim-once.ts";
import { engine } from "./shard-backup.ts";
import type { OwnerInfo, ShardState, SharedLog } from "./shared-log.ts";
import { partsOf } from "./snapshots.ts";
import { JOURNAL, recoverCopy } from "./takeover.ts";
import { thenRemove } from "./temporary-folder.ts";

/** Of a cluster's temporary folders: the next server removes those that a killed process has left. */
const PREFIX = "heartline-cluster-import-";

const RUNNING: OwnerInfo = { address: "", version, credentials: "", imported: false };
const COMPLETE: OwnerInfo = { ...RUNNING, imported: true };

export interface MoveOptions {
  /** The part that is done, from 0 to 1. */
  progress: (part: number) => void;
  /** The time at which the open sessions of a server that was killed end. */
  unixMs: number;
}

/** Rejects with StoreError. Null: an earlier import was complete but for its last step, which was made up for. */
export async function importFolder(log: SharedLog, data: string, options: MoveOptions): Promise<Moved | null> {
  if (await completeEarlier(log)) return null;
  checkUnused(await engine(() => log.states()));
  const unlock = lockFolder(data);
  try {
    const work = mkdtempSync(join(tmpdir(), PREFIX));
    return await thenRemove(work, async () => {
      const folder = new DataFolder(work); // Locked, so that no server removes it.
      try {
        return await move(log, data, work, options);
      } finally {
        folder.close();
      }
    });
  } finally {
    unlock();
  }
}

async function move(log: SharedLog, data: string, work: string, { progress, unixMs }: MoveOptions): Promise<Moved> {
  const files = Array.from({ length: log.shards }, (_, shard) => join(work, `shard-${shard}.sqlite`));
  const copy = join(work, "copy");
  let moved: Moved;
  try {
    await copyFolder(data, copy);
    const recovered = await recoverCopy(copy, false, { unixMs, progress: (part) => progress(part / 3) });
    using source = recovered.database;
    moved = await inSlices(split(source, files, (part) => progress((1 + part) / 3)));
  } catch (error) {
    const { message } = asStoreError(error, copy);
    throw new StoreError(`cannot import ${data}: ${message.replaceAll(copy, data)}`);
  }
  await publish(log, files, (part) => progress((2 + part) / 3));
  return moved;
}

/** An import was cut off in its last step when a server owns a shard and another one is not free. */
async function completeEarlier(log: SharedLog): Promise<boolean> {
  const states = await engine(() => log.states());
  if (states.every(isUnused) || states.every(({ owner }) => owner?.imported !== false)) return false;
  for (const [shard, { epoch, owner }] of states.entries())
    if (owner?.imported === false) await release(log, shard, epoch);
  return true;
}

async function release(log: SharedLog, shard: number, epoch: number): Promise<void> {
  if (!(await engine(() => log.beat(shard, epoch, COMPLETE)))) throw claimedByOther(shard);
}

/** No server has owned the shard. */
function isUnused({ head, owner }: ShardState): boolean {
  return head === 0 || owner?.imported !== undefined;
}

function checkUnused(states: readonly ShardState[]): void {
  const used = states.findIndex((state) => !isUnused(state));
  if (used < 0) return;
  throw new StoreError(
    `cannot import into this cluster: a server has owned shard ${used} already, and nothing was changed; ` +
      "create a new cluster for the import",
  );
}

function claimedByOther(shard: number): StoreError {
  return new StoreError(
    `another process has claimed shard ${shard} meanwhile; stop all servers and imports of the cluster`,
  );
}

/** Locks the folder, which no server uses then, and returns what unlocks it. Throws StoreError. */
function lockFolder(data: string): () => void {
  const refused = (why: string): StoreError => new StoreError(`cannot import ${data}: ${why}`);
  let descriptor: number;
  try {
    descriptor = openSync(data, constants.O_RDONLY | constants.O_DIRECTORY);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT" || code === "ENOTDIR") throw refused("there is no such folder; give the folder of --data");
    throw refused(`${whyUnusable(error)}; run this as the server's user`);
  }
  try {
    if (!existsSync(join(data, DATABASE)))
      throw refused(`it is not a data folder, since it has no ${DATABASE}; give the folder of --data`);
    const refusal = lock(descriptor);
    if (refusal === "taken") throw refused("a server uses it; stop that one");
    if (refusal !== null) throw refused(`it cannot be locked: ${refusal}`);
    if (existsSync(join(data, FORMER_LOCK)))
      throw refused("an earlier version has used it last; start this version on it once, and stop it");
    return () => closeSync(descriptor);
  } catch (error) {
    closeSync(descriptor);
    throw error;
  }
}

/** Copies the files that recovery reads. */
async function copyFolder(data: string, copy: string): Promise<void> {
  const journal = join(data, JOURNAL);
  const names = existsSync(journal) ? readdirSync(journal) : [];
  const segments = segmentsOf({ names: () => names }).map(segmentName);
  const inJournal = [...segments, LAST_NAME].map((name) => join(JOURNAL, name));
  const files = [DATABASE, `${DATABASE}-wal`, ...inJournal].filter((name) => existsSync(join(data, name)));
  const bytes = files.reduce((sum, name) => sum + statSync(join(data, name)).size, 0);
  try {
    mkdirSync(join(copy, JOURNAL), { recursive: true, mode: 0o700 });
    checkRoom(copy, 2 * bytes, BACKUP_ROOM_BYTES);
    for (const name of files) await copyFile(join(data, name), join(copy, name), constants.COPYFILE_FICLONE);
  } catch (error) {
    throw new StoreError(`its copy in ${tmpdir()} fails: ${whyFailed(error)}; TMPDIR names another folder for it`);
  }
}

/** Makes each file the first snapshot of its shard. */
async function publish(log: SharedLog, files: readonly string[], progress: (part: number) => void): Promise<void> {
  const states = await engine(() => log.states());
  checkUnused(states);
  const sizes = await Promise.all(files.map(async (file) => (await stat(file)).size));
  const bytes = sizes.reduce((sum, size) => sum + size, 0);
  const epochs: number[] = [];
  try {
    for (const [shard, { head }] of states.entries()) {
      const epoch = await claimOnce(log, shard, head, RUNNING);
      if (epoch === 0) throw claimedByOther(shard);
      epochs.push(epoch);
    }
    let done = 0;
    for (const [shard, file] of files.entries()) {
      const epoch = epochs[shard]!;
      label(file, epoch);
      const parts = async function* (): AsyncIterable<Uint8Array> {
        for await (const part of partsOf(file, Math.min(SNAPSHOT_PART_BYTES, log.recordBytesMax))) {
          yield part;
          progress((done += part.length) / bytes);
        }
      };
      if (!(await engine(() => log.publishSnapshot(shard, { epoch, sequence: epoch }, parts()))))
        throw claimedByOther(shard);
    }
    for (const [shard, epoch] of epochs.entries()) await release(log, shard, epoch);
  } catch (error) {
    const { message } = error as Error;
    throw new StoreError(`the import was cut off: ${message}; no server of the cluster starts before it is repeated`);
  }
  // Of earlier imports. What stays is trimmed after the next snapshot.
  await Promise.allSettled([...files.keys()].map((shard) => log.trim(shard)));
}

/** The database has everything up to that record, which is the one of the claim. */
function label(file: string, epoch: number): void {
  using database = new Database(file, { create: false, readwrite: true });
  const { number } = database.query<{ number: number }, []>(SQL.selectProgress).get()!;
  database.query(SQL.updateProgress).run(epoch, epoch, number);
}
