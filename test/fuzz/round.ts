import { writeSync } from "node:fs";
import fc from "fast-check";
import { watchInputs } from "./target.ts";
import { targets } from "./targets.ts";

/**
 * Runs targets one after another in a process of its own, so that runner.ts survives an input that hangs or kills it.
 * Arguments: the milliseconds per target, `trace` (every input is written) or `-`, and `<target>:<seed>` for each
 * target. It writes a RoundMessage per line.
 */

/** A line of JSON on stdout. */
export type RoundMessage =
  /** A batch begins. */
  | { target: string; seed: number }
  /** The batch goes on. */
  | { alive: true }
  | { input: string }
  /** The batch is complete: the target holds for this many inputs. */
  | { inputs: number }
  | { failure: { input: string; error: string } };

const ALIVE_MS = 1_000;

function writeMessage(message: RoundMessage): void {
  const bytes = Buffer.from(`${JSON.stringify(message)}\n`);
  for (let at = 0; at < bytes.length;) {
    try {
      at += writeSync(1, bytes, at);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EAGAIN") throw error; // The pipe is full: try again.
    }
  }
}

/** Mixes the bits of a seed, since batches have consecutive seeds. */
function mixed(seed: number): number {
  return Math.imul(seed ^ (seed >>> 15), 0x2c1b3c6d) ^ 0x297a2d39;
}

/** Runs batches of one target for `forMs`. Returns whether it holds. */
async function run(name: string, firstSeed: number, forMs: number): Promise<boolean> {
  const { property, batch } = targets.find((one) => one.name === name)!;
  const untilMs = performance.now() + forMs;
  let seed = firstSeed;
  do {
    writeMessage({ target: name, seed });
    const details = await fc.check(property, { seed: mixed(seed), numRuns: batch });
    if (details.failed) {
      const error = details.errorInstance;
      const input = details.counterexample?.map((one) => fc.stringify(one)).join(", ") ?? "";
      writeMessage({
        failure: { input, error: error instanceof Error ? (error.stack ?? String(error)) : String(error) },
      });
      return false;
    }
    writeMessage({ inputs: details.numRuns });
    seed = (seed + 1) % 2 ** 31;
  } while (performance.now() < untilMs);
  return true;
}

const [forMs = "", trace, ...batches] = process.argv.slice(2);
let writtenMs = performance.now();
watchInputs((input) => {
  if (trace === "trace") writeMessage({ input: fc.stringify(input) });
  else if (performance.now() - writtenMs > ALIVE_MS) {
    writtenMs = performance.now();
    writeMessage({ alive: true });
  }
});
for (const batch of batches) {
  const [name = "", seed] = batch.split(":");
  if (!(await run(name, Number(seed), Number(forMs)))) break;
}
process.exit(0);
