import { describe, expect, test } from "bun:test";
import { seedsFor } from "../support/random.ts";
import { RULES, isFound } from "./rules.ts";

/** The breach that is hardest to find shows in about one of a hundred seeds; the others are in test/system. */
const SEEDS_MAX = 2000;

describe("the simulation fails when this rule is broken:", () => {
  const seeds = seedsFor("rules", SEEDS_MAX);
  test.each(Object.entries(RULES))("%s", (name, rule) => expect(isFound(name, rule, seeds)).toBe(true), 120_000);
});
