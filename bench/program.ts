/** Child processes of the benchmarks and system tests, by lines of text. What the lines mean is up to the caller. */
import { existsSync } from "node:fs";
import { basename, join } from "node:path";

const root = join(import.meta.dir, "..");

/** Time between SIGTERM and SIGKILL. */
const STOP_MS = 10_000;

/** Prefix of a command that pins it to one core (taskset). Empty without taskset or with a single core. */
export function onCore(core: 0 | 1): string[] {
  const taskset = Bun.which("taskset");
  return taskset === null || navigator.hardwareConcurrency < 2 ? [] : [taskset, "-c", String(core)];
}

/** The C compiler of the reference server and of the native load generator. */
export const COMPILER = { program: "cc", package: "gcc" } as const;

/** Compiles a C program into `folder`, unless it is there already. Returns its path. Throws an Error for users. */
export function compiled(source: string, folder: string): string {
  const program = join(folder, basename(source, ".c"));
  if (existsSync(program)) return program;
  if (!existsSync(source))
    throw new Error(`${basename(source)} is not part of this program; use a checkout or the npm package`);
  const { success, stderr } = Bun.spawnSync([COMPILER.program, "-O2", "-Wall", "-Wextra", "-o", program, source]);
  if (!success) throw new Error(`${COMPILER.program} cannot compile ${source}: ${stderr.toString()}`);
  return program;
}

/** A child process that runs a TypeScript file of this project with Bun. */
export class Program {
  /** All children that have not ended. */
  static readonly running = new Set<Program>();
  readonly #process: Bun.Subprocess<"pipe", "pipe", "pipe">;
  /** Resolves with the signal (`SIGKILL`) or the exit code (`code 1`). */
  readonly ended: Promise<string>;
  isRunning = true;

  /** `prefix` is a command that replaces itself by the program: taskset, nice, prlimit. */
  constructor(
    args: string[],
    onLine: (line: string) => void,
    onError: (line: string) => void,
    prefix: readonly string[] = [],
  ) {
    this.#process = Bun.spawn([...prefix, process.execPath, ...args], {
      cwd: root,
      stdin: "pipe",
      stdout: "pipe",
      stderr: "pipe",
    });
    Program.running.add(this);
    const { stdout, stderr, exited } = this.#process;
    this.ended = Promise.all([exited, eachLine(stdout, onLine), eachLine(stderr, onError)]).then(([code]) => {
      this.isRunning = false;
      Program.running.delete(this);
      return this.#process.signalCode?.toString() ?? `code ${code}`;
    });
  }

  get pid(): number {
    return this.#process.pid;
  }

  writeLine(line: string): void {
    if (!this.isRunning) return;
    this.#process.stdin.write(`${line}\n`);
    this.#process.stdin.flush();
  }

  /** Closes its stdin. */
  endInput(): void {
    this.#process.stdin.end();
  }

  kill(signal: NodeJS.Signals): void {
    this.#process.kill(signal);
  }

  /** Ends it with SIGTERM, or with SIGKILL after 10 seconds. */
  async stop(): Promise<void> {
    this.kill("SIGTERM");
    if ((await within(this.ended, STOP_MS)) === null) this.kill("SIGKILL");
    await this.ended;
  }
}

async function eachLine(stream: ReadableStream<Uint8Array>, onLine: (line: string) => void): Promise<void> {
  for await (const line of linesOf(stream)) onLine(line);
}

/** The complete lines of a stream, without LF. */
export async function* linesOf(stream: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const chunk of stream) {
    const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n");
    rest = lines.pop()!;
    yield* lines;
  }
}

/** The result of a promise, or null after `ms`. */
export async function within<T>(promise: Promise<T>, ms: number): Promise<T | null> {
  const { promise: timeout, resolve } = Promise.withResolvers<null>();
  const timer = setTimeout(resolve, ms, null);
  return Promise.race([promise, timeout]).finally(() => clearTimeout(timer));
}
