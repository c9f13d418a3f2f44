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
}
