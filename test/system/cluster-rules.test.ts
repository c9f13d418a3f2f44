import { describe, expect, test } from "bun:test";
import { RARE_RULES, isFound } from "../simulation/cluster-rules.ts";
import { seedsFor } from "../support/random.ts";

/** The breach that is hardest to find shows in about one of two hundred seeds. */
const SEEDS_MAX = 2500;

describe("the simulation of a cluster fails when this rule is broken:", () => {
  const seeds = seedsFor("rare cluster rules", SEEDS_MAX);
  test.each(Object.entries(RARE_RULES))(
    "%s",
    async (_, rule) => expect(await isFound(rule, seeds)).toBe(true),
    900_000,
  );
});
