import { Random } from "../support/random.ts";
import { CallbackProgram } from "./callback-program.ts";
import { Crowd, IDLE_TIMEOUT_MS, NAMES, ROUNDS_MAX, STEPS } from "./crowd.ts";
import { KILL_POINTS, Disk } from "./disk.ts";
import type { DialHandlers } from "../../src/net/dial.ts";
import { Host, ObservedStore } from "./host.ts";
import { Violation } from "./ledger.ts";
import { type ClientEnd, DialedCall, Link } from "./network.ts";
import type { User } from "./users.ts";

interface Options {
  /** Messages are large, for rules about bounds. */
  large?: boolean;
  /** The server refuses connections, and outputs stall. */
  hardships?: boolean;
  /** Some connections are over WebSocket. */
  web?: boolean;
  /** Receives a line for each step. */
  trace?: string[] | null;
  /** A store that breaks a rule. */
  Store?: typeof ObservedStore;
  /** A disk on which only a log remains of a server. */
  DiskOf?: typeof Disk;
}

/**
 * One seed: users with all kinds of sessions over an unreliable network, and a server that is stopped, killed and
 * restarted. At the end all users log in again and read everything. Throws at the first breach of the contract.
 */
export class Simulation extends Crowd {
  readonly #disk: Disk;
  readonly #host: Host;
  /** Whether the server is killed, or its disk is full, now and then. */
  readonly #kills: boolean;
  readonly #refuses: boolean;
  /** Steps until a server that stops has stopped; 0 when it runs. */
  #stopping = 0;

  constructor(seed: number, options: Options = {}) {
    const { large = false, hardships = true, web = true, trace = null, Store = ObservedStore, DiskOf = Disk } = options;
    const random = new Random(seed);
    const webRandom = web ? new Random(seed ^ 0x5eb) : null;
    super(random, random.oneIn(8) || large, hardships ? new Random(~seed) : null, trace, webRandom);
    const lineBytesMax = this.large ? 400_000 : 200;
    this.#kills = this.random.oneIn(2);
    this.#refuses = this.random.oneIn(6);
    this.#disk = new DiskOf(this.random);
    const clockMs = 5000 + this.random.below(1000);
    const dial = (_host: string, port: number, handlers: DialHandlers): DialedCall => {
      const dialed = new DialedCall(port, handlers);
      this.dialed.push(dialed);
      return dialed;
    };
    const choices = { names: NAMES, idleTimeoutMs: IDLE_TIMEOUT_MS, lineBytesMax, clockMs, dial, Store };
    this.#host = new Host(choices, this.ledger, this.#disk, (link) => this.requeued(link));
  }

  /** Returns the number of messages that were shown. */
  run(): number {
    try {
      for (let step = 0; step < STEPS; step++) {
        this.#step();
        this.#restartKilled();
        this.#host.check();
      }
      this.#finish();
    } catch (error) {
      // An internal error at the server also shows as a wrong line at a client, and is the cause of it.
      throw this.#host.fault ?? error;
    } finally {
      this.#host.close();
    }
    return this.ledger.shownCount;
  }

  protected turn(ready: () => void): void {
    this.#host.turn(ready);
  }

