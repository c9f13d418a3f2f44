import { Random } from "../support/random.ts";
import { CallbackProgram } from "./callback-program.ts";
import { KILL_POINTS, Disk } from "./disk.ts";
import type { DialHandlers } from "../../src/net/dial.ts";
import { Host, ObservedStore } from "./host.ts";
import { Ledger, Violation } from "./ledger.ts";
import { type ClientEnd, DialedCall, Link } from "./network.ts";
import { PlainProgram, ResumableProgram } from "./programs.ts";
import { type Program, CONNECTION_REFUSALS, type Request, type Environment, User, type Verb } from "./users.ts";

const NAMES = ["a", "b", "c", "d"];
const STEPS = 160;
/** 240 s. A call of 390 kB without an answer ends after 195 s: see CALLBACK_BYTES_PER_SECOND_MIN. */
const ROUNDS_MAX = 1200;
const IDLE_TIMEOUT_MS = 12_000;
const VERBS: readonly Verb[] = [
  ...(["message", "message", "message", "message", "message", "message", "message", "broadcast", "broadcast"] as const),
  ...(["online", "block", "unblock", "unblock", "nonsense", "alive", "alive"] as const),
];

interface Options {
  /** Messages are large, for rules about bounds. */
  large?: boolean;
  /** The server refuses connections, and outputs stall. */
  hardships?: boolean;
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
export class Simulation implements Environment {
  readonly ledger = new Ledger();
  readonly random: Random;
  calm = false;
  /** Random refusals of connections and stalls of outputs; null for none. */
  readonly #hardships: Random | null;
  readonly #disk: Disk;
  readonly #host: Host;
  /** Whether the server is killed, or its disk is full, now and then. */
  readonly #kills: boolean;
  readonly #refuses: boolean;
  readonly #users: User[];
  #links: Link[] = [];
  #dialed: DialedCall[] = [];
  /** Large messages, which reach the bounds. */
  readonly #large: boolean;
  readonly #trace: string[] | null;
  #texts = 0;
  /** Steps until a server that stops has stopped; 0 when it runs. */
  #stopping = 0;

  constructor(seed: number, options: Options = {}) {
    const { large = false, hardships = true, trace = null, Store = ObservedStore, DiskOf = Disk } = options;
    this.random = new Random(seed);
    this.#hardships = hardships ? new Random(~seed) : null;
    this.#trace = trace;
    this.#large = this.random.oneIn(8) || large;
    const lineBytesMax = this.#large ? 400_000 : 200;
    this.#kills = this.random.oneIn(2);
    this.#refuses = this.random.oneIn(6);
    this.#disk = new DiskOf(this.random);
    const clockMs = 5000 + this.random.below(1000);
    const dial = (_host: string, port: number, handlers: DialHandlers): DialedCall => {
      const dialed = new DialedCall(port, handlers);
      this.#dialed.push(dialed);
      return dialed;
    };
    const choices = { names: NAMES, idleTimeoutMs: IDLE_TIMEOUT_MS, lineBytesMax, clockMs, dial, Store };
    this.#host = new Host(choices, this.ledger, this.#disk, (link) => {
      link.takeDown(Number.POSITIVE_INFINITY);
      if (link.client instanceof PlainProgram) link.client.requeued();
    });
    this.#users = NAMES.map((name, index) => new User(name, 2000 + index, this));
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

