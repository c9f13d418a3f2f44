/** Random numbers that a failed run can have again: the seed is printed, and `HEARTLINE_SEED=<n>` gives it back. */
export class Random {
  readonly seed: number;
  #state: number;

  constructor(what: string) {
    this.seed = Number(process.env.HEARTLINE_SEED ?? Math.floor(Math.random() * 2 ** 32));
    this.#state = this.seed;
    console.log(`${what}: HEARTLINE_SEED=${this.seed}`);
  }

  /** A whole number, 0 <= number < limit (mulberry32). */
  below(limit: number): number {
    this.#state = (this.#state + 0x6d2b79f5) | 0;
    let value = Math.imul(this.#state ^ (this.#state >>> 15), 1 | this.#state);
    value = (value + Math.imul(value ^ (value >>> 7), 61 | value)) ^ value;
    return Math.floor((((value ^ (value >>> 14)) >>> 0) / 2 ** 32) * limit);
  }

  pick<T>(from: readonly T[]): T {
    return from[this.below(from.length)]!;
  }

  bytes(count: number): Buffer {
    return Buffer.from(Array.from({ length: count }, () => this.below(256)));
  }
}
