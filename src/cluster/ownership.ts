/**
 * How a process becomes the owner of a shard: it watches the owner, and claims the shard when the owner gives no sign
 * of life. The claim itself is a record that only one process can append; this file decides when to try. What an owner
 * appends is not here (appender.ts).
 */
import type { Appender } from "./appender.ts";
import { ClusterError, type OwnerInfo, type SharedLog, type ShardState } from "./shared-log.ts";

/** The only shard. */
export const SHARD = 0;
/** Interval of a spare's reads. */
export const WATCH_MS = 250;
/** An owner without a sign of life for this long may be replaced. */
export const SILENCE_MS = 3_000;
/** An owner that has nothing to append gives a sign of life at this interval. */
export const BEAT_MS = 1_000;
/** A write without an answer for this long is reported. */
const AWAY_MS = 2_000;
/** Between two reads, or during one, more time than this has passed: the engine or this process was away. */
const GAP_MS = 1_000;

/**
 * The rule of a spare: the owner is silent when the state of the shard has not changed for SILENCE_MS. Only this
 * process's monotonic clock counts, and only time in which its own reads succeed: the engine may have been away, or
 * this process paused, and the owner well.
 */
export class Watch {
  /** What the last successful read showed; empty after an outage. */
  #seen = "";
  /** When the read ended that first showed it. */
  #sinceMs = 0;
  /** The end of the last successful read. */
  #lastMs = 0;
  /** The highest head so far: records up to it were acknowledged. */
  #headMax = 0;

  /**
   * A read from `beganMs` to `endedMs` had this result. "claim": the shard may be claimed after record `state.head`;
   * "alive": the owner has given a sign of life since the read before.
   */
  read(state: ShardState, beganMs: number, endedMs: number): "claim" | "alive" | "unknown" {
    const seen = `${state.head} ${state.epoch} ${state.beat}`;
    const isContinuous = this.#seen !== "" && beganMs - this.#lastMs <= GAP_MS && endedMs - beganMs <= GAP_MS;
    this.#lastMs = endedMs;
    this.#headMax = Math.max(this.#headMax, state.head);
    if (isFree(state)) return "claim";
    const isAlive = this.#seen !== "" && this.#seen !== seen;
    if (isAlive || !isContinuous) {
      this.#seen = seen;
      this.#sinceMs = endedMs;
      return isAlive ? "alive" : "unknown";
    }
    // The state was still the same when this read began; what became of it during the read is not known.
    return beganMs - this.#sinceMs >= SILENCE_MS ? "claim" : "unknown";
  }

  /** Throws ClusterError when a claim after that record would drop others. */
  checkHead({ head }: ShardState): void {
    if (head >= this.#headMax) return;
    throw new ClusterError(
      `the shared log ends with record ${head}, and record ${this.#headMax} was there before: the engine has lost ` +
        "records; find the server that has them before you start this one again",
    );
  }

  /** A read has failed. */
  failed(): void {
    this.#seen = "";
  }
}

/** Nobody owns the shard: there was no owner, or the last one has released it. */
export function isFree({ owner }: ShardState): boolean {
  return owner === null || owner.address === "";
}

/** Throws ClusterError for a cluster that this version cannot serve. */
export function checkShards({ shards }: SharedLog): void {
  if (shards === 1) return;
  throw new ClusterError(
    `the cluster has ${shards} shards, and this version serves clusters with 1 shard only; create another cluster`,
  );
}

export interface SpareEvents {
  /** A read has succeeded. */
  state?: (state: ShardState) => void;
  /** The first of several reads that failed, and the first one after them that did not. */
  engineAway?: (error: unknown) => void;
  engineBack?: () => void;
  /**
   * The owner is alive and has this information, which differs from the information before, or is the first one.
   * Rejects with ClusterError when this process cannot be its spare.
   */
  owner?: (info: OwnerInfo) => void | Promise<void>;
}

/** Monotonic time, and waiting. Tests bring their own. */
export interface SpareClock {
  nowMs(): number;
  sleep(ms: number): Promise<void>;
}

export const SPARE_CLOCK: SpareClock = {
  nowMs: () => performance.now(),
  sleep: (ms) => Bun.sleep(ms),
};

/**
 * Watches the shard until `claim` succeeds. `claim` tries to append the record that makes this process the owner, after
 * record `expected`, and returns false when it was refused. Null when the signal is aborted. Rejects with ClusterError.
 */
export async function standBy<Claim>(
  log: Pick<SharedLog, "state">,
  shard: number,
  claim: (state: ShardState) => Promise<Claim | null>,
  events: SpareEvents = {},
  signal: { readonly aborted: boolean } = { aborted: false },
  clock = SPARE_CLOCK,
): Promise<Claim | null> {
  const watch = new Watch();
  let isAway = false;
  let known = "";
  while (!signal.aborted) {
    const beganMs = clock.nowMs();
    try {
      const state = await log.state(shard);
      const sign = watch.read(state, beganMs, clock.nowMs());
      if (isAway) events.engineBack?.();
      isAway = false;
      events.state?.(state);
      const info = JSON.stringify(state.owner);
      if (sign === "alive" && info !== known) {
        known = info;
        await events.owner?.(state.owner!);
      }
      if (sign === "claim" && !signal.aborted) {
        watch.checkHead(state);
        const claimed = await claim(state);
        if (claimed !== null) return claimed;
      }
    } catch (error) {
      if (error instanceof ClusterError) throw error;
      watch.failed();
      if (!isAway) events.engineAway?.(error);
      isAway = true;
    }
    await clock.sleep(Math.max(0, beganMs + WATCH_MS - clock.nowMs()));
  }
  return null;
}

/** What an owner's beats need of its appender. */
export type Provable = Pick<Appender, "waitingSinceMs" | "provenMs" | "beat">;

/** A sign of life is due: nothing is on its way, and the last one began a while ago. */
export function isBeatDue({ waitingSinceMs, provenMs }: Provable, nowMs: number): boolean {
  return waitingSinceMs === null && nowMs - provenMs >= BEAT_MS;
}

/** A write has been on its way for so long that the engine counts as away: no output has left meanwhile. */
export function isEngineAway({ waitingSinceMs }: Provable, nowMs: number): boolean {
  return waitingSinceMs !== null && nowMs - waitingSinceMs >= AWAY_MS;
}
