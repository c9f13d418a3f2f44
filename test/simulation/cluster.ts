import type { DialHandlers } from "../../src/net/dial.ts";
import { SILENCE_MS, WATCH_MS } from "../../src/cluster/ownership.ts";
import { OWNERSHIP_PROVEN_MS } from "../../src/limits.ts";
import { TICK_MS } from "../../src/timer-wheel.ts";
import { Random } from "../support/random.ts";
import { CallbackProgram } from "./callback-program.ts";
import { SimulatedLog, WatchedEngine } from "./cluster-log.ts";
import { ClusterProcess, type ClusterWorld } from "./cluster-process.ts";
import { Crowd, IDLE_TIMEOUT_MS, NAMES, ROUNDS_MAX, STEPS } from "./crowd.ts";
import { type HostChoices, tokenOf } from "./host.ts";
import { Violation } from "./ledger.ts";
import { type ClientEnd, DialedCall, Link } from "./network.ts";

/** Spares and an owner. */
const PROCESSES = 3;
/** A read may be older than it should be, but not by as much as a spare's patience exceeds that of an owner. */
const STALE_MS_MAX = SILENCE_MS - OWNERSHIP_PROVEN_MS - WATCH_MS;
/** Ticks between two duties of an owner. */
const DUTY_TICKS = 4;

