/** Missing numbers of one stream that are remembered; more are only counted as lost. */
const GAP_MAX = 10_000;

/**
 * Checks numbered streams, each from one sender to one receiver: every number must arrive once and in order. A stream
 * is an index into one array.
 */
export class Tally {
  lost = 0;
  twice = 0;
  disordered = 0;
  /** By stream: the next number that is expected. */
  readonly #next: Int32Array;
  /** By stream: numbers that were skipped and may still arrive. */
  readonly #missing = new Map<number, Set<number>>();

  constructor(streams: number) {
    this.#next = new Int32Array(streams);
  }

  /** The next number that is expected of a stream. */
  next(stream: number): number {
    return this.#next[stream]!;
  }

  received(stream: number, sequence: number): void {
    if (this.#next[stream] === sequence) this.#next[stream] = sequence + 1;
    else this.#outOfOrder(stream, sequence);
  }

  #outOfOrder(stream: number, sequence: number): void {
    const next = this.#next[stream]!;
    let missing = this.#missing.get(stream);
    if (missing === undefined) this.#missing.set(stream, (missing = new Set()));
    if (sequence < next) {
      if (!missing.delete(sequence)) this.twice++;
      else {
        this.lost--;
        this.disordered++;
      }
      return;
    }
    this.lost += sequence - next;
    for (let each = next; each < sequence && missing.size < GAP_MAX; each++) missing.add(each);
    this.#next[stream] = sequence + 1;
  }

  /** At the end of a stream: numbers below `sent` that have not arrived are lost. */
  end(stream: number, sent: number): void {
    this.lost += Math.max(0, sent - this.#next[stream]!);
  }
}
