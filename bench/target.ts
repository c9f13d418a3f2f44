import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const root = join(import.meta.dir, "..");
const READY_MS = 10_000;
const STOP_MS = 10_000;

/** What can be measured: this server at each durability, and a plain C server on epoll that keeps nothing. */
export const TARGETS = ["none", "process", "power", "c"] as const;
export type Target = (typeof TARGETS)[number];

/** A program that cannot be run here, in words for a person. */
export class TargetError extends Error {}

/** One core for the server, another one for who loads it; where that cannot be told, the system decides. */
const taskset = Bun.which("taskset");
export function pinned(core: 0 | 1, command: string[]): string[] {
  return taskset === null || navigator.hardwareConcurrency < 2 ? command : [taskset, "-c", String(core), ...command];
}

/** Where the programs of a measurement have their files; `remove` takes all of it away, and ends what still runs. */
export class Workshop {
  readonly folder = mkdtempSync(join(tmpdir(), "heartline-bench-"));
  readonly #running = new Set<Bun.Subprocess>();
  #runs = 0;

  constructor(clients: number) {
    const users = Array.from({ length: clients }, (_, index) => `u${String(index).padStart(5, "0")} secret\n`);
    writeFileSync(join(this.folder, "credentials.txt"), users.join(""));
  }

  /** Makes the C server; null when there is no compiler. */
  compile(): Promise<boolean> | null {
    const cc = Bun.which("cc");
    if (cc === null) return null;
    const command = [
      cc,
      "-O2",
      "-Wall",
      "-Wextra",
      "-o",
      join(this.folder, "baseline"),
      join(root, "bench/baseline.c"),
    ];
    return Bun.spawn(command, { stdout: "inherit", stderr: "inherit" }).exited.then((code) => code === 0);
  }

  /** Starts a fresh server with a fresh data folder, and waits until it listens. */
  async start(target: Target): Promise<{ port: number; pid: number; stop: () => Promise<void> }> {
    const data = join(this.folder, `data-${++this.#runs}`);
    const command =
      target === "c"
        ? [join(this.folder, "baseline"), "0"]
        : [
            ...[process.execPath, "src/server/main.ts", "--host", "127.0.0.1", "--port", "0", "--durability", target],
            ...["--data", data, "--credentials", join(this.folder, "credentials.txt"), "--heartbeat-interval", "3600"],
          ];
    const server = this.run(pinned(0, command));
    const port = await Promise.race([portOf(server.stdout), Bun.sleep(READY_MS)]);
    if (typeof port !== "number") throw new TargetError(`the server "${target}" does not listen`);
    const stop = async (): Promise<void> => {
      server.kill("SIGTERM");
      if ((await Promise.race([server.exited, Bun.sleep(STOP_MS)])) === undefined) server.kill("SIGKILL");
      await server.exited;
      rmSync(data, { recursive: true, force: true });
    };
    return { port, pid: server.pid, stop };
  }

  run(command: string[]): Bun.Subprocess<"ignore", "pipe", "inherit"> {
    const quiet = { ...process.env, BUN_JSC_logGC: undefined };
    const child = Bun.spawn(command, { cwd: root, stdin: "ignore", stdout: "pipe", stderr: "inherit", env: quiet });
    this.#running.add(child);
    void child.exited.then(() => this.#running.delete(child));
    return child;
  }

  remove(): void {
    for (const child of this.#running) child.kill("SIGKILL");
    rmSync(this.folder, { recursive: true, force: true });
  }
}

async function portOf(output: ReadableStream<Uint8Array>): Promise<number | null> {
  let text = "";
  for await (const chunk of output) {
    text += new TextDecoder().decode(chunk);
    const found = /listening on \S+:(\d+)\n/.exec(text);
    if (found !== null) return Number(found[1]);
  }
  return null;
}