/** Breaks a rule. */
export interface ClusterRules {
  engine?: (engine: WatchedEngine) => void;
  /** The connection of a process to the engine. */
  log?: (log: SimulatedLog) => void;
  /** Snapshots do not wait until their turns are acknowledged. */
  earlySnapshots?: boolean;
  /** The rule shows with snapshots, while writes are lost or late. */
  harsh?: boolean;
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
  /** How many `Opened` were stored. */
  takeovers = 0;
  snapshots = 0;
  ackedHead = 0;
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
    this.nowMs = 5000 + this.random.below(1000);
    this.isHarsh = rules.harsh ?? this.random.oneIn(6);
    this.snapshotBytes = this.isHarsh ? 200 : this.random.pick([500, 3000, Number.MAX_SAFE_INTEGER]);
    let tokens = 0;
    this.choices = {
      names: NAMES,
      idleTimeoutMs: IDLE_TIMEOUT_MS,
      lineBytesMax: 200,
      firstMs: 0,
      newToken: () => tokenOf(++tokens),
    };
    this.engine = new WatchedEngine(
      this.ledger,
      (epoch) => this.#claimed(epoch),
      (error) => this.failed(error),
    );
    rules.engine?.(this.engine);
  }

  /** Returns the number of messages that were shown. */
  async run(): Promise<number> {
    try {
      for (let step = 0; step < STEPS; step++) {
        await this.#step();
        this.#check();
      }
      await this.#finish();
    } catch (error) {
      throw this.#faults[0] ?? error;
    } finally {
      for (const process of this.#processes) process.exit();
    }
    return this.ledger.shownCount;
  }

  failed(error: unknown): void {
    this.#faults.push(error);
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
  #claimed(epoch: number): void {
    this.takeovers++;
    this.traced(`record ${epoch} opens`);
    for (const process of this.#processes) process.isDeposed = process.appender !== null;
  }

  #ended(process: ClusterProcess): void {
    this.traced(`${process.name} ends`);
    for (const [link, owner] of this.#linksOf) {
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

  connect(client: ClientEnd): Link | null {
    const alive = this.#alive;
    const serving = alive.filter(({ accepts, isDeposed }) => accepts && (!this.calm || !isDeposed));
    const any = !this.calm && this.random.oneIn(6);
    if (alive.length === 0) return null;
    const process = this.random.pick(any || serving.length === 0 ? alive : serving);
    if (!process.accepts) return this.refused(client, this.random, process);
    const link = this.linkTo(client, this.random.between(10, 600), process);
    this.links.push(link);
    this.#linksOf.set(link, process);
    if (process.isPaused) process.backlog.push(link);
    else process.host!.turn(() => process.host!.accept(link));
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
      if (isDuty) for (const process of this.#running) process.duty();
      await this.#settle();
      this.#engineStep(5);
      await this.#settle();
    }
    this.nowMs = untilMs;
  }

  /** Answers arrive, and late writes are executed. */
  #engineStep(times: number): void {
    if (this.calm) return;
    const { random } = this;
    for (const { log, isPaused } of this.#alive) if (!isPaused && random.oneIn(times)) log.resume();
    for (const { log } of this.#alive) log.refresh();
    for (const log of this.#logs) if (log.late > 0 && random.oneIn(log.lateness)) log.executeLate();
  }

  async #step(): Promise<void> {
    const { random } = this;
    this.#engineStep(3);
    await this.#faultStep();
    if (this.hardships?.oneIn(40) === true) this.#operate((host) => host.kick(random.pick(NAMES)));
    if (this.hardships?.oneIn(60) === true) this.#operate((host) => host.purge(random.pick(NAMES)));
    const what = random.below(100);
    if (what < 35) this.network();
    else if (what < 75) this.act(random.pick(this.users));
    else if (what < 88) await this.#pass(random.below(random.pick([50, 300, 300, 1500])));
    else if (what < 91) await this.#pass(random.below(random.pick([6000, 6000, 20_000])));
    else if (what < 97) this.cut();
    else this.stall();
    await this.#settle();
    this.links = this.links.filter((link) => !link.over);
    for (const link of this.#linksOf.keys()) if (link.over) this.#linksOf.delete(link);
  }

  /** What happens to processes and to the engine. */
  async #faultStep(): Promise<void> {
    const { random } = this;
    if (this.#alive.length < PROCESSES && (this.#started < PROCESSES || random.oneIn(5))) this.#start();
    for (const process of this.#processes) {
      if (process.hasPublished && this.isHarsh && random.oneIn(2)) process.exit();
      process.hasPublished = false;
      if (process.state === "claimed" && process.isRunning && random.oneIn(2)) await this.#takeOver(process);
    }
    if (this.#isAway ? random.oneIn(8) : random.oneIn(50)) this.#away(!this.#isAway);
    const process = random.pick(this.#processes);
    if (process.isDead) return;
    if (process.isPaused) {
      if (random.oneIn(3)) this.#wake(process);
      return;
    }
    if (random.oneIn(12)) process.log.readStaleFor(random.below(STALE_MS_MAX));
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

  #operate(act: (host: NonNullable<ClusterProcess["host"]>) => void): void {
    const owner = this.#running.find(({ accepts, isDeposed }) => accepts && !isDeposed);
    if (owner !== undefined) act(owner.host!);
  }

  // The end.

  async #finish(): Promise<void> {
    this.traced("no more faults");
    this.calm = true;
    this.#away(false);
    for (const log of this.#logs) log.executeLate();
    for (const process of this.#alive) {
      process.log.readFresh();
      if (process.isPaused) this.#wake(process);
      else process.log.resume();
    }
    if (this.#alive.length === 0) this.#start();
    await this.#pass(3200);
    const owner = this.#alive.find(({ accepts, isDeposed }) => accepts && !isDeposed);
    if (owner !== undefined && this.random.oneIn(2)) {
      this.traced(`${owner.name} is killed`);
      owner.exit();
    }
    for (let round = 0; round < ROUNDS_MAX; round++) {
      for (const process of this.#processes) if (process.state === "claimed") await this.#takeOver(process);
      if (this.#alive.length === 0) this.#start();
      for (const user of this.users) this.comeBack(user, round);
      await this.#deliverEverything();
      await this.#pass(200);
      await this.#deliverEverything();
      this.#check();
      if (this.#isQuiet()) break;
    }
    this.ledger.checkAllReceived();
    if (!this.#isQuiet()) throw new Violation("a message or a reply is still outstanding");
    this.checkBlocks();
  }

  async #deliverEverything(): Promise<void> {
    await this.#settle();
    for (let times = 0; times === 0 || this.links.some(({ busy }) => busy) || this.dialed.length > 0; times++) {
      if (times > 1000) throw new Violation("the network never becomes idle");
      this.deliverAll();
      await this.#settle();
    }
  }

  #isQuiet(): boolean {
    if (this.users.some(({ program }) => program === null || !program.ready || !program.idle)) return false;
    return this.#alive.some(({ host, accepts, isDeposed }) => accepts && !isDeposed && host!.isQuiet);
  }
}

/** Runs one seed. A failed seed runs again, the same way, to print its last steps. */
export async function simulateCluster(seed: number): Promise<number> {
  try {
    return await new ClusterSimulation(seed).run();
  } catch (error) {
    const trace: string[] = [];
    await new ClusterSimulation(seed, trace).run().catch(() => {});
    console.log(`SEED=${seed}: ${String(error)}\n  ${trace.slice(-60).join("\n  ")}`);
    throw error;
  }
}
