/**
 * An allowance that grows at a steady rate up to a bound (a token bucket): who has saved up may do several things at
 * once. Time comes in as a number.
 */
export class TokenBucket {
  tokens: number;
  #atMs: number;

  constructor(tokens: number, nowMs: number) {
    this.tokens = tokens;
    this.#atMs = nowMs;
  }

  /** Adds what was earned since the last time; `most` can be saved. */
  earn(perSecond: number, most: number, nowMs: number): void {
    this.tokens = Math.min(most, this.tokens + ((nowMs - this.#atMs) * perSecond) / 1000);
    this.#atMs = nowMs;
  }

  /** Adds what was earned before something is taken, or what was saved then would be saved again. */
  save(perSecond: number, nowMs: number): void {
    if (nowMs !== this.#atMs) this.earn(perSecond, tokensMax(perSecond), nowMs);
  }

  /** Milliseconds until there is a whole token besides those that are `reserved`; 0 when there is one. */
  waitMs(perSecond: number, nowMs: number, reserved = 0): number {
    if (this.tokens + reserved >= 1) return 0;
    this.save(perSecond, nowMs);
    return Math.max(0, ((1 - reserved - this.tokens) * 1000) / perSecond);
  }
}

/** How many can be saved, and are there at first: those of a second; without a rate any number. */
export function tokensMax(perSecond: number): number {
  return perSecond === 0 ? Number.POSITIVE_INFINITY : Math.max(1, perSecond);
}
