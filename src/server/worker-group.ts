/**
 * `--workers`: several servers of a cluster as child processes of this one, which serves no client itself. It starts
 * them, starts those again that exit, and passes signals on. What differs between them is in `forWorker`.
 */
import { join } from "node:path";
import { UsageError } from "../usage-error.ts";
import type { Logger } from "../runtime/log.ts";
import type { Config } from "./config.ts";
import type { HttpAddress } from "./options.ts";

/** The variable by which a worker knows its number, from 1 on. */
const WORKER = "HEARTLINE_WORKER";
/**
 * Of a server that stops because the engine has lost records which it had acknowledged. It does not start again by
 * itself: a new process cannot know of these records, and would go on without them. The number is EX_DATAERR of
 * sysexits.h.
 */
export const EXIT_LOST_RECORDS = 65;
/** The pause before a worker starts again grows between these limits; after LONG_MS without an exit it is short. */
const PAUSE_MIN_MS = 1_000;
const PAUSE_MAX_MS = 30_000;
const LONG_MS = 60_000;

/** The number of this worker, which is removed from the environment; null for a process that is none. */
export function takeWorker(environment: Record<string, string | undefined>): number | null {
  const worker = environment[WORKER];
  delete environment[WORKER];
  return worker === undefined ? null : Number(worker);
}

/** All workers have one port for clients; each has its own other ports and its own folder. Throws UsageError. */
export function forWorker(config: Config, worker: number): Config {
  const { cluster, http, data, adminSocket } = config;
  if (cluster === null) return config;
  const { listen, direct, folder } = cluster;
  const own = {
    ...cluster,
    listen: { ...listen, port: portFor(worker, listen.port, "cluster-listen") },
    direct: direct && { ...direct, port: portFor(worker, direct.port, "direct-listen") },
    folder: folder && folderFor(worker, folder),
  };
  const isInFolder = folder !== null && adminSocket?.startsWith(data) === true;
  const socket = isInFolder
    ? folderFor(worker, data) + adminSocket.slice(data.length)
    : withNumber(adminSocket, worker);
  return {
    ...config,
    cluster: own,
    http: http && httpFor(worker, http),
    data: own.folder ?? data,
    adminSocket: socket,
  };
}

function folderFor(worker: number, folder: string): string {
  return join(folder, `worker-${worker}`);
}

function withNumber(path: string | null, worker: number): string | null {
  return path && `${path}.${worker}`;
}

function httpFor(worker: number, address: HttpAddress): HttpAddress {
  if ("path" in address) return { path: `${address.path}.${worker}` };
  return { ...address, port: portFor(worker, address.port, "http") };
}

/** The first worker has the given port, the next ones those after it; 0 is any free port for each. */
function portFor(worker: number, port: number, option: string): number {
  if (port === 0) return 0;
  const own = port + worker - 1;
  if (own <= 65_535) return own;
  throw new UsageError(`--${option}: there is no port ${own} for worker ${worker}; give a lower one`);
}

export interface WorkerGroupOptions {
  count: number;
  /** The command that starts a worker. */
  command: readonly string[];
  log: Logger;
  /** All of them listen; the line that each of them has printed. */
  listening: (line: string) => void;
  pauseMinMs?: number;
}

export class WorkerGroup {
  readonly #options: WorkerGroupOptions;
  /** By number: those that run. */
  readonly #running = new Map<number, Bun.Subprocess<"ignore", "pipe", "inherit">>();
  /** Those that have listened once. */
  readonly #listened = new Set<number>();
  #isStopping = false;
  readonly #stopped = Promise.withResolvers<void>();
  #code = 0;
  /** Exit code of a worker that could not start, or must not start again. */
  #failed: number | null = null;

  constructor(options: WorkerGroupOptions) {
    this.#options = options;
  }

  /**
   * Starts the workers. Resolves with the exit code when all have ended: the highest of them, or that of the worker
   * that ends all the others, since it has exited before it listened, or with EXIT_LOST_RECORDS.
   */
  async run(): Promise<number> {
    // An error that all of them would have is reported once.
    const first = Promise.withResolvers<void>();
    const all = [this.#keep(1, first.resolve).finally(first.resolve)];
    await first.promise;
    for (let worker = 2; worker <= this.#options.count && !this.#isStopping; worker++) all.push(this.#keep(worker));
    await Promise.all(all);
    return this.#failed ?? this.#code;
  }

  /** Passes the signal on to all of them. */
  signal(signal: NodeJS.Signals): void {
    for (const child of this.#running.values()) child.kill(signal);
  }

  /** The same, and none of them is started again. */
  stop(signal: NodeJS.Signals): void {
    this.#isStopping = true;
    this.#stopped.resolve();
    this.signal(signal);
  }

  async #keep(worker: number, listened = (): void => {}): Promise<void> {
    const { log, pauseMinMs = PAUSE_MIN_MS } = this.#options;
    for (let pauseMs = pauseMinMs; !this.#isStopping; pauseMs = Math.min(2 * pauseMs, PAUSE_MAX_MS)) {
      const beganMs = performance.now();
      const code = await this.#runOne(worker, listened);
      if (this.#isStopping) return void (this.#code = Math.max(this.#code, code));
      const isLost = code === EXIT_LOST_RECORDS;
      if (isLost) {
        const text = "the engine has lost records; all workers stop, and none starts again";
        log.fatal({ event: "worker_exit", worker, code }, `worker ${worker} has exited with ${code}: ${text}`);
      }
      if (isLost || !this.#listened.has(worker)) {
        this.#failed = code;
        return this.stop("SIGTERM");
      }
      if (performance.now() - beganMs > LONG_MS) pauseMs = pauseMinMs;
      log.warn({ event: "worker_exit", worker, code }, `worker ${worker} has exited with ${code}; it starts again`);
      await Promise.race([Bun.sleep(pauseMs), this.#stopped.promise]);
    }
  }

  async #runOne(worker: number, listened: () => void): Promise<number> {
    const child = Bun.spawn([...this.#options.command], {
      env: { ...process.env, [WORKER]: String(worker) },
      stdio: ["ignore", "pipe", "inherit"],
    });
    this.#running.set(worker, child);
    const text = await this.#firstLine(child.stdout);
    if (text.startsWith("listening")) {
      this.#listened.add(worker);
      listened();
      if (this.#listened.size === this.#options.count) this.#options.listening(text);
    }
    const code = await child.exited;
    this.#running.delete(worker);
    return code;
  }

  /** What it prints first; empty when it exits without. */
  async #firstLine(output: ReadableStream<Uint8Array>): Promise<string> {
    const decoder = new TextDecoder();
    let text = "";
    for await (const chunk of output) {
      text += decoder.decode(chunk, { stream: true });
      if (text.includes("\n")) break;
    }
    return text.slice(0, text.indexOf("\n") + 1);
  }
}
