/** The servers of a measurement as processes on loopback: a single one, or those of a cluster. */
import { join } from "node:path";
import { initLog, openLog } from "../../src/cluster/open-log.ts";
import type { SharedLog } from "../../src/cluster/shared-log.ts";
import type { RunningEngine } from "../../test/support/engines.ts";
import { freePort } from "../../test/support/free-port.ts";
import { ServerProcess } from "../../test/support/process.ts";
import { BenchmarkError } from "../load/benchmark-runner.ts";
import { serversOf } from "./work.ts";

/** Limit until each shard has an owner, and all of them are connected. */
const READY_MS = 60_000;
/** Limit until the servers of an engine have found each other. */
const ENGINE_MS = 30_000;
const POLL_MS = 50;

/** What the servers have counted since their start. */
export interface Totals {
  /** Messages that were answered with ok. */
  accepted: number;
  logBytes: number;
  /** Of the shared log; 0 without one. */
  records: number;
}

/** Creates the log of a cluster, and returns its URL. Throws BenchmarkError. */
export async function newCluster(engine: RunningEngine, shards: number): Promise<string> {
  for (const end = performance.now() + ENGINE_MS; ;) {
    const url = await engine.newUrl();
    try {
      await initLog(url, shards);
      return url;
    } catch (error) {
      if (performance.now() > end) throw new BenchmarkError((error as Error).message);
      await Bun.sleep(POLL_MS);
    }
  }
}

/** A server with its page of metrics. */
class Server {
  static readonly started = new Set<Server>();
  readonly process: ServerProcess;
  readonly #http = freePort();
  port = 0;

  constructor(folder: string, credentials: string, url: string | null) {
    const cluster = url === null ? [] : ["--cluster-listen", "127.0.0.1:0"];
    const environment = { TMPDIR: folder, ...(url === null ? {} : { HEARTLINE_CLUSTER: url }) };
    this.process = new ServerProcess(
      { sockets: [], environment },
      ...["--host", "127.0.0.1", "--port", "0", "--http", String(this.#http)],
      ...["--credentials", credentials, "--data", join(folder, `data-${this.#http}`)],
      ...["--heartbeat-interval", "3600", "--rate-limit", "0", ...cluster],
    );
    Server.started.add(this);
  }

  /** Throws BenchmarkError. */
  async start(): Promise<void> {
    this.port = await this.process.port().catch((error: Error) => {
      throw new BenchmarkError(error.message);
    });
  }

  async metrics(): Promise<string> {
    return (await fetch(`http://127.0.0.1:${this.#http}/metrics`)).text();
  }
}

/** Sums the metrics of that name over all labels. */
export function sumOf(metrics: string, name: string): number {
  const values = metrics.matchAll(new RegExp(`^${name}(?:\\{[^}]*\\})? (\\S+)$`, "gm"));
  return [...values].reduce((sum, [, value]) => sum + Number(value), 0);
}

export class Site {
  /** Of the owners, by shard, then of the spare. */
  readonly ports: number[];
  readonly pids: number[];
  readonly #servers: readonly Server[];
  readonly #log: SharedLog | null;

  private constructor(servers: readonly Server[], log: SharedLog | null) {
    this.#servers = servers;
    this.#log = log;
    this.ports = servers.map(({ port }) => port);
    this.pids = servers.map(({ process }) => process.pid);
  }

  /** A server that keeps its journal itself. */
  static async startEmbedded(folder: string, credentials: string): Promise<Site> {
    const server = new Server(folder, credentials, null);
    await server.start();
    return new Site([server], null);
  }

  /** Resolves when each shard has an owner, and all of them are connected. Throws BenchmarkError. */
  static async startCluster(folder: string, credentials: string, url: string, shards: number): Promise<Site> {
    const servers = Array.from({ length: serversOf(shards) }, () => new Server(folder, credentials, url));
    await Promise.all(servers.map((server) => server.start()));
    let owners: Server[] = [];
    for (const end = performance.now() + READY_MS; ; await Bun.sleep(POLL_MS)) {
      owners = [];
      let connected = 0;
      for (const [i, server] of servers.entries()) {
        const metrics = await server.metrics().catch(() => null);
        if (metrics === null) {
          // It was deposed, since others had the cores for seconds. A service manager starts it again.
          server.process.kill("SIGKILL");
          servers[i] = new Server(folder, credentials, url);
          await servers[i].start();
          continue;
        }
        const [, shard] = /^heartline_cluster_owner\{shard="(\d+)"\} 1$/m.exec(metrics) ?? [];
        if (shard === undefined || sumOf(metrics, "heartline_ready") !== 1) continue;
        owners[Number(shard)] = server;
        if (shards === 1 || sumOf(metrics, "heartline_links") === shards - 1) connected++;
      }
      if (connected === shards) break;
      if (performance.now() < end) continue;
      const output = servers.map(({ process }) => process.stderr.trim().split("\n").at(-1)).join("; ");
      throw new BenchmarkError(`the ${shards} shards do not start: ${output}`);
    }
    const spares = servers.filter((server) => !owners.includes(server));
    return new Site([...owners, ...spares], await openLog(url));
  }

  async totals(): Promise<Totals> {
    const [states, ...pages] = await Promise.all([
      this.#log?.states() ?? [],
      ...this.#servers.map((server) => server.metrics()),
    ]);
    const sum = (name: string): number => pages.reduce((all, page) => all + sumOf(page, name), 0);
    return {
      accepted: sum("heartline_messages_accepted_total"),
      logBytes: sum("heartline_journal_bytes_total"),
      records: states.reduce((all, { head }) => all + head, 0),
    };
  }

  /** Name and version of the engine, and what an operator should change at it; null without one. */
  get engine(): Pick<SharedLog, "engine" | "warnings"> | null {
    if (this.#log === null) return null;
    const { engine, warnings } = this.#log;
    return { engine: engine.split(" at ")[0]!, warnings };
  }

  /** Ends all servers, without a wait. */
  static kill(): void {
    for (const { process } of Server.started) process.kill("SIGKILL");
    Server.started.clear();
  }

  /** Resolves when all servers have ended. */
  async close(): Promise<void> {
    await this.#log?.close();
    await Site.end();
  }

  static async end(): Promise<void> {
    Site.kill();
    await ServerProcess.killAll();
  }
}
