/**
 * A cluster of real processes that a test stops at an exact point of what they do. A proxy of the test is between each
 * process and the engine, and another one in front of its `--cluster-listen` port: what a process has sent is held
 * there, or what it waits for. So nothing in the program is made for the test.
 */
import { SQL } from "bun";
import { initLog } from "../../src/cluster/open-log.ts";
import { ClusterServer, type ClusterServerChoices } from "../support/cluster-server.ts";
import { freePort } from "../support/free-port.ts";
import type { ClientWire, ShardServers } from "../support/shard-client.ts";
import { WireClient } from "../support/wire.ts";
import { type Observer, Proxy } from "./chaos/fault-proxy.ts";

const LIMIT_MS = 60_000;
const HELD_MS = 600_000;
/** The servers listen at the first address, the proxies at the second one. */
const [SERVERS, PROXIES] = ["127.0.0.1", "127.0.0.2"];

/** All servers learn the addresses of the others from the table `shard`: there they have those of the proxies. */
const PUBLISH_PROXIES = `
  CREATE FUNCTION heartline.publish_proxy() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    NEW.owner := replace(NEW.owner, '"${SERVERS}:', '"${PROXIES}:');
    RETURN NEW;
  END $$;
  CREATE TRIGGER publish_proxy BEFORE UPDATE ON heartline.shard
    FOR EACH ROW EXECUTE FUNCTION heartline.publish_proxy();
`;

/** Waits for something that no event shows. */
export async function until(what: string, is: () => boolean | Promise<boolean>): Promise<void> {
  const sinceMs = performance.now();
  while (!(await is())) {
    if (performance.now() - sinceMs > LIMIT_MS) throw new Error(`after ${LIMIT_MS / 1000} s still not true: ${what}`);
    await Bun.sleep(20);
  }
}

/** `up`: to the process that listens; `down`: to the one that has connected. */
type Way = "up" | "down";

/** A proxy that holds the bytes of one direction, from the moment on at which a certain text arrives. */
export class Gate {
  readonly #proxy: Proxy;
  /** What has arrived from either side since `watch`, held or not. */
  #seen = { up: "", down: "" };
  #trap: { way: Way; text: string; held: Way } | null = null;

  constructor(to: number, port = 0, hostname = SERVERS) {
    const observe = (): Observer => ({
      isLoggingIn: false,
      up: (chunk) => {
        this.#arrived("up", chunk);
        return chunk;
      },
      down: (chunk) => this.#arrived("down", chunk),
    });
    this.#proxy = new Proxy(to, null, observe, port, hostname);
  }

  get port(): number {
    return this.#proxy.port;
  }

