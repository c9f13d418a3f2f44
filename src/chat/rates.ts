import type { Limits } from "../limits.ts";
import type { TimerKind, TimerWheel } from "../timer-wheel.ts";
import { tokensMax } from "../token-bucket.ts";
import { type Account, Allowance, type Peer } from "./session.ts";

/** The rate of each user's requests: above it they are acted on later, in their order, and nothing is refused. */
export class Rates {
  readonly #wheel: TimerWheel;
  readonly #perSecond: number;
  readonly #allowed: TimerKind<Allowance>;

  constructor(wheel: TimerWheel, { requestsPerSecondMax }: Limits) {
    this.#wheel = wheel;
    this.#perSecond = requestsPerSecondMax;
    this.#allowed = wheel.kind((allowance) => this.#act(allowance));
  }

  of(account: Account): Allowance {
    return (account.allowance ??= new Allowance(tokensMax(this.#perSecond), this.#wheel.nowMs));
  }

  /** What the user asked for counts as so many requests more. */
  charge(account: Account, requests: number): void {
    this.of(account).tokens -= requests;
  }

  /** Whether a request of that user waits. */
  isWaiting({ allowance }: Account): boolean {
    return allowance !== null && allowance.delayed.length > 0;
  }

  /**
   * A connection without a session has shown whose its request is: it counts against that user, and is acted on when
   * that user's rate allows it, now or later; until then the connection is paused. `act` is called also when the
   * connection is gone, and lets it go on.
   */
  take(account: Account, peer: Peer, act: () => void): void {
    const allowance = this.of(account);
    allowance.save(this.#perSecond, this.#wheel.nowMs);
    peer.refund();
    peer.pause();
    if (allowance.delayed.length > 0) this.#dropGone(allowance);
    allowance.delayed.push({ peer, act });
    allowance.tokens--;
    this.#act(allowance);
  }

  /** The number of connections is bounded, but not of those that hung up. */
  #dropGone(allowance: Allowance): void {
    const gone = allowance.delayed.filter(({ peer }) => peer.gone);
    if (gone.length === 0) return;
    allowance.delayed = allowance.delayed.filter(({ peer }) => !peer.gone);
    allowance.tokens += gone.length;
    for (const { act } of gone) act();
  }

  #act(allowance: Allowance): void {
    while (allowance.delayed.length > 0) {
      const { peer, act } = allowance.delayed[0]!;
      const waitMs = allowance.waitMs(this.#perSecond, this.#wheel.nowMs, allowance.delayed.length);
      if (waitMs > 0 && !peer.gone) {
        if (!allowance.timer.armed) this.#wheel.schedule(allowance.timer, this.#allowed, waitMs);
        return;
      }
      allowance.delayed.shift();
      if (peer.gone) allowance.tokens++;
      act();
    }
  }
}
