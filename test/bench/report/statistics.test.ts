import { expect, test } from "bun:test";
import { digits, median, range, ratios, spread } from "../../../bench/report/statistics.ts";

test("a median is the middle value, or the mean of the two in the middle", () => {
  expect(median([3, 1, 2])).toBe(2);
  expect(median([4, 1, 2, 3])).toBe(2.5);
  expect(median([7])).toBe(7);
  expect(median([])).toBeNaN();
});

test("ratios are taken pair by pair, without pairs whose divisor is 0", () => {
  expect(ratios([10, 20, 40], [5, 10, 20])).toEqual([2, 2, 2]);
  expect(ratios([1, 2], [0, 4])).toEqual([0.5]);
});

test("numbers have three significant digits or all digits of their integer part", () => {
  expect([1_234_567.8, 123.4, 12.34, 1.234, 0.1234, 0].map(digits)).toEqual([
    "1,234,568",
    "123",
    "12.3",
    "1.23",
    "0.123",
    "0",
  ]);
  expect(digits(Number.NaN)).toBe("-");
  expect(range(spread([3, 1, 2]))).toBe("2 [1..3]");
});