  connect(client: ClientEnd): Link | null {
    if (!this.#host.listening) return null;
    const hardships = this.calm || this.#disk.isDead ? null : this.hardships;
    if (hardships?.oneIn(10) === true) return this.refused(client, hardships, this.#disk);
    const room = this.random.between(10, 600) * (this.large ? 500 : 1);
    const link = this.linkTo(client, room, this.#disk);
    this.links.push(link);
    this.#host.turn(() => this.#host.accept(link));
    return link;
  }

  #step(): void {
    const { random } = this;
    if (this.#kills && random.oneIn(15)) this.#kill();
    if (this.#refuses && random.oneIn(20)) this.#refuse(!this.#disk.refuses);
    if (this.hardships?.oneIn(40) === true) this.#kick(random.pick(this.users));
    if (this.hardships?.oneIn(this.large ? 8 : 60) === true) this.#purge(random.pick(this.users));
    if (this.#stopping > 0 && --this.#stopping === 0) {
      this.traced("the server starts again");
      this.#host.startAgain();
    }
    if (this.#host.isDrained && this.#host.listening) this.#stop();
    const user = random.pick(this.users);
    const what = random.below(100);
    if (what < 35) this.network();
    else if (what < 75) this.act(user);
    else if (what < 90) this.#pass(random.below(random.pick([50, 300, 300, 1500])));
    else if (what < 91) this.#pass(random.below(random.pick([6000, 20_000])));
    else if (what < 92) this.#jump();
    else if (what < 97) this.cut();
    else if (what < 99) this.stall();
    else if (random.oneIn(2) && this.#host.listening) random.oneIn(2) ? this.#drain() : this.#stop();
    this.links = this.links.filter((link) => !link.over);
  }

  /** The next call of the server connects, or fails. */
  protected dial(): void {
    if (this.dialed.length === 0 || (!this.calm && this.random.oneIn(3))) return;
    const dialed = this.dialed.shift()!;
    if (dialed.isClosed) return;
    const program = this.users.find((user) => user.port === dialed.port)?.program;
    if (!(program instanceof CallbackProgram) || (!this.calm && this.random.oneIn(8))) {
      return this.#host.turn(() => dialed.end());
    }
    const link = new Link(program.called(), this.random.between(100, 2000) * (this.large ? 500 : 1), this.#disk);
    this.links.push(link);
    this.#host.turn(() => dialed.open(link));
  }

  #pass(ms: number): void {
    this.traced(`${ms} ms pass`);
    this.#host.pass(ms);
  }

  #jump(): void {
    const ms = this.random.below(60_000) - 10_000;
    this.traced(`the clock jumps by ${ms} ms`);
    this.#host.jump(ms);
  }

  #drain(): void {
    const ms = this.random.pick([0, 300, 3000]);
    this.traced(`the server drains for ${ms} ms`);
    this.#host.drain(ms);
  }

  #stop(): void {
    this.traced("the server stops");
    this.#host.stop();
    this.#stopping = 1 + this.random.below(10);
  }

  /** Kills the server at once, or at a point of its next turn. */
  #kill(): void {
    this.#disk.killPoint = this.random.pick([...KILL_POINTS, null]);
    this.traced(`the server will be killed: ${this.#disk.killPoint ?? "now"}`);
    if (this.#disk.killPoint === null) this.#disk.kill();
  }

  /** Restarts a killed server, at the end of its turn. */
  #restartKilled(): void {
    if (!this.#disk.isDead) return;
    this.traced("the killed server starts again");
    this.#stopping = 0;
    this.dialed = [];
    for (const link of this.links) link.serverKilled(this.random);
    this.#host.startAfterKill();
  }

  #kick(user: User): void {
    this.traced(`${user.name} is kicked`);
    this.#host.kick(user.name);
  }

  #purge(user: User): void {
    this.traced(`the mailbox of ${user.name} is purged`);
    this.#host.purge(user.name);
  }

  #refuse(on: boolean): void {
    this.traced(`the disk ${on ? "is full" : "accepts writes again"}`);
    this.#disk.refuses = on;
    this.ledger.hasRefused ||= on;
  }

  /** No more faults: all users log in again, until nothing waits for anyone. */
  #finish(): void {
    this.calm = true;
    this.traced("no more faults");
    this.#disk.killPoint = null;
    if (this.#disk.refuses) this.#refuse(false);
    this.#host.pass(3200);
    if (this.#host.isDrained && this.#host.listening) this.#host.stop();
    if (!this.#host.listening) this.#host.startAgain();
    for (let round = 0; round < ROUNDS_MAX; round++) {
      for (const user of this.users) this.comeBack(user, round);
      this.deliverAll();
      this.#host.pass(200);
      this.deliverAll();
      this.#host.check();
      if (this.#isQuiet()) break;
    }
    this.ledger.checkAllReceived();
    if (!this.#isQuiet()) throw new Violation("a message or a reply is still outstanding");
    this.checkBlocks();
  }

  #isQuiet(): boolean {
    if (this.users.some(({ program }) => program === null || !program.ready || !program.idle)) return false;
    return this.#host.isQuiet;
  }
}

/** Runs one seed. A failed seed runs again, the same way, to print its last steps. */
export function simulate(seed: number, options: Omit<Options, "trace"> = {}): number {
  try {
    return new Simulation(seed, options).run();
  } catch (error) {
    const trace: string[] = [];
    try {
      new Simulation(seed, { ...options, trace }).run();
    } catch {}
    console.log(`SEED=${seed}: ${String(error)}\n  ${trace.slice(-40).join("\n  ")}`);
    throw error;
  }
}
