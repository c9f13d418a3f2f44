/** Buckets per octave: a value is exact to 0.8 %. */
const BUCKETS = 128;
const OCTAVE_BITS = 7;

/** Counts of whole numbers from 0 to 2^31 in log-linear buckets (HdrHistogram): the leading bits select the bucket. */
export class Histogram {
  readonly #counts = new Uint32Array(BUCKETS * (33 - OCTAVE_BITS));
  count = 0;
  max = 0;

  /** A histogram from saved `buckets`. */
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

  /** The value that a share `part` (0 to 1) of all values does not exceed; 0 for an empty histogram. */
  percentile(part: number): number {
    let left = Math.max(1, Math.ceil(part * this.count));
    for (let i = 0; i < this.#counts.length; i++) {
      left -= this.#counts[i]!;
      if (left <= 0) return Math.min(highestOf(i), this.max);
    }
    return this.max;
  }

  /** Number of values in higher buckets. */
  above(value: number): number {
    let count = 0;
    for (let i = bucketOf(value) + 1; i < this.#counts.length; i++) count += this.#counts[i]!;
    return count;
  }

  /** The non-empty buckets, for a file. */
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

/** The highest value of a bucket. */
function highestOf(index: number): number {
  if (index < 2 * BUCKETS) return index;
  const shift = Math.floor(index / BUCKETS) - 1;
  return (index - BUCKETS * shift + 1) * 2 ** shift - 1;
}
