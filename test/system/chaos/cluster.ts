/**
 * A cluster under chaos: several servers on a real engine of the shared log. Owners and spares are killed, paused, ended
 * with SIGTERM and started again; servers of the engine are killed and paused. Clients reach any of
 * the servers through a balancer: those that do not own the shard relay them to the owner.
 */
import { appendFileSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { Program, within } from "../../../bench/program.ts";
import { initLog } from "../../../src/cluster/open-log.ts";
import { freePort } from "../../support/free-port.ts";
import { NatsEngine, hasNats } from "../../support/nats-engine.ts";
import { PostgresEngine, postgresPrograms } from "../../support/postgres-engine.ts";
import type { Random } from "../../support/random.ts";
import { Proxy } from "./fault-proxy.ts";
import { Outages } from "./outages.ts";
import { type ServerObserver, type ServerSpec, type ServersUnderChaos, serveOptions } from "./server.ts";

export const ENGINES = ["postgres", "nats"] as const;
export type EngineName = (typeof ENGINES)[number];
type Engine = Pick<PostgresEngine, "kill" | "restart" | "pause" | "resume">;

const SERVERS = 3;
const POLL_MS = 50;
/** The balancer chooses another server once in so many polls. */
const POLLS_PER_MOVE = 40;
/** A server that does not answer within this time is not the owner. */
const ANSWER_MS = 500;
/** Limit until clients can log in. */
const READY_MS = 60_000;
/** A killed server or engine starts again within this time. */
const AWAY_MS = 3_000;
/** Longest pauses. An owner that is paused for more than 3 s is deposed, and ends with code 1. */
const SERVER_PAUSE_MS = 10_000;
const ENGINE_PAUSE_MS = 6_000;
const OUTAGES_SHOWN = 8;
/** Lines that the faults explain. A server that starts while the engine is away ends with one. */
const EXPECTED = /"event":"(deposed|engine_away|snapshot_failed)"|cannot open (PostgreSQL|NATS)/;

type Fault = "owner killed" | "spare killed" | "owner paused" | "owner ended" | "engine killed" | "engine paused";
/** Each fault as often as it is here. */
const FAULTS: readonly Fault[] = [
  "owner killed",
  "owner killed",
  "spare killed",
  "owner paused",
  "owner ended",
  "engine killed",
  "engine paused",
];

/** One server: it is started again whenever it ends. */
class Member {
  readonly port = freePort();
  readonly webPort = freePort();
  readonly #http = freePort();
  readonly #args: string[];
  readonly #observer: ServerObserver;
  readonly #random: Random;
  readonly #log: string;
  #program: Program | null = null;
  #isStopped = false;

  constructor(args: string[], data: string, observer: ServerObserver, random: Random) {
    const clients = ["--port", String(this.port), "--web", String(this.webPort)];
    const ports = [...clients, "--cluster-listen", "127.0.0.1:0", "--http", String(this.#http)];
    this.#args = [...args, ...ports, "--data", data, "--admin-socket", join(data, "admin.sock")];
    this.#observer = observer;
    this.#random = random;
    mkdirSync(data);
    this.#log = `${data}.log`;
  }

  start(): void {
    const program = new Program(
      this.#args,
      () => {},
      (line) => {
        appendFileSync(this.#log, `${line}\n`);
        if (!/"level":[1-4]0/.test(line) && !EXPECTED.test(line)) this.#observer.fault(`a server wrote: ${line}`);
      },
    );
    this.#program = program;
    void program.ended.then(async () => {
      await Bun.sleep(this.#random.below(AWAY_MS));
      if (!this.#isStopped) this.start();
    });
  }

  signal(signal: NodeJS.Signals): void {
    if (this.#program?.isRunning === true) this.#program.kill(signal);
  }

  /** Whether it takes clients, and whether it owns the shard. */
  async look(): Promise<{ isReady: boolean; isOwner: boolean }> {
    try {
      const answer = await fetch(`http://127.0.0.1:${this.#http}/metrics`, { signal: AbortSignal.timeout(ANSWER_MS) });
      const metrics = await answer.text();
      const isReady = /^heartline_ready 1$/m.test(metrics);
      return { isReady, isOwner: isReady && /^heartline_cluster_owner\{shard="\d+"\} 1$/m.test(metrics) };
    } catch {
      return { isReady: false, isOwner: false };
    }
  }

  stop(): void {
    this.#isStopped = true;
    this.signal("SIGCONT");
  }
}

export class ChaosCluster implements ServersUnderChaos {
  readonly failed: Promise<never>;
  readonly killsInStart = 0;
  readonly #spec: ServerSpec;
  readonly #engineName: EngineName;
  readonly #random: Random;
  readonly #observer: ServerObserver;
  readonly #fail: (error: Error) => void;
  readonly #balancer = new Proxy(0);
  readonly #webBalancer = new Proxy(0);
  readonly #members: Member[] = [];
  #engines: Engine[] = [];
  #owner: Member | null = null;
  /** Where clients connect to. */
  #target: Member | null = null;
  #poll: Timer | null = null;
  #isPolling = false;
  /** When the next faults are due, ascending. */
  #faultsAtMs: number[] = [];
  /** Faults of servers that have not ended. */
  readonly #running = new Set<Promise<void>>();
  /** The last fault of the engine: there is one at a time. */
  #engineFault: Promise<void> = Promise.resolve();
  readonly #counts = new Map<Fault, number>();
  /** How often another server became the owner. */
  #takeovers = 0;
  readonly #outages = new Outages();

  constructor(spec: ServerSpec, engine: EngineName, random: Random, observer: ServerObserver) {
    if (engine === "postgres" ? postgresPrograms === null : !hasNats)
      throw new Error(
        `${engine} is not installed; install Debian's package ${engine === "nats" ? "nats-server" : "postgresql"}`,
      );
    this.#spec = spec;
    this.#engineName = engine;
    this.#random = random;
    this.#observer = observer;
    const { promise, reject } = Promise.withResolvers<never>();
    promise.catch(() => {});
    this.failed = promise;
    this.#fail = reject;
  }

  get port(): number {
    return this.#balancer.port;
  }

  get webPort(): number {
    return this.#webBalancer.port;
  }

  get kills(): number {
    return (this.#counts.get("owner killed") ?? 0) + (this.#counts.get("spare killed") ?? 0);
  }

  get faults(): string {
    const counts = [...this.#counts].map(([fault, count]) => `${fault} ${count}`);
    const { lines } = this.#outages;
    const outages = lines.slice(0, OUTAGES_SHOWN).map((line) => `  ${line}\n`);
    return (
      `${[`${this.#engineName}: ${this.#takeovers} takeovers`, ...counts].join(", ")}\n` +
      `times without service: ${lines.length}; the longest:\n${outages.join("")}`
    );
  }

  async start(): Promise<void> {
    const url = await this.#startEngine();
    await initLog(url, 1);
    const args = [...serveOptions(this.#spec), "--cluster", url];
    for (let i = 0; i < SERVERS; i++) {
      const data = join(this.#spec.folder, `server-${i}`);
      this.#members.push(new Member(args, data, this.#observer, this.#random));
    }
    for (const member of this.#members) member.start();
    this.#poll = setInterval(() => void this.#findOwner(), POLL_MS);
    await this.#untilServed();
  }

  async #startEngine(): Promise<string> {
    if (this.#engineName === "nats") {
      const engines = await NatsEngine.startCluster();
      this.#engines = engines;
      await Bun.sleep(2_000); // JetStream elects its leader.
      return `nats://${engines.map(({ address }) => address).join(",")}`;
    }
    const engine = await PostgresEngine.start();
    this.#engines = [engine];
    return engine.url("postgres");
  }

  /** Notes the owner, and points the balancer to a server that takes clients, owner or not: another one now and then. */
  async #findOwner(): Promise<void> {
    if (this.#isPolling) return;
    this.#isPolling = true;
    const seen = await Promise.all(this.#members.map((member) => member.look()));
    this.#isPolling = false;
    // A deposed owner that has not noticed it yet answers nothing; both may be ready for a moment.
    const owners = this.#members.filter((_, i) => seen[i]!.isOwner);
    this.#outages.seen(owners.length > 0);
    const owner = owners.find((member) => member !== this.#owner) ?? owners[0] ?? null;
    if (owner !== null && owner !== this.#owner) {
      if (this.#owner !== null) this.#takeovers++;
      this.#owner = owner;
    }
    const ready = this.#members.filter((_, i) => seen[i]!.isReady);
    const isKept = this.#target !== null && ready.includes(this.#target) && !this.#random.oneIn(POLLS_PER_MOVE);
    if (isKept || ready.length === 0) return;
    this.#target = this.#random.pick(ready);
    this.#balancer.moveTo(this.#target.port);
    this.#webBalancer.moveTo(this.#target.webPort);
  }

  async #untilServed(): Promise<void> {
    const endMs = performance.now() + READY_MS;
    while (this.#owner === null || !(await this.#owner.look()).isOwner) {
      if (performance.now() > endMs) return this.#fail(new Error("no server owns the shard"));
      await Bun.sleep(POLL_MS);
    }
  }

  scheduleKills(kills: number, ms: number): void {
    const nowMs = performance.now();
    this.#faultsAtMs = Array.from({ length: kills }, () => nowMs + this.#random.below(ms * 0.9)).sort((a, b) => a - b);
  }

  step(): void {
    if (!(performance.now() > this.#faultsAtMs[0]!)) return;
    this.#faultsAtMs.shift();
    this.#begin(this.#random.pick(FAULTS));
  }

  outputSeen(): void {}

  #begin(fault: Fault): void {
    this.#counts.set(fault, (this.#counts.get(fault) ?? 0) + 1);
    const isEngine = fault === "engine killed" || fault === "engine paused";
    const span = this.#outages.fault(fault);
    const begun = isEngine ? this.#engineFault.then(() => this.#failEngine(fault)) : this.#failServer(fault);
    const running = begun.catch((error: Error) => this.#fail(error));
    if (isEngine) this.#engineFault = running;
    this.#running.add(running);
    void running.then(() => {
      this.#outages.ended(span);
      this.#running.delete(running);
    });
  }

  async #failEngine(fault: Fault): Promise<void> {
    const random = this.#random;
    const engine = random.pick(this.#engines);
    if (fault === "engine killed") {
      await engine.kill();
      await Bun.sleep(random.below(AWAY_MS));
      return engine.restart();
    }
    engine.pause();
    await Bun.sleep(random.below(ENGINE_PAUSE_MS));
    engine.resume();
  }

  async #failServer(fault: Fault): Promise<void> {
    const owner = this.#owner!;
    if (fault === "spare killed")
      return this.#random.pick(this.#members.filter((member) => member !== owner)).signal("SIGKILL");
    if (fault === "owner killed") return owner.signal("SIGKILL");
    if (fault === "owner ended") return owner.signal("SIGTERM");
    owner.signal("SIGSTOP");
    await Bun.sleep(this.#random.below(SERVER_PAUSE_MS));
    owner.signal("SIGCONT");
  }

  async killOnce(): Promise<void> {
    this.#begin("owner killed");
    await this.stopKills();
    await Bun.sleep(ANSWER_MS);
    await this.#untilServed();
  }

  async stopKills(): Promise<void> {
    this.#faultsAtMs.length = 0;
    await within(Promise.all(this.#running), READY_MS);
    await this.#untilServed();
    for (const line of this.#outages.unexplained) this.#observer.fault(`no service for too long: ${line}`);
  }

  async stop(): Promise<void> {
    if (this.#poll !== null) clearInterval(this.#poll);
    for (const member of this.#members) member.stop();
    this.#balancer.stop();
    this.#webBalancer.stop();
    await Promise.all([...Program.running].map((program) => program.stop()));
    await Promise.all([PostgresEngine.closeAll(), NatsEngine.closeAll()]);
  }
}
