import { describe, expect, test } from "bun:test";
import { Histogram } from "../../../bench/report/histogram.ts";
import { Random, seedFor } from "../../support/random.ts";

/** The exact percentile of a sorted list. */
function exact(sorted: readonly number[], part: number): number {
  return sorted[Math.max(0, Math.ceil(part * sorted.length) - 1)]!;
}

describe("a histogram", () => {
  test("has the percentile 0 when it is empty", () => {
    expect(new Histogram().percentile(0.5)).toBe(0);
  });

  test("is exact for small numbers", () => {
    const histogram = new Histogram();
    for (let value = 1; value <= 100; value++) histogram.record(value);
    expect([0.01, 0.5, 0.9, 0.99, 1].map((part) => histogram.percentile(part))).toEqual([1, 50, 90, 99, 100]);
    expect(histogram.above(90)).toBe(10);
    expect([histogram.count, histogram.max]).toEqual([100, 100]);
  });

  test("has percentiles within 0.8 % of the exact ones at every magnitude", () => {
    const random = new Random(seedFor("histogram"));
    for (const bits of [4, 8, 12, 18, 24, 30]) {
      const values = Array.from({ length: 5000 }, () => random.below(2 ** bits));
      const histogram = new Histogram();
      for (const value of values) histogram.record(value);
      values.sort((a, b) => a - b);
      for (const part of [0.001, 0.1, 0.5, 0.9, 0.99, 0.999, 1]) {
        const truth = exact(values, part);
        const found = histogram.percentile(part);
        expect(found).toBeGreaterThanOrEqual(truth);
        expect(found).toBeLessThanOrEqual(truth * 1.008);
      }
    }
  });

  test("records a negative value as 0", () => {
    const histogram = new Histogram();
    histogram.record(-5);
    expect([histogram.count, histogram.percentile(1)]).toEqual([1, 0]);
  });

  test("is restored from its buckets, and is empty after clear", () => {
    const histogram = new Histogram();
    for (let i = 0; i < 1000; i++) histogram.record(i * i);
    const again = Histogram.from(JSON.parse(JSON.stringify(histogram.buckets)) as [number, number][], histogram.max);
    for (const part of [0.1, 0.5, 0.99, 1]) expect(again.percentile(part)).toBe(histogram.percentile(part));
    expect(again.count).toBe(1000);
    histogram.clear();
    expect([histogram.count, histogram.percentile(1)]).toEqual([0, 0]);
  });
});
