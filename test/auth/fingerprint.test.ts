import { expect, test } from "bun:test";
import { fingerprintOf } from "../../src/auth/fingerprint.ts";

const alice = { name: "alice", password: "secret" };
const bob = { name: "bob", password: "word" };

test("the order of users does not change a fingerprint, and any name or password does", async () => {
  const fingerprint = await fingerprintOf([alice, bob]);
  expect(fingerprint).toMatch(/^[0-9a-f]{24}$/);
  expect(await fingerprintOf([bob, alice])).toBe(fingerprint);
  const others = [[alice], [], [alice, { ...bob, password: "Word" }], [alice, { ...bob, name: "rob" }]];
  const all = await Promise.all(others.map(fingerprintOf));
  expect(new Set([fingerprint, ...all]).size).toBe(5);
});
