import { describe, expect, test } from "bun:test";
import { TICK_MS, type TimerKind, TimerWheel, WheelTimer } from "../src/timer-wheel.ts";
import { Random, seedFor } from "./support/random.ts";

/** One round of the wheel. A timer further away shares its slot with nearer ones. */
const TURN_MS = 1024 * TICK_MS;
const LATE_MS = 2 * TICK_MS;

/** Advances the clock in steps of a tick, as in a running process. */
function run(wheel: TimerWheel, fromMs: number, toMs: number): void {
  for (let clockMs = fromMs; clockMs < toMs; clockMs += TICK_MS) wheel.advance(clockMs);
  wheel.advance(toMs);
}

/** A new armed timer. */
function arm<T>(wheel: TimerWheel, kind: TimerKind<T>, owner: T, delayMs: number): WheelTimer<T> {
  const timer = new WheelTimer(owner);
  wheel.schedule(timer, kind, delayMs);
  return timer;
}

/** A wheel whose timers record their names in the order in which they fire. */
function namedTimers() {
  const wheel = new TimerWheel();
  const fired: string[] = [];
  const named = wheel.kind((name: string) => fired.push(name));
  return { wheel, fired, named };
}

describe("a deadline", () => {
  test("is never early and at most two ticks late, for any delay and any moment", () => {
    for (let armedAtMs = 0; armedAtMs <= 2 * TICK_MS; armedAtMs += 7) {
      for (let delayMs = 0; delayMs <= 3 * TICK_MS; delayMs += 5) {
        const { wheel, fired, named } = namedTimers();
        wheel.advance(armedAtMs);
        arm(wheel, named, "it", delayMs);
        for (let clockMs = armedAtMs + 1; fired.length === 0; clockMs++) {
          wheel.advance(clockMs);
          if (fired.length > 0) expect(clockMs).toBeGreaterThanOrEqual(armedAtMs + delayMs);
          if (fired.length === 0) expect(clockMs).toBeLessThan(armedAtMs + delayMs + LATE_MS);
        }
      }
    }
  });

  test("in the past fires in the next tick", () => {
    const { wheel, fired, named } = namedTimers();
    run(wheel, 0, 1000);
    arm(wheel, named, "past", -500);
    expect(fired).toEqual([]);
    wheel.advance(1000 + TICK_MS);
    expect(fired).toEqual(["past"]);
  });

  test("further away than one round of the wheel waits for its own round", () => {
    const { wheel, fired, named } = namedTimers();
    arm(wheel, named, "third turn", 2 * TURN_MS + 10 * TICK_MS);
    arm(wheel, named, "second turn", TURN_MS + 10 * TICK_MS);
    arm(wheel, named, "first turn", 10 * TICK_MS);
    run(wheel, 0, TURN_MS);
    expect(fired).toEqual(["first turn"]);
    run(wheel, TURN_MS, TURN_MS + 9 * TICK_MS);
    expect(fired).toEqual(["first turn"]);
    run(wheel, TURN_MS + 9 * TICK_MS, 2 * TURN_MS);
    expect(fired).toEqual(["first turn", "second turn"]);
    run(wheel, 2 * TURN_MS, 3 * TURN_MS);
    expect(fired).toEqual(["first turn", "second turn", "third turn"]);
    expect(wheel.armed).toBe(0);
  });

  test("works with a clock that begins at any time", () => {
    const wheel = new TimerWheel(123_456_789);
    let fired = 0;
    arm(
      wheel,
      wheel.kind(() => fired++),
      null,
      1000,
    );
    run(wheel, 123_456_789, 123_456_789 + 999);
    expect(fired).toBe(0);
    run(wheel, 123_456_789 + 999, 123_456_789 + 1000 + LATE_MS);
    expect(fired).toBe(1);
  });

  test("calls the function of its kind with its owner", () => {
    const wheel = new TimerWheel();
    const calls: string[] = [];
    const words = wheel.kind((owner: { word: string }) => calls.push(`word ${owner.word}`));
    const numbers = wheel.kind((owner: number) => calls.push(`number ${owner}`));
    arm(wheel, numbers, 1, 50);
    arm(wheel, words, { word: "a" }, 50);
    arm(wheel, numbers, 2, 50);
    run(wheel, 0, 300);
    expect(calls.sort()).toEqual(["number 1", "number 2", "word a"]);
  });
});

