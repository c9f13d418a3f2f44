import { describe, expect, test } from "bun:test";
import { TICK_MS, type TimerHandle, TimerWheel } from "../src/timer-wheel.ts";
import { Random, seedFor } from "./support/random.ts";

/** One turn of the wheel: a timer further away shares its slot with nearer ones. */
const TURN_MS = 1024 * TICK_MS;
const LATE_MS = 2 * TICK_MS;

/** Moves the clock as a running process does, in steps of a tick. */
function run(wheel: TimerWheel, fromMs: number, toMs: number): void {
  for (let clockMs = fromMs; clockMs < toMs; clockMs += TICK_MS) wheel.advance(clockMs);
  wheel.advance(toMs);
}

/** A wheel whose timers write their names down, in the order in which they fire. */
function namedTimers() {
  const wheel = new TimerWheel();
  const fired: string[] = [];
  const named = wheel.kind((name: string) => fired.push(name));
  return { wheel, fired, named };
}

describe("a deadline", () => {
  test("is never early and at most two ticks late, whatever its delay and the moment it is set", () => {
    for (let armedAtMs = 0; armedAtMs <= 2 * TICK_MS; armedAtMs += 7) {
      for (let delayMs = 0; delayMs <= 3 * TICK_MS; delayMs += 5) {
        const { wheel, fired, named } = namedTimers();
        wheel.advance(armedAtMs);
        wheel.schedule(named, "it", delayMs);
        for (let clockMs = armedAtMs + 1; fired.length === 0; clockMs++) {
          wheel.advance(clockMs);
          if (fired.length > 0) expect(clockMs).toBeGreaterThanOrEqual(armedAtMs + delayMs);
          if (fired.length === 0) expect(clockMs).toBeLessThan(armedAtMs + delayMs + LATE_MS);
        }
      }
    }
  });

  test("that is past already is met in the next tick", () => {
    const { wheel, fired, named } = namedTimers();
    run(wheel, 0, 1000);
    wheel.schedule(named, "past", -500);
    expect(fired).toEqual([]);
    wheel.advance(1000 + TICK_MS);
    expect(fired).toEqual(["past"]);
  });

  test("further away than one turn of the wheel lets the turns before it pass", () => {
    const { wheel, fired, named } = namedTimers();
    wheel.schedule(named, "third turn", 2 * TURN_MS + 10 * TICK_MS);
    wheel.schedule(named, "second turn", TURN_MS + 10 * TICK_MS);
    wheel.schedule(named, "first turn", 10 * TICK_MS);
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

  test("is counted from a clock that may begin anywhere", () => {
    const wheel = new TimerWheel(123_456_789);
    let fired = 0;
    wheel.schedule(
      wheel.kind(() => fired++),
      null,
      1000,
    );
    run(wheel, 123_456_789, 123_456_789 + 999);
    expect(fired).toBe(0);
    run(wheel, 123_456_789 + 999, 123_456_789 + 1000 + LATE_MS);
    expect(fired).toBe(1);
  });

  test("calls the function of its own kind with its own owner", () => {
    const wheel = new TimerWheel();
    const calls: string[] = [];
    const words = wheel.kind((owner: { word: string }) => calls.push(`word ${owner.word}`));
    const numbers = wheel.kind((owner: number) => calls.push(`number ${owner}`));
    wheel.schedule(numbers, 1, 50);
    wheel.schedule(words, { word: "a" }, 50);
    wheel.schedule(numbers, 2, 50);
    run(wheel, 0, 300);
    expect(calls.sort()).toEqual(["number 1", "number 2", "word a"]);
  });
});

describe("a handle", () => {
  test("is never 0, and 0 cancels nothing", () => {
    const { wheel, named } = namedTimers();
    expect(wheel.cancel(0)).toBe(false);
    expect(wheel.schedule(named, "it", 10)).not.toBe(0);
    expect(wheel.cancel(0)).toBe(false);
    expect(wheel.armed).toBe(1);
  });

  test("cancels once", () => {
    const { wheel, fired, named } = namedTimers();
    const handle = wheel.schedule(named, "it", 100);
    expect(wheel.cancel(handle)).toBe(true);
    expect(wheel.cancel(handle)).toBe(false);
    run(wheel, 0, 1000);
    expect(fired).toEqual([]);
    expect(wheel.armed).toBe(0);
  });

  test("of a timer that fired cancels nothing, also when its record serves another timer", () => {
    const { wheel, fired, named } = namedTimers();
    const stale = wheel.schedule(named, "first", 10);
    run(wheel, 0, 200);
    expect(wheel.cancel(stale)).toBe(false);
    const fresh = wheel.schedule(named, "second", 10);
    expect(fresh).not.toBe(stale);
    expect(wheel.cancel(stale)).toBe(false);
    expect(wheel.armed).toBe(1);
    run(wheel, 200, 400);
    expect(fired).toEqual(["first", "second"]);
  });

  test("of a timer that was cancelled cancels nothing when its record serves another timer", () => {
    const { wheel, fired, named } = namedTimers();
    const stale = wheel.schedule(named, "first", 10);
    wheel.cancel(stale);
    wheel.schedule(named, "second", 10);
    expect(wheel.cancel(stale)).toBe(false);
    run(wheel, 0, 200);
    expect(fired).toEqual(["second"]);
  });

  test("of the timer that is firing cancels nothing any more", () => {
    const wheel = new TimerWheel();
    const answers: boolean[] = [];
    let handle: TimerHandle = 0;
    handle = wheel.schedule(
      wheel.kind(() => answers.push(wheel.cancel(handle))),
      null,
      10,
    );
    run(wheel, 0, 200);
    expect(answers).toEqual([false]);
    expect(wheel.armed).toBe(0);
  });

  test("stays exact when one record has served more timers than its generation can count", () => {
    const { wheel, fired, named } = namedTimers();
    let before = wheel.schedule(named, "before", 10);
    wheel.cancel(before);
    for (let i = 0; i < 2 ** 22 + 10; i++) {
      const handle = wheel.schedule(named, "one of many", 10);
      if (handle === 0 || wheel.cancel(before) || !wheel.cancel(handle)) throw new Error(`use ${i} is wrong`);
      before = handle;
    }
    wheel.schedule(named, "the last", 10);
    expect(wheel.armed).toBe(1);
    run(wheel, 0, 200);
    expect(fired).toEqual(["the last"]);
  });
});

describe("a callback", () => {
  test("may cancel neighbours of the slot that is being fired, those next to it and those at its end", () => {
    const wheel = new TimerWheel();
    const fired: number[] = [];
    const handles: TimerHandle[] = [];
    const answers: boolean[] = [];
    const kind = wheel.kind((id: number) => {
      fired.push(id);
      if (fired.length > 1) return;
      for (const other of [0, 1, 4, 5, 9]) answers.push(wheel.cancel(handles[other]!));
    });
    for (let id = 0; id < 10; id++) handles.push(wheel.schedule(kind, id, 100));
    run(wheel, 0, 300);
    // Timer 0 fires first and cannot be cancelled; the others are gone, the rest comes in the order of arming.
    expect(answers).toEqual([false, true, true, true, true]);
    expect(fired).toEqual([0, 2, 3, 6, 7, 8]);
    expect(wheel.armed).toBe(0);
  });

  test("may arm into the very slot that is being fired, and that timer waits for its own turn", () => {
    const wheel = new TimerWheel();
    const firedAtMs: number[] = [];
    const again = wheel.kind((times: number) => {
      firedAtMs.push(wheel.nowMs);
      if (times > 0) wheel.schedule(again, times - 1, TURN_MS);
    });
    wheel.schedule(again, 2, TICK_MS);
    run(wheel, 0, 4 * TURN_MS);
    expect(firedAtMs).toEqual([TICK_MS, TICK_MS + TURN_MS, TICK_MS + 2 * TURN_MS]);
  });

  test("that arms without a delay is called again in the next tick, not for ever in this one", () => {
    const wheel = new TimerWheel();
    let calls = 0;
    const again = wheel.kind(() => {
      calls++;
      wheel.schedule(again, null, 0);
    });
    wheel.schedule(again, null, 0);
    for (let tick = 1; tick <= 10; tick++) {
      wheel.advance(tick * TICK_MS);
      expect(calls).toBe(tick);
    }
  });

  test("that throws does not lose its neighbours, nor the ticks behind it", () => {
    const wheel = new TimerWheel();
    const fired: string[] = [];
    const kind = wheel.kind((name: string) => {
      fired.push(name);
      if (name.startsWith("bad")) throw new Error(name);
    });
    for (const name of ["good 1", "bad 1", "bad 2", "good 2"]) wheel.schedule(kind, name, TICK_MS);
    wheel.schedule(kind, "next tick", 2 * TICK_MS);
    expect(() => wheel.advance(3 * TICK_MS)).toThrow("bad 1");
    expect(fired).toEqual(["good 1", "bad 1"]);
    expect(wheel.armed).toBe(3);
    expect(() => wheel.advance(3 * TICK_MS)).toThrow("bad 2");
    wheel.advance(3 * TICK_MS);
    expect(fired).toEqual(["good 1", "bad 1", "bad 2", "good 2", "next tick"]);
    expect(wheel.armed).toBe(0);
  });

  test("that throws leaves its neighbours where they can still be cancelled", () => {
    const wheel = new TimerWheel();
    const fired: string[] = [];
    const kind = wheel.kind((name: string) => {
      fired.push(name);
      if (name === "bad") throw new Error(name);
    });
    wheel.schedule(kind, "bad", TICK_MS);
    const neighbour = wheel.schedule(kind, "neighbour", TICK_MS);
    wheel.schedule(kind, "last", TICK_MS);
    expect(() => wheel.advance(TICK_MS)).toThrow("bad");
    expect(wheel.cancel(neighbour)).toBe(true);
    wheel.advance(TICK_MS);
    expect(fired).toEqual(["bad", "last"]);
  });
});

describe("the wheel's clock", () => {
  test("does not take a jump of ten seconds for ten seconds of silence", () => {
    const { wheel, fired, named } = namedTimers();
    run(wheel, 0, 640);
    wheel.schedule(named, "silence", 5000);
    wheel.advance(10_640);
    expect(wheel.nowMs).toBe(640 + TICK_MS);
    expect(fired).toEqual([]);
    // The five seconds are waited for after the stall.
    run(wheel, 10_640, 10_640 + 5000 - TICK_MS - 1);
    expect(fired).toEqual([]);
    run(wheel, 10_640 + 5000 - TICK_MS, 10_640 + 5000 + LATE_MS);
    expect(fired).toEqual(["silence"]);
  });

  test("takes a turn that lasts a little longer for what it is", () => {
    const { wheel } = namedTimers();
    wheel.advance(3 * TICK_MS);
    expect(wheel.nowMs).toBe(3 * TICK_MS);
  });

  test("stands still when the process's clock steps back, and goes on from there", () => {
    const { wheel, fired, named } = namedTimers();
    run(wheel, 0, 10_000);
    wheel.schedule(named, "it", 1000);
    wheel.advance(2000);
    expect(wheel.nowMs).toBe(10_000);
    run(wheel, 2000, 2999);
    expect(wheel.nowMs).toBe(10_999);
    expect(fired).toEqual([]);
    run(wheel, 2999, 3000 + LATE_MS);
    expect(fired).toEqual(["it"]);
  });

  test("moves when a turn begins, but nothing fires before `advance`, so that lines are heard first", () => {
    const { wheel, fired, named } = namedTimers();
    const heard = wheel.schedule(named, "heard", 100);
    wheel.schedule(named, "silent", 100);
    wheel.begin(100);
    wheel.begin(200);
    expect(wheel.nowMs).toBe(200);
    expect(fired).toEqual([]);
    expect(wheel.cancel(heard)).toBe(true);
    wheel.advance(200);
    expect(fired).toEqual(["silent"]);
  });
});

test("the wheel grows beyond its first 1,023 records and keeps every timer, handle and owner", () => {
  const wheel = new TimerWheel();
  const fired: number[] = [];
  const kind = wheel.kind((id: number) => fired.push(id));
  const handles: TimerHandle[] = [];
  const count = 5000;
  for (let id = 0; id < count; id++) {
    handles.push(wheel.schedule(kind, id, (id * 37) % 3000));
    expect(wheel.armed).toBe(id + 1);
  }
  expect(new Set(handles).size).toBe(count);
  // Each seventh is cancelled by the handle it got before the records moved.
  for (let id = 0; id < count; id += 7) expect(wheel.cancel(handles[id]!)).toBe(true);
  const left = Array.from({ length: count }, (_, id) => id).filter((id) => id % 7 !== 0);
  expect(wheel.armed).toBe(left.length);
  run(wheel, 0, 3000 + LATE_MS);
  expect(fired.sort((a, b) => a - b)).toEqual(left);
  expect(wheel.armed).toBe(0);
});

test("random schedules, neighbours, stalls and steps back agree with a plain map of due times", () => {
  const seed = seedFor("the wheel beside a map of due times");
  for (let round = 0; round < 40; round++) beside(new Random(seed + round));
});

/** Drives a wheel and a map of due times side by side. */
function beside(random: Random): void {
  let clockMs = random.below(1_000_000);
  let nowMs = 0;
  const wheel = new TimerWheel(clockMs);
  const due = new Map<number, number>();
  const handles = new Map<number, TimerHandle>();
  const stale: TimerHandle[] = [];
  const kinds = [0, 1, 2].map((remainder) => wheel.kind((id: number) => fire(id, remainder)));
  let lastId = 0;

  function arm(): void {
    const id = ++lastId;
    const delayMs = random.pick([0, 1, 63, 64, 65, 500, 5000, TURN_MS - 64, TURN_MS, TURN_MS + 64, 3 * TURN_MS]);
    const jitterMs = random.oneIn(2) ? 0 : random.below(700);
    due.set(id, wheel.nowMs + delayMs + jitterMs);
    handles.set(id, wheel.schedule(kinds[id % 3]!, id, delayMs + jitterMs));
  }

  function disarm(): void {
    if (due.size === 0) return;
    // Mostly one that is near, so that neighbours in the slot being fired are hit too.
    const ids = [...due.keys()];
    const soonest = ids.reduce((a, b) => (due.get(a)! <= due.get(b)! ? a : b));
    const id = random.oneIn(3) ? random.pick(ids) : soonest;
    expect(wheel.cancel(handles.get(id)!)).toBe(true);
    forget(id);
  }

  function forget(id: number): void {
    stale.push(handles.get(id)!);
    handles.delete(id);
    due.delete(id);
  }

  function fire(id: number, remainder: number): void {
    expect(id % 3).toBe(remainder);
    const dueMs = due.get(id);
    if (dueMs === undefined) throw new Error(`timer ${id} fires though it is not armed`);
    expect(wheel.nowMs).toBeGreaterThanOrEqual(dueMs);
    forget(id);
    if (random.oneIn(3)) arm();
    if (random.oneIn(6)) arm();
    if (random.oneIn(4)) disarm();
  }

  for (let turn = 0; turn < 400; turn++) {
    const passedMs = random.oneIn(20) ? random.pick([1000, 10_000, -1, -5000]) : random.below(200);
    clockMs += passedMs;
    nowMs += passedMs < 0 ? 0 : passedMs >= 1000 ? TICK_MS : passedMs;
    wheel.begin(clockMs);
    for (let times = random.below(4); times > 0; times--) arm();
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

test("the wheel refuses a timer more than it has handles for, and goes on when one has fired", () => {
  const { wheel, fired, named } = namedTimers();
  const first = wheel.schedule(named, "first", 0);
  const beyond = 2 ** 20;
  expect(() => {
    for (let i = 0; i < beyond; i++) wheel.schedule(named, "far away", 60_000);
  }).toThrow("no room for another timer");
  expect(wheel.armed).toBeLessThan(beyond);
  wheel.advance(2 * TICK_MS);
  expect(wheel.cancel(first)).toBe(false);
  wheel.schedule(named, "last", 0);
  wheel.advance(4 * TICK_MS);
  expect(fired).toEqual(["first", "last"]);
});
