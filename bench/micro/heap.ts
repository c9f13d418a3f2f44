/**
 * A binary heap of timers with the position of each timer, so that any timer can be cancelled. The timer wheel is
 * compared with it. Timers are numbers below `timersMax`; due times are whole numbers.
 */
export class TimerHeap {
  /** Due time, by timer. */
  readonly #dues: Int32Array;
  /** Timers in heap order. */
  readonly #heap: Int32Array;
  /** Index in the heap, by timer; -1 when it is not armed. */
  readonly #indexes: Int32Array;
  size = 0;

  constructor(timersMax: number) {
    this.#dues = new Int32Array(timersMax);
    this.#heap = new Int32Array(timersMax);
    this.#indexes = new Int32Array(timersMax).fill(-1);
  }

  /** The timer that is due first; valid while `size` is not 0. */
  get first(): number {
    return this.#heap[0]!;
  }

  schedule(timer: number, due: number): void {
    this.#dues[timer] = due;
    this.#up(timer, this.size++);
  }

  cancel(timer: number): void {
    const index = this.#indexes[timer]!;
    if (index < 0) return;
    this.#indexes[timer] = -1;
    const last = this.#heap[--this.size]!;
    if (last === timer) return;
    this.#up(last, index);
    this.#down(last, this.#indexes[last]!);
  }

  /** Changes the due time of an armed timer. */
  rearm(timer: number, due: number): void {
    this.#dues[timer] = due;
    this.#up(timer, this.#indexes[timer]!);
    this.#down(timer, this.#indexes[timer]!);
  }

  #up(timer: number, from: number): void {
    let index = from;
    const due = this.#dues[timer]!;
    while (index > 0) {
      const parent = (index - 1) >> 1;
      const other = this.#heap[parent]!;
      if (this.#dues[other]! <= due) break;
      this.#put(other, index);
      index = parent;
    }
    this.#put(timer, index);
  }

  #down(timer: number, from: number): void {
    let index = from;
    const due = this.#dues[timer]!;
    for (;;) {
      let child = 2 * index + 1;
      if (child >= this.size) break;
      if (child + 1 < this.size && this.#dues[this.#heap[child + 1]!]! < this.#dues[this.#heap[child]!]!) child++;
      const other = this.#heap[child]!;
      if (this.#dues[other]! >= due) break;
      this.#put(other, index);
      index = child;
    }
    this.#put(timer, index);
  }

  #put(timer: number, index: number): void {
    this.#heap[index] = timer;
    this.#indexes[timer] = index;
  }
}
