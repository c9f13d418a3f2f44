import { expect, test } from "bun:test";
import { TokenBucket } from "../src/token-bucket.ts";

test("tokens are earned up to a maximum, and a debt is paid before", () => {
  const bucket = new TokenBucket(3, 1000);
  bucket.tokens -= 5;
  bucket.earn(2, 3, 1500);
  expect(bucket.tokens).toBe(-1);
  bucket.earn(2, 3, 2500);
  expect(bucket.tokens).toBe(1);
  bucket.earn(2, 3, 60_000);
  expect(bucket.tokens).toBe(3);
});
