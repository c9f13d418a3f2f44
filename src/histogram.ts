/** Upper bounds in seconds, for the duration of a turn or of a sync. */
const BOUNDS_SECONDS = [0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1];

/** Counts durations in buckets, in plain numbers. The server's metrics are read from it. */
export class Histogram {
  readonly bounds: readonly number[] = BOUNDS_SECONDS;
  /** Values up to each bound and above the one before; the last count is for values above all bounds. */
  readonly counts: number[] = new Array(BOUNDS_SECONDS.length + 1).fill(0);
  /** Sum of all values. */
  seconds = 0;

  add(seconds: number): void {
    const { bounds } = this;
    let bucket = 0;
    while (bucket < bounds.length && seconds > bounds[bucket]!) bucket++;
    this.counts[bucket]!++;
    this.seconds += seconds;
  }
}
