/**
 * `bun run chaos`: options, and the course of a run: start everything, enable faults, stop them, wait until everything
 * has arrived, start everything once more, judge. What is compared is in verdict.ts and reference-model.ts.
 */
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type CommandLine, runProgram } from "../../../bench/command-line.ts";
import { Random } from "../../support/random.ts";
import { isCallback, isPlain, isWeb, nameOf, usersPerProcess } from "./clients.ts";
import { Group } from "./group.ts";
import { PipeReader } from "./pipe.ts";
import { freePort } from "../../support/free-port.ts";
import { ChaosCluster, ENGINES, type EngineName } from "./cluster.ts";
import { ChaosServer, IDLE_TIMEOUT_S, type ServersUnderChaos } from "./server.ts";
import { type DeliveryTally, Verdict, describe, isClean } from "./verdict.ts";
import { type RecordTally, followRecords } from "./records.ts";
import { ReferenceModel } from "./reference-model.ts";
import { Program, within } from "../../../bench/program.ts";
import { type Observer, Proxy, RandomFaults } from "./fault-proxy.ts";
import { WebObserver } from "./web-observer.ts";

const USAGE = `Usage: bun run chaos [options]

Runs a server and many clients as processes, with a proxy between them that cuts, stalls and splits their connections.
Kills the server and the clients and starts them again. At the end it compares what all users sent with what they were
shown. Everything runs on this machine, in temporary folders that are removed. When something was wrong, the folder with
the logs of all clients and of the servers of a cluster is kept, and its path printed.

  --seed <number>          seed of all random decisions, but not of the exact times (random, printed)
  --seconds <number>       how long users send and faults happen, 1 to 86400 (10)
  --clients <number>       number of users, 2 to 2000 (200)
  --server-kills <number>  kills of the server, some of them during its start, 0 to 10000 (one in 3 s)
  --durability <level>     durability of the server: none, process or power (process)
  --cluster <engine>       a cluster on PostgreSQL or three NATS servers: postgres or nats; kills are then faults of all
                           kinds: servers and engines are killed, paused, drained and ended (one in 6 s)
  --shards <number>        shards of the cluster, 1 to 8 (3); it has two more servers
  --limit-loopback         applies the limits per address to loopback, so that many connections are refused
  --help                   prints this page

Exit code: 0 when every message arrived once and in order; 1 otherwise; 2 for an invalid command line.
`;

const OPTIONS = ["seed", "seconds", "clients", "server-kills", "durability", "cluster", "shards"] as const;

const NO_RECORDS: RecordTally = { checked: 0, unchecked: 0, crossed: 0, missing: [] };
const MESSAGES_PER_CLIENT = 4;
const STEP_MS = 50;
/** At each step, one connection in FAULT_ODDS is cut or stalled. */
const FAULT_ODDS = 200;
const SECONDS_PER_SERVER_KILL = 3;
/** Longer, since a cluster needs 3 s to notice the death of its owner: clients must get something done in between. */
const SECONDS_PER_CLUSTER_FAULT = 6;
/** Limits: until a program is ready; until everything has arrived; without news before the end; until an exit. */
const READY_MS = 30_000;
const SETTLE_MS = 30_000;
const QUIET_MS = 1_500;
const EXIT_MS = 10_000;

interface Options {
  seed: number;
  seconds: number;
  clients: number;
  serverKills: number;
  durability: string;
  /** Null for a server of its own. */
  cluster: EngineName | null;
  shards: number;
  limitLoopback: boolean;
}

function parseOptions(line: CommandLine<(typeof OPTIONS)[number], "limit-loopback">): Options {
  const seconds = line.number("seconds", 10, 1, 86_400);
  const cluster = line.text("cluster") === null ? null : line.choice("cluster", ENGINES[0], ENGINES);
  const secondsPerKill = cluster === null ? SECONDS_PER_SERVER_KILL : SECONDS_PER_CLUSTER_FAULT;
  return {
    seconds,
    clients: line.number("clients", 200, 2, 2_000),
    seed: line.number("seed", Math.floor(Math.random() * 2 ** 31), 0, 2 ** 32 - 1),
    serverKills: line.number("server-kills", Math.min(10_000, Math.round(seconds / secondsPerKill)), 0, 10_000),
    durability: line.choice("durability", "process", ["none", "process", "power"]),
    cluster,
    shards: line.number("shards", 3, 1, 8),
    limitLoopback: line.flag("limit-loopback"),
  };
}

