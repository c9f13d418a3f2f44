/** `bun run fuzz`: options, and the report of a run. */
import { Progress, onInterrupt, runProgram } from "../../bench/command-line.ts";
import { UsageError } from "../../src/usage-error.ts";
import { Runner, describe } from "./runner.ts";
import { targets } from "./targets.ts";

const WIDTH = Math.max(...targets.map(({ name }) => name.length));

const USAGE = `Usage: bun run fuzz [options]

Tests every part that reads external data with random inputs. Each target below states what must hold for any input.
Everything runs on this machine.

  --seed <number>     seed of the inputs (random, printed)
  --seconds <number>  duration, 1 to 86400 (60)
  --target <name>     runs one target only
  --help              prints this page

${targets.map(({ name, holds }) => `  ${name.padEnd(WIDTH)}  ${holds}`).join("\n")}

Exit code: 0 when every target holds; 1 otherwise; 2 for an invalid command line.
`;

await runProgram(
  { name: "fuzz", usage: USAGE, options: ["seed", "seconds", "target"], failures: () => false },
  async (line) => {
    const seed = line.number("seed", Math.floor(Math.random() * 2 ** 31), 0, 2 ** 31 - 1);
    const seconds = line.number("seconds", 60, 1, 86_400);
    const all = targets.map(({ name }) => name);
    const only = line.text("target");
    if (only !== null && !all.includes(only)) {
      throw new UsageError(`--target takes ${all.slice(0, -1).join(", ")} or ${all.at(-1)}, not "${only}"`);
    }
    const names = only === null ? all : [only];
    console.log(`seed ${seed}`);
    const progress = new Progress();
    const runner = new Runner(names, seed, (text) => progress.show(text));
    onInterrupt(() => runner.stop());
    const failure = await runner.run(seconds * 1000);
    progress.clear();
    console.log([["target", "inputs"] as const, ...runner.inputs].map(row).join("\n"));
    if (failure === null) return 0;
    console.log(`\n${describe(failure)}`);
    return 1;
  },
);

function row([name, inputs]: readonly [string, string | number]): string {
  return `${name.padEnd(WIDTH)}  ${String(inputs).padStart(10)}`;
}
