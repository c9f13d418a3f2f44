export { Random } from "../../bench/random.ts";

/** The seed of a random test: SEED of the environment, or a new one. It is printed with the name of the test. */
export function seedFor(test: string): number {
  const given = process.env.SEED;
  const seed = given === undefined ? Math.floor(Math.random() * 2 ** 31) : Number(given);
  if (!Number.isInteger(seed)) throw new Error(`SEED=${given} is not a whole number`);
  console.log(`SEED=${seed} (${test})`);
  return seed;
}

/** `count` consecutive seeds, or SEEDS of them; only SEED when it is given without SEEDS. */
export function seedsFor(test: string, count: number): number[] {
  const { SEED, SEEDS } = process.env;
  const length = SEEDS === undefined ? (SEED === undefined ? count : 1) : Number(SEEDS);
  if (!Number.isInteger(length) || length < 1) throw new Error(`SEEDS=${SEEDS} is not a positive whole number`);
  const first = seedFor(`the first of ${length}, ${test}`);
  return Array.from({ length }, (_, index) => first + index);
}
