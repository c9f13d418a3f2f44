/** The middle value; of an even number of values, the mean of the two in the middle. NaN of none. */
export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

/** A median and between what the values lie. */
export interface Spread {
  median: number;
  min: number;
  max: number;
}

export function spread(values: readonly number[]): Spread {
  return { median: median(values), min: Math.min(...values), max: Math.max(...values) };
}

/** Round by round, how many times `others` goes into `values`: what drifts with the machine falls out. */
export function ratios(values: readonly number[], others: readonly number[]): number[] {
  return values.map((value, round) => value / others[round]!).filter(Number.isFinite);
}

/** A number with as many digits as are worth showing: 1,234,567, 12.3, 0.123. */
export function digits(value: number): string {
  if (!Number.isFinite(value)) return "-";
  const fraction = Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 10 ? 1 : Math.abs(value) >= 1 ? 2 : 3;
  return value.toLocaleString("en", { maximumFractionDigits: fraction, minimumFractionDigits: 0 });
}

export function range({ median, min, max }: Spread): string {
  return `${digits(median)} [${digits(min)}..${digits(max)}]`;
}
