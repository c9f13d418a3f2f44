import { expect, test } from "bun:test";
import { TimerHeap } from "../../bench/micro/heap.ts";
import { Random, seedFor } from "../support/random.ts";

test("the heap of bench:micro has the earliest timer first after random inserts, moves and cancels", () => {
  const random = new Random(seedFor("heap"));
  const heap = new TimerHeap(64);
  const dues = new Map<number, number>();
  for (let i = 0; i < 20_000; i++) {
    const timer = random.below(64);
    const due = random.below(1000);
    if (!dues.has(timer)) {
      heap.schedule(timer, due);
      dues.set(timer, due);
    } else if (random.oneIn(2)) {
      heap.cancel(timer);
      dues.delete(timer);
    } else {
      heap.rearm(timer, due);
      dues.set(timer, due);
    }
    expect(heap.size).toBe(dues.size);
    if (heap.size > 0) expect(dues.get(heap.first)).toBe(Math.min(...dues.values()));
  }
});
