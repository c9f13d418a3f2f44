/**
 * Periodic work of a running server, each at a multiple of the timer wheel's tick: fires timers, sends delayed
 * presence, bounds memory, retries failed writes, follows changes of the wall clock, logs summaries.
 */
import { GARBAGE_BYTES_MAX, GARBAGE_MS, PRESENCE_DELAY_MS, STORE_RETRY_MS } from "../limits.ts";
import { type Admission, closeLargest } from "../net/admission.ts";
import { residentBytes } from "../runtime/kernel.ts";
import type { Store } from "../storage/store.ts";
import { TICK_MS } from "../timer-wheel.ts";
import type { BoundedLog } from "./bounded-log.ts";
import type { Core, CoreOptions } from "./core.ts";

/** The wall clock was set when its difference to the monotonic clock changes by this much. */
const CLOCK_STEP_MS = 1_000;
/** Interval of the log lines about refused connections. */
const REFUSALS_MS = 8 * STORE_RETRY_MS;

export class Maintenance {
  readonly #core: Core;
  readonly #store: Store;
  readonly #admission: Admission;
  readonly #log: BoundedLog;
  readonly #report: CoreOptions["report"];
  #timer: Timer | null = null;
  #ticks = 0;
  /** The store's error that was logged last; null while it has none. */
  #loggedWriteError: string | null = null;
  /** Unix time at zero of the core's monotonic clock. */
  #epochMs: number;
  /** The least memory of the process since the last collection of garbage. */
  #leastBytes = Number.POSITIVE_INFINITY;

  constructor(core: Core, store: Store, admission: Admission, log: BoundedLog, report: CoreOptions["report"]) {
    this.#core = core;
    this.#store = store;
    this.#admission = admission;
    this.#log = log;
    this.#report = report;
    this.#epochMs = this.#readEpoch();
  }

  start(): void {
    this.tick();
    const delayMs = TICK_MS - (performance.now() % TICK_MS);
    this.#timer = setTimeout(() => this.start(), Math.ceil(delayMs));
  }

  stop(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#admission.report();
    this.#log.close();
  }

  /** Each duty with its interval in ticks, and the tick of the interval: their times do not add up in one turn. */
  readonly #duties: readonly { ticks: number; at: number; act: () => void }[] = [
    { ticks: 1, at: 0, act: () => this.#core.turn.begin() },
    { ticks: 1, at: 0, act: () => this.#core.fireTimers() },
    { ticks: PRESENCE_DELAY_MS / TICK_MS, at: 0, act: () => this.#sweep(residentBytes()) },
    { ticks: STORE_RETRY_MS / TICK_MS, at: 13, act: () => this.#retryStore() },
    { ticks: GARBAGE_MS / TICK_MS, at: 14, act: () => this.#collectGarbage(residentBytes()) },
    { ticks: REFUSALS_MS / TICK_MS, at: 121, act: () => this.#admission.report() },
    { ticks: STORE_RETRY_MS / TICK_MS, at: 15, act: () => this.#log.summarize() },
  ];

  /** An error in one duty does not affect the others. */
  tick(): void {
    this.#ticks++;
    for (const { ticks, at, act } of this.#duties) {
      if (this.#ticks % ticks !== at) continue;
      try {
        act();
      } catch (error) {
        this.#report(error);
      }
    }
  }

  /** The memory of input is summed up only when the process is large enough to matter. */
  #sweep(residentBytes?: number): void {
    const { chat, connections } = this.#core;
    chat.sweep();
    if (residentBytes === undefined || residentBytes > chat.limits.streamsBytesMax) closeLargest(connections.open);
  }

  /**
   * Collects young garbage when the process has grown by GARBAGE_BYTES_MAX. The runtime counts the journal's mapped
   * files as live memory and lets as much garbage accumulate before it collects by itself; its timer collects every
   * second, but only every 30 seconds once the heap has not grown for half a minute. `Bun.gc(false)` collects
   * concurrently with the next turns and leaves old objects to the runtime.
   */
  #collectGarbage(residentBytes: number | undefined): void {
    if (residentBytes === undefined) return;
    this.#leastBytes = Math.min(this.#leastBytes, residentBytes);
    if (residentBytes - this.#leastBytes < GARBAGE_BYTES_MAX) return;
    this.#leastBytes = residentBytes;
    Bun.gc(false);
  }

  #readEpoch(): number {
    const { clock } = this.#core;
    return clock.unixMs() - clock.nowMs();
  }

  /**
   * Lockouts are stored with their end in Unix time: when the wall clock was set, or the timers stood still because the
   * store was slow, they are stored again.
   */
  followWallClock(): void {
    if (this.#store.isSlow) return;
    const epochMs = this.#readEpoch();
    if (Math.abs(epochMs - this.#epochMs) < CLOCK_STEP_MS) return;
    this.#epochMs = epochMs;
    this.#core.chat.lockouts.clockWasSet();
  }

  /** Logs the beginning and the end of a write error once. */
  #retryStore(): void {
    this.followWallClock();
    this.#store.retry();
    const { writeError, writeErrorUntil } = this.#store;
    if (writeError === this.#loggedWriteError) return;
    this.#loggedWriteError = writeError;
    if (writeError === null) return this.#log.info({ event: "disk_recovered" }, "the disk accepts writes again");
    this.#log.error(
      { event: "disk_error" },
      `${writeError}; messages are answered with err internal until ${writeErrorUntil}`,
    );
  }
}
