/**
 * A cluster under chaos: owners of several shards and spares on a real engine of the shared log. Servers are killed,
 * paused, drained, ended with SIGTERM and started again; servers of the engine are killed and paused. Each connection
 * of a client is to any of the servers: those that do not own the shard of its user relay to the owner.
 */
import { join } from "node:path";
import { Program, within } from "../../../bench/program.ts";
import { initLog } from "../../../src/cluster/open-log.ts";
import { NatsEngine, hasNats } from "../../support/nats-engine.ts";
import { PostgresEngine, postgresPrograms } from "../../support/postgres-engine.ts";
import type { Random } from "../../support/random.ts";
import { ANSWER_MS, AWAY_MS, Member } from "./member.ts";
import { Members, READY_MS } from "./members.ts";
import { type ServerObserver, type ServerSpec, type ServersUnderChaos, serveOptions } from "./server.ts";

export const ENGINES = ["postgres", "nats"] as const;
export type EngineName = (typeof ENGINES)[number];
type Engine = Pick<PostgresEngine, "kill" | "restart" | "pause" | "resume">;

export interface ClusterSpec extends ServerSpec {
  engine: EngineName;
  shards: number;
}

const SPARES = 2;
/** Longest pauses. An owner that is paused for more than 3 s is deposed, and ends with code 1. */
const SERVER_PAUSE_MS = 10_000;
const ENGINE_PAUSE_MS = 6_000;
/** A rolling restart goes on to the next server after this time at the latest: other faults happen meanwhile. */
const ROLLING_MS = 15_000;
const OUTAGES_SHOWN = 8;

/** How servers fail: which of them, and what happens to each. */
const SERVER_FAULTS = {
  "owner killed": { count: 1, act: "SIGKILL" },
  "two owners killed": { count: 2, act: "SIGKILL" },
  "owner killed at its output": { count: 1, act: "output" },
  "owner paused": { count: 1, act: "pause" },
  "two owners paused": { count: 2, act: "pause" },
  "owner ended": { count: 1, act: "SIGTERM" },
  "owner drained": { count: 1, act: "SIGUSR2" },
} as const;
type ServerFault = keyof typeof SERVER_FAULTS;
type Fault = ServerFault | "spare killed" | "all restarted" | "engine killed" | "engine paused";

/** Each fault as often as it is here. */
const FAULTS: readonly Fault[] = [
  ...(Object.keys(SERVER_FAULTS) as ServerFault[]),
  "owner killed",
  "spare killed",
  "all restarted",
  "engine killed",
  "engine paused",
];

export class ChaosCluster implements ServersUnderChaos {
  readonly failed: Promise<never>;
  readonly killsInStart = 0;
  kills = 0;
  url = "";
  readonly #spec: ClusterSpec;
  readonly #random: Random;
  readonly #observer: ServerObserver;
  readonly #fail: (error: Error) => void;
  readonly #members: Members;
  #engines: Engine[] = [];
  /** When the next faults are due, ascending. */
  #faultsAtMs: number[] = [];
  /** Faults of servers that have not ended. */
  readonly #running = new Set<Promise<void>>();
  /** The last fault of the engine, and the last restart of all servers: there is one at a time. */
  #engineFault: Promise<void> = Promise.resolve();
  #restart: Promise<void> = Promise.resolve();
  /** No new fault begins. */
  #isOver = false;
  /** Killed at the next output of the servers. */
  #killedAtOutput: Member | null = null;
  readonly #counts = new Map<Fault, number>();

  constructor(spec: ClusterSpec, random: Random, observer: ServerObserver) {
    const { engine, shards } = spec;
    if (engine === "postgres" ? postgresPrograms === null : !hasNats)
      throw new Error(
        `${engine} is not installed; install Debian's package ${engine === "nats" ? "nats-server" : "postgresql"}`,
      );
    this.#spec = spec;
    this.#random = random;
    this.#observer = observer;
    this.#members = new Members(shards);
    const { promise, reject } = Promise.withResolvers<never>();
    promise.catch(() => {});
    this.failed = promise;
    this.#fail = reject;
  }

  get port(): number {
    return this.#random.pick(this.#members.ready).port;
  }

  get webPort(): number {
    return this.#random.pick(this.#members.ready).webPort;
  }