  #arrived(way: Way, chunk: Buffer): void {
    this.#seen[way] += chunk.toString("latin1");
    const trap = this.#trap;
    if (trap === null || trap.way !== way || !this.#seen[way].includes(trap.text)) return;
    this.#trap = null;
    for (const connection of this.#proxy.connections) connection[trap.held].stall(HELD_MS);
  }

  /** What has arrived before does not count. */
  watch(): void {
    this.#seen = { up: "", down: "" };
    this.#trap = null;
  }

  /** When that text arrives from that side, the bytes of `held` wait from then on, those with the text included. */
  holdAt(text: string, way: Way, held: Way): void {
    this.#trap = { text, way, held };
  }

  count(way: Way, what: RegExp): number {
    return this.#seen[way].match(what)?.length ?? 0;
  }

  /** What was held goes on. */
  release(): void {
    this.#trap = null;
    for (const connection of this.#proxy.connections) connection.stopFaults();
  }

  /** Resets all connections. What was held is lost. */
  cut(): void {
    this.#trap = null;
    this.#proxy.cut();
  }

  /** New connections are reset at once. */
  set refuses(is: boolean) {
    this.#proxy.refuses = is;
  }

  stop(): void {
    this.#proxy.stop();
  }
}

/** Lets at most that many calls run at a time. */
export function limited(max: number): <T>(act: () => Promise<T>) => Promise<T> {
  const waiting: (() => void)[] = [];
  let running = 0;
  return async (act) => {
    if (running++ >= max) await new Promise<void>((resolve) => void waiting.push(resolve));
    try {
      return await act();
    } finally {
      running--;
      waiting.shift()?.();
    }
  };
}

/** A start takes a third of a second of one core. */
const start = limited(4);

/** One process, and the proxies around it. */
export class StoppableServer {
  /** Its connections to the engine. */
  readonly engine: Gate;
  /** The connections of other servers to it: the links of other shards. */
  readonly links: Gate;
  /** Resolves when it is a spare, or more. */
  readonly ready: Promise<void>;
  #server: ClusterServer | null = null;
  #isStopped = false;

  constructor(url: string, choices: ClusterServerChoices) {
    const proxied = new URL(url);
    this.engine = new Gate(Number(proxied.port));
    proxied.port = String(this.engine.port);
    const clusterPort = freePort();
    this.links = new Gate(clusterPort, clusterPort, PROXIES);
    this.ready = start(() => this.#start(proxied.href, { ...choices, clusterPort }));
    this.ready.catch(() => {}); // Who waits for it gets the error.
  }

  async #start(url: string, choices: ClusterServerChoices): Promise<void> {
    if (this.#isStopped) return;
    this.#server = new ClusterServer(url, choices);
    await this.#server.start();
    await this.process.logs(/"event":"spare"/);
  }

  /** After `ready`. */
  get server(): ClusterServer {
    return this.#server!;
  }

  get address(): string {
    return `${PROXIES}:${this.links.port}`;
  }

  get process(): ClusterServer["process"] {
    return this.server.process;
  }

  kill(signal: NodeJS.Signals): void {
    this.process.kill(signal);
  }

  /** Lines of the log that an operator must see, without those about an engine that is away. */
  get errors(): string[] {
    const { stderr } = this.process;
    return stderr.split("\n").filter((line) => /"level":[56]0/.test(line) && !/"engine_away"/.test(line));
  }

  stop(): void {
    this.#isStopped = true;
    this.#server?.process.kill("SIGKILL");
    this.engine.stop();
    this.links.stop();
  }
}

/** A connection of a `ShardClient` to a real server. */
export class SocketWire implements ClientWire {
  readonly #opened: Promise<WireClient>;
  #client: WireClient | null = null;

  constructor(port: number) {
    this.#opened = WireClient.connect(port).then((client) => (this.#client = client));
  }

  feed(bytes: string): void {
    void this.#opened.then((client) => client.send(bytes));
  }

  take(): string {
    const lines = this.#client?.lines.splice(0) ?? [];
    return lines.map((line) => `${line}\n`).join("");
  }

  /** All that arrives until the server closes the connection. */
  async rest(): Promise<string[]> {
    return (await this.#opened).rest();
  }

  cut(): void {
    this.#client?.cut();
  }
}

export class StoppableCluster implements ShardServers<StoppableServer> {
  /** The owners, by shard. */
  readonly nodes: StoppableServer[] = [];
  readonly #url: string;
  readonly #choices: ClusterServerChoices;
  readonly #sql: SQL;
  /** Owners and spares; those that were killed or paused do not count. */
  readonly #running = new Set<StoppableServer>();
  readonly #all: StoppableServer[] = [];
  readonly #wires: SocketWire[] = [];

  private constructor(url: string, choices: ClusterServerChoices) {
    this.#url = url;
    this.#choices = choices;
    this.#sql = new SQL(url, { max: 1 });
  }

  /** A new cluster in that database, with an owner of each shard and with spares. */
  static async start(
    url: string,
    shards: number,
    spares: number,
    choices: ClusterServerChoices,
  ): Promise<StoppableCluster> {
    const cluster = new StoppableCluster(url, choices);
    await initLog(url, shards);
    await cluster.#sql.unsafe(PUBLISH_PROXIES);
    cluster.#add(shards + spares);
    await cluster.ready();
    await cluster.claimed();
    return cluster;
  }

  #add(count: number): void {
    for (let i = 0; i < count; i++) {
      const server = new StoppableServer(this.#url, this.#choices);
      this.#running.add(server);
      this.#all.push(server);
    }
  }

  connect({ server }: StoppableServer): SocketWire {
    const wire = new SocketWire(server.port);
    this.#wires.push(wire);
    return wire;
  }

  async later(): Promise<void> {}

  /** Each shard has an owner that runs and serves it, and has links to the others. */
  async claimed(): Promise<void> {
    await until("each shard has an owner", async () => {
      const rows: { shard: number; owner: string | null }[] = await this.#sql`SELECT shard, owner FROM heartline.shard`;
      const owners = rows.map(({ shard, owner }) => {
        const { address } = JSON.parse(owner ?? "{}");
        return [shard, [...this.#running].find((each) => each.address === address)] as const;
      });
      for (const [shard, owner] of owners) if (owner !== undefined) this.nodes[shard] = owner;
      return owners.every(([, owner]) => owner !== undefined);
    });
    for (const { process } of this.nodes)
      for (const [shard, { address }] of this.nodes.entries())
        if (process !== this.nodes[shard]!.process)
          await process.logs(new RegExp(`"event":"link_up","shard":${shard},"owner":"${address}"`));
  }

  /** Those are no owners and no spares from now on; as many others start. */
  #replace(victims: readonly StoppableServer[]): void {
    for (const each of victims) this.#running.delete(each);
    this.#add(victims.length);
  }

  /** All of them run. */
  async ready(): Promise<void> {
    for (const { ready } of this.#running) await ready;
  }

  /** kill -9: what is on the way from or to these servers is lost. Everything else goes on. */
  kill(...victims: StoppableServer[]): void {
    for (const each of victims) each.kill("SIGKILL");
    for (const each of victims) each.engine.cut();
    this.cutLinks();
    this.#replace(victims);
    this.release();
  }

  /** Their connections stay open. What they have sent to other servers arrives; what they have sent to the engine waits. */
  pause(...victims: StoppableServer[]): void {
    for (const each of victims) each.kill("SIGSTOP");
    this.#replace(victims);
    this.release();
    for (const each of victims) each.links.release();
  }

  /** All links between owners. */
  cutLinks(): void {
    for (const { links } of this.nodes) links.cut();
  }

  /** No server reaches the engine, until `engineBack`. What is on the way from or to it is lost. */
  engineAway(): void {
    for (const { engine } of this.#running) {
      engine.refuses = true;
      engine.cut();
    }
  }

  engineBack(): void {
    for (const { engine } of this.#running) engine.refuses = false;
  }

  /** What is held of servers that run goes on. */
  release(): void {
    for (const { engine, links } of this.#running) {
      engine.release();
      links.release();
    }
  }

  /** The bodies of all records of that shard, as latin1. */
  async records(shard: number): Promise<string[]> {
    const rows: { body: Buffer }[] = await this
      .#sql`SELECT body FROM heartline.log WHERE shard = ${shard} ORDER BY seq`;
    return rows.map(({ body }) => Buffer.from(body).toString("latin1"));
  }

  get errors(): string[] {
    return this.nodes.flatMap(({ errors }) => errors);
  }

  async stop(): Promise<void> {
    for (const wire of this.#wires) wire.cut();
    for (const server of this.#all) server.stop();
    await this.#sql.close({ timeout: 0 });
  }
}