describe("a timer", () => {
  test("that was never armed is not armed, and cancelling it changes nothing", () => {
    const { wheel, named } = namedTimers();
    const timer = new WheelTimer("never armed");
    arm(wheel, named, "it", 10);
    expect(timer.armed).toBe(false);
    expect(wheel.cancel(timer)).toBe(false);
    expect(wheel.armed).toBe(1);
  });

  test("is cancelled once, and cancelling it again changes nothing", () => {
    const { wheel, fired, named } = namedTimers();
    const timer = arm(wheel, named, "it", 100);
    expect(timer.armed).toBe(true);
    expect(wheel.cancel(timer)).toBe(true);
    expect(timer.armed).toBe(false);
    expect(wheel.cancel(timer)).toBe(false);
    run(wheel, 0, 1000);
    expect(fired).toEqual([]);
    expect(wheel.armed).toBe(0);
  });

  test("that is armed again moves to its new deadline and fires once", () => {
    const { wheel, fired, named } = namedTimers();
    const later = wheel.kind((name: string) => fired.push(`${name} later`));
    const timer = arm(wheel, named, "it", 100);
    wheel.schedule(timer, later, 1000);
    expect(wheel.armed).toBe(1);
    run(wheel, 0, 999);
    expect(fired).toEqual([]);
    run(wheel, 999, 5000);
    expect(fired).toEqual(["it later"]);
    expect(wheel.armed).toBe(0);
  });

  test("that fired does not cancel the timer that has its record now", () => {
    const { wheel, fired, named } = namedTimers();
    const first = arm(wheel, named, "first", 10);
    const { record } = first;
    run(wheel, 0, 200);
    expect(first.armed).toBe(false);
    const second = arm(wheel, named, "second", 10);
    expect(second.record).toBe(record);
    expect(wheel.cancel(first)).toBe(false);
    expect(wheel.armed).toBe(1);
    run(wheel, 200, 400);
    expect(fired).toEqual(["first", "second"]);
  });

  test("that was cancelled does not cancel the timer that has its record now", () => {
    const { wheel, fired, named } = namedTimers();
    const first = arm(wheel, named, "first", 10);
    const { record } = first;
    wheel.cancel(first);
    expect(arm(wheel, named, "second", 10).record).toBe(record);
    expect(wheel.cancel(first)).toBe(false);
    run(wheel, 0, 200);
    expect(fired).toEqual(["second"]);
  });

  test("is not armed while it fires, and may be armed again by its callback", () => {
    const wheel = new TimerWheel();
    const answers: boolean[] = [];
    const kind = wheel.kind((owner: { timer: WheelTimer<unknown> | null }) => {
      answers.push(owner.timer!.armed, wheel.cancel(owner.timer!));
      if (answers.length === 2) wheel.schedule(owner.timer as WheelTimer<typeof owner>, kind, 10);
    });
    const owner: { timer: WheelTimer<unknown> | null } = { timer: null };
    owner.timer = arm(wheel, kind, owner, 10);
    run(wheel, 0, 400);
    expect(answers).toEqual([false, false, false, false]);
    expect(wheel.armed).toBe(0);
  });

  test("does not cancel another timer after any number of uses of its record", () => {
    const { wheel, fired, named } = namedTimers();
    const first = arm(wheel, named, "first", 10);
    wheel.cancel(first);
    const other = new WheelTimer("one of many");
    for (let i = 0; i < 10_000; i++) {
      wheel.schedule(other, named, 10);
      if (wheel.cancel(first) || !wheel.cancel(other)) throw new Error(`use ${i} is wrong`);
    }
    arm(wheel, named, "the last", 10);
    expect(wheel.cancel(first)).toBe(false);
    run(wheel, 0, 200);
    expect(fired).toEqual(["the last"]);
  });
});

