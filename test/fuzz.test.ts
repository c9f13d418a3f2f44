import { afterEach, expect, test } from "bun:test";
import { Runner, describe } from "./fuzz/runner.ts";
import { targets } from "./fuzz/targets.ts";
import { run } from "./support/process.ts";
import { seedFor } from "./support/random.ts";

let running: Runner | null = null;

afterEach(() => running?.stop());

test("every fuzz target holds for the inputs of four seconds", async () => {
  const names = targets.map(({ name }) => name);
  running = new Runner(names, seedFor("fuzz"));
  const failure = await running.run(4_000);
  if (failure !== null) throw new Error(describe(failure));
  expect([...running.inputs].filter(([, inputs]) => inputs === 0)).toEqual([]);
}, 120_000);

const fuzz = (...args: string[]) => run("test/fuzz/main.ts", ...args);

test("the fuzz program prints its seed and the number of inputs", async () => {
  const { code, out } = await fuzz("--target", "line-reader", "--seconds", "1", "--seed", "5");
  expect(code).toBe(0);
  expect(out).toMatch(/^seed 5\ntarget +inputs\nline-reader +\d+\n$/);
}, 60_000);

test.each([
  [["--seconds", "soon"], '--seconds takes a whole number from 1 to 86400, not "soon"'],
  [
    ["--target", "luck"],
    /^fuzz: --target takes line-reader, .* or http-request, not "luck" \(--help lists the options\)\n$/,
  ],
])("the invalid arguments %j print the reason and exit with 2", async (args, reason) => {
  const { code, out, err } = await fuzz(...args);
  expect({ code, out }).toEqual({ code: 2, out: "" });
  if (typeof reason === "string") expect(err).toBe(`fuzz: ${reason} (--help lists the options)\n`);
  else expect(err).toMatch(reason);
});
