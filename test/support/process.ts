import { join } from "node:path";

const root = join(import.meta.dir, "../..");
/** Programs that `run` has started and that have not exited. */
const programs = new Set<Bun.Subprocess>();

/** Runs a program of this project, given as its file and arguments, until it exits. */
export function run(...args: string[]): ReturnType<typeof runWith> {
  return runWith({}, ...args);
}

/** As `run`, with an input and additional environment variables. `onFullDisk`: a write to standard output fails. */
export async function runWith(
  {
    input = "",
    env = {},
    onFullDisk = false,
  }: { input?: string | Uint8Array; env?: Record<string, string>; onFullDisk?: boolean },
  ...args: string[]
): Promise<{ out: string; err: string; code: number }> {
  const child = Bun.spawn([process.execPath, ...args], {
    cwd: root,
    env: { ...process.env, ...env },
    stdin: Buffer.from(input as string),
    stdout: onFullDisk ? Bun.file("/dev/full") : "pipe",
    stderr: "pipe",
  });
  programs.add(child);
  const printed = child.stdout instanceof ReadableStream ? new Response(child.stdout).text() : "";
  const [out, err, code] = await Promise.all([printed, new Response(child.stderr).text(), child.exited]);
  programs.delete(child);
  return { out, err, code };
}

/** Ends programs that a failed test has left, for `afterEach`: at SIGTERM they end the processes that they started. */
export async function endPrograms(): Promise<void> {
  for (const program of programs) {
    program.kill("SIGTERM");
    await program.exited;
  }
}

/** What a service manager gives the server: listening sockets, as descriptors from 3 on, and variables. */
export interface Service {
  sockets: readonly number[];
  environment: Record<string, string>;
}

/** The variable names the process that the shell becomes. */
const WITH_LISTEN_PID = ["sh", "-c", 'LISTEN_PID=$$ exec "$@"', "sh"];

/** The server as a process, and everything that it writes. */
export class ServerProcess {
  /** Those that `killAll` has not ended. */
  static readonly #started = new Set<ServerProcess>();
  stdout = "";
  stderr = "";
  readonly #process: Bun.Subprocess<"ignore", "pipe", "pipe">;
  readonly #watchers = new Set<() => void>();
  readonly #done: Promise<unknown>;
  #ended = false;

  /** `args` are the options; a `Service` may come first. */
  constructor(...args: (string | Service)[]) {
    const options = args.filter((each) => typeof each === "string");
    const { sockets = [], environment = {} } = args.find((each) => typeof each === "object") ?? {};
    const command = [process.execPath, "src/main.ts", "serve", ...options];
    const passed = sockets.length === 0 ? {} : { LISTEN_FDS: String(sockets.length) };
    this.#process = Bun.spawn([...(sockets.length === 0 ? [] : WITH_LISTEN_PID), ...command], {
      cwd: root,
      env: { ...process.env, ...passed, ...environment }, // By default it is that of the start of this process.
      stdio: ["ignore", "pipe", "pipe", ...sockets],
    });
    ServerProcess.#started.add(this);
    this.#done = Promise.all([this.#read("stdout"), this.#read("stderr")]).then(() => {
      this.#ended = true;
      this.#notify();
    });
  }

  /** Ends all servers of a test, for `afterEach`. */
  static async killAll(): Promise<void> {
    for (const server of ServerProcess.#started) {
      server.kill("SIGKILL");
      await server.exits();
    }
    ServerProcess.#started.clear();
  }

  get pid(): number {
    return this.#process.pid;
  }

  /** Waits for the line "listening on"; returns its port. */
  async port(): Promise<number> {
    return Number((await this.#find("stdout", /listening on \S+:(\d+)[ ,\n]/))[1]);
  }

  /** Waits for a log line that matches. */
  async logs(pattern: RegExp): Promise<void> {
    await this.#find("stderr", pattern);
  }

  /** Waits until the process has exited and all its output is read; returns the exit code. */
  async exits(): Promise<number> {
    await this.#done;
    return this.#process.exited;
  }

  kill(signal: NodeJS.Signals): void {
    this.#process.kill(signal);
  }

  async #read(name: "stdout" | "stderr"): Promise<void> {
    const decoder = new TextDecoder();
    for await (const chunk of this.#process[name]) {
      this[name] += decoder.decode(chunk, { stream: true });
      this.#notify();
    }
  }

  #notify(): void {
    for (const watcher of this.#watchers) watcher();
    this.#watchers.clear();
  }

  async #find(name: "stdout" | "stderr", pattern: RegExp): Promise<RegExpExecArray> {
    for (;;) {
      const found = pattern.exec(this[name]);
      if (found !== null) return found;
      if (this.#ended) throw new Error(`the server exited without ${pattern}: ${this.stdout}${this.stderr}`);
      await new Promise<void>((resolve) => this.#watchers.add(resolve));
    }
  }
}
