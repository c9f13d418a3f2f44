import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Credentials } from "../../src/auth/credentials.ts";
import type { OwnershipEnd } from "../../src/cluster/appender.ts";
import type { BoundedLog } from "../../src/server/bounded-log.ts";
import { ClientPorts } from "../../src/server/client-ports.ts";
import { ClusterNode } from "../../src/server/cluster-node.ts";
import type { Config } from "../../src/server/config.ts";
import { Gateway } from "../../src/server/gateway.ts";
import { Readiness } from "../../src/server/readiness.ts";
import { CLOCK, Server } from "../../src/server/server.ts";
import { atOnce } from "../../src/runtime/slices.ts";
import { ModelledEngine, ModelledLog } from "./modelled-log.ts";

const CLUSTER = { url: "", listen: { host: "127.0.0.1", port: 0 }, direct: null, tls: null };

/** The engines by the data folder that a test names: what is in one of them is there at the next start. */
const engines = new Map<string, ModelledEngine>();

/** A server of each shard in this process, and a spare, to which clients connect. */
export class WireCluster {
  readonly port: number;
  readonly tlsPort: number;
  /** Resolves when each shard has an owner, and each owner has links to all others. */
  readonly ready: Promise<void>;
  /** All servers have exited, after a drain. */
  readonly exited: Promise<number>;
  readonly #ports = new ClientPorts();
  readonly #config: Config;
  readonly #credentials: Credentials;
  readonly #log: BoundedLog;
  readonly #engine: ModelledEngine;
  readonly #folder = mkdtempSync(join(tmpdir(), "heartline-"));
  readonly #nodes: ClusterNode[] = [];
  readonly #servers: Server[] = [];
  readonly #exit = Promise.withResolvers<number>();
  readonly #codes: number[] = [];
  #gateway: Gateway | null = null;

  constructor(shards: number, config: Config, credentials: Credentials, log: BoundedLog) {
    const { data } = config;
    this.#engine = engines.get(data) ?? new ModelledEngine(shards);
    if (data !== ":memory:") engines.set(data, this.#engine);
    this.#config = config;
    this.#credentials = credentials;
    this.#log = log;
    // Whoever connects before the gateway is there waits.
    const waiting = { plain: { data: () => {} }, tls: { data: () => {} }, web: null };
    this.#ports.open({ ...config, web: null }, waiting);
    const { plain, encrypted } = this.#ports;
    this.port = (plain ?? encrypted)!.port;
    this.tlsPort = plain === null ? 0 : (encrypted?.port ?? 0);
    this.ready = this.#start();
    this.exited = this.#exit.promise;
  }

  drain(seconds: number): void {
    for (const server of this.#servers) server.drain(seconds);
  }

  async #start(): Promise<void> {
    const spare = await this.#open(new SpareLog(this.#engine));
    this.#gateway = new Gateway(this.#config, (core) => spare.newRelays(core, null), this.#log, CLOCK);
    this.#ports.handle(this.#gateway.handlers);
    this.#gateway.start();
    void spare.own(() => {});
    await Promise.all(this.#engine.shards.map(() => this.#startOwner()));
    while (!this.#isLinked(spare)) await Bun.sleep(5);
  }

  #isLinked({ directory }: ClusterNode): boolean {
    if (this.#engine.shards.some((_, shard) => directory.ownerOf(shard) === null)) return false;
    return this.#servers.every(({ measured: { core } }) =>
      core.chat.neighbours!.all.every((neighbour) => neighbour === undefined || neighbour.session !== null),
    );
  }

  async #startOwner(): Promise<void> {
    const readiness = new Readiness();
    const node = await this.#open(new ModelledLog(this.#engine), readiness);
    const { store } = (await node.own(() => {}))!;
    const exit = async (code: number): Promise<void> => {
      this.#codes.push(code);
      if (this.#codes.length === this.#servers.length) this.#exit.resolve(Math.max(...this.#codes));
    };
    const own = { ...this.#config, port: 0, tls: null };
    const server = new Server(own, store, this.#log, exit, readiness, node);
    atOnce(server.load(this.#credentials));
    server.listen();
    this.#servers.push(server);
  }

  async #open(log: ModelledLog, readiness = new Readiness()): Promise<ClusterNode> {
    const folder = mkdtempSync(join(this.#folder, "node-"));
    const options = {
      log: this.#log,
      readiness,
      credentials: this.#credentials,
      readCredentials: async () => this.#credentials,
      ended: ({ kind, message }: OwnershipEnd) => this.#log.error({ event: "cluster_error" }, `${kind}: ${message}`),
    };
    const node = await ClusterNode.open({ ...CLUSTER, folder }, options, async () => log);
    this.#nodes.push(node);
    return node;
  }

  async stop(): Promise<void> {
    await this.ready;
    this.#ports.stop();
    if (this.#codes.length === 0) await Promise.all(this.#servers.map((server) => server.stop()));
    this.#gateway!.stop();
    for (const node of this.#nodes) {
      await node.release();
      node.closePort();
      node.removeFiles();
    }
    rmSync(this.#folder, { recursive: true, force: true });
  }
}

/** Of a process that never owns a shard. */
class SpareLog extends ModelledLog {
  override async claim(): Promise<{ stored: false; head: number }> {
    return { stored: false, head: Number.MAX_SAFE_INTEGER };
  }
}
