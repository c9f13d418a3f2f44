import { ADDRESSES_IDLE_MAX, ADDRESSES_IDLE_MS, type Limits } from "../limits.ts";
import { isLoopback } from "../runtime/host.ts";
import type { TimerWheel } from "../timer-wheel.ts";
import { TokenBucket, tokensMax } from "../token-bucket.ts";

/** The connections and the budgets of one source address. */
interface AddressState {
  connections: number;
  /** Budget of new connections. */
  connects: TokenBucket;
  /** Budget of failed logins. */
  failures: TokenBucket;
  /** Budget of requests on connections without a session. */
  requests: TokenBucket;
  /** Wheel time of its last connection or request. */
  lastSeenMs: number;
}

/**
 * Limits for each source address: connections at once, new connections a second, requests without a session, and failed
 * logins of all users together. Loopback addresses are exempt unless `limitsLoopback` is set, or the client came to the
 * port for browsers: the page may be anybody's. Such clients have limits of their own. An address is forgotten
 * when its budgets are full again. Connections of exempt addresses are counted too, since the limits may change.
 */
export class Addresses {
  readonly #wheel: TimerWheel;
  readonly #limits: Limits;
  /** By source address: those with connections; and those without, the longest unused first. */
  readonly #active = new Map<string, AddressState>();
  readonly #idle = new Map<string, AddressState>();

  constructor(wheel: TimerWheel, limits: Limits) {
    this.#wheel = wheel;
    this.#limits = limits;
  }

  /** The number of remembered addresses. */
  get size(): number {
    return this.#active.size + this.#idle.size;
  }

  /** Counts a new connection, or returns why it is refused, in words that complete "too many ...". */
  connect(address: string, isWeb = false): string | null {
    const key = keyOf(address, isWeb);
    const state = this.#state(key);
    const tooMany = this.#isExempt(address, isWeb) ? null : this.#tooMany(state);
    if (tooMany !== null) return tooMany;
    state.connections++;
    this.#idle.delete(key);
    this.#active.set(key, state);
    return null;
  }

  #tooMany(state: AddressState): string | null {
    const { connectionsPerAddressMax, connectionsPerSecondMax: perSecond } = this.#limits;
    if (connectionsPerAddressMax > 0 && state.connections >= connectionsPerAddressMax)
      return "connections from your address";
    if (perSecond === 0) return null;
    state.connects.earn(perSecond, Math.max(1, perSecond), this.#wheel.nowMs);
    if (state.connects.tokens < 1) return "new connections from your address";
    state.connects.tokens--;
    return null;
  }

  /** A counted connection is closed. */
  disconnect(address: string, isWeb = false): void {
    const key = keyOf(address, isWeb);
    const state = this.#active.get(key);
    if (state === undefined || --state.connections > 0) return;
    this.#active.delete(key);
    this.#keep(key, state);
  }

  /** Seconds until a login from that address is verified again after too many failures; 0: it is verified now. */
  loginWait(address: string, isWeb = false): number {
    if (!this.#limitsLogins(address, isWeb)) return 0;
    const perMinute = this.#limits.failedLoginsPerMinuteMax;
    const { failures } = this.#state(keyOf(address, isWeb));
    failures.earn(perMinute / 60, perMinute, this.#wheel.nowMs);
    return secondsIn(((1 - failures.tokens) * 60_000) / perMinute);
  }

  /** A login begins. It counts as failed until `loginEnds`: otherwise many parallel logins would all be verified. */
  loginBegins(address: string, isWeb = false): void {
    if (this.#limitsLogins(address, isWeb)) this.#state(keyOf(address, isWeb)).failures.tokens--;
  }

  /** The login has ended without a failure. */
  loginEnds(address: string, isWeb = false): void {
    if (this.#limitsLogins(address, isWeb)) this.#state(keyOf(address, isWeb)).failures.tokens++;
  }

  /**
   * The request budget of all connections from that address without a session. It is shared: otherwise each new
   * connection would get a full budget. Each connection from an exempt address has its own budget.
   */
  requests(address: string, isWeb = false): TokenBucket {
    return this.#isExempt(address, isWeb) ? this.#newRequests() : this.#state(keyOf(address, isWeb)).requests;
  }

  #limitsLogins(address: string, isWeb: boolean): boolean {
    return this.#limits.failedLoginsPerMinuteMax > 0 && !this.#isExempt(address, isWeb);
  }

  #newRequests(): TokenBucket {
    return new TokenBucket(tokensMax(this.#limits.requestsPerSecondMax), this.#wheel.nowMs);
  }

  #isExempt(address: string, isWeb: boolean): boolean {
    return !isWeb && !this.#limits.limitsLoopback && isLoopback(address);
  }

  #state(key: string): AddressState {
    const known = this.#active.get(key) ?? this.#idle.get(key);
    if (known !== undefined) return known;
    const { connectionsPerSecondMax, failedLoginsPerMinuteMax } = this.#limits;
    const { nowMs } = this.#wheel;
    const state: AddressState = {
      connections: 0,
      connects: new TokenBucket(Math.max(1, connectionsPerSecondMax), nowMs),
      failures: new TokenBucket(failedLoginsPerMinuteMax, nowMs),
      requests: this.#newRequests(),
      lastSeenMs: nowMs,
    };
    this.#keep(key, state);
    return state;
  }

  /** Keeps an address without connections for a while; the number of these is bounded. */
  #keep(key: string, state: AddressState): void {
    const { nowMs } = this.#wheel;
    state.lastSeenMs = nowMs;
    this.#idle.set(key, state);
    for (const [oldest, { lastSeenMs }] of this.#idle) {
      if (this.#idle.size <= ADDRESSES_IDLE_MAX && lastSeenMs + ADDRESSES_IDLE_MS > nowMs) break;
      this.#idle.delete(oldest);
    }
  }
}

/** A remaining time in whole seconds: rounded up, and 0 when it is over. */
export function secondsIn(ms: number): number {
  // To whole milliseconds first: rounding errors would make 61 of 60 seconds.
  return Math.max(0, Math.ceil(Math.round(ms) / 1000));
}

/** Clients of this machine that are exempt do not use up the limits of those that are not. */
function keyOf(address: string, isWeb: boolean): string {
  return isWeb && isLoopback(address) ? "loopback over WebSocket" : source(address);
}

/** The address to which limits apply: IPv4 unchanged; the first 64 bits of IPv6, since one site has the other 64. */
export function source(address: string): string {
  if (address.includes(".")) return address.slice(address.lastIndexOf(":") + 1);
  const [head = "", tail] = address.split("%")[0]!.split("::");
  const groups = head === "" ? [] : head.split(":");
  if (tail !== undefined) {
    const last = tail === "" ? [] : tail.split(":");
    while (groups.length + last.length < 8) groups.push("0");
    groups.push(...last);
  }
  return groups
    .slice(0, 4)
    .map((group) => Number.parseInt(group, 16).toString(16))
    .join(":");
}