describe("a callback", () => {
  test("may cancel other timers of the slot that is being fired, in the middle and at the end", () => {
    const wheel = new TimerWheel();
    const fired: number[] = [];
    const timers: WheelTimer<number>[] = [];
    const answers: boolean[] = [];
    const kind = wheel.kind((id: number) => {
      fired.push(id);
      if (fired.length > 1) return;
      for (const other of [0, 1, 4, 5, 9]) answers.push(wheel.cancel(timers[other]!));
    });
    for (let id = 0; id < 10; id++) timers.push(arm(wheel, kind, id, 100));
    run(wheel, 0, 300);
    // Timer 0 fires first and cannot be cancelled. The rest fires in the order of arming.
    expect(answers).toEqual([false, true, true, true, true]);
    expect(fired).toEqual([0, 2, 3, 6, 7, 8]);
    expect(wheel.armed).toBe(0);
  });

  test("may arm a timer in the slot that is being fired, which waits for its own tick", () => {
    const wheel = new TimerWheel();
    const firedAtMs: number[] = [];
    const again = wheel.kind((times: number) => {
      firedAtMs.push(wheel.nowMs);
      if (times > 0) arm(wheel, again, times - 1, TURN_MS);
    });
    arm(wheel, again, 2, TICK_MS);
    run(wheel, 0, 4 * TURN_MS);
    expect(firedAtMs).toEqual([TICK_MS, TICK_MS + TURN_MS, TICK_MS + 2 * TURN_MS]);
  });

  test("that arms its timer without a delay is called again in the next tick, not in this one", () => {
    const wheel = new TimerWheel();
    let calls = 0;
    const again = wheel.kind(() => {
      calls++;
      arm(wheel, again, null, 0);
    });
    arm(wheel, again, null, 0);
    for (let tick = 1; tick <= 10; tick++) {
      wheel.advance(tick * TICK_MS);
      expect(calls).toBe(tick);
    }
  });

  test("that throws does not lose other timers of its slot and of later ticks", () => {
    const wheel = new TimerWheel();
    const fired: string[] = [];
    const kind = wheel.kind((name: string) => {
      fired.push(name);
      if (name.startsWith("bad")) throw new Error(name);
    });
    for (const name of ["good 1", "bad 1", "bad 2", "good 2"]) arm(wheel, kind, name, TICK_MS);
    arm(wheel, kind, "next tick", 2 * TICK_MS);
    expect(() => wheel.advance(3 * TICK_MS)).toThrow("bad 1");
    expect(fired).toEqual(["good 1", "bad 1"]);
    expect(wheel.armed).toBe(3);
    expect(() => wheel.advance(3 * TICK_MS)).toThrow("bad 2");
    wheel.advance(3 * TICK_MS);
    expect(fired).toEqual(["good 1", "bad 1", "bad 2", "good 2", "next tick"]);
    expect(wheel.armed).toBe(0);
  });

  test("that throws leaves other timers of its slot cancellable", () => {
    const wheel = new TimerWheel();
    const fired: string[] = [];
    const kind = wheel.kind((name: string) => {
      fired.push(name);
      if (name === "bad") throw new Error(name);
    });
    arm(wheel, kind, "bad", TICK_MS);
    const neighbour = arm(wheel, kind, "neighbour", TICK_MS);
    arm(wheel, kind, "last", TICK_MS);
    expect(() => wheel.advance(TICK_MS)).toThrow("bad");
    expect(wheel.cancel(neighbour)).toBe(true);
    wheel.advance(TICK_MS);
    expect(fired).toEqual(["bad", "last"]);
  });
});

