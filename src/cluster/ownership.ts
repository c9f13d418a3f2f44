/**
 * How a process becomes the owner of a shard: it watches the owners of all shards, and claims a shard whose owner gives
 * no sign of life. The claim itself is a record that only one process can append; this file decides when to try. What
 * an owner appends is not here (appender.ts).
 */
import type { Appender } from "./appender.ts";
import { ClusterError, LostRecordsError, type OwnerInfo, type SharedLog, type ShardState } from "./shared-log.ts";

/** Interval of the reads. */
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
 * - `claim`: the shard may be claimed after record `state.head`.
 * - `alive`: the owner has given a sign of life since the read before.
 */
export type Sign = "claim" | "alive" | "unknown";

/**
 * The rule of a spare for one shard: the owner is silent when the state of the shard has not changed for SILENCE_MS.
 * Only this process's monotonic clock counts, and only time in which its own reads succeed: the engine may have been
 * away, or this process paused, and the owner well.
 */
export class Watch {
  readonly shard: number;
  /** What the last successful read showed; null before the first one. */
  state: ShardState | null = null;
  /** The same as a text; empty after an outage. */
  #seen = "";
  /** When the read ended that first showed it. */
  #sinceMs = 0;
  /** The end of the last successful read. */
  #lastMs = 0;
  /** The highest head so far: records up to it were acknowledged. */
  #headMax = 0;

  constructor(shard: number) {
    this.shard = shard;
  }

  /** When the owner last gave a sign of life, or an outage ended. */
  get sinceMs(): number {
    return this.#sinceMs;
  }

  /** A read from `beganMs` to `endedMs` had this result. */
  read(state: ShardState, beganMs: number, endedMs: number): Sign {
    this.state = state;
    const seen = `${state.head} ${state.epoch} ${state.beat}`;
    const isContinuous = this.#seen !== "" && beganMs - this.#lastMs <= GAP_MS && endedMs - beganMs <= GAP_MS;
    this.#lastMs = endedMs;
    this.#headMax = Math.max(this.#headMax, state.head);
    const isAlive = this.#seen !== "" && this.#seen !== seen;
    const isSilent = !isAlive && isContinuous;
    if (!isSilent) {
      this.#seen = seen;
      this.#sinceMs = endedMs;
    }
    if (isFree(state)) return "claim";
    if (!isSilent) return isAlive ? "alive" : "unknown";
    // The state was still the same when this read began; what became of it during the read is not known.
    return beganMs - this.#sinceMs >= SILENCE_MS ? "claim" : "unknown";
  }

  /** Throws LostRecordsError when a claim after that record would drop others. */
  checkHead({ head }: ShardState): void {
    if (head < this.#headMax) throw new LostRecordsError(this.shard, head, this.#headMax);
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

/** What happens while a process watches. */
export interface LookoutEvents {
  /** A read has succeeded: `Lookout.watches` have what it showed. */
  read?: () => void;
  /** Of a spare: the first of several reads that failed, and the first one after them that did not. */
  engineAway?: (error: unknown) => void;
  engineBack?: () => void;
  /**
   * Of a spare: the owner of a shard is alive and has this information, which differs from the information before, or
   * is the first one. Rejects with ClusterError when this process cannot be its spare.
   */
  owner?: (info: OwnerInfo, shard: number) => void | Promise<void>;
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

/** Watches all shards, for the life of a process: as a spare, which claims one, and then as its owner. */
export class Lookout {
  /** By shard. */
  readonly watches: readonly Watch[];
  /** When the last read ended that succeeded. */
  readMs = 0;
  readonly #log: Pick<SharedLog, "shards" | "states">;
  readonly #events: LookoutEvents;
  readonly #clock: SpareClock;
  /** The shard that is claimed first, of several. */
  readonly #first: number;
  /** The information of each owner that was reported last, as text. */
  readonly #known: string[] = [];

  /** `chance`, from 0 to 1: processes that start together should not all claim the same shard. */
  constructor(
    log: Pick<SharedLog, "shards" | "states">,
    events: LookoutEvents = {},
    clock = SPARE_CLOCK,
    chance = Math.random(),
  ) {
    this.watches = Array.from({ length: log.shards }, (_, shard) => new Watch(shard));
    this.#log = log;
    this.#events = events;
    this.#clock = clock;
    this.#first = Math.floor(chance * log.shards);
  }

  /**
   * Watches until `claim` succeeds for one of the shards. `claim` tries to append the record that makes this process
   * the owner after record `state.head`, and returns null when it was refused. Null when the signal is aborted. Rejects
   * with ClusterError.
   */
  async standBy<Claim>(
    claim: (shard: number, state: ShardState) => Promise<Claim | null>,
    signal: { readonly aborted: boolean } = { aborted: false },
  ): Promise<Claim | null> {
    const { engineAway, engineBack } = this.#events;
    let isAway = false;
    while (!signal.aborted) {
      const beganMs = this.#clock.nowMs();
      try {
        const signs = await this.#read(beganMs);
        if (isAway) engineBack?.();
        isAway = false;
        this.#events.read?.();
        await this.#compare(signs);
        const claimed = await this.#claimOne(signs, claim, signal);
        if (claimed !== null) return claimed;
      } catch (error) {
        if (error instanceof ClusterError) throw error;
        this.#failed();
        if (!isAway) engineAway?.(error);
        isAway = true;
      }
      await this.#pause(beganMs);
    }
    return null;
  }

  /** As the owner of one shard: only the event `read`. The owner notices by its writes that the engine is away. */
  async follow(signal: { readonly aborted: boolean }): Promise<void> {
    while (!signal.aborted) {
      const beganMs = this.#clock.nowMs();
      await this.#read(beganMs).then(
        () => this.#events.read?.(),
        () => this.#failed(),
      );
      await this.#pause(beganMs);
    }
  }

  async #read(beganMs: number): Promise<Sign[]> {
    const states = await this.#log.states();
    const endedMs = (this.readMs = this.#clock.nowMs());
    return this.watches.map((watch, shard) => watch.read(states[shard]!, beganMs, endedMs));
  }

  #failed(): void {
    for (const watch of this.watches) watch.failed();
  }

  async #compare(signs: readonly Sign[]): Promise<void> {
    for (const { shard, state } of this.watches) {
      const info = JSON.stringify(state!.owner);
      if (signs[shard] !== "alive" || info === this.#known[shard]) continue;
      this.#known[shard] = info;
      await this.#events.owner?.(state!.owner!, shard);
    }
  }

  async #claimOne<Claim>(
    signs: readonly Sign[],
    claim: (shard: number, state: ShardState) => Promise<Claim | null>,
    signal: { readonly aborted: boolean },
  ): Promise<Claim | null> {
    const beganMs = this.#clock.nowMs();
    for (let i = 0; i < signs.length; i++) {
      const shard = (this.#first + i) % signs.length;
      if (signs[shard] !== "claim" || signal.aborted) continue;
      if (this.#clock.nowMs() - beganMs >= WATCH_MS) return null; // What was read is old by now.
      const watch = this.watches[shard]!;
      watch.checkHead(watch.state!);
      const claimed = await claim(shard, watch.state!);
      if (claimed !== null) return claimed;
    }
    return null;
  }

  #pause(beganMs: number): Promise<void> {
    return this.#clock.sleep(Math.max(0, beganMs + WATCH_MS - this.#clock.nowMs()));
  }
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
