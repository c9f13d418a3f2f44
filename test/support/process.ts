import { join } from "node:path";

const root = join(import.meta.dir, "../..");

/** Runs a program of this project to its end, as its users do: its file and arguments. */
export function run(...args: string[]): ReturnType<typeof runWith> {
  return runWith({}, ...args);
}

/** The same with an input, and with more in its environment. */
export async function runWith(
  { input = "", env = {} }: { input?: string | Uint8Array; env?: Record<string, string> },
  ...args: string[]
): Promise<{ out: string; err: string; code: number }> {
  const child = Bun.spawn([process.execPath, ...args], {
    cwd: root,
    env: { ...process.env, ...env },
    stdin: Buffer.from(input as string),
    stdout: "pipe",
    stderr: "pipe",
  });
  const [out, err, code] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  return { out, err, code };
}

/** The server as a real process, with all that it writes. */
export class ServerProcess {
  stdout = "";
  stderr = "";
  readonly #process: Bun.Subprocess<"ignore", "pipe", "pipe">;
  readonly #changes = new Set<() => void>();
  readonly #done: Promise<unknown>;
  #ended = false;

  constructor(...args: string[]) {
    this.#process = Bun.spawn([process.execPath, "src/main.ts", "serve", ...args], {
      cwd: root,
      env: process.env, // As it is now, and not as it was when this process began.
      stdin: "ignore",
      stdout: "pipe",
      stderr: "pipe",
    });
    this.#done = Promise.all([this.#read("stdout"), this.#read("stderr")]).then(() => {
      this.#ended = true;
      this.#changed();
    });
  }

  get pid(): number {
    return this.#process.pid;
  }

  /** The port of its one line; waits for it. */
  async port(): Promise<number> {
    return Number((await this.#find("stdout", /listening on \S+:(\d+)[ ,\n]/))[1]);
  }

  /** Waits until it has logged something like that. */
  async logs(what: RegExp): Promise<void> {
    await this.#find("stderr", what);
  }

  /** The exit code, when everything that it wrote has been read. */
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
      this.#changed();
    }
  }

  #changed(): void {
    for (const change of this.#changes) change();
    this.#changes.clear();
  }

  async #find(name: "stdout" | "stderr", what: RegExp): Promise<RegExpExecArray> {
    for (;;) {
      const found = what.exec(this[name]);
      if (found !== null) return found;
      if (this.#ended) throw new Error(`it ended without ${what}: ${this.stdout}${this.stderr}`);
      await new Promise<void>((resolve) => this.#changes.add(resolve));
    }
  }
}