describe("the wheel's clock", () => {
  test("does not count a stall of ten seconds", () => {
    const { wheel, fired, named } = namedTimers();
    run(wheel, 0, 640);
    arm(wheel, named, "silence", 5000);
    wheel.advance(10_640);
    expect(wheel.nowMs).toBe(640 + TICK_MS);
    expect(fired).toEqual([]);
    // The five seconds count after the stall.
    run(wheel, 10_640, 10_640 + 5000 - TICK_MS - 1);
    expect(fired).toEqual([]);
    run(wheel, 10_640 + 5000 - TICK_MS, 10_640 + 5000 + LATE_MS);
    expect(fired).toEqual(["silence"]);
  });

  test("counts a turn that is only a little longer", () => {
    const { wheel } = namedTimers();
    wheel.advance(3 * TICK_MS);
    expect(wheel.nowMs).toBe(3 * TICK_MS);
  });

  test("stands still when the process's clock steps back, and continues from there", () => {
    const { wheel, fired, named } = namedTimers();
    run(wheel, 0, 10_000);
    arm(wheel, named, "it", 1000);
    wheel.advance(2000);
    expect(wheel.nowMs).toBe(10_000);
    run(wheel, 2000, 2999);
    expect(wheel.nowMs).toBe(10_999);
    expect(fired).toEqual([]);
    run(wheel, 2999, 3000 + LATE_MS);
    expect(fired).toEqual(["it"]);
  });

  test("says when what is read after a stall may have arrived, also when the clock steps back", () => {
    const wheel = new TimerWheel(1000);
    const arrival = (clockMs: number): number => {
      wheel.begin(clockMs);
      return wheel.arrivalMs;
    };
    expect([1100, 1200].map(arrival)).toEqual([100, 200]);
    expect([9000, 9100, 9300].map(arrival)).toEqual([200, 200, 200]);
    for (let clockMs = 9400; clockMs <= 10_000; clockMs += 100) expect(arrival(clockMs)).toBe(200);
    expect(arrival(10_100)).toBe(9100);
    expect([2000, 2100, 7000].map(arrival)).toEqual([9100, 9200, 9200]);
  });

  test("says it also after two stalls, when little was read between them", () => {
    const wheel = new TimerWheel(0);
    const arrival = (clockMs: number): number => {
      wheel.begin(clockMs);
      return wheel.arrivalMs;
    };
    expect([100, 3000, 3010, 6000, 6200].map(arrival)).toEqual([100, 100, 100, 100, 100]);
    for (let clockMs = 6400; clockMs <= 7000; clockMs += 200) expect(arrival(clockMs)).toBe(100);
    expect([7200, 7400, 9000].map(arrival)).toEqual([7200, 7400, 7400]);
  });

  test("moves when a turn begins, but timers fire in `advance`, after the lines that have arrived", () => {
    const { wheel, fired, named } = namedTimers();
    const heard = arm(wheel, named, "heard", 100);
    arm(wheel, named, "silent", 100);
    wheel.begin(100);
    wheel.begin(200);
    expect(wheel.nowMs).toBe(200);
    expect(fired).toEqual([]);
    expect(wheel.cancel(heard)).toBe(true);
    wheel.advance(200);
    expect(fired).toEqual(["silent"]);
  });
});

test("the wheel grows beyond its first 1,023 records and keeps every timer and owner", () => {
  const wheel = new TimerWheel();
  const fired: number[] = [];
  const kind = wheel.kind((id: number) => fired.push(id));
  const timers: WheelTimer<number>[] = [];
  const count = 5000;
  for (let id = 0; id < count; id++) {
    timers.push(arm(wheel, kind, id, (id * 37) % 3000));
    expect(wheel.armed).toBe(id + 1);
  }
  expect(new Set(timers).size).toBe(count);
  // Every seventh is cancelled after the records have moved.
  for (let id = 0; id < count; id += 7) expect(wheel.cancel(timers[id]!)).toBe(true);
  const left = Array.from({ length: count }, (_, id) => id).filter((id) => id % 7 !== 0);
  expect(wheel.armed).toBe(left.length);
  run(wheel, 0, 3000 + LATE_MS);
  expect(fired.sort((a, b) => a - b)).toEqual(left);
  expect(wheel.armed).toBe(0);
});

