import { UNDELIVERED_BOUNDS, UNDELIVERED_BYTES_MAX } from "../limits.ts";
import { REPLY_TIMEOUT_MS } from "./retry.ts";
import { resolvesWithin } from "./timing.ts";

/** The result of a handler that did not handle its line, which comes again in the next session. */
export const DISCARDED: unique symbol = Symbol("discarded");

/** A line whose handler runs, or is done while the handler of an earlier line runs. */
interface Undelivered {
  /** Position before the line. */
  start: number;
  isDone: boolean;
}

/**
 * Two positions in the server's stream: read and delivered. All lines before the delivered position were handled
 * completely. Only this position is acknowledged, saved and resumed from, so a line that waits for a slow handler or
 * output is not lost when the client ends.
 */
export class DeliveryQueue {
  /** Position after the last line that was read. */
  read = 0;
  /** Lines after this position are not delivered; infinite unless `hold` was called. */
  #holdFrom = Number.POSITIVE_INFINITY;
  readonly #undelivered: Undelivered[] = [];
  #waiters: { position: number; resolve: () => void }[] = [];
  readonly #advanced: () => void;
  readonly #failed: (error: unknown) => void;
  readonly #discard: (isEnd: boolean) => void;
  /** A line that begins here was discarded: it and all later ones come again in the next session. */
  #discardedFrom = Number.POSITIVE_INFINITY;

  /**
   * `advanced`: a promise was resolved and the delivered position moved; `failed`: a handler threw or rejected;
   * `discard`: see `SessionListener`.
   */
  constructor(advanced: () => void, failed: (error: unknown) => void, discard: (isEnd: boolean) => void) {
    this.#advanced = advanced;
    this.#failed = failed;
    this.#discard = discard;
  }

  /** Position up to which everything was delivered. */
  get delivered(): number {
    return this.#undelivered[0]?.start ?? this.#deliverable;
  }

  /**
   * Whether reading should pause. `isPaused`: whether it is paused now (resumes at half the bound). `mustRead`: a
   * request waits for its reply, perhaps inside a handler.
   */
  isFull(isPaused: boolean, mustRead: boolean): boolean {
    const bytesMax = UNDELIVERED_BYTES_MAX * (mustRead ? UNDELIVERED_BOUNDS : isPaused ? 0.5 : 1);
    return this.#handledTo === Number.POSITIVE_INFINITY && this.read - this.delivered > bytesMax;
  }

  /** The line that ends at `position` was read. It is delivered when the promise of `handle`, if any, is resolved. */
  take(position: number, handle?: () => unknown): void {
    const start = this.read;
    this.read = position;
    if (handle === undefined || start >= this.#handledTo) return;
    let outcome: unknown;
    try {
      outcome = handle();
    } catch (error) {
      outcome = Promise.reject(error);
    }
    if (typeof (outcome as PromiseLike<unknown> | null | undefined)?.then !== "function") return;
    const line = { start, isDone: false };
    this.#undelivered.push(line);
    Promise.resolve(outcome).then((result) => {
      if (result === DISCARDED) this.#discardedFrom = Math.min(this.#discardedFrom, line.start);
      this.#done(line);
    }, this.#failed);
  }

  /**
   * Lines that are read from now on are not delivered, and the delivered position stays before them: they come again in
   * the next session of the user. For the time between a logout and its reply, which can acknowledge nothing.
   */
  hold(): void {
    this.#holdFrom = this.#deliverable;
  }

  /** Position up to which lines are delivered when their handlers are done. */
  get #deliverable(): number {
    return Math.min(this.read, this.#handledTo);
  }

  /** Lines from here on are not handled. */
  get #handledTo(): number {
    return Math.min(this.#holdFrom, this.#discardedFrom);
  }

  /** Resolves when all lines read so far are delivered, or after `release`. */
  settled(): Promise<void> {
    const position = this.#deliverable;
    if (this.delivered >= position) return Promise.resolve();
    return new Promise((resolve) => this.#waiters.push({ position, resolve }));
  }

  /**
   * As `settled`, before a new session takes the place of this one: undelivered lines come again in it, so it begins
   * after them. With `mustRead` (see `isFull`) a handler may wait for a reply, and the wait is bounded.
   */
  async settledForNext(mustRead: boolean): Promise<void> {
    this.#discard(false);
    await (mustRead ? resolvesWithin(REPLY_TIMEOUT_MS, this.settled()) : this.settled());
  }

  /** The session has ended: calls `done` when everything that was read is delivered, or now with `atOnce`. */
  finish(atOnce: boolean, done: () => void): void {
    if (atOnce) this.release();
    else this.#discard(true);
    if (atOnce || this.delivered === this.#deliverable) done();
    else void this.settled().then(done);
  }

  /** Resolves all promises of `settled`. */
  release(): void {
    for (const { resolve } of this.#waiters.splice(0)) resolve();
  }

  /** A new stream begins, or one that continues at a position. Undelivered lines of the old stream come again in it. */
  restart(position = 0): void {
    this.read = position;
    if (this.#holdFrom < Number.POSITIVE_INFINITY) this.#holdFrom = position;
    this.#discardedFrom = Number.POSITIVE_INFINITY;
    this.#undelivered.length = 0;
    this.release();
  }

  #done(line: Undelivered): void {
    line.isDone = true;
    if (this.#undelivered[0] !== line) return;
    while (this.#undelivered[0]?.isDone === true) this.#undelivered.shift();
    const { delivered } = this;
    this.#advanced();
    const isDue = ({ position }: { position: number }): boolean => Math.min(position, this.#deliverable) <= delivered;
    const due = this.#waiters.filter(isDue);
    this.#waiters = this.#waiters.filter((waiter) => !isDue(waiter));
    for (const { resolve } of due) resolve();
  }
}
