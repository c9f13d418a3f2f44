/**
 * nats-server as an ordinary process in a temporary folder, reached only on loopback or in a network of its own, and
 * three of them as a cluster.
 */
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { jetstreamManager, type StreamInfo } from "@nats-io/jetstream";
import { connect } from "@nats-io/transport-node";
import { freePort } from "./free-port.ts";
import { type Host, LOOPBACK } from "./hosts.ts";

/** The server accepts connections within this time after its start. */
const START_MS = 30_000;

export const hasNats = Bun.which("nats-server") !== null;
if (!hasNats) console.warn("\n  SKIPPED: tests with NATS (they need Debian's package nats-server)\n");

const CONFIG = join(import.meta.dir, "../../contrib/cluster/nats.conf");
/** The settings of contrib/cluster/nats.conf that close a route which is cut one way. */
const pings = (): string =>
  readFileSync(CONFIG, "utf8")
    .match(/^ping_.*$/gm)!
    .join("\n");

/** A server with JetStream. */
export class NatsEngine {
  /** Those that `closeAll` has not ended. */
  static readonly #started = new Set<NatsEngine>();
  readonly port = freePort();
  readonly #folder = mkdtempSync(join(tmpdir(), "heartline-nats-"));
  readonly #config = join(this.#folder, "nats.conf");
  #process: Bun.Subprocess<"ignore", "ignore", "ignore"> | null = null;

  readonly #host: Host;

  private constructor(settings: string, hasJetStream = true, host = LOOPBACK) {
    this.#host = host;
    NatsEngine.#started.add(this);
    const jetStream = hasJetStream ? `jetstream { store_dir: "${join(this.#folder, "store")}" }\n` : "";
    writeFileSync(this.#config, `host: ${host.address}\nport: ${this.port}\n${jetStream}${settings}\n`);
  }

  /** `settings` are further lines of its configuration file. */
  static async start(settings = "", hasJetStream = true): Promise<NatsEngine> {
    const engine = new NatsEngine(settings, hasJetStream);
    await engine.restart();
    return engine;
  }

  /** Three servers that are one cluster. */
  static async startCluster(hosts: readonly Host[] = [LOOPBACK, LOOPBACK, LOOPBACK]): Promise<NatsEngine[]> {
    const places = hosts.map(({ address }) => ({ host: address, port: freePort() }));
    const routes = places.map(({ host, port }) => `nats://${host}:${port}`).join(", ");
    const engines = places.map(({ host, port }, i) => {
      const cluster = `cluster { name: test, host: ${host}, port: ${port}, routes: [${routes}] }`;
      return new NatsEngine(`server_name: n${i + 1}\n${pings()}\n${cluster}`, true, hosts[i]!);
    });
    await Promise.all(engines.map((engine) => engine.restart()));
    return engines;
  }

  /** Ends all servers of a test file. */
  static async closeAll(): Promise<void> {
    await Promise.all([...NatsEngine.#started].map((engine) => engine.close()));
  }

  get pid(): number {
    return this.#process!.pid;
  }

  /** `host:port`. */
  get address(): string {
    return `${this.#host.address}:${this.port}`;
  }

  /** Starts the server, also after `kill`; resolves when it accepts connections. */
  async restart(): Promise<void> {
    const command = [...this.#host.prefix, "setpriv", "--pdeathsig=KILL", "nats-server", "-c", this.#config];
    this.#process = Bun.spawn(command, {
      cwd: this.#folder,
      stdio: ["ignore", "ignore", "ignore"],
    });
    for (const end = performance.now() + START_MS; ;) {
      try {
        (await Bun.connect({ hostname: this.#host.address, port: this.port, socket: { data: () => {} } })).end();
        return;
      } catch (error) {
        if (this.#process.exitCode !== null || performance.now() > end)
          throw new Error("nats-server does not start", { cause: error });
        await Bun.sleep(20);
      }
    }
  }

  /** SIGTERM ends the server as an operator does. */
  async kill(signal: "SIGKILL" | "SIGTERM" = "SIGKILL"): Promise<void> {
    this.#process?.kill(signal);
    await this.#process?.exited;
    this.#process = null;
  }

  /** All streams, as their leaders describe them. Rejects when there is no leader. */
  async streams(): Promise<StreamInfo[]> {
    const connection = await connect({ servers: this.address });
    try {
      const { streams } = await jetstreamManager(connection, { checkAPI: false });
      return await Array.fromAsync(streams.list());
    } finally {
      await connection.close();
    }
  }

  /** Returns when all its threads have stopped. */
  pause(): void {
    const { pid } = this.#process!;
    process.kill(pid, "SIGSTOP");
    const states = () => readdirSync(`/proc/${pid}/task`).map((task) => stateOf(`/proc/${pid}/task/${task}/stat`));
    while (states().some((state) => state !== "T")) Bun.sleepSync(1);
  }

  resume(): void {
    this.#process!.kill("SIGCONT");
  }

  /** Ends the server and removes its folder. */
  async close(): Promise<void> {
    await this.kill();
    NatsEngine.#started.delete(this);
    rmSync(this.#folder, { recursive: true, force: true });
  }
}

/** The state follows the name of the program, which is in brackets (proc_pid_stat(5)). */
function stateOf(file: string): string {
  return readFileSync(file, "utf8").split(") ")[1]![0]!;
}
