import type { DialHandlers } from "../../src/net/dial.ts";
import { shardOf } from "../../src/protocol/shard.ts";
import { SILENCE_MS, WATCH_MS } from "../../src/cluster/ownership.ts";
import { OWNERSHIP_PROVEN_MS } from "../../src/limits.ts";
import { TICK_MS } from "../../src/timer-wheel.ts";
import { Random } from "../support/random.ts";
import { CallbackProgram } from "./callback-program.ts";
import { SimulatedLog, WatchedEngine } from "./cluster-log.ts";
import { ClusterProcess, type ClusterWorld } from "./cluster-process.ts";
import { Crowd, IDLE_TIMEOUT_MS, ROUNDS_MAX, STEPS } from "./crowd.ts";
import { type Host, type HostChoices, tokenOf } from "./host.ts";
import { type Ledger, Violation } from "./ledger.ts";
import { type ClientEnd, DialedCall, Link } from "./network.ts";
import { checkStoredBlocks, checkTickets, knowsWhoIsOnline } from "./shard-checks.ts";
import { ShardLedger } from "./shard-ledger.ts";
import { ShardLink, ShardNetwork } from "./shard-network.ts";
import { type Environment, User, type Verb } from "./users.ts";

const SPARES = 2;
/** Faults are rarer, so that there is more between them: requests of several shards need all of these. */
const SHARD_STEPS = 400;
const FAULTS_ONE_IN = 4;
/** But owners stop while other shards owe them replies: otherwise nothing depends on how they do that. */
const DRAINED_OWING_ONE_IN = 30;
/** 40 s: longer than the idle timeout and the time for which users count as online whose shard is away. */
const ABSENCE_ROUNDS = 200;
/** Two users of each of three shards. */
export const SHARDS = 3;
const SHARD_NAMES = ["g", "k", "a", "b", "c", "e"];
/** A read may be older than it should be, but not by as much as a spare's patience exceeds that of an owner. */
const STALE_MS_MAX = SILENCE_MS - OWNERSHIP_PROVEN_MS - WATCH_MS;
/** One of these is the limit of a seed; 0: none. */
const REQUESTS_PER_SECOND = [0, 0, 20];
/** Wall clocks differ by up to half a day. */
const SKEW_MS_MAX = 12 * 3_600_000;
/** Ticks between two duties of an owner. */
const DUTY_TICKS = 4;

/** Breaks a rule. */
export interface ClusterRules {
  engine?: (engine: WatchedEngine) => void;
  /** The connection of a process to the engine. */
  log?: (log: SimulatedLog) => void;
  /** The rule shows with snapshots, while writes are lost or late. */
  harsh?: boolean;
  /** 1, or SHARDS. */
  shards?: number;
  /** What users request; by default everything. */
  verbs?: readonly Verb[];
  /** Of each user. By default one of several, among them none. */
  requestsPerSecondMax?: number;
}

/**
 * One seed: users whose sessions are at one of several processes with a shared log. Writes to the log are done, done
 * without an answer, lost or late; the engine is away for a while; owners are paused, killed and drained, and spares
 * take over. The steps are those of one event loop: after each of them everything happens that can happen.
 */
export class ClusterSimulation extends Crowd implements ClusterWorld {
  readonly engine: WatchedEngine;
  nowMs: number;
  readonly choices: ClusterWorld["choices"];
  readonly snapshotBytes: number;
  readonly isHarsh: boolean;
  slowShard: number | null = null;
  /** Faults that only clusters of several shards have: their clocks, links and logs. */
  readonly #distance: Random;
  /** How many `Opened` were stored. */
  takeovers = 0;
  snapshots = 0;
  readonly ackedHeads: number[];
  readonly ledgers: readonly Ledger[];
  readonly shardNetwork: ShardNetwork;
  readonly rules: ClusterRules;
  #processes: ClusterProcess[] = [];
  /** All that there have been: late writes of ended processes may still be executed. */
  readonly #logs: SimulatedLog[] = [];
  readonly #linksOf = new Map<Link, ClusterProcess>();
  readonly #dialers = new Map<DialedCall, ClusterProcess>();
  #isAway = false;
  #started = 0;
  #ticks = 0;
  readonly #faults: unknown[] = [];

