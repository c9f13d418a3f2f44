/**
 * A binary heap of timers that knows where each of them is, so that any can be cancelled: what the wheel is measured
 * against. Timers are numbers below `timersMax`; due times are whole numbers.
 */
export class TimerHeap {
  readonly #dues: Int32Array;
  readonly #heap: Int32Array;
  /** Place of each timer in the heap. */
  readonly #places: Int32Array;
  size = 0;

  constructor(timersMax: number) {
    this.#dues = new Int32Array(timersMax);
    this.#heap = new Int32Array(timersMax);
    this.#places = new Int32Array(timersMax).fill(-1);
  }

  /** The timer that is due first, while there is any. */
  get first(): number {
    return this.#heap[0]!;
  }

  schedule(timer: number, due: number): void {
    this.#dues[timer] = due;
    this.#up(timer, this.size++);
  }

  cancel(timer: number): void {
    const place = this.#places[timer]!;
    if (place < 0) return;
    this.#places[timer] = -1;
    const last = this.#heap[--this.size]!;
    if (last === timer) return;
    this.#up(last, place);
    this.#down(last, this.#places[last]!);
  }

  /** Moves a timer that is armed. */
  rearm(timer: number, due: number): void {
    this.#dues[timer] = due;
    this.#up(timer, this.#places[timer]!);
    this.#down(timer, this.#places[timer]!);
  }

  #up(timer: number, from: number): void {
    let place = from;
    const due = this.#dues[timer]!;
    while (place > 0) {
      const parent = (place - 1) >> 1;
      const other = this.#heap[parent]!;
      if (this.#dues[other]! <= due) break;
      this.#put(other, place);
      place = parent;
    }
    this.#put(timer, place);
  }

  #down(timer: number, from: number): void {
    let place = from;
    const due = this.#dues[timer]!;
    for (;;) {
      let child = 2 * place + 1;
      if (child >= this.size) break;
      if (child + 1 < this.size && this.#dues[this.#heap[child + 1]!]! < this.#dues[this.#heap[child]!]!) child++;
      const other = this.#heap[child]!;
      if (this.#dues[other]! >= due) break;
      this.#put(other, place);
      place = child;
    }
    this.#put(timer, place);
  }

  #put(timer: number, place: number): void {
    this.#heap[place] = timer;
    this.#places[timer] = place;
  }
}
