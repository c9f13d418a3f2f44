import { UsageError, usageError } from "../src/usage-error.ts";
import { closeSync, openSync } from "node:fs";
import { parseArgs } from "node:util";

type Values = Partial<Record<string, string | boolean>>;

/** The options of a program, of which each takes a value; `--help` too. */
export class CommandLine<Name extends string> {
  readonly #values: Values;
  /** What stands behind `--`, for another program. */
  readonly rest: readonly string[];

  /** Throws UsageError. */
  constructor(all: string[], names: readonly Name[], takesRest = false) {
    const end = takesRest && all.includes("--") ? all.indexOf("--") : all.length;
    const args = all.slice(0, end);
    this.rest = all.slice(end + 1);
    const options: Record<string, { type: "string" } | { type: "boolean"; short: string }> = {
      help: { type: "boolean", short: "h" },
    };
    for (const name of names) options[name] = { type: "string" };
    try {
      this.#values = parseArgs({ args, options }).values as Values;
    } catch (error) {
      throw usageError(error);
    }
  }

  get wantsHelp(): boolean {
    return this.#values.help === true;
  }

  text(name: Name): string | null {
    return (this.#values[name] as string | undefined) ?? null;
  }

  /** A whole number, unless `fractions` may be too. */
  number<Otherwise>(
    name: Name,
    otherwise: Otherwise,
    least: number,
    most: number,
    fractions = false,
  ): number | Otherwise {
    const given = this.text(name);
    if (given === null) return otherwise;
    const isNumber = (fractions ? /^\d+(\.\d+)?$/ : /^\d+$/).test(given);
    if (isNumber && Number(given) >= least && Number(given) <= most) return Number(given);
    throw new UsageError(
      `--${name} takes a ${fractions ? "" : "whole "}number from ${least} to ${most}, not "${given}"`,
    );
  }

  /** A file that can be written, which is tried before anything takes long. */
  output(name: Name): string | null {
    const given = this.text(name);
    if (given === null) return null;
    try {
      closeSync(openSync(given, "a"));
      return given;
    } catch (error) {
      throw new UsageError(`cannot write ${given}: ${(error as Error).message}`);
    }
  }

  /** One of these words. */
  choice<Word extends string>(name: Name, otherwise: Word, words: readonly Word[]): Word {
    const given = (this.text(name) ?? otherwise) as Word;
    if (words.includes(given)) return given;
    throw new UsageError(`--${name} takes ${words.slice(0, -1).join(", ")} or ${words.at(-1)}, not "${given}"`);
  }
}

/**
 * Runs a program of the benchmark: `--help` prints its page, an invalid command line gives one line and exit
 * code 2, a failure of a known kind one line and 1; else `main` says what the code is.
 */
export async function runProgram<Name extends string>(
  program: {
    name: string;
    usage: string;
    options: readonly Name[];
    /** Arguments behind `--` are for the server. */
    takesRest?: true;
    failures: (error: unknown) => boolean;
  },
  main: (line: CommandLine<Name>) => Promise<number>,
): Promise<void> {
  const { name, usage, options, takesRest, failures } = program;
  try {
    const line = new CommandLine(process.argv.slice(2), options, takesRest);
    if (line.wantsHelp) process.stdout.write(usage);
    else process.exitCode = await main(line);
  } catch (error) {
    const isUsage = error instanceof UsageError;
    if (!isUsage && !failures(error)) throw error;
    const { message } = error as Error;
    process.stderr.write(`${name}: ${message}${isUsage ? " (--help lists the options)" : ""}\n`);
    process.exitCode = isUsage ? 2 : 1;
  }
}

/** However somebody ends the program: `tidy` runs first. */
export function onInterrupt(tidy: () => void): void {
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    process.on(signal, () => {
      tidy();
      process.exit(130);
    });
  }
  // Whoever reads has had enough.
  process.stdout.on("error", () => {
    tidy();
    process.exit(0);
  });
}

/** Says on stderr how far it is: on a terminal in one row that changes, else a line now and then. */
export class Progress {
  readonly #isTerminal = process.stderr.isTTY === true;
  #shownMs = Number.NEGATIVE_INFINITY;
  #width = 0;

  show(text: string): void {
    if (this.#isTerminal) {
      const row = text.slice(0, Math.max(20, (process.stderr.columns ?? 80) - 1));
      process.stderr.write(`\r${row.padEnd(this.#width)}`);
      this.#width = row.length;
    } else if (performance.now() - this.#shownMs > 5_000) {
      this.#shownMs = performance.now();
      process.stderr.write(`${text}\n`);
    }
  }

  /** A line that stays. */
  log(text: string): void {
    this.clear();
    process.stderr.write(`${text}\n`);
  }

  clear(): void {
    if (this.#isTerminal && this.#width > 0) process.stderr.write(`\r${" ".repeat(this.#width)}\r`);
    this.#width = 0;
  }
}
