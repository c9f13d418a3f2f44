import { ADDRESSES_IDLE_MAX, ADDRESSES_IDLE_MS, type Limits } from "../limits.ts";
import type { TimerWheel } from "../timer-wheel.ts";
import { TokenBucket, tokensMax } from "../token-bucket.ts";

/** What one source address has, and what it may still do. */
interface Standing {
  connections: number;
  /** New connections, and logins that fail. */
  connects: TokenBucket;
  failures: TokenBucket;
  /** Requests of its connections without a session. */
  requests: TokenBucket;
  /** Wheel time at which it was last seen. */
  seenMs: number;
}

/**
 * Limits for each source address: connections at once, new connections a second, requests without a session, and failed
 * logins of any user. The server's own machine is exempt unless `limitsLoopback` is set. An address is forgotten when
 * its budgets are full again.
 */
export class Addresses {
  readonly #wheel: TimerWheel;
  readonly #limits: Limits;
  /** By source: those with connections; and without, in the order in which they were last seen. */
  readonly #active = new Map<string, Standing>();
  readonly #idle = new Map<string, Standing>();

  constructor(wheel: TimerWheel, limits: Limits) {
    this.#wheel = wheel;
    this.#limits = limits;
  }

  /** Addresses that are remembered. */
  get size(): number {
    return this.#active.size + this.#idle.size;
  }

  /** Counts a new connection; or returns why there may be none, in words that fit behind "too many". */
  connect(address: string): string | null {
    if (this.#isExempt(address)) return null;
    const { connectionsPerAddressMax: most, connectionsPerSecondMax: perSecond } = this.#limits;
    const key = source(address);
    const standing = this.#standing(key);
    if (most > 0 && standing.connections >= most) return "connections from your address";
    if (perSecond > 0) {
      standing.connects.earn(perSecond, Math.max(1, perSecond), this.#wheel.nowMs);
      if (standing.connects.tokens < 1) return "new connections from your address";
      standing.connects.tokens--;
    }
    standing.connections++;
    this.#idle.delete(key);
    this.#active.set(key, standing);
    return null;
  }

  /** A connection that was counted is gone. */
  disconnect(address: string): void {
    const key = source(address);
    const standing = this.#active.get(key);
    if (standing === undefined || --standing.connections > 0) return;
    this.#active.delete(key);
    this.#keep(key, standing);
  }

  /** Seconds until a login from there is judged again, since too many have failed; 0 when it is now. */
  loginWait(address: string): number {
    const perMinute = this.#limits.failedLoginsPerMinuteMax;
    if (perMinute === 0 || this.#isExempt(address)) return 0;
    const { failures } = this.#standing(source(address));
    failures.earn(perMinute / 60, perMinute, this.#wheel.nowMs);
    return secondsIn(((1 - failures.tokens) * 60_000) / perMinute);
  }

  /** A login from there is to be judged: it counts as one that fails, or many at once would all be. */
  loginBegins(address: string): void {
    if (!this.#isExempt(address)) this.#standing(source(address)).failures.tokens--;
  }

  /** It did not fail. */
  loginEnds(address: string): void {
    if (!this.#isExempt(address)) this.#standing(source(address)).failures.tokens++;
  }

  /**
   * The request budget of all connections from there without a session. It is shared, or each new connection would
   * bring a second's worth of requests. At an exempt address each connection has its own.
   */
  requests(address: string): TokenBucket {
    return this.#isExempt(address) ? this.#newRequests() : this.#standing(source(address)).requests;
  }

  #newRequests(): TokenBucket {
    return new TokenBucket(tokensMax(this.#limits.requestsPerSecondMax), this.#wheel.nowMs);
  }

  #isExempt(address: string): boolean {
    return !this.#limits.limitsLoopback && (address.startsWith("127.") || address === "::1");
  }

  #standing(key: string): Standing {
    const known = this.#active.get(key) ?? this.#idle.get(key);
    if (known !== undefined) return known;
    const { connectionsPerSecondMax, failedLoginsPerMinuteMax } = this.#limits;
    const { nowMs } = this.#wheel;
    const standing: Standing = {
      connections: 0,
      connects: new TokenBucket(Math.max(1, connectionsPerSecondMax), nowMs),
      failures: new TokenBucket(failedLoginsPerMinuteMax, nowMs),
      requests: this.#newRequests(),
      seenMs: nowMs,
    };
    this.#keep(key, standing);
    return standing;
  }

  /** Keeps one without connections for a while, and not too many of them. */
  #keep(key: string, standing: Standing): void {
    const { nowMs } = this.#wheel;
    standing.seenMs = nowMs;
    this.#idle.set(key, standing);
    for (const [oldest, { seenMs }] of this.#idle) {
      if (this.#idle.size <= ADDRESSES_IDLE_MAX && seenMs + ADDRESSES_IDLE_MS > nowMs) break;
      this.#idle.delete(oldest);
    }
  }
}

/** Seconds that a wait is told as: rounded up, and 0 when it is over. */
export function secondsIn(ms: number): number {
  // Whole milliseconds first, or 60 seconds could come out a little longer and be told as 61.
  return Math.max(0, Math.ceil(Math.round(ms) / 1000));
}

/** The address that counts: IPv4 as it is; of IPv6 the first 64 bits, since one household has all the rest. */
export function source(address: string): string {
  if (address.includes(".")) return address.slice(address.lastIndexOf(":") + 1);
  const [head = "", tail] = address.split("%")[0]!.split("::");
  const groups = head === "" ? [] : head.split(":");
  if (tail !== undefined) {
    const behind = tail === "" ? [] : tail.split(":");
    while (groups.length + behind.length < 8) groups.push("0");
    groups.push(...behind);
  }
  return groups
    .slice(0, 4)
    .map((group) => Number.parseInt(group, 16).toString(16))
    .join(":");
}
