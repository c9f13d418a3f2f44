/** The wheel's grain: a deadline is never early and at most two ticks late. */
export const TICK_MS = 64;

const SLOTS = 1024;
/** A record: next, previous (indexes of records), due tick, and generation << 8 | kind. */
const FIELDS = 4;
const NEXT = 0;
const PREVIOUS = 1;
const DUE = 2;
const META = 3;
const KIND_BITS = 8;
/**
 * A handle is generation << INDEX_BITS | index of the record, and a whole number of 31 bits: with doubles, arming and
 * disarming takes twice as long. So a wheel has room for a million timers, and a handle is unmistakable until its
 * record has served 2,047 others.
 */
const INDEX_BITS = 20;
const GENERATION_MAX = (1 << 11) - 1;
/** The list being fired is a sentinel of its own, just behind the slots. */
const FIRING = SLOTS;
const FIRST_TIMER = SLOTS + 1;
/** A jump of the clock beyond this is a stall of this process; see `begin`. */
const STALL_MS = 4 * TICK_MS;

/** What to do when a timer is due: a number that `kind` gave out for owners of type T. */
export type TimerKind<T> = number & { readonly owner?: T };
/** A timer's name; 0 is none. It is safe to cancel after the timer fired, but not for ever: see INDEX_BITS. */
export type TimerHandle = number;

/**
 * One hashed timer wheel (Varghese & Lauck 1987, scheme 6) for every deadline: 1,024 slots of 64 ms, records in one
 * Int32Array, slots as sentinels of circular lists, no closure and no object a timer. Time comes in as a number.
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
  #owners: unknown[] = [];
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

  /** Arms a timer for `owner`, due `delayMs` from now; at the earliest in the next tick. */
  schedule<T>(kind: TimerKind<T>, owner: T, delayMs: number): TimerHandle {
    const timer = this.#take();
    const due = Math.max(Math.ceil((this.nowMs + delayMs) / TICK_MS), this.#tick + 1);
    const at = timer * FIELDS;
    const generation = this.#records[at + META]! >>> KIND_BITS;
    this.#records[at + DUE] = due;
    this.#records[at + META] = (generation << KIND_BITS) | kind;
    this.#owners[timer - FIRST_TIMER] = owner;
    this.#link(timer, due & (SLOTS - 1));
    this.armed++;
    return (generation << INDEX_BITS) | timer;
  }

  /** Disarms a timer; false when it has fired or was cancelled before. */
  cancel(handle: TimerHandle): boolean {
    const timer = handle & ((1 << INDEX_BITS) - 1);
    if (timer === 0 || this.#records[timer * FIELDS + META]! >>> KIND_BITS !== handle >>> INDEX_BITS) return false;
    this.#unlink(timer);
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
      const timer = this.#records[FIRING * FIELDS + NEXT]!;
      if (timer === FIRING) return;
      this.#unlink(timer);
      const due = this.#records[timer * FIELDS + DUE]!;
      if (due > this.#tick) {
        this.#link(timer, due & (SLOTS - 1));
        continue;
      }
      const kind = this.#records[timer * FIELDS + META]! & ((1 << KIND_BITS) - 1);
      const owner = this.#owners[timer - FIRST_TIMER];
      this.#release(timer);
      this.firing = owner;
      this.#fires[kind]!(owner as never);
    }
  }

  #take(): number {
    const free = this.#free;
    if (free !== 0) {
      this.#free = this.#records[free * FIELDS + NEXT]!;
      return free;
    }
    if (this.#used === 1 << INDEX_BITS) throw new RangeError("the wheel has no room for another timer");
    if (this.#used * FIELDS === this.#records.length) {
      const grown = new Int32Array(this.#records.length * 2);
      grown.set(this.#records);
      this.#records = grown;
    }
    this.#records[this.#used * FIELDS + META] = 1 << KIND_BITS;
    return this.#used++;
  }

  #release(timer: number): void {
    const at = timer * FIELDS;
    const generation = this.#records[at + META]! >>> KIND_BITS;
    this.#records[at + META] = (generation === GENERATION_MAX ? 1 : generation + 1) << KIND_BITS;
    this.#records[at + NEXT] = this.#free;
    this.#owners[timer - FIRST_TIMER] = undefined;
    this.#free = timer;
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