  get faults(): string {
    const { engine, shards } = this.#spec;
    const counts = [...this.#counts].map(([fault, count]) => `${fault} ${count}`);
    const { takeovers, outages: all } = this.#members;
    const { lines } = all;
    const outages = lines.slice(0, OUTAGES_SHOWN).map((line) => `  ${line}\n`);
    return (
      `${engine}, ${shards} shards, ${SPARES} spares: ${[`${takeovers} takeovers`, ...counts].join(", ")}\n` +
      `times without service of a shard: ${lines.length}; the longest:\n${outages.join("")}`
    );
  }

  async start(): Promise<void> {
    const { folder, shards } = this.#spec;
    this.url = await this.#startEngine();
    await initLog(this.url, shards);
    const args = [...serveOptions(this.#spec), "--cluster", this.url];
    for (let i = 0; i < shards + SPARES; i++) {
      const spec = { args, data: join(folder, `server-${i}`) };
      this.#members.add(new Member(spec, this.#observer, this.#random));
    }
    await this.#untilServed();
  }

  async #startEngine(): Promise<string> {
    if (this.#spec.engine === "nats") {
      const engines = await NatsEngine.startCluster();
      this.#engines = engines;
      await Bun.sleep(2_000); // JetStream elects its leader.
      return `nats://${engines.map(({ address }) => address).join(",")}`;
    }
    const engine = await PostgresEngine.start();
    this.#engines = [engine];
    return engine.url("postgres");
  }

  #untilServed(): Promise<void> {
    return this.#members.served().catch((error: Error) => this.#fail(error));
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

  /** What the output has promised must be in the log. */
  outputSeen(): void {
    this.#killedAtOutput?.signal("SIGKILL");
    this.#killedAtOutput = null;
  }

  #begin(fault: Fault): void {
    this.#counts.set(fault, (this.#counts.get(fault) ?? 0) + 1);
    const { outages } = this.#members;
    const span = outages.fault(fault);
    const running = this.#happen(fault).catch((error: Error) => this.#fail(error));
    this.#running.add(running);
    void running.then(() => {
      outages.ended(span);
      this.#running.delete(running);
    });
  }

  #happen(fault: Fault): Promise<void> {
    if (fault === "engine killed" || fault === "engine paused")
      return (this.#engineFault = this.#engineFault.then(() => this.#failEngine(fault)));
    if (fault === "all restarted") return (this.#restart = this.#restart.then(() => this.#restartAll()));
    if (fault !== "spare killed") return this.#failOwners(fault);
    this.kills++;
    this.#random.pick(this.#members.all.filter((member) => !this.#members.isOwner(member))).signal("SIGKILL");
    return Promise.resolve();
  }

  async #failEngine(fault: "engine killed" | "engine paused"): Promise<void> {
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

  async #failOwners(fault: ServerFault): Promise<void> {
    const { count, act } = SERVER_FAULTS[fault];
    const { owners } = this.#members;
    const first = this.#random.below(owners.length);
    const failing = [...owners.slice(first), ...owners.slice(0, first)].slice(0, count);
    await Promise.all(failing.map((owner) => this.#failOwner(owner!, act)));
  }

  async #failOwner(owner: Member, act: (typeof SERVER_FAULTS)[ServerFault]["act"]): Promise<void> {
    if (act === "SIGKILL" || act === "output") this.kills++;
    if (act === "output") {
      this.#killedAtOutput = owner;
      return;
    }
    if (act !== "pause") {
      owner.signal(act);
      if (act === "SIGUSR2") await within(owner.ended, READY_MS);
      return;
    }
    owner.signal("SIGSTOP");
    await Bun.sleep(this.#random.below(SERVER_PAUSE_MS));
    owner.signal("SIGCONT");
  }

  /** One server after another, as in an upgrade: each is back before the next one ends. */
  async #restartAll(): Promise<void> {
    for (const member of this.#members.all) {
      await this.#members.restart(member, ROLLING_MS);
      if (this.#isOver) return;
    }
  }

  async killOnce(): Promise<void> {
    this.#begin("two owners killed");
    await this.stopKills();
    await Bun.sleep(ANSWER_MS);
    await this.#untilServed();
  }

  async stopKills(): Promise<void> {
    this.#faultsAtMs.length = 0;
    this.#isOver = true;
    this.#killedAtOutput = null;
    await within(Promise.all(this.#running), READY_MS);
    await this.#untilServed();
    for (const line of this.#members.outages.unexplained) this.#observer.fault(`no service for too long: ${line}`);
  }

  async stop(): Promise<void> {
    this.#members.stop();
    await Promise.all([...Program.running].map((program) => program.stop()));
    await Promise.all([PostgresEngine.closeAll(), NatsEngine.closeAll()]);
  }
}
