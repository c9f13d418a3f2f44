/** The wheel's grain: a deadline is never early and at most two ticks late. */
export const TICK_MS = 64;

const SLOTS = 1024;
/** A record: next, previous (indexes of records), due tick, and kind. */
const FIELDS = 4;
const NEXT = 0;
const PREVIOUS = 1;
const DUE = 2;
const KIND = 3;
/** The list being fired is a sentinel of its own, just behind the slots. */
const FIRING = SLOTS;
const FIRST_TIMER = SLOTS + 1;
/** A jump of the clock beyond this is a stall of this process; see `begin`. */
const STALL_MS = 4 * TICK_MS;

/** What to do when a timer is due: a number that `kind` gave out for owners of type T. */
export type TimerKind<T> = number & { readonly owner?: T };

/**
 * A deadline of one owner, armed and cancelled any number of times. It knows its record in the wheel only while it is
 * armed: the wheel takes the index back when the timer fires or is cancelled, so no index can outlive its use and
 * cancel the timer that has the record next.
 */
export class WheelTimer<T> {
  readonly owner: T;
  /** Index of its record while it is armed, otherwise 0. Only the wheel changes it. */
  record = 0;

  constructor(owner: T) {
    this.owner = owner;
  }

  get armed(): boolean {
    return this.record !== 0;
  }
}

/**
 * One hashed timer wheel (Varghese & Lauck 1987, scheme 6) for every deadline: 1,024 slots of 64 ms, records in one
 * Int32Array, slots as sentinels of circular lists. Arming makes no closure and no object. Time comes in as a number.
 *
 * Its clock leaves out stalls: when the process was stopped for ten seconds, nobody else was silent for ten seconds.
 */
export class TimerWheel {
  /** Wheel time in ms: monotonic, without stalls. The only "now" that deadlines are counted from. */
  nowMs = 0;
  /** Timers that are armed. */
  armed = 0;
  /** Whose timer fired last. */
  firing: unknown = null;
  #tick = 0;
  #stalledMs = 0;
  #clockMs = 0;
  #records = new Int32Array((FIRST_TIMER + 1023) * FIELDS);
  /** The timers of the records in use. */
  readonly #timers: (WheelTimer<unknown> | undefined)[] = [];
  #free = 0;
  #used = FIRST_TIMER;
  readonly #fires: ((owner: never) => void)[] = [];

  /** `clockMs`: what the monotonic clock shows now. */
  constructor(clockMs = 0) {
    this.#clockMs = clockMs;
    this.#stalledMs = clockMs;
    for (let slot = 0; slot <= FIRING; slot++) {
      this.#records[slot * FIELDS + NEXT] = slot;
      this.#records[slot * FIELDS + PREVIOUS] = slot;
    }
  }

  /** `fire` is called with the owner of each timer of this kind that is due; it may schedule and cancel any timer. */
  kind<T>(fire: (owner: T) => void): TimerKind<T> {
    return this.#fires.push(fire) - 1;
  }

  /**
   * A turn begins at `clockMs` of a monotonic clock. Nothing fires yet, so that lines which arrived during a stall are
   * heard first. A clock that steps back stands still.
   */
  begin(clockMs: number): void {
    const passedMs = clockMs - this.#clockMs;
    if (passedMs > STALL_MS) this.#stalledMs += passedMs - TICK_MS;
    else if (passedMs < 0) this.#stalledMs += passedMs;
    this.#clockMs = clockMs;
    this.nowMs = Math.max(this.nowMs, clockMs - this.#stalledMs);
  }

  /** Fires what is due at `clockMs`, tick by tick. */
  advance(clockMs: number): void {
    this.begin(clockMs);
    this.#drain(); // what a throwing callback left behind
    const to = Math.floor(this.nowMs / TICK_MS);
    while (this.#tick < to) {
      this.#tick++;
      this.#splice(this.#tick & (SLOTS - 1));
      this.#drain();
    }
  }

  /** Arms a timer, or moves one that is armed: due `delayMs` from now, at the earliest in the next tick. */
  schedule<T>(timer: WheelTimer<T>, kind: TimerKind<T>, delayMs: number): void {
    if (timer.record === 0) this.#take(timer);
    else this.#unlink(timer.record);
    const due = Math.max(Math.ceil((this.nowMs + delayMs) / TICK_MS), this.#tick + 1);
    const at = timer.record * FIELDS;
    this.#records[at + DUE] = due;
    this.#records[at + KIND] = kind;
    this.#link(timer.record, due & (SLOTS - 1));
  }

  /** Disarms a timer; false when it is not armed. */
  cancel(timer: WheelTimer<unknown>): boolean {
    if (timer.record === 0) return false;
    this.#unlink(timer.record);
    this.#release(timer);
    return true;
  }

  /** The whole slot moves to the firing list first: a callback may cancel its neighbours or arm into this very slot. */
  #splice(slot: number): void {
    const records = this.#records;
    const first = records[slot * FIELDS + NEXT]!;
    if (first === slot) return;
    const last = records[slot * FIELDS + PREVIOUS]!;
    records[FIRING * FIELDS + NEXT] = first;
    records[FIRING * FIELDS + PREVIOUS] = last;
    records[first * FIELDS + PREVIOUS] = FIRING;
    records[last * FIELDS + NEXT] = FIRING;
    records[slot * FIELDS + NEXT] = slot;
    records[slot * FIELDS + PREVIOUS] = slot;
  }

  #drain(): void {
    for (;;) {
      const record = this.#records[FIRING * FIELDS + NEXT]!;
      if (record === FIRING) return;
      this.#unlink(record);
      const due = this.#records[record * FIELDS + DUE]!;
      // The difference is right even when the count of ticks has left the 32 bits of a record.
      if (((due - this.#tick) | 0) > 0) {
        this.#link(record, due & (SLOTS - 1));
        continue;
      }
      const kind = this.#records[record * FIELDS + KIND]!;
      const timer = this.#timers[record - FIRST_TIMER]!;
      this.#release(timer);
      this.firing = timer.owner;
      this.#fires[kind]!(timer.owner as never);
    }
  }

  #take(timer: WheelTimer<unknown>): void {
    let record = this.#free;
    if (record !== 0) this.#free = this.#records[record * FIELDS + NEXT]!;
    else {
      if (this.#used * FIELDS === this.#records.length) {
        const grown = new Int32Array(this.#records.length * 2);
        grown.set(this.#records);
        this.#records = grown;
      }
      record = this.#used++;
    }
    timer.record = record;
    this.#timers[record - FIRST_TIMER] = timer;
    this.armed++;
  }

  #release(timer: WheelTimer<unknown>): void {
    const { record } = timer;
    timer.record = 0;
    this.#records[record * FIELDS + NEXT] = this.#free;
    this.#timers[record - FIRST_TIMER] = undefined;
    this.#free = record;
    this.armed--;
  }

  #link(timer: number, slot: number): void {
    const records = this.#records;
    const last = records[slot * FIELDS + PREVIOUS]!;
    records[timer * FIELDS + NEXT] = slot;
    records[timer * FIELDS + PREVIOUS] = last;
    records[last * FIELDS + NEXT] = timer;
    records[slot * FIELDS + PREVIOUS] = timer;
  }

  #unlink(timer: number): void {
    const records = this.#records;
    const next = records[timer * FIELDS + NEXT]!;
    const previous = records[timer * FIELDS + PREVIOUS]!;
    records[previous * FIELDS + NEXT] = next;
    records[next * FIELDS + PREVIOUS] = previous;
  }
}
