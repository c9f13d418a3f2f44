/** Buckets an octave: a value is known to within 0.8 %. */
const BUCKETS = 128;
const OCTAVE_BITS = 7;

/** Counts of whole numbers from 0 to 2^31 in log-linear buckets, after HdrHistogram: the leading bits tell which. */
export class Histogram {
  readonly #counts = new Uint32Array(BUCKETS * (33 - OCTAVE_BITS));
  count = 0;
  max = 0;

  /** From what `buckets` gave. */
  static from(buckets: readonly (readonly [index: number, count: number])[], max: number): Histogram {
    const histogram = new Histogram();
    for (const [index, count] of buckets) {
      histogram.#counts[index] = count;
      histogram.count += count;
    }
    histogram.max = max;
    return histogram;
  }

  record(value: number): void {
    const whole = value < 0 ? 0 : value | 0;
    this.#counts[bucketOf(whole)]!++;
    this.count++;
    if (whole > this.max) this.max = whole;
  }

  clear(): void {
    this.#counts.fill(0);
    this.count = this.max = 0;
  }

  /** The value that `part` of all values (0 to 1) do not exceed; 0 when there are none. */
  percentile(part: number): number {
    let left = Math.max(1, Math.ceil(part * this.count));
    for (let i = 0; i < this.#counts.length; i++) {
      left -= this.#counts[i]!;
      if (left <= 0) return Math.min(highestOf(i), this.max);
    }
    return this.max;
  }

  /** How many values are greater, but for those in the same bucket. */
  above(value: number): number {
    let count = 0;
    for (let i = bucketOf(value) + 1; i < this.#counts.length; i++) count += this.#counts[i]!;
    return count;
  }

  /** The buckets that are not empty: what goes into a file. */
  get buckets(): [index: number, count: number][] {
    const buckets: [number, number][] = [];
    for (let i = 0; i < this.#counts.length; i++) if (this.#counts[i]! > 0) buckets.push([i, this.#counts[i]!]);
    return buckets;
  }
}

function bucketOf(value: number): number {
  if (value < 2 * BUCKETS) return value;
  const shift = 31 - OCTAVE_BITS - Math.clz32(value);
  return BUCKETS * shift + (value >>> shift);
}

/** The highest value that falls into a bucket. */
function highestOf(index: number): number {
  if (index < 2 * BUCKETS) return index;
  const shift = Math.floor(index / BUCKETS) - 1;
  return (index - BUCKETS * shift + 1) * 2 ** shift - 1;
}
