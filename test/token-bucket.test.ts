import { expect, test } from "bun:test";
import { TokenBucket } from "../src/token-bucket.ts";

test("what is earned is saved up to a bound, and owed where too much was taken", () => {
  const bucket = new TokenBucket(3, 1000);
  bucket.tokens -= 5;
  bucket.earn(2, 3, 1500);
  expect(bucket.tokens).toBe(-1);
  bucket.earn(2, 3, 2500);
  expect(bucket.tokens).toBe(1);
  bucket.earn(2, 3, 60_000);
  expect(bucket.tokens).toBe(3);
});
