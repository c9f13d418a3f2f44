/**
 * Makes one data folder of all shards of a cluster, for a server without a cluster. The shared log stays as it is, but
 * for the claim of shards whose owners were killed. Each shard is recovered as at a takeover, and what it has is added
 * to one database (storage/transfer.ts).
 *
 * The shards must be as they were at one moment, so no server may run meanwhile: the states of all shards are compared
 * at the end. And no request may be on its way from one shard to another.
 */
import { lstatSync, mkdirSync } from "node:fs";
import { open, rename, rm } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { version } from "../../package.json";
import { makePartial, whyFailed } from "../storage/backup-copy.ts";
import { DATABASE, StoreError } from "../storage/database.ts";
import { FileFolder } from "../storage/segment.ts";
import { inSlices } from "../runtime/slices.ts";
import { Merge, type Moved } from "../storage/transfer.ts";
import { claimOnce } from "./claim-once.ts";
import type { MoveOptions } from "./import.ts";
import { BEAT_MS, SILENCE_MS, WATCH_MS, isFree } from "./ownership.ts";
import { engine } from "./shard-backup.ts";
import type { ShardState, SharedLog } from "./shared-log.ts";
import { checkLastRecord, takeOver } from "./takeover.ts";
import { thenRemove } from "./temporary-folder.ts";

export interface ExportOptions extends MoveOptions {
  sleep?: (ms: number) => Promise<void>;
}

/** Makes the new folder `target`. Rejects with StoreError: then there is no such folder. */
export async function exportCluster(log: SharedLog, target: string, options: ExportOptions): Promise<Moved> {
  const path = resolve(target);
  try {
    if (lstatSync(path, { throwIfNoEntry: false }) !== undefined)
      throw new StoreError("it exists already; give the path of a new folder");
    const states = await claimAll(log, options.sleep ?? Bun.sleep);
    const partial = `${path}.partial`;
    makePartial(partial);
    return await thenRemove(partial, async () => {
      const moved = await fill(log, states, partial, options);
      compare(states, await engine(() => log.states()));
      await rename(partial, path);
      await new FileFolder(dirname(path)).sync();
      return moved;
    });
  } catch (error) {
    throw new StoreError(`cannot export to ${path}: ${whyFailed(error)}`);
  }
}

/**
 * Returns the states of all shards, when nobody owns any of them. A shard that its owner has not released is claimed
 * when the owner is silent, as a spare does it: an owner that was only paused cannot continue then.
 */
async function claimAll(log: SharedLog, sleep: (ms: number) => Promise<void>): Promise<ShardState[]> {
  const states = await engine(() => log.states());
  for (const [shard, state] of states.entries()) await engine(() => checkLastRecord(log, shard, state));
  if (states.every(isFree)) return states;
  for (let waitedMs = 0; waitedMs < SILENCE_MS + BEAT_MS; waitedMs += WATCH_MS) {
    await sleep(WATCH_MS);
    compare(states, await engine(() => log.states()));
  }
  for (const [shard, state] of states.entries()) {
    if (isFree(state)) continue;
    const epoch = await claimOnce(log, shard, state.head, { address: "", version, credentials: "" });
    if (epoch === 0) throw inUse(shard, await engine(() => log.state(shard)));
  }
  const claimed = await engine(() => log.states());
  const owned = claimed.findIndex((state) => !isFree(state));
  if (owned >= 0) throw inUse(owned, claimed[owned]!);
  return claimed;
}

/** Throws when a server owns a shard, or has owned one, since those states were read. */
function compare(before: readonly ShardState[], after: readonly ShardState[]): void {
  for (const [shard, { head, epoch, beat }] of before.entries()) {
    const state = after[shard]!;
    if (state.head !== head || state.epoch !== epoch || state.beat !== beat) throw inUse(shard, state);
  }
}

function inUse(shard: number, { owner }: ShardState): StoreError {
  const who = owner === null || owner.address === "" ? "a server" : `the server ${owner.address}`;
  return new StoreError(`${who} uses shard ${shard}; stop all servers of the cluster first`);
}

/** Everything is on the disk afterwards. */
async function fill(
  log: SharedLog,
  states: readonly ShardState[],
  folder: string,
  { progress, unixMs }: ExportOptions,
): Promise<Moved> {
  const file = join(folder, DATABASE);
  const merge = new Merge(file, states.length);
  try {
    for (const [shard, { head }] of states.entries()) {
      if (head === 0) continue;
      const ofShard = (part: number): void => progress((shard + part) / states.length);
      const copy = join(folder, `shard-${shard}`);
      mkdirSync(copy, { mode: 0o700 });
      const options = { unixMs, progress: (part: number) => ofShard(part / 2) };
      using source = (await engine(() => takeOver(log, shard, head, copy, options))).database;
      await inSlices(merge.add(source, shard, (part) => ofShard((1 + part) / 2)));
      source.close();
      await rm(copy, { recursive: true });
    }
    const [unheard] = merge.unheard;
    if (unheard !== undefined) {
      const { from, to, count } = unheard;
      const wait = count === 1 ? "1 request waits" : `${count} requests wait`;
      throw new StoreError(
        `${wait} in shard ${from} for shard ${to}; start the servers of the cluster, and stop them again when they ` +
          "are connected with each other",
      );
    }
    merge.end();
  } finally {
    merge.close();
  }
  const written = await open(file);
  await written.sync().finally(() => written.close());
  await new FileFolder(folder).sync();
  return merge.moved;
}
