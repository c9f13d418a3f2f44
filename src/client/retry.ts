/** How long the client waits for a server, and how often it tries again. */
import { ChatError } from "./errors.ts";
import { sleep } from "./timing.ts";

/** A server that does not reply within this time is lost, even when its connection seems open. */
export const REPLY_TIMEOUT_MS = 10_000;
export const NO_REPLY: string = `no reply within ${REPLY_TIMEOUT_MS / 1000} seconds`;
const LOCKOUT_MS_MAX = 3_600_000;
const DELAY_MIN_MS = 200;
const DELAY_MAX_MS = 20_000;
/** While a server was just lost, another one takes over, or it starts again: within seconds, mostly. */
const SOON_MS = 2_000;
const SOON_SHARE = 1 / 3;

/** Growing random delays between attempts; random, so that clients of a restarted server do not return all at once. */
export class Backoff {
  readonly #startMs = performance.now();
  #delayMs: number;
  /** End of the last delay. */
  #lastMs = performance.now();
  /** End of the delay that is running, and what ends it. */
  #dueMs = Number.POSITIVE_INFINITY;
  #end: () => void = () => {};

  /** `attempts`: number of delays to skip. */
  constructor(attempts = 0) {
    this.#delayMs = Math.min(DELAY_MIN_MS * 2 ** attempts, DELAY_MAX_MS);
  }

  /** Time since the construction. */
  get elapsedMs(): number {
    return performance.now() - this.#startMs;
  }

  /** Time since the end of the last delay. */
  get sinceLastMs(): number {
    return performance.now() - this.#lastMs;
  }

  /** Waits for the next delay, at least `leastMs`. */
  async next(leastMs = 0): Promise<void> {
    const delayMaxMs = Math.max(SOON_MS, this.elapsedMs * SOON_SHARE);
    const delayMs = Math.min(this.#delayMs, delayMaxMs) * (0.5 + Math.random() / 2);
    this.#delayMs = Math.min(this.#delayMs * 2, DELAY_MAX_MS);
    const waitMs = Math.max(delayMs, leastMs);
    this.#dueMs = performance.now() + waitMs;
    const woken = new Promise<void>((resolve) => (this.#end = resolve));
    await Promise.race([sleep(waitMs), woken]);
    this.#lastMs = performance.now();
  }

  /** Ends a delay whose timer is late. */
  endIfDue(): void {
    if (performance.now() >= this.#dueMs) this.#end();
  }
}

/**
 * Repeats `attempt` with the delays of `backoff` while it fails with one of the `temporary` codes. After `locked_out
 * <seconds>` it waits until the lockout ends. Rejects with any other failure, and with the last failure when `giveUpMs`
 * have passed since the construction of `backoff`.
 */
export async function retry<T>(
  attempt: () => Promise<T>,
  temporary: readonly string[],
  giveUpMs: number,
  backoff: Backoff = new Backoff(),
): Promise<T> {
  for (;;) {
    const isLastAttempt = backoff.elapsedMs > giveUpMs;
    try {
      return await attempt();
    } catch (error) {
      if (isLastAttempt || !(error instanceof ChatError) || !temporary.includes(error.code)) throw error;
      const isLockedOut = error.code === "locked_out";
      await backoff.next(isLockedOut ? Math.min(Number.parseInt(error.detail, 10) * 1000 || 0, LOCKOUT_MS_MAX) : 0);
    }
  }
}