  connect(client: ClientEnd): Link | null {
    if (!this.#host.listening) return null;
    const hardships = this.calm || this.#disk.isDead ? null : this.#hardships;
    if (hardships?.oneIn(10) === true) return this.#refuseConnection(client, hardships);
    const room = this.random.between(10, 600) * (this.#large ? 500 : 1);
    const link = new Link(client, room, this.#disk);
    this.#links.push(link);
    this.#host.turn(() => this.#host.accept(link));
    return link;
  }

  /** The server refuses the connection: it may send a line, and closes. */
  #refuseConnection(client: ClientEnd, random: Random): Link {
    const link = new Link(client, 0, this.#disk);
    link.down = random.oneIn(4) ? "" : `${random.pick(CONNECTION_REFUSALS)}\n`;
    link.serverExits();
    this.#links.push(link);
    return link;
  }

  outputStalls(): number {
    return this.#hardships?.oneIn(3) === true ? 1 + this.#hardships.below(20) : 0;
  }

  #traced(what: string): void {
    this.#trace?.push(what);
  }

  #step(): void {
    const { random } = this;
    if (this.#kills && random.oneIn(15)) this.#kill();
    if (this.#refuses && random.oneIn(20)) this.#refuse(!this.#disk.refuses);
    if (this.#hardships?.oneIn(40) === true) this.#kick(random.pick(this.#users));
    if (this.#hardships?.oneIn(this.#large ? 8 : 60) === true) this.#purge(random.pick(this.#users));
    if (this.#stopping > 0 && --this.#stopping === 0) {
      this.#traced("the server starts again");
      this.#host.startAgain();
    }
    if (this.#host.isDrained && this.#host.listening) this.#stop();
    const user = random.pick(this.#users);
    const what = random.below(100);
    if (what < 35) this.#network();
    else if (what < 75) this.#act(user);
    else if (what < 90) this.#pass(random.below(random.pick([50, 300, 300, 1500])));
    else if (what < 91) this.#pass(random.below(random.pick([6000, 20_000])));
    else if (what < 92) this.#jump();
    else if (what < 97) this.#cut();
    else if (what < 99) this.#stall();
    else if (random.oneIn(2) && this.#host.listening) random.oneIn(2) ? this.#drain() : this.#stop();
    this.#links = this.#links.filter((link) => !link.over);
  }

  /** Some connections transport bytes, all in one turn. */
  #network(): void {
    const { random } = this;
    this.#dial();
    this.#host.turn(() => {
      for (let times = random.between(1, 8); times > 0; times--) {
        if (this.#links.length === 0) return;
        const link = random.pick(this.#links);
        if (link.stalled) continue;
        const count = random.oneIn(3) ? 1 + random.below(60) : Number.POSITIVE_INFINITY;
        if (random.oneIn(2)) link.deliverUp(count);
        else link.deliverDown(count);
      }
    });
  }

  /** The next call of the server connects, or fails. */
  #dial(): void {
    if (this.#dialed.length === 0 || (!this.calm && this.random.oneIn(3))) return;
    const dialed = this.#dialed.shift()!;
    if (dialed.isClosed) return;
    const program = this.#users.find((user) => user.port === dialed.port)?.program;
    if (!(program instanceof CallbackProgram) || (!this.calm && this.random.oneIn(8))) {
      return this.#host.turn(() => dialed.end());
    }
    const link = new Link(program.called(), this.random.between(100, 2000) * (this.#large ? 500 : 1), this.#disk);
    this.#links.push(link);
    this.#host.turn(() => dialed.open(link));
  }

  #pass(ms: number): void {
    this.#traced(`${ms} ms pass`);
    this.#host.pass(ms);
  }

  #jump(): void {
    const ms = this.random.below(60_000) - 10_000;
    this.#traced(`the clock jumps by ${ms} ms`);
    this.#host.jump(ms);
  }

  #cut(): void {
    if (this.#links.length === 0) return;
    const link = this.random.pick(this.#links);
    if (link.protected) return;
    const [closesServer, closesClient] = [this.random.oneIn(2), !this.random.oneIn(4)];
    this.#traced(`a connection is cut; event at: server ${closesServer}, client ${closesClient}`);
    link.cut(this.random, closesServer, closesClient);
  }

  #stall(): void {
    for (const link of this.#links) link.stalled = this.random.oneIn(3);
  }

  #drain(): void {
    const ms = this.random.pick([0, 300, 3000]);
    this.#traced(`the server drains for ${ms} ms`);
    this.#host.drain(ms);
  }

  #stop(): void {
    this.#traced("the server stops");
    this.#host.stop();
    this.#stopping = 1 + this.random.below(10);
  }

  /** Kills the server at once, or at a point of its next turn. */
  #kill(): void {
    this.#disk.killPoint = this.random.pick([...KILL_POINTS, null]);
    this.#traced(`the server will be killed: ${this.#disk.killPoint ?? "now"}`);
    if (this.#disk.killPoint === null) this.#disk.kill();
  }

  /** Restarts a killed server, at the end of its turn. */
  #restartKilled(): void {
    if (!this.#disk.isDead) return;
    this.#traced("the killed server starts again");
    this.#stopping = 0;
    this.#dialed = [];
    for (const link of this.#links) link.serverKilled(this.random);
    this.#host.startAfterKill();
  }

  #kick(user: User): void {
    this.#traced(`${user.name} is kicked`);
    this.#host.kick(user.name);
  }

  #purge(user: User): void {
    this.#traced(`the mailbox of ${user.name} is purged`);
    this.#host.purge(user.name);
  }

  #refuse(on: boolean): void {
    this.#traced(`the disk ${on ? "is full" : "accepts writes again"}`);
    this.#disk.refuses = on;
    this.ledger.hasRefused ||= on;
  }

  #act(user: User): void {
    const { random } = this;
    const { program } = user;
    if (program === null) return this.#login(user);
    program.act();
    const what = random.below(100);
    if (what < 3) {
      this.#traced(`${user.name} is killed`);
      program.kill();
    } else if (what < 8 && program.link?.protected === false) {
      this.#traced(`${user.name} abandons the connection`);
      program.abandon(random.oneIn(2));
    } else if (!program.ready) return;
    else if (what < 11) this.#ask(user, program, "logout");
    else for (let times = random.between(1, 4); times > 0; times--) this.#ask(user, program, random.pick(VERBS));
  }

  #login(user: User): void {
    const { random } = this;
    const kind = user.lostLogins > 5 ? "plain" : random.pick(["plain", "resumable", "resumable", "callback"] as const);
    this.#traced(`${user.name} logs in: ${kind}`);
    if (kind === "plain") new PlainProgram(user);
    else if (kind === "resumable") new ResumableProgram(user);
    else new CallbackProgram(user);
  }

  #ask(user: User, program: Program, verb: Verb): void {
    if (!program.ready) return;
    const request = this.#request(program, verb);
    this.#traced(`${user.name} requests: ${request.line.slice(0, 60).trimEnd()} (${request.line.length})`);
    program.ask(request);
  }

  #request(program: Program, verb: Verb): Request {
    const { random } = this;
    const end = random.oneIn(8) ? "\r\n" : "\n";
    const request: Request = { verb, line: verb, text: "", acks: -1, end: 0 };
    if (verb === "message" || verb === "broadcast") {
      const isLong = random.oneIn(this.#large ? 2 : 5);
      const bytes = !isLong ? random.below(20) : this.#large ? random.below(390_000) : random.below(120);
      request.text = `${verb[0]}${++this.#texts} ${"x".repeat(bytes)}`;
      request.line = verb === "message" ? `message ${random.pick(NAMES)} ${request.text}` : `broadcast ${request.text}`;
    } else if (verb === "block" || verb === "unblock") {
      request.line = `${verb} ${random.pick(NAMES)}`;
    } else if (verb === "nonsense") {
      [request.text, request.line] = random.pick(NONSENSE);
      if (request.text === "line_too_long") request.line = "y".repeat(this.#large ? 400_000 : 200 + random.below(50));
    } else if ((verb === "alive" || verb === "logout") && !random.oneIn(4)) {
      const position = Math.max(0, program.position);
      const beyond = verb === "alive" && random.oneIn(12);
      request.acks = beyond ? Number.MAX_SAFE_INTEGER : random.oneIn(4) ? random.below(position + 1) : position;
      request.line = `${verb} ${request.acks}`;
    }
    request.line += end;
    return request;
  }

  /** No more faults: all users log in again, until nothing waits for anyone. */
  #finish(): void {
    this.calm = true;
    this.#traced("no more faults");
    this.#disk.killPoint = null;
    if (this.#disk.refuses) this.#refuse(false);
    this.#host.pass(3200);
    if (this.#host.isDrained && this.#host.listening) this.#host.stop();
    if (!this.#host.listening) this.#host.startAgain();
    for (let round = 0; round < ROUNDS_MAX; round++) {
      for (const user of this.#users) this.#comeBack(user, round);
      this.#deliverAll();
      this.#host.pass(200);
      this.#deliverAll();
      this.#host.check();
      if (this.#isQuiet()) break;
    }
    this.ledger.checkAllReceived();
    if (!this.#isQuiet()) throw new Violation("a message or a reply is still outstanding");
    for (const { name, blocksDone, blocksUnknown } of this.#users) {
      const acted = this.ledger.blocked.get(name) ?? 0;
      if (acted >= blocksDone && acted <= blocksDone + blocksUnknown) continue;
      throw new Violation(
        `${name} had ${blocksDone} blocks with ok, ${blocksUnknown} without a reply; the server made ${acted}`,
      );
    }
  }

  #comeBack(user: User, round: number): void {
    const { program } = user;
    if (program === null) return this.#login(user);
    if (program.link?.isCut && !program.link.busy) program.abandon(false);
    program.act();
    if (program.ready && program.idle && round % 3 === 0) {
      const request = this.#request(program, "alive");
      const acks = Math.max(0, program.position);
      program.ask({ ...request, acks, line: `alive ${acks}\n` });
      program.act();
    }
  }

  /** Everything in transit arrives. */
  #deliverAll(): void {
    for (const link of this.#links) link.stalled = false;
    for (let times = 0; ; times++) {
      if (times > 1000) throw new Violation("the network never becomes idle");
      while (this.#dialed.length > 0) this.#dial();
      const busy = this.#links.filter((link) => link.busy);
      if (busy.length === 0) break;
      this.#host.turn(() => {
        for (const link of busy) {
          link.deliverUp(Number.POSITIVE_INFINITY);
          link.deliverDown(Number.POSITIVE_INFINITY);
        }
      });
    }
    this.#links = this.#links.filter((link) => !link.over);
  }

  #isQuiet(): boolean {
    if (this.#users.some(({ program }) => program === null || !program.ready || !program.idle)) return false;
    return this.#host.isQuiet;
  }
}

/** Error codes, and lines that are refused with them. */
const NONSENSE: [string, string][] = [
  ["unknown_command", "nonsense"],
  ["bad_request", ""],
  ["bad_request", "message nobody"],
  ["unknown_user", "message nobody hello"],
  ["already_logged_in", "login a b"],
  ["line_too_long", ""],
];

/** Runs one seed. A failed seed runs again, the same way, to print its last steps. */
export function simulate(seed: number, hardships = true, DiskOf = Disk): number {
  try {
    return new Simulation(seed, { hardships, DiskOf }).run();
  } catch (error) {
    const trace: string[] = [];
    try {
      new Simulation(seed, { hardships, DiskOf, trace }).run();
    } catch {}
    console.log(`SEED=${seed}: ${String(error)}\n  ${trace.slice(-40).join("\n  ")}`);
    throw error;
  }
}
