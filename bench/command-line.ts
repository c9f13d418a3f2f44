/**
 * The command line of the benchmark and test programs: options, usage errors, exit codes, interrupts and the progress
 * line on stderr. It knows none of the programs.
 */
import { PrintError, print } from "../src/runtime/output.ts";
import { UsageError, usageError } from "../src/usage-error.ts";
import { closeSync, openSync } from "node:fs";
import { parseArgs } from "node:util";

type Values = Partial<Record<string, string | boolean>>;

/** What a program accepts. */
interface Syntax<Name extends string, Flag extends string> {
  /** Options with a value. */
  options: readonly Name[];
  /** Options without a value, besides `--help`. */
  flags?: readonly Flag[];
  /** Arguments after `--` are passed to another program. */
  takesRest?: true;
}

/** The parsed options of a program. */
export class CommandLine<Name extends string, Flag extends string = never> {
  readonly #values: Values;
  /** The arguments after `--`, for another program. */
  readonly rest: readonly string[];

  /** Throws UsageError. */
  constructor(all: string[], { options: names, flags = [], takesRest }: Syntax<Name, Flag>) {
    const end = takesRest && all.includes("--") ? all.indexOf("--") : all.length;
    const args = all.slice(0, end);
    this.rest = all.slice(end + 1);
    const options: Record<string, { type: "string" } | { type: "boolean"; short?: string }> = {
      help: { type: "boolean", short: "h" },
    };
    for (const name of names) options[name] = { type: "string" };
    for (const name of flags) options[name] = { type: "boolean" };
    try {
      this.#values = parseArgs({ args, options }).values as Values;
    } catch (error) {
      throw usageError(error);
    }
  }

  get wantsHelp(): boolean {
    return this.#values.help === true;
  }

  flag(name: Flag): boolean {
    return this.#values[name] === true;
  }

  text(name: Name): string | null {
    return (this.#values[name] as string | undefined) ?? null;
  }

  /** A number from `min` to `max`: a whole number unless `fractions` is set. Throws UsageError. */
  number<Fallback>(name: Name, fallback: Fallback, min: number, max: number, fractions = false): number | Fallback {
    const given = this.text(name);
    if (given === null) return fallback;
    const isNumber = (fractions ? /^\d+(\.\d+)?$/ : /^\d+$/).test(given);
    if (isNumber && Number(given) >= min && Number(given) <= max) return Number(given);
    throw new UsageError(`--${name} takes a ${fractions ? "" : "whole "}number from ${min} to ${max}, not "${given}"`);
  }

  /** A file for output. It is opened here once, so that a wrong path fails before a long run. Throws UsageError. */
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

  /** One of the given words. Throws UsageError. */
  choice<Word extends string>(name: Name, fallback: Word, words: readonly Word[]): Word {
    const given = (this.text(name) ?? fallback) as Word;
    if (words.includes(given)) return given;
    throw new UsageError(`--${name} takes ${words.slice(0, -1).join(", ")} or ${words.at(-1)}, not "${given}"`);
  }
}

/**
 * Runs a program: `--help` prints the usage. An invalid command line prints one line and exits with 2, an error that
 * `failures` accepts prints one line and exits with 1. Otherwise `main` returns the exit code.
 */
export async function runProgram<Name extends string, Flag extends string = never>(
  program: Syntax<Name, Flag> & { name: string; usage: string; failures: (error: unknown) => boolean },
  main: (line: CommandLine<Name, Flag>) => Promise<number>,
  args = process.argv.slice(2),
): Promise<void> {
  const { name, usage, failures } = program;
  try {
    const line = new CommandLine(args, program);
    if (line.wantsHelp) await print(usage);
    else process.exitCode = await main(line);
  } catch (error) {
    const isUsage = error instanceof UsageError;
    if (!isUsage && !(error instanceof PrintError) && !failures(error)) throw error;
    const { message } = error as Error;
    process.stderr.write(`${name}: ${message}${isUsage ? " (--help lists the options)" : ""}\n`);
    process.exitCode = isUsage ? 2 : 1;
  }
}

/** Runs `cleanUp` and exits on SIGINT, SIGTERM and SIGHUP, and when stdout is closed. */
export function onInterrupt(cleanUp: () => void): void {
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    process.on(signal, () => {
      cleanUp();
      process.exit(130);
    });
  }
  // The reader of stdout has closed the pipe (`| head`).
  process.stdout.on("error", () => {
    cleanUp();
    process.exit(0);
  });
}

/** Progress on stderr: one row that is overwritten on a terminal, otherwise one line every five seconds at most. */
export class Progress {
  readonly #isTerminal = process.stderr.isTTY === true;
  #shownMs = Number.NEGATIVE_INFINITY;
  /** Columns of the row on the terminal. */
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

  /** Writes a line that stays. */
  log(text: string): void {
    this.clear();
    process.stderr.write(`${text}\n`);
  }

  clear(): void {
    if (this.#isTerminal && this.#width > 0) process.stderr.write(`\r${" ".repeat(this.#width)}\r`);
    this.#width = 0;
  }
}
