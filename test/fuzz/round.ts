import { writeSync } from "node:fs";
import fc from "fast-check";
import { watchInputs } from "./target.ts";
import { targets } from "./targets.ts";

/**
 * Targets in turn, for a while each, as a program of its own, so that an input that hangs or kills it does not take
 * along who waits for it: see runner.ts, which reads what it writes. Its arguments are for how many ms each target
 * runs, `trace` to write down every input or `-`, and `<target>:<seed>` for each.
 */

/** What is written, a line each. */
export type Said =
  /** A batch begins. */
  | { target: string; seed: number }
  /** Nothing has happened, but it does not hang. */
  | { alive: true }
  | { input: string }
  /** The batch is over, and held for so many inputs. */
  | { inputs: number }
  | { failure: { input: string; error: string } };

const ALIVE_MS = 1_000;

function say(said: Said): void {
  const bytes = Buffer.from(`${JSON.stringify(said)}\n`);
  for (let at = 0; at < bytes.length;) {
    try {
      at += writeSync(1, bytes, at);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EAGAIN") throw error; // Whoever reads is not that fast.
    }
  }
}

/** Seeds of batches are neighbours; what comes of them must not be alike. */
function mixed(seed: number): number {
  return Math.imul(seed ^ (seed >>> 15), 0x2c1b3c6d) ^ 0x297a2d39;
}

/** False when the target does not hold. */
async function run(name: string, firstSeed: number, forMs: number): Promise<boolean> {
  const { property, batch } = targets.find((one) => one.name === name)!;
  const untilMs = performance.now() + forMs;
  let seed = firstSeed;
  do {
    say({ target: name, seed });
    const details = await fc.check(property, { seed: mixed(seed), numRuns: batch });
    if (details.failed) {
      const error = details.errorInstance;
      const input = details.counterexample?.map((one) => fc.stringify(one)).join(", ") ?? "";
      say({ failure: { input, error: error instanceof Error ? (error.stack ?? String(error)) : String(error) } });
      return false;
    }
    say({ inputs: details.numRuns });
    seed = (seed + 1) % 2 ** 31;
  } while (performance.now() < untilMs);
  return true;
}

const [forMs = "", trace, ...orders] = process.argv.slice(2);
let saidMs = performance.now();
watchInputs((input) => {
  if (trace === "trace") say({ input: fc.stringify(input) });
  else if (performance.now() - saidMs > ALIVE_MS) {
    saidMs = performance.now();
    say({ alive: true });
  }
});
for (const order of orders) {
  const [name = "", seed] = order.split(":");
  if (!(await run(name, Number(seed), Number(forMs)))) break;
}
process.exit(0);
