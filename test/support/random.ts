/** The seed of a random test: from the environment when it is given, else a fresh one. Either way it is printed. */
export function seedFor(what: string): number {
  const given = process.env.SEED;
  const seed = given === undefined ? Math.floor(Math.random() * 2 ** 31) : Number(given);
  if (!Number.isInteger(seed)) throw new Error(`SEED=${given} is no whole number`);
  console.log(`SEED=${seed} (${what})`);
  return seed;
}

/** Seeds of a test that runs many short ones: `count`, or SEEDS of them; just the one when SEED is given alone. */
export function seedsFor(what: string, count: number): number[] {
  const { SEED, SEEDS } = process.env;
  const length = SEEDS === undefined ? (SEED === undefined ? count : 1) : Number(SEEDS);
  if (!Number.isInteger(length) || length < 1) throw new Error(`SEEDS=${SEEDS} is no number of seeds`);
  const first = seedFor(`the first of ${length}, ${what}`);
  return Array.from({ length }, (_, index) => first + index);
}

/** The same numbers for the same seed, on every machine (mulberry32). */
export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  /** From 0 to `bound - 1`. */
  below(bound: number): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let mixed = this.#state;
    mixed = Math.imul(mixed ^ (mixed >>> 15), mixed | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return Math.floor((((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32) * bound);
  }

  /** From `low` to `high`, both included. */
  between(low: number, high: number): number {
    return low + this.below(high - low + 1);
  }

  /** True once in so many times. */
  oneIn(times: number): boolean {
    return this.below(times) === 0;
  }

  pick<T>(list: readonly T[]): T {
    if (list.length === 0) throw new Error("nothing to pick from");
    return list[this.below(list.length)]!;
  }

  bytes(count: number): Buffer {
    return Buffer.from(Array.from({ length: count }, () => this.below(256)));
  }
}
