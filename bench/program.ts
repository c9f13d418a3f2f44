import { join } from "node:path";

const root = join(import.meta.dir, "..");

/** What a program gets to end in order, before it is killed. */
const STOP_MS = 10_000;

/** The words before a command that keep it on one core; none where that cannot be told, and the system decides. */
export function onCore(core: 0 | 1): string[] {
  const taskset = Bun.which("taskset");
  return taskset === null || navigator.hardwareConcurrency < 2 ? [] : [taskset, "-c", String(core)];
}

/** A program that the harness started: its lines, and its end. Nothing else is ever killed. */
export class Program {
  static readonly running = new Set<Program>();
  readonly #process: Bun.Subprocess<"pipe", "pipe", "pipe">;
  /** The signal or code with which it ended. */
  readonly ended: Promise<string>;
  isRunning = true;

  /** `before` are the words of a command that runs another one, and becomes it: taskset, nice, prlimit. */
  constructor(
    args: string[],
    onLine: (line: string) => void,
    onError: (line: string) => void,
    before: readonly string[] = [],
  ) {
    this.#process = Bun.spawn([...before, process.execPath, ...args], {
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

  /** Nothing more will be said to it. */
  endInput(): void {
    this.#process.stdin.end();
  }

  kill(signal: NodeJS.Signals): void {
    this.#process.kill(signal);
  }

  /** Ends it, in order when it can. */
  async stop(): Promise<void> {
    this.kill("SIGTERM");
    if ((await within(this.ended, STOP_MS)) === null) this.kill("SIGKILL");
    await this.ended;
  }
}

async function eachLine(stream: ReadableStream<Uint8Array>, onLine: (line: string) => void): Promise<void> {
  for await (const line of linesOf(stream)) onLine(line);
}

/** The whole lines of what a program writes. */
export async function* linesOf(stream: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const chunk of stream) {
    const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n");
    rest = lines.pop()!;
    yield* lines;
  }
}

/** What comes of the promise, or null when it takes longer. */
export async function within<T>(promise: Promise<T>, ms: number): Promise<T | null> {
  const { promise: late, resolve } = Promise.withResolvers<null>();
  const timer = setTimeout(resolve, ms, null);
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}
