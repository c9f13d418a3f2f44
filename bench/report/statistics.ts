/** The middle value, or the mean of the two in the middle; NaN without values. */
export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

/** A median with its range. */
export interface Spread {
  median: number;
  min: number;
  max: number;
}

export function spread(values: readonly number[]): Spread {
  return { median: median(values), min: Math.min(...values), max: Math.max(...values) };
}

/** `values` divided by `others`, round by round, which cancels a drift of the machine. */
export function ratios(values: readonly number[], others: readonly number[]): number[] {
  return values.map((value, round) => value / others[round]!).filter(Number.isFinite);
}

/** A number with three significant digits, or all digits of its integer part: 1,234,567, 12.3, 0.123. */
export function digits(value: number): string {
  if (!Number.isFinite(value)) return "-";
  const fraction = Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 10 ? 1 : Math.abs(value) >= 1 ? 2 : 3;
  return value.toLocaleString("en", { maximumFractionDigits: fraction, minimumFractionDigits: 0 });
}

/** `median [min..max]`. */
export function range({ median, min, max }: Spread): string {
  return `${digits(median)} [${digits(min)}..${digits(max)}]`;
}