  constructor(seed: number, trace: string[] | null = null, rules: ClusterRules = {}) {
    super(new Random(seed), false, new Random(~seed), trace, new Random(seed ^ 0x5eb));
    this.rules = rules;
    this.#distance = new Random(seed ^ 0xd157);
    const { shards = 1 } = rules;
    if (shards > 1) {
      this.names = SHARD_NAMES;
      const calls = ["getaddress", "getaddress", "private_answer", "private_answer", "private_answer"] as const;
      this.verbs = rules.verbs ?? [...this.verbs, ...calls];
    }
    this.ledgers = shards === 1 ? [this.ledger] : ShardLedger.all(shards, this.names);
    if (shards > 1)
      this.users = this.names.map((name, index) => new User(name, 2000 + index, this.#environment(this.shardOf(name))));
    this.ackedHeads = this.ledgers.map(() => 0);
    this.shardNetwork = new ShardNetwork(this.random);
    this.nowMs = 5000 + this.random.below(1000);
    this.isHarsh = rules.harsh ?? this.random.oneIn(6);
    this.snapshotBytes = this.isHarsh ? 200 : this.random.pick([500, 3000, Number.MAX_SAFE_INTEGER]);
    let tokens = 0;
    this.choices = {
      names: this.names,
      idleTimeoutMs: IDLE_TIMEOUT_MS,
      lineBytesMax: 200,
      firstMs: 0,
      requestsPerSecondMax: shards === 1 ? 0 : (rules.requestsPerSecondMax ?? this.#distance.pick(REQUESTS_PER_SECOND)),
      newToken: () => tokenOf(++tokens),
    };
    this.engine = new WatchedEngine(
      this.ledgers,
      (shard, epoch) => this.#claimed(shard, epoch),
      (error) => this.failed(error),
    );
    rules.engine?.(this.engine);
  }

  /** Returns the number of messages that were shown. */
  async run(): Promise<number> {
    try {
      const steps = this.ledgers.length === 1 ? STEPS : SHARD_STEPS;
      for (let step = 0; step < steps; step++) {
        await this.#step();
        this.#check();
      }
      await this.#finish();
    } catch (error) {
      throw this.#faults[0] ?? error;
    } finally {
      for (const process of this.#processes) process.exit();
    }
    return this.ledgers.reduce((sum, { shownCount }) => sum + shownCount, 0);
  }

  failed(error: unknown): void {
    this.#faults.push(error);
  }

  skewMs(): number {
    if (this.ledgers.length === 1 || this.#distance.oneIn(2)) return 0;
    return this.#distance.below(2 * SKEW_MS_MAX) - SKEW_MS_MAX;
  }

  override requeued(link: Link): void {
    super.requeued(link);
  }

  #check(): void {
    for (const process of this.#processes) if (process.fault !== undefined) this.failed(process.fault);
    if (this.#faults.length > 0) throw this.#faults[0];
    for (const process of this.#processes) process.check();
  }

  // Processes.

  #start(): void {
    const name = `p${++this.#started}`;
    const log = new SimulatedLog(this.engine, this.random, this);
    log.isAway = this.#isAway;
    log.between = () => {
      if (this.calm || !this.random.oneIn(30)) return;
      for (const each of this.#logs) each.executeLate();
    };
    const process = new ClusterProcess(name, log, this);
    this.rules.log?.(log);
    process.ended = () => this.#ended(process);
    this.#logs.push(log);
    this.#processes.push(process);
    this.traced(`${name} starts`);
  }

  /** An `Opened` is stored: all earlier owners are deposed, whether they know it or not. */
  #claimed(shard: number, epoch: number): void {
    this.takeovers++;
    this.traced(`record ${epoch} of shard ${shard} opens`);
    for (const process of this.#processes)
      if (process.appender !== null && process.shard === shard) process.isDeposed = true;
  }

  #ended(process: ClusterProcess): void {
    this.traced(`${process.name} ends`);
    for (const [link, owner] of this.#linksOf) {
      if (link instanceof ShardLink && link.q === process) link.kill(this.random);
      if (owner !== process) continue;
      link.serverKilled(this.random);
      this.#linksOf.delete(link);
    }
    process.backlog.length = 0;
    for (const [dialed, owner] of this.#dialers) if (owner === process) this.#dialers.delete(dialed);
    this.dialed = this.dialed.filter((dialed) => this.#dialers.has(dialed));
  }

  get #alive(): ClusterProcess[] {
    return this.#processes.filter(({ isDead }) => !isDead);
  }

  get #running(): ClusterProcess[] {
    return this.#processes.filter(({ isRunning }) => isRunning);
  }

  // The network.

  shardOf(name: string): number {
    return shardOf(Buffer.from(name), 0, name.length, this.ledgers.length);
  }

  /** As the users of that shard see the simulation. */
  #environment(shard: number): Environment {
    const { random } = this;
    const isCalm = (): boolean => this.calm;
    return {
      ledger: this.ledgers[shard]!,
      random,
      get calm() {
        return isCalm();
      },
      outputStalls: () => this.outputStalls(),
      connect: (client) => this.connect(client, shard),
    };
  }

  connect(client: ClientEnd, shard = 0): Link | null {
    const alive = this.#alive.filter((process) => process.shard === shard || process.appender === null);
    const serving = this.#alive
      .filter((process) => process.shard === shard)
      .filter(({ accepts, isDeposed }) => accepts && (!this.calm || !isDeposed));
    const any = !this.calm && this.random.oneIn(6);
    if (alive.length === 0) return null;
    const process = this.random.pick(any || serving.length === 0 ? alive : serving);
    if (!process.accepts) return this.refused(client, this.random, process);
    const link = this.linkTo(client, this.random.between(10, 600), process);
    this.links.push(link);
    this.#linksOf.set(link, process);
    process.accept(link);
    return link;
  }

  protected turn(ready: () => void): void {
    const hosts = this.#running.flatMap(({ host }) => host ?? []);
    for (const host of hosts) host.begin();
    ready();
    for (const host of hosts) host.endTurns();
  }

  dialerOf(process: ClusterProcess): HostChoices["dial"] {
    return (_host: string, port: number, handlers: DialHandlers): DialedCall => {
      const dialed = new DialedCall(port, handlers);
      this.dialed.push(dialed);
      this.#dialers.set(dialed, process);
      return dialed;
    };
  }

  protected dial(): void {
    const dialed = this.dialed[0];
    if (dialed === undefined || (!this.calm && this.random.oneIn(3))) return;
    const process = this.#dialers.get(dialed)!;
    if (process.isPaused) return;
    this.dialed.shift();
    this.#dialers.delete(dialed);
    if (dialed.isClosed) return;
    const program = this.users.find((user) => user.port === dialed.port)?.program;
    if (!(program instanceof CallbackProgram) || (!this.calm && this.random.oneIn(8))) {
      return process.host!.turn(() => dialed.end());
    }
    const link = new Link(program.called(), this.random.between(100, 2000), process);
    this.links.push(link);
    this.#linksOf.set(link, process);
    process.host!.turn(() => dialed.open(link));
  }

  // Steps.

  /** Everything happens that can happen without time: promises are acted on, and turns end. */
  async #settle(): Promise<void> {
    for (let turns = 0; ;) {
      if (turns > 10_000) throw new Violation("the processes never become idle");
      await new Promise((resolve) => setImmediate(resolve));
      let hasEnded = false;
      for (const { host } of this.#running) if (host?.endTurns() === true) hasEnded = true;
      if (hasEnded) turns++;
      else if (this.#processes.some(({ isCopying }) => isCopying))
        await Bun.sleep(1); // It reads or writes a file.
      else return;
    }
  }

  async #pass(ms: number): Promise<void> {
    this.traced(`${ms} ms pass`);
    const untilMs = this.nowMs + ms;
    for (;;) {
      const tickMs = (Math.floor(this.nowMs / TICK_MS) + 1) * TICK_MS;
      if (tickMs > untilMs) break;
      this.nowMs = tickMs;
      const isDuty = ++this.#ticks % DUTY_TICKS === 0;
      for (const process of this.#running) process.tick();
      this.#carry();
      if (isDuty) for (const process of this.#running) process.duty();
      await this.#settle();
      this.#engineStep(5);
      await this.#settle();
    }
    this.nowMs = untilMs;
  }

  /** Owners connect to each other, and their links carry most of what they have. */
  #carry(): void {
    if (this.ledgers.length === 1) return;
    for (const link of this.shardNetwork.step(this.#processes, this.calm)) {
      this.links.push(link);
      this.#linksOf.set(link, link.p);
      link.p.accept(link);
    }
    this.turn(() => {
      for (const link of this.links) {
        if (!(link instanceof ShardLink) || link.stalled || (!this.calm && this.random.oneIn(4))) continue;
        link.deliverUp(Number.POSITIVE_INFINITY);
        link.deliverDown(Number.POSITIVE_INFINITY);
      }
    });
  }

  /** Answers arrive, and late writes are executed. */
  #engineStep(times: number): void {
    if (this.calm) return;
    const { random } = this;
    for (const { log, isPaused } of this.#alive) if (!isPaused && !log.isSlow && random.oneIn(times)) log.resume();
    for (const { log } of this.#alive) log.refresh();
    for (const log of this.#logs) if (log.late > 0 && random.oneIn(log.lateness)) log.executeLate();
  }

  async #step(): Promise<void> {
    const { random } = this;
    this.#engineStep(3);
    this.#carry();
    await this.#faultStep();
    if (this.hardships?.oneIn(40) === true) this.#operate(random.pick(this.names), (host, name) => host.kick(name));
    if (this.hardships?.oneIn(60) === true) this.#operate(random.pick(this.names), (host, name) => host.purge(name));
    const what = random.below(100);
    if (this.ledgers.length > 1) this.network();
    if (what < 35) this.network();
    else if (what < 75) this.act(random.pick(this.users));
    else if (what < 88) await this.#pass(random.below(random.pick([50, 300, 300, 1500])));
    else if (what < 91) await this.#pass(random.below(random.pick([6000, 6000, 20_000])));
    else if (what < 97) this.#cutSome();
    else this.stall();
    await this.#settle();
    this.links = this.links.filter((link) => !link.over);
    for (const link of this.#linksOf.keys()) if (link.over) this.#linksOf.delete(link);
  }

  /** Cuts a connection, or makes one between shards half-open. */
  #cutSome(): void {
    const links = this.links.filter((link) => link instanceof ShardLink && link.lost === null && !link.isCut);
    if (links.length === 0 || !this.#distance.oneIn(4)) return this.cut();
    const link = this.#distance.pick(links);
    const direction = this.#distance.pick(["up", "down"] as const);
    this.traced(`nothing arrives ${direction} a link any more`);
    link.lose(direction);
  }

  /** What happens to processes and to the engine. */
  async #faultStep(): Promise<void> {
    const { random } = this;
    const processes = this.ledgers.length + SPARES;
    if (this.#alive.length < processes && (this.#started < processes || random.oneIn(5))) this.#start();
    for (const process of this.#processes) {
      if (process.hasPublished && this.isHarsh && random.oneIn(2)) process.exit();
      process.hasPublished = false;
      if (process.state === "claimed" && process.isRunning && random.oneIn(2)) await this.#takeOver(process);
    }
    if (this.#isAway ? random.oneIn(8) : random.oneIn(50)) this.#away(!this.#isAway);
    if (this.ledgers.length > 1) this.#slowStep(this.#distance);
    const process = random.pick(this.#processes);
    if (process.isDead) return;
    if (process.isPaused) {
      if (random.oneIn(3)) this.#wake(process);
      return;
    }
    if (random.oneIn(12)) process.log.readStaleFor(random.below(STALE_MS_MAX));
    if (process.owesReplies && this.#distance.oneIn(DRAINED_OWING_ONE_IN)) {
      this.traced(`${process.name} is drained while it waits for replies`);
      return void process.drain();
    }
    if (this.ledgers.length > 1 && !random.oneIn(FAULTS_ONE_IN)) return;
    const what = random.below(process.accepts ? 60 : 150);
    if (what < 4) {
      this.traced(`${process.name} is paused`);
      process.isPaused = true;
      process.log.stop();
      if (random.oneIn(2)) await this.#pass(3000 + random.below(3000));
    } else if (what < 6) {
      this.traced(`${process.name} is killed`);
      process.exit();
    } else if (what < 7) {
      this.traced(`${process.name} is drained`);
      void process.drain();
    }
  }

  /** The engine may be slow for one shard: its partition is on a disk of its own. */
  #slowStep(random: Random): void {
    if (this.slowShard === null ? !random.oneIn(100) : !random.oneIn(15)) return;
    this.slowShard = this.slowShard === null ? random.below(this.ledgers.length) : null;
    this.traced(this.slowShard === null ? "no shard is slow any more" : `the log of shard ${this.slowShard} is slow`);
  }

  async #takeOver(process: ClusterProcess): Promise<void> {
    await process.takeOver();
    this.traced(`${process.name} takes over: ${process.state}`);
  }

  #wake(process: ClusterProcess): void {
    this.traced(`${process.name} goes on`);
    process.wake();
  }

  #away(isAway: boolean): void {
    this.traced(`the engine is ${isAway ? "away" : "back"}`);
    this.#isAway = isAway;
    for (const { log } of this.#processes) log.isAway = isAway;
  }

  #operate(name: string, act: (host: Host, name: string) => void): void {
    const owner = this.#ownerOf(this.shardOf(name));
    if (owner?.isRunning === true) act(owner.host!, name);
  }

  #ownerOf(shard: number): ClusterProcess | undefined {
    return this.#alive.find((process) => process.shard === shard && process.accepts && !process.isDeposed);
  }

  // The end.

  async #finish(): Promise<void> {
    this.traced("no more faults");
    this.calm = true;
    this.slowShard = null;
    this.#away(false);
    for (const log of this.#logs) log.executeLate();
    for (const process of this.#alive) {
      process.log.readFresh();
      if (process.isPaused) this.#wake(process);
      else process.log.resume();
    }
    this.#startMissing();
    await this.#pass(3200);
    const owner = this.#ownerOf(this.random.below(this.ledgers.length));
    if (owner !== undefined && this.random.oneIn(2)) {
      this.traced(`${owner.name} is killed`);
      owner.exit();
    }
    if (this.ledgers.length > 1 && this.random.oneIn(3)) await this.#finishWithoutSome();
    await this.#finishRounds(this.users, ROUNDS_MAX, () => this.#isQuiet());
    for (const ledger of this.ledgers) ledger.checkAllReceived();
    if (!this.#isQuiet()) throw new Violation("a message or a reply is still outstanding");
    this.checkBlocks();
    if (this.ledgers.length === 1) return;
    for (const [shard, ledger] of this.ledgers.entries()) checkStoredBlocks(this.#ownerOf(shard)!.host!, ledger);
    checkTickets(this.ledgers);
  }

  /** Users come back, and everything arrives, until that is so. */
  async #finishRounds(users: readonly User[], roundsMax: number, isOver: () => boolean): Promise<void> {
    for (let round = 0; round < roundsMax; round++) {
      for (const process of this.#processes) if (process.state === "claimed") await this.#takeOver(process);
      this.#startMissing();
      for (const user of users) this.comeBack(user, round);
      await this.#deliverEverything();
      await this.#pass(200);
      await this.#deliverEverything();
      this.#check();
      if (isOver()) return;
    }
  }

  /** Some users stay away, and all shards learn that they are. */
  async #finishWithoutSome(): Promise<void> {
    const absent = this.users.filter(() => this.random.oneIn(3));
    this.traced(`${absent.map(({ name }) => name).join(" and ")} stay away`);
    for (const { program } of absent) program?.kill();
    const present = this.users.filter((user) => !absent.includes(user));
    const isOver = (): boolean =>
      present.every(({ program }) => program?.ready === true) &&
      absent.every(({ name, environment }) => !environment.ledger.online.has(name)) &&
      this.#knowWhoIsOnline;
    await this.#finishRounds(present, ABSENCE_ROUNDS, isOver);
    if (!this.#knowWhoIsOnline) throw new Violation("a shard does not know who is online");
  }

  get #knowWhoIsOnline(): boolean {
    return this.ledgers.every((_, shard) => {
      const owner = this.#ownerOf(shard);
      return owner !== undefined && knowsWhoIsOnline(owner.host!, this.ledgers);
    });
  }

  #startMissing(): void {
    while (this.#alive.length < this.ledgers.length) this.#start();
  }

  async #deliverEverything(): Promise<void> {
    await this.#settle();
    this.#carry();
    for (let times = 0; times === 0 || this.links.some(({ busy }) => busy) || this.dialed.length > 0; times++) {
      if (times > 1000) throw new Violation("the network never becomes idle");
      this.deliverAll();
      await this.#settle();
    }
  }

  #isQuiet(): boolean {
    if (this.users.some(({ program }) => program === null || !program.ready || !program.idle)) return false;
    if (this.ledgers.length > 1 && !this.#knowWhoIsOnline) return false;
    return this.ledgers.every((_, shard) => this.#ownerOf(shard)?.isQuiet === true);
  }
}

/** Runs one seed. A failed seed runs again, the same way, to print its last steps. */
export async function simulateCluster(seed: number, rules: ClusterRules = {}): Promise<number> {
  try {
    return await new ClusterSimulation(seed, null, rules).run();
  } catch (error) {
    const trace: string[] = [];
    await new ClusterSimulation(seed, trace, rules).run().catch(() => {});
    console.log(`SEED=${seed}: ${String(error)}\n  ${trace.slice(-60).join("\n  ")}`);
    throw error;
  }
}