test("random schedules, cancels, stalls and steps back agree with a map of due times", () => {
  const seed = seedFor("the wheel beside a map of due times");
  for (let round = 0; round < 40; round++) beside(new Random(seed + round));
});

/** Drives a wheel and a map of due times in parallel. */
function beside(random: Random): void {
  let clockMs = random.below(1_000_000);
  let nowMs = 0;
  const wheel = new TimerWheel(clockMs);
  const due = new Map<number, number>();
  const timers = new Map<number, WheelTimer<number>>();
  const stale: WheelTimer<number>[] = [];
  const kinds = [0, 1, 2].map((remainder) => wheel.kind((id: number) => fire(id, remainder)));
  let lastId = 0;

  function armOne(): void {
    const id = ++lastId;
    const delayMs = random.pick([0, 1, 63, 64, 65, 500, 5000, TURN_MS - 64, TURN_MS, TURN_MS + 64, 3 * TURN_MS]);
    const jitterMs = random.oneIn(2) ? 0 : random.below(700);
    due.set(id, wheel.nowMs + delayMs + jitterMs);
    timers.set(id, arm(wheel, kinds[id % 3]!, id, delayMs + jitterMs));
  }

  function disarm(): void {
    if (due.size === 0) return;
    // Mostly a near one, which may be in the slot that is being fired.
    const ids = [...due.keys()];
    const soonest = ids.reduce((a, b) => (due.get(a)! <= due.get(b)! ? a : b));
    const id = random.oneIn(3) ? random.pick(ids) : soonest;
    expect(wheel.cancel(timers.get(id)!)).toBe(true);
    forget(id);
  }

  function forget(id: number): void {
    stale.push(timers.get(id)!);
    timers.delete(id);
    due.delete(id);
  }

  function fire(id: number, remainder: number): void {
    expect(id % 3).toBe(remainder);
    const dueMs = due.get(id);
    if (dueMs === undefined) throw new Error(`timer ${id} fires though it is not armed`);
    expect(wheel.nowMs).toBeGreaterThanOrEqual(dueMs);
    forget(id);
    if (random.oneIn(3)) armOne();
    if (random.oneIn(6)) armOne();
    if (random.oneIn(4)) disarm();
  }

  for (let turn = 0; turn < 400; turn++) {
    const passedMs = random.oneIn(20) ? random.pick([1000, 10_000, -1, -5000]) : random.below(200);
    clockMs += passedMs;
    nowMs += passedMs < 0 ? 0 : passedMs >= 1000 ? TICK_MS : passedMs;
    wheel.begin(clockMs);
    for (let times = random.below(4); times > 0; times--) armOne();
    if (random.oneIn(3)) disarm();
    wheel.advance(clockMs);
    expect(wheel.nowMs).toBe(nowMs);
    for (const [id, dueMs] of due) {
      if (dueMs + LATE_MS <= nowMs) throw new Error(`timer ${id}, due at ${dueMs}, has not fired at ${nowMs}`);
    }
    if (stale.length > 0) expect(wheel.cancel(random.pick(stale))).toBe(false);
    expect(wheel.armed).toBe(due.size);
  }
}

test("the wheel has room for more than a million timers", () => {
  const { wheel, fired, named } = namedTimers();
  const count = 2 ** 20 + 2;
  const timers = Array.from({ length: count }, (_, i) => arm(wheel, named, `${i}`, i === 7 ? 0 : 60_000));
  expect(wheel.armed).toBe(count);
  wheel.advance(2 * TICK_MS);
  expect(fired).toEqual(["7"]);
  for (const timer of timers) wheel.cancel(timer);
  expect(wheel.armed).toBe(0);
});
