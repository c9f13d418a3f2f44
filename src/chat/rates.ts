import type { Limits } from "../limits.ts";
import type { TimerKind, TimerWheel } from "../timer-wheel.ts";
import { tokensMax } from "../token-bucket.ts";
import { type Account, Allowance, type Peer } from "./session.ts";

/** The request rate of each user. Requests above it are delayed and keep their order; none is refused. */
export class Rates {
  readonly #wheel: TimerWheel;
  readonly #limits: Limits;
  readonly #allowed: TimerKind<Allowance>;
  /** Work of all requests since the start; see WORK_PER_VISIT. */
  work = 0;

  constructor(wheel: TimerWheel, limits: Limits) {
    this.#wheel = wheel;
    this.#limits = limits;
    this.#allowed = wheel.kind((allowance) => this.#act(allowance));
  }

  of(account: Account): Allowance {
    return (account.allowance ??= new Allowance(tokensMax(this.#limits.requestsPerSecondMax), this.#wheel.nowMs));
  }

  /** The user's last request counts as `requests` more, and as `work` more in the share of a turn. */
  charge(account: Account, requests: number, work: number): void {
    this.of(account).tokens -= requests;
    this.work += work;
  }

  /** Whether a request of that user waits. */
  isWaiting({ allowance }: Account): boolean {
    return allowance !== null && allowance.delayed.length > 0;
  }

  /**
   * For a request of a known user on a connection without a session: it counts against the rate of the user instead of
   * the address. Pauses the connection and calls `act` when the rate allows it, at once or later, and also when the
   * connection is closed. `act` resumes the connection.
   */
  take(account: Account, peer: Peer, act: () => void): void {
    const allowance = this.of(account);
    allowance.save(this.#limits.requestsPerSecondMax, this.#wheel.nowMs);
    peer.refund();
    peer.pause();
    if (allowance.delayed.length > 0) this.#dropClosed(allowance);
    allowance.delayed.push({ peer, act });
    allowance.tokens--;
    this.#act(allowance);
  }

  /** Removes requests of closed connections: their number has no other bound. */
  #dropClosed(allowance: Allowance): void {
    const closed = allowance.delayed.filter(({ peer }) => peer.isClosed);
    if (closed.length === 0) return;
    allowance.delayed = allowance.delayed.filter(({ peer }) => !peer.isClosed);
    allowance.tokens += closed.length;
    for (const { act } of closed) act();
  }

  /** The rate has changed: the waiting requests of that user wait for the new one. */
  rateChanged({ allowance }: Account): void {
    if (allowance === null || allowance.delayed.length === 0) return;
    this.#wheel.cancel(allowance.timer);
    this.#act(allowance);
  }

  #act(allowance: Allowance): void {
    const { requestsPerSecondMax } = this.#limits;
    while (allowance.delayed.length > 0) {
      const { peer, act } = allowance.delayed[0]!;
      const waitMs = allowance.waitMs(requestsPerSecondMax, this.#wheel.nowMs, allowance.delayed.length);
      if (waitMs > 0 && !peer.isClosed) {
        if (!allowance.timer.armed) this.#wheel.schedule(allowance.timer, this.#allowed, waitMs);
        return;
      }
      allowance.delayed.shift();
      if (peer.isClosed) allowance.tokens++;
      act();
    }
  }
}
