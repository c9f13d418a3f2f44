/**
 * A rate limit with a burst (token bucket): tokens are earned at a steady rate up to a maximum, and each request takes
 * one. Tokens below 0 are a debt. Time comes in as a number.
 */
export class TokenBucket {
  tokens: number;
  /** Until when tokens were earned. */
  #earnedMs: number;

  constructor(tokens: number, nowMs: number) {
    this.tokens = tokens;
    this.#earnedMs = nowMs;
  }

  /** Adds what was earned since the last call, up to `tokensMax`. The rate may differ from that of earlier calls. */
  earn(perSecond: number, tokensMax: number, nowMs: number): void {
    this.tokens = Math.min(tokensMax, this.tokens + ((nowMs - this.#earnedMs) * perSecond) / 1000);
    this.#earnedMs = nowMs;
  }

  /** `earn` with the maximum of a second. It must come before a token is taken: a full bucket earns nothing. */
  save(perSecond: number, nowMs: number): void {
    if (nowMs !== this.#earnedMs) this.earn(perSecond || Number.POSITIVE_INFINITY, tokensMax(perSecond), nowMs);
  }

  /** Milliseconds until there is a whole token in addition to the `reserved` ones; 0 when there is one. */
  waitMs(perSecond: number, nowMs: number, reserved = 0): number {
    if (this.tokens + reserved >= 1 || perSecond === 0) return 0;
    this.save(perSecond, nowMs);
    return Math.max(0, ((1 - reserved - this.tokens) * 1000) / perSecond);
  }
}

/** The maximum, and the tokens at first: those of a second. Rate 0 means no limit. */
export function tokensMax(perSecond: number): number {
  return perSecond === 0 ? Number.POSITIVE_INFINITY : Math.max(1, perSecond);
}
