/** Numbers that are missing of one stream are remembered up to this many; beyond that they only count. */
const GAP_MAX = 10_000;

/**
 * Counts what came of numbered streams from one sender to one receiver: each number must come once, and in order. A
 * stream is a number of its own; all of them are one array.
 */
export class Tally {
  lost = 0;
  twice = 0;
  disordered = 0;
  readonly #next: Int32Array;
  readonly #missing = new Map<number, Set<number>>();

  constructor(streams: number) {
    this.#next = new Int32Array(streams);
  }

  /** What came of a stream: as many as should be there when none is lost. */
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

  /** At the end: so many were sent. */
  end(stream: number, sent: number): void {
    this.lost += Math.max(0, sent - this.#next[stream]!);
  }
}
