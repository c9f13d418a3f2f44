import { expect, test } from "bun:test";
import { SKIPPED_BYTES_PER_REQUEST, WORK_PER_VISIT } from "../../src/limits.ts";
import { BACKLOGGED, OVER_RATE, QUEUED, ReadGate, UNANSWERED } from "../../src/net/read-gate.ts";
import { type TimerKind, TimerWheel } from "../../src/timer-wheel.ts";
import { TokenBucket } from "../../src/token-bucket.ts";

const MORE = { holdsMore: true, holdsLine: true };
const NONE = { holdsMore: false, holdsLine: false };
const REASONS = { UNANSWERED, OVER_RATE, BACKLOGGED, QUEUED };

/** A server with a limit of one request per second, under a clock that the test moves. */
class Shared {
  readonly wheel = new TimerWheel();
  readonly rates = { work: 0 };
  readonly limits = { requestsPerSecondMax: 1 };
  readonly ready = new Set<string>();
  isCongested = false;
  readonly gates = new Map<string, ReadGate<string>>();
  readonly later: TimerKind<string> = this.wheel.kind((name) => this.gates.get(name)!.rateAllows());

  gate(name: string, bucket: TokenBucket): ReadGate<string> {
    const gate = new ReadGate(name, this, bucket);
    this.gates.set(name, gate);
    return gate;
  }

  /** Time passes in steps that the wheel does not take for a stall of the process. */
  pass(ms: number): void {
    const untilMs = this.wheel.nowMs + ms;
    while (this.wheel.nowMs < untilMs) this.wheel.advance(Math.min(untilMs, this.wheel.nowMs + 100));
  }
}

function reasons(gate: ReadGate<string>): string[] {
  return Object.entries(REASONS).flatMap(([name, bit]) => (gate.has(bit) ? [name] : []));
}

/** One visit that takes the requests which have arrived; returns how many were taken. */
function visit(gate: ReadGate<string>, requests: number, rates = { work: 0 }, workEach = 0): number {
  let taken = 0;
  const left = () => (taken < requests ? MORE : NONE);
  gate.beginVisit(left());
  while (gate.admits(false, left()) && taken < requests) {
    gate.taken();
    rates.work += workEach;
    taken++;
    gate.done(left());
  }
  gate.endVisit(0);
  return taken;
}

test("the gate is open when no reason is left, in any order", () => {
  const shared = new Shared();
  const gate = shared.gate("a", new TokenBucket(9, 0));
  gate.add(UNANSWERED);
  gate.enqueue();
  expect(reasons(gate)).toEqual(["UNANSWERED", "QUEUED"]);
  gate.remove(QUEUED);
  expect([gate.isOpen, gate.admits(true, MORE)]).toEqual([false, false]);
  gate.remove(UNANSWERED);
  expect([gate.admits(true, MORE), reasons(gate)]).toEqual([false, ["BACKLOGGED"]]);
  expect([gate.admits(false, MORE), gate.isOpen]).toEqual([true, true]);
});

test("connections that share an empty bucket continue in the order in which they began to wait", () => {
  const shared = new Shared();
  const bucket = new TokenBucket(1, 0);
  const [a, b] = ["a", "b"].map((name) => shared.gate(name, bucket)) as [ReadGate<string>, ReadGate<string>];
  expect([visit(a, 3), visit(b, 1)]).toEqual([1, 0]);
  expect([reasons(a), reasons(b)]).toEqual([["OVER_RATE"], ["OVER_RATE"]]);
  shared.pass(1200);
  expect([...shared.ready]).toEqual(["a"]);
  shared.pass(1000);
  expect([...shared.ready]).toEqual(["a", "b"]);
});

test("a reserved token is used by the next request, and given back when the connection closes", () => {
  const shared = new Shared();
  const bucket = new TokenBucket(1, 0);
  const gate = shared.gate("a", bucket);
  visit(gate, 2);
  expect(bucket.tokens).toBe(-1);
  gate.cancelReservation();
  expect([bucket.tokens, gate.isOpen, shared.wheel.armed]).toEqual([0, true, 0]);
  visit(gate, 1);
  shared.pass(1200);
  gate.remove(QUEUED);
  expect(visit(gate, 1)).toBe(1);
  expect(bucket.tokens).toBeWithin(0, 1);
});

test("a visit ends after its share of work, and new chunks wait until a visit leaves nothing over", () => {
  const shared = new Shared();
  const gate = shared.gate("a", new TokenBucket(1e9, 0));
  expect(visit(gate, WORK_PER_VISIT + 1, shared.rates, 1)).toBe(WORK_PER_VISIT);
  expect(reasons(gate)).toEqual(["QUEUED"]);
  gate.remove(QUEUED);
  gate.chunkArrived();
  expect(reasons(gate)).toEqual(["QUEUED"]);
  gate.remove(QUEUED);
  visit(gate, 1, shared.rates, 1);
  gate.chunkArrived();
  expect(gate.isOpen).toBe(true);
});

test("skipped bytes of a line that is too long count as requests", () => {
  const shared = new Shared();
  const bucket = new TokenBucket(1, 0);
  const gate = shared.gate("a", bucket);
  gate.beginVisit(NONE);
  gate.endVisit(3 * SKIPPED_BYTES_PER_REQUEST);
  expect([reasons(gate), bucket.tokens]).toEqual([["OVER_RATE"], -3]);
  shared.pass(2800);
  expect([...shared.ready]).toEqual([]);
  shared.pass(400);
  expect([...shared.ready]).toEqual(["a"]);
});