/** One run: the server, the groups of clients, the proxies and the faults. */
class Chaos {
  readonly #options: Options;
  readonly #random: Random;
  readonly #faultModel: RandomFaults;
  readonly #folder = mkdtempSync(join(tmpdir(), "heartline-chaos-"));
  readonly #verdict: Verdict;
  readonly #groups: Group[] = [];
  #pipe: PipeReader | null = null;
  /** By user with a callback session: the proxy whose port the server gets in place of the client's port. */
  readonly #callbackProxies = new Map<string, Proxy>();
  readonly #faults: string[] = [];
  readonly #model = new ReferenceModel((what) => this.#faults.push(what));
  readonly #server: ServersUnderChaos;
  #faultsEnabled = false;
  /** No output of the server is forwarded. */
  #isMuted = false;
  /** Cuts by `#injectFaults`; the proxies count the others. */
  #cuts = 0;
  #stalls = 0;
  #shownAtMs = 0;
  #isClean = false;
  /** In a cluster the log has a record of each `ok`. */
  #checkRecords: Awaited<ReturnType<typeof followRecords>> = async () => NO_RECORDS;
  readonly #startMs = performance.now();

  constructor(options: Options) {
    this.#options = options;
    this.#random = new Random(options.seed);
    this.#faultModel = new RandomFaults(this.#random);
    this.#verdict = new Verdict(this.#folder, options.clients, options.cluster === null ? 1 : options.shards);
    const { durability, limitLoopback, cluster: engine, shards } = options;
    const common = { folder: this.#folder, durability, limitLoopback, idleTimeoutS: IDLE_TIMEOUT_S };
    const spec = { ...common, users: options.clients + 2 };
    const observer = {
      fault: (what: string) => void this.#faults.push(what),
      muteOutput: () => this.#muteServer(),
      killed: () => this.#setServerPresent(false),
      starting: () => this.#setServerPresent(true),
    };
    this.#server =
      engine === null
        ? new ChaosServer(spec, this.#random, observer)
        : new ChaosCluster({ ...spec, engine, shards }, this.#random, observer);
  }

  run(): Promise<boolean> {
    return Promise.race([this.#run(), this.#server.failed]);
  }

  async #run(): Promise<boolean> {
    await this.#server.start();
    const { url } = this.#server;
    if (url !== "") this.#checkRecords = await followRecords(url);
    this.#startClients();
    const all =
      (...states: string[]) =>
      (): boolean =>
        this.#groups.every(({ state }) => states.includes(state));
    if (!(await this.#until(all("in"), READY_MS))) this.#faults.push("not all users logged in");
    this.#faultsEnabled = true;
    const faultsMs = this.#options.seconds * 1_000;
    const { serverKills } = this.#options;
    // The last kill follows after all users have logged out.
    this.#server.scheduleKills(serverKills > 1 ? serverKills - 1 : serverKills, faultsMs);
    const endMs = performance.now() + faultsMs;
    await this.#until(() => performance.now() > endMs, faultsMs + 1_000);
    await this.#stopFaults();
    await this.#until(() => this.#groups.every(({ isRunning: isThere }) => isThere), READY_MS);
    for (const group of this.#groups) group.writeLine("stop");
    const isQuiet = await this.#until(all("quiet"), SETTLE_MS);
    if (!isQuiet)
      this.#faults.push(`some users did not log in again or have requests without a reply: ${this.#states}`);
    const hasArrived = (): boolean => this.#verdict.tally().lost.length === 0;
    await this.#until(() => !this.#verdict.read() && hasArrived(), isQuiet ? SETTLE_MS : QUIET_MS, 500);
    // A second run of all clients, half of them without their state, must receive nothing again and miss nothing.
    await this.#logOutAll();
    if (serverKills > 1) await this.#server.killOnce();
    for (const group of this.#groups) group.start(0);
    if (!(await this.#until(all("quiet"), READY_MS)))
      this.#faults.push(`some users did not log in again: ${this.#states}`);
    await this.#until(() => !this.#verdict.read(), READY_MS, QUIET_MS);
    await this.#logOutAll();
    this.#verdict.read();
    const tally = this.#verdict.tally();
    const { lost, twice, disordered } = await this.#pipe!.finish();
    tally.lost.push(...lost);
    tally.twice.push(...twice);
    tally.disordered.push(...disordered);
    const records = await this.#checkRecords(this.#verdict.acceptedMessages);
    tally.lost.push(...records.missing);
    return this.#report(tally, records);
  }

  #startClients(): void {
    const { clients } = this.#options;
    mkdirSync(join(this.#folder, "state"));
    const size = usersPerProcess(clients);
    for (let first = 0; first < clients; first += size) {
      const isOverWeb = isWeb(first, clients);
      const port = (): number => (isOverWeb ? this.#server.webPort : this.#server.port);
      const observe = (): Observer => (isOverWeb ? new WebObserver(this.#observe()) : this.#observe());
      const proxy = new Proxy(port, this.#faultModel, observe, freePort());
      const count = Math.min(size, clients - first);
      const rate = count * MESSAGES_PER_CLIENT;
      const common = { folder: this.#folder, port: proxy.port, sessions: "all" } as const;
      const spec = { ...common, first, count, users: clients, rate };
      const group = new Group(proxy, spec, this.#random, (what) => this.#faults.push(what));
      this.#groups.push(group);
      group.start();
    }
    const [reader, sender] = [nameOf(clients), nameOf(clients + 1)];
    const spec = {
      folder: this.#folder,
      port: this.#groups[0]!.proxy.port,
      reader,
      sender,
      isCluster: this.#options.cluster !== null,
    };
    this.#pipe = new PipeReader(spec, this.#random, (what) => this.#faults.push(what));
    this.#pipe.start();
  }

  /** The observer of a connection: the reference model. The port in a callback login is replaced by that of a proxy. */
  #observe(): Observer {
    const observer = this.#model.observe();
    return {
      up: (chunk) => this.#redirectCallback(observer.up(chunk)),
      down: (chunk) => {
        observer.down(chunk);
        this.#server.outputSeen();
      },
      get isLoggingIn() {
        return observer.isLoggingIn;
      },
    };
  }

  /** Stalls all output of the server, also to callback clients, where the server is the connecting side. */
  #muteServer(): void {
    this.#isMuted = true;
    for (const { proxy } of this.#groups) for (const { down } of proxy.connections) down.stall(IDLE_TIMEOUT_S * 1_000);
    for (const { connections } of this.#callbackProxies.values())
      for (const { up } of connections) up.stall(IDLE_TIMEOUT_S * 1_000);
  }

  /** While the server does not run, the proxies do not listen. Stalled output is lost. */
  #setServerPresent(is: boolean): void {
    for (const { proxy } of this.#groups) proxy.listens = is;
    if (this.#isMuted) for (const proxy of this.#proxies) proxy.cut();
    this.#isMuted = false;
  }

  #redirectCallback(chunk: Buffer): Buffer {
    const line = chunk.toString("latin1");
    const [, user, port] = /^login (\S+) .* callback=(\d+)/.exec(line) ?? [];
    if (user === undefined || port === undefined) return chunk;
    const proxy = this.#callbackProxies.get(user) ?? new Proxy(Number(port), this.#faultModel);
    proxy.moveTo(Number(port));
    this.#callbackProxies.set(user, proxy);
    return Buffer.from(line.replace(`callback=${port}`, `callback=${proxy.port}`), "latin1");
  }

  /** Waits for a condition while the run goes on. Returns false after `ms`. */
  async #until(is: () => boolean, ms: number, stepMs = STEP_MS): Promise<boolean> {
    const endMs = performance.now() + ms;
    while (!is()) {
      if (performance.now() > endMs) return false;
      await Bun.sleep(stepMs);
      this.#step();
    }
    return true;
  }

  #step(): void {
    const nowMs = performance.now();
    if (this.#faultsEnabled) {
      this.#server.step();
      for (const group of this.#groups) group.step();
      this.#injectFaults();
    }
    if (nowMs < this.#shownAtMs + 1_000) return;
    this.#shownAtMs = nowMs;
    this.#verdict.read();
    const running = this.#groups.filter(({ isRunning: isThere }) => isThere).length;
    process.stderr.write(
      `${Math.round((nowMs - this.#startMs) / 1_000)} s: ${this.#verdict.accepted} messages, ${this.#allCuts} cuts, ` +
        `${this.#stalls} stalls, ${this.#kills} kills and ${this.#server.kills} of the server, ` +
        `${running} of ${this.#groups.length} processes running\n`,
    );
  }

  /** Cuts or stalls random connections, some for longer than the idle timeout. */
  #injectFaults(): void {
    const connections = this.#proxies.flatMap((proxy) => proxy.connections);
    const random = this.#random;
    for (let left = connections.length; random.below(FAULT_ODDS) < left; left -= FAULT_ODDS) {
      const connection = random.pick(connections);
      if (random.oneIn(3)) {
        this.#cuts++;
        connection.cut(random.oneIn(2));
        continue;
      }
      this.#stalls++;
      const ms = random.oneIn(8) ? random.between(3_000, IDLE_TIMEOUT_S * 2_000) : random.between(20, 1_500);
      const way = random.below(3);
      if (way !== 1) connection.up.stall(ms);
      if (way !== 2) connection.down.stall(ms);
    }
  }

  get #proxies(): Proxy[] {
    return [...this.#groups.map(({ proxy }) => proxy), ...this.#callbackProxies.values()];
  }

  get #states(): string {
    return this.#groups.map(({ state }) => state || "not running").join("; ");
  }

  get #kills(): number {
    return this.#groups.reduce((sum, { kills }) => sum + kills, 0);
  }

  get #allCuts(): number {
    return this.#proxies.reduce((sum, { cuts }) => sum + cuts, this.#cuts);
  }

  async #stopFaults(): Promise<void> {
    this.#faultsEnabled = false;
    this.#faultModel.isStopped = true;
    for (const group of this.#groups) group.stopFaults();
    for (const { connections } of this.#proxies) for (const connection of connections) connection.stopFaults();
    await this.#server.stopKills();
  }

  /** Logs all users out and waits until their processes end. */
  async #logOutAll(): Promise<void> {
    for (const group of this.#groups) group.writeLine("leave");
    const all = Promise.all(this.#groups.map(({ ended }) => ended));
    if ((await within(all, EXIT_MS * 2)) === null)
      throw new Error("a client process does not end after its users logged out");
  }

  /** Prints the result. Returns whether there was no error. */
  #report(tally: DeliveryTally, { checked, unchecked, crossed }: RecordTally): boolean {
    const { seed, seconds, clients } = this.#options;
    tally.faults.unshift(...this.#faults);
    const all = Array.from({ length: clients }, (_, index) => index);
    const callbacks = all.filter((index) => isCallback(index, clients)).length;
    const web = all.filter((index) => isWeb(index, clients)).length;
    const plain = all.filter((index) => isPlain(index, clients)).length;
    const counts = {
      cuts: this.#allCuts,
      outages: this.#groups.reduce((sum, { outages }) => sum + outages, 0),
      stalls: this.#stalls,
      kills: this.#kills,
      serverKills: this.#server.kills,
      killsInStart: this.#server.killsInStart,
      continued: this.#model.continued,
      fetches: this.#pipe!.fetches,
      fetchesAbandoned: this.#pipe!.abandoned,
      fetchesGivenUp: this.#pipe!.givenUp,
      fetched: this.#pipe!.shown,
      calls: this.#callbackProxies.values().reduce((sum, { accepted }) => sum + accepted, 0),
      users: clients,
      recordsChecked: checked,
      recordsUnchecked: unchecked,
      crossed,
    };
    const who = `${clients} clients (${callbacks} callback, ${plain} plain, ${web} over WebSocket) in ${this.#groups.length} processes`;
    process.stdout.write(
      `seed ${seed}, ${seconds} s, ${who}\n${this.#server.faults}${describe({ ...tally, ...counts })}`,
    );
    return (this.#isClean = isClean(tally));
  }

  /** Ends all processes and removes all files. */
  async stop(): Promise<void> {
    this.#faultsEnabled = false;
    this.#pipe?.stop();
    for (const stopping of [...this.#groups, ...this.#callbackProxies.values()]) stopping.stop();
    await this.#server.stop();
    await Promise.all([...Program.running].map((program) => program.stop()));
    if (this.#isClean) rmSync(this.#folder, { recursive: true, force: true });
    else process.stdout.write(`the logs are in ${this.#folder}\n`);
  }
}

async function main(options: Options): Promise<number> {
  process.stderr.write(`seed ${options.seed}\n`);
  const chaos = new Chaos(options);
  const { promise: interrupted, resolve } = Promise.withResolvers<number>();
  process.once("SIGINT", () => resolve(130));
  process.once("SIGTERM", () => resolve(143));
  try {
    return await Promise.race([interrupted, chaos.run().then((isClean) => (isClean ? 0 : 1))]);
  } finally {
    await chaos.stop();
  }
}

await runProgram(
  { name: "chaos", usage: USAGE, options: OPTIONS, flags: ["limit-loopback"], failures: () => true },
  (line) => main(parseOptions(line)),
);
process.exit();
