import { SKIPPED_BYTES_PER_REQUEST, WORK_BYTES, WORK_PER_VISIT } from "../limits.ts";
import { type TimerKind, type TimerWheel, WheelTimer } from "../timer-wheel.ts";
import type { TokenBucket } from "../token-bucket.ts";

// Reasons for which a connection takes no further request: bits of a set.

/** The last request has no reply yet. */
export const UNANSWERED = 1;
/** The next request is above the rate limit. */
export const OVER_RATE = 2;
/** Too much output is unsent, or a portion of the mailbox is to be delivered first. */
export const BACKLOGGED = 4;
/**
 * The connection is in the queue `ready`: its last visit left requests over, the rate limit allows the next one, or no
 * request of any connection was taken.
 */
export const QUEUED = 8;
/** The server is about to stop. */
export const STOPPING = 16;

/** Requests that have arrived. */
interface Input {
  /** There may be another request. */
  readonly holdsMore: boolean;
  /** There is another request, and it is complete. */
  readonly holdsLine: boolean;
}

/** What the gates of all connections of a server share. */
export interface GateShared<Owner> {
  readonly wheel: TimerWheel;
  /** The work of all requests since the start; see WORK_PER_VISIT. */
  readonly rates: { work: number };
  readonly limits: { readonly requestsPerSecondMax: number };
  /** Connections that continue in one of the next turns, in this order. */
  readonly ready: { add(owner: Owner): unknown };
  /** No request of any connection may be taken now. */
  readonly isCongested: boolean;
  /** Calls `ReadGate.rateAllows` of the owner's gate. */
  readonly later: TimerKind<Owner>;
}

/**
 * Decides whether a connection may take its next request: the reasons to wait, the rate limit, and the share of a turn.
 * It does not read; `Connection` asks it before each request.
 *
 * The rate limit is a token bucket that connections may share. A connection that finds it empty takes its token in
 * advance (a reservation) and waits until the token is earned, so that connections of one bucket go on in the order in
 * which they began to wait.
 *
 * A visit is one run through the requests that have arrived. It ends after WORK_PER_VISIT, and the connection continues
 * from the queue.
 */
export class ReadGate<Owner> {
  /** The set of reasons to wait: bits UNANSWERED, OVER_RATE, BACKLOGGED, QUEUED, STOPPING. */
  #reasons = 0;
  readonly #shared: GateShared<Owner>;
  #bucket: TokenBucket;
  /** Armed until the reserved token is earned. */
  readonly #timer: WheelTimer<Owner>;
  /** The token of the next request is taken already. */
  #isReserved = false;
  /** The last visit left requests over: new chunks wait in the queue as well, until a visit leaves none. */
  #isHeavy = false;
  /** `rates.work` when the visit began. */
  #workBefore = 0;

  constructor(owner: Owner, shared: GateShared<Owner>, bucket: TokenBucket) {
    this.#timer = new WheelTimer(owner);
    this.#shared = shared;
    this.#bucket = bucket;
  }

  get isOpen(): boolean {
    return this.#reasons === 0;
  }

  has(reason: number): boolean {
    return (this.#reasons & reason) !== 0;
  }

  add(reason: number): void {
    this.#reasons |= reason;
  }

  remove(reason: number): void {
    this.#reasons &= ~reason;
  }

  /** Requests count against another bucket from now on. */
  useBucket(bucket: TokenBucket): void {
    this.cancelReservation();
    this.#bucket = bucket;
  }

  /** The last request counts against no bucket, or against another one. */
  refund(): void {
    this.#bucket.tokens++;
  }

  /** Waits in the queue until a turn has room for more work. */
  enqueue(): void {
    this.#reasons |= QUEUED;
    this.#shared.ready.add(this.#timer.owner);
  }

  /** A chunk has arrived. */
  chunkArrived(): void {
    if (this.#isHeavy) this.enqueue();
  }

  /**
   * While no request may be taken, a connection waits in the queue from the last byte of its request on: a request that
   * has not arrived completely would otherwise wait before others, and be taken after them.
   */
  beginVisit(input: Input): void {
    const { rates, limits, wheel } = this.#shared;
    this.#workBefore = rates.work;
    this.#bucket.save(limits.requestsPerSecondMax, wheel.nowMs);
    if (this.#shared.isCongested && input.holdsLine) this.enqueue();
  }

  /** Whether the next request may be taken. If there may be one and the bucket is empty, a token is reserved. */
  admits(isBacklogged: boolean, input: Input): boolean {
    if ((this.#reasons & (UNANSWERED | QUEUED)) !== 0) return false;
    if (isBacklogged) this.#reasons |= BACKLOGGED;
    else this.#reasons &= ~BACKLOGGED;
    if (this.#bucket.tokens < 1 && input.holdsMore) this.#reserve();
    return this.#reasons === 0;
  }

  /** A request was taken. */
  taken(): void {
    if (!this.#isReserved) this.#bucket.tokens--;
    this.#isReserved = false;
  }

  /** That request was acted on. */
  done(input: Input): void {
    if (this.#shared.rates.work - this.#workBefore >= WORK_PER_VISIT && input.holdsMore) this.enqueue();
  }

  /** Of lines that are too long `skippedBytes` were skipped since the last visit. */
  endVisit(skippedBytes: number): void {
    if (skippedBytes > 0) this.#chargeSkipped(skippedBytes);
    if (this.#shared.rates.work !== this.#workBefore) this.#isHeavy = this.has(QUEUED);
  }

  /** Skipped bytes count as requests at once, not at the end of the line: it may have none. */
  #chargeSkipped(bytes: number): void {
    this.cancelReservation();
    this.#bucket.tokens -= bytes / SKIPPED_BYTES_PER_REQUEST;
    this.#shared.rates.work += bytes / WORK_BYTES;
    this.#reserve();
    if (!this.has(OVER_RATE)) this.enqueue();
  }

  /** Takes the token of the next request in advance if the bucket is empty, and waits until it is earned. */
  #reserve(): void {
    if (this.#isReserved || this.#bucket.tokens >= 1) return;
    const { limits, wheel, later } = this.#shared;
    const waitMs = this.#bucket.waitMs(limits.requestsPerSecondMax, wheel.nowMs);
    if (waitMs === 0) return;
    this.#reasons |= OVER_RATE;
    this.#isReserved = true;
    this.#bucket.tokens--;
    wheel.schedule(this.#timer, later, waitMs);
  }

  /** Gives the reserved token back. */
  cancelReservation(): void {
    if (this.#isReserved) this.#bucket.tokens++;
    this.#isReserved = false;
    this.#reasons &= ~OVER_RATE;
    this.#shared.wheel.cancel(this.#timer);
  }

  /** The rate has changed: if the next request waits for the old one, the queue decides again. */
  rateChanged(): void {
    if (!this.has(OVER_RATE)) return;
    this.cancelReservation();
    this.enqueue();
  }

  /** The reserved token is earned. */
  rateAllows(): void {
    this.#reasons &= ~OVER_RATE;
    this.enqueue();
  }
}
