/**
 * Starts a server and a load generator (swarm.ts) for each run, in a temporary folder, and returns the outcome. What a
 * run does is in its WorkloadSpec; which server it is, in its Peer.
 */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PATH, type Peer } from "../peers/peer.ts";
import { compiled, linesOf, onCore, within } from "../program.ts";
import { NATIVE_SOURCE, nativeOutcome } from "./native-swarm.ts";
import type { WorkloadSpec, Outcome } from "./workload-spec.ts";
import { spawned } from "../../src/runtime/invocation.ts";
import { descriptorsMax } from "../../src/runtime/kernel.ts";

/** The argument of `heartline bench` that makes it the load generator (swarm.ts). */
export const SWARM = "--swarm";
const READY_MS = 10_000;
const STOP_MS = 10_000;
const PASSWORD = "secret";

/** A server that does not start, or a run that failed. The message is for users. */
export class BenchmarkError extends Error {}

/** Descriptors of a process that are not for clients. */
const DESCRIPTORS_SPARE = 200;

/** The number of clients that one process can have under the limit of descriptors. */
export function clientsMax(): number {
  return descriptorsMax() - DESCRIPTORS_SPARE;
}

/** A workload without the fields that depend on the server. */
export type Task = Omit<WorkloadSpec, "protocol" | "host" | "port" | "pid" | "loginsAtOnce">;

/** Runs servers and load generators, one pair after another. `remove` ends what still runs and removes all files. */
export class BenchmarkRunner {
  readonly folder = mkdtempSync(join(tmpdir(), "heartline-bench-"));
  readonly users: [name: string, password: string][];
  /** The file with these users. */
  readonly credentials = join(this.folder, "credentials");
  readonly #running = new Set<Bun.Subprocess>();
  /** Number of runs so far: the name of the next folder. */
  #runs = 0;

  constructor(users: number) {
    this.users = Array.from({ length: users }, (_, index) => [`u${String(index).padStart(5, "0")}`, PASSWORD]);
    writeFileSync(this.credentials, this.users.map((user) => `${user.join(" ")}\n`).join(""));
  }

  /** Runs a new server with an empty folder, and a load generator against it. Throws BenchmarkError. */
  async run(peer: Peer, task: Task, report: (progress: string) => void): Promise<Outcome> {
    const folder = join(this.folder, `run-${++this.#runs}`);
    mkdirSync(folder);
    const { credentials } = this;
    const site = { folder, sharedFolder: this.folder, port: await freePort(), credentials };
    const server = this.#spawn([...onCore(0), ...peer.command(site)]);
    const errors = new Response(server.stderr).text();
    try {
      const port = await this.#listens(server, site.port);
      if (port === null) throw new BenchmarkError(`${peer.name} does not listen: ${(await errors).slice(0, 500)}`);
      const { protocol, loginsAtOnce } = peer;
      return await this.swarm({ ...task, protocol, loginsAtOnce, host: "127.0.0.1", port, pid: server.pid }, report);
    } catch (error) {
      throw error instanceof BenchmarkError ? new BenchmarkError(`${peer.name}: ${error.message}`) : error;
    } finally {
      await this.#stop(server);
      rmSync(folder, { recursive: true, force: true });
    }
  }

  /** Runs a load generator against a server that listens already. `measures` is only for native. Throws BenchmarkError. */
  async swarm(spec: WorkloadSpec, report: (progress: string) => void, measures?: () => void): Promise<Outcome> {
    const isNative = spec.generator === "native";
    const command = isNative ? [this.#compiled(NATIVE_SOURCE)] : spawned("bench", SWARM);
    const swarm = this.#spawn([...(spec.sharesCores === true ? [] : onCore(1)), ...command], "pipe");
    const { stdout } = swarm;
    const stdin = swarm.stdin as Bun.FileSink;
    const errors = new Response(swarm.stderr).text();
    const streams = { stdin, stdout };
    const outcome = await (isNative
      ? nativeOutcome(spec, streams, report, measures)
      : swarmOutcome(spec, streams, report));
    await swarm.exited;
    const ended = `the swarm ended (${swarm.signalCode ?? `code ${swarm.exitCode}`})`;
    if (outcome === null) throw new BenchmarkError((await errors).split("\n", 3).join(" ").slice(0, 500) || ended);
    return outcome;
  }

  #compiled(source: string): string {
    try {
      return compiled(source, this.folder);
    } catch (error) {
      throw new BenchmarkError((error as Error).message);
    }
  }

  #spawn(command: string[], stdin: "ignore" | "pipe" = "ignore"): Bun.Subprocess<"ignore" | "pipe", "pipe", "pipe"> {
    const child = Bun.spawn(command, {
      stdin,
      stdout: "pipe",
      stderr: "pipe",
      env: { ...process.env, PATH },
    });
    this.#running.add(child);
    void child.exited.then(() => this.#running.delete(child));
    return child;
  }

  /**
   * Waits until the server accepts connections and returns its port: the one that it prints, or else `port`. Null when
   * it has ended or is not ready in time.
   */
  async #listens(server: Bun.Subprocess<"ignore" | "pipe", "pipe", "pipe">, port: number): Promise<number | null> {
    let printed: number | null = null;
    void (async () => {
      for await (const line of linesOf(server.stdout))
        printed ??= Number(/listening on \S+:(\d+)$/.exec(line)?.[1] ?? 0) || null;
    })();
    for (let waitedMs = 0; waitedMs < READY_MS && server.exitCode === null; waitedMs += 20) {
      await Bun.sleep(20);
      const at = printed ?? port;
      const socket = await Bun.connect({ hostname: "127.0.0.1", port: at, socket: { data: () => {} } }).catch(
        () => null,
      );
      socket?.terminate();
      if (socket !== null) return at;
    }
    return null;
  }

  async #stop(server: Bun.Subprocess): Promise<void> {
    server.kill("SIGTERM");
    if ((await within(server.exited, STOP_MS)) === null) server.kill("SIGKILL");
    await server.exited;
  }

  remove(): void {
    for (const child of this.#running) child.kill("SIGKILL");
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/** Writes the workload for swarm.ts, and reads its output until it ends. Null when it failed. */
async function swarmOutcome(
  spec: WorkloadSpec,
  { stdin, stdout }: { stdin: Bun.FileSink; stdout: ReadableStream<Uint8Array> },
  report: (progress: string) => void,
): Promise<Outcome | null> {
  stdin.write(`${JSON.stringify(spec)}\n`);
  await stdin.end();
  let outcome: Outcome | null = null;
  for await (const line of linesOf(stdout)) {
    const message = JSON.parse(line) as { progress: string } | { outcome: Outcome };
    if ("progress" in message) report(message.progress);
    else outcome = message.outcome;
  }
  return outcome;
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as { port: number };
  await new Promise((resolve) => server.close(resolve));
  return port;
}
