import { Random } from "../support/random.ts";
import { CallbackProgram } from "./callback-program.ts";
import { DEATHS, Disk } from "./disk.ts";
import type { DialHandlers } from "../../src/net/dial.ts";
import { Dialed, Host, ObservedStore } from "./host.ts";
import { Ledger, Violation } from "./ledger.ts";
import { type ClientEnd, Link } from "./network.ts";
import { PlainProgram, ResumableProgram } from "./programs.ts";
import { type Program, REFUSALS_AT_DOOR, type Request, type Surroundings, User, type Verb } from "./users.ts";

const NAMES = ["a", "b", "c", "d"];
const STEPS = 160;
/** 240 s: a callback client that took 390 kB and never answers has 195 s, by its rate; see CALLBACK_BYTES_PER_SECOND_MIN. */
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
}

/**
 * One seed: users of all kinds over a bad network, with a server that is stopped now and then. In the end all come
 * back and read everything. Throws at the first step after which something is against the contract.
 */
export class Simulation implements Surroundings {
  readonly ledger = new Ledger();
  readonly random: Random;
  calm = false;
  /** Decides about refusals at the door and outputs that are stuck; null where there are none. */
  readonly #hardships: Random | null;
  readonly #disk: Disk;
  readonly #host: Host;
  /** In some seeds the server is killed, or its disk refuses, now and then. */
  readonly #kills: boolean;
  readonly #refuses: boolean;
  readonly #users: User[];
  #links: Link[] = [];
  #dialed: Dialed[] = [];
  /** Messages are large in some seeds, for what has to do with bounds. */
  readonly #large: boolean;
  readonly #trace: string[] | null;
  #texts = 0;
  /** Steps until a server that was told to stop has stopped. */
  #stopping = 0;

  constructor(seed: number, { large = false, hardships = true, trace = null, Store = ObservedStore }: Options = {}) {
    this.random = new Random(seed);
    this.#hardships = hardships ? new Random(~seed) : null;
    this.#trace = trace;
    this.#large = this.random.oneIn(8) || large;
    const lineBytesMax = this.#large ? 400_000 : 200;
    this.#kills = this.random.oneIn(2);
    this.#refuses = this.random.oneIn(6);
    this.#disk = new Disk(this.random);
    const clockMs = 5000 + this.random.below(1000);
    const dial = (_host: string, port: number, handlers: DialHandlers): Dialed => {
      const dialed = new Dialed(port, handlers);
      this.#dialed.push(dialed);
      return dialed;
    };
    const choices = { names: NAMES, idleTimeoutMs: IDLE_TIMEOUT_MS, lineBytesMax, clockMs, dial, Store };
    this.#host = new Host(choices, this.ledger, this.#disk, (link) => {
      link.takeDown(Number.POSITIVE_INFINITY);
      if (link.client instanceof PlainProgram) link.client.settled();
    });
    this.#users = NAMES.map((name, index) => new User(name, 2000 + index, this));
  }

  /** Runs it all; returns how many messages were heard. */
  run(): number {
    try {
      for (let step = 0; step < STEPS; step++) {
        this.#step();
        this.#bury();
        this.#host.check();
      }
      this.#finish();
    } finally {
      this.#host.close();
    }
    return this.ledger.heard;
  }

  connect(client: ClientEnd): Link | null {
    if (!this.#host.listening) return null;
    const hardships = this.calm || this.#disk.isDead ? null : this.#hardships;
    if (hardships?.oneIn(10) === true) return this.#refuseAtDoor(client, hardships);
    const room = this.random.between(10, 600) * (this.#large ? 500 : 1);
    const link = new Link(client, room, this.#disk);
    this.#links.push(link);
    this.#host.turn(() => this.#host.accept(link));
    return link;
  }

  /** The server has no room: it says so, or may not even get to that, and closes. */
  #refuseAtDoor(client: ClientEnd, random: Random): Link {
    const link = new Link(client, 0, this.#disk);
    link.down = random.oneIn(4) ? "" : `${random.pick(REFUSALS_AT_DOOR)}\n`;
    link.serverDies();
    this.#links.push(link);
    return link;
  }

  outputStalls(): number {
    return this.#hardships?.oneIn(3) === true ? 1 + this.#hardships.below(20) : 0;
  }

  #did(what: string): void {
    this.#trace?.push(what);
  }

  #step(): void {
    const { random } = this;
    if (this.#kills && random.oneIn(15)) this.#kill();
    if (this.#refuses && random.oneIn(20)) this.#refuse(!this.#disk.refuses);
    if (this.#stopping > 0 && --this.#stopping === 0) {
      this.#did("the server starts again");
      this.#host.startAgain();
    }
    const user = random.pick(this.#users);
    const what = random.below(100);
    if (what < 35) this.#network();
    else if (what < 75) this.#act(user);
    else if (what < 90) this.#pass(random.below(random.pick([50, 300, 300, 1500])));
    else if (what < 91) this.#pass(random.below(random.pick([6000, 20_000])));
    else if (what < 92) this.#jump();
    else if (what < 97) this.#cut();
    else if (what < 99) this.#stall();
    else if (random.oneIn(4) && this.#host.listening) this.#stop();
    this.#links = this.#links.filter((link) => !link.over);
  }

  /** Some connections deliver something, all in one turn. */
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

  /** The next call of the server reaches a client, or nobody. */
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
    this.#did(`${ms} ms pass`);
    this.#host.pass(ms);
  }

  #jump(): void {
    const ms = this.random.below(60_000) - 10_000;
    this.#did(`the clock jumps by ${ms} ms`);
    this.#host.jump(ms);
  }

  #cut(): void {
    if (this.#links.length === 0) return;
    const link = this.random.pick(this.#links);
    if (link.trusted) return;
    const [tellServer, tellClient] = [this.random.oneIn(2), !this.random.oneIn(4)];
    this.#did(`a connection is cut; told: server ${tellServer}, client ${tellClient}`);
    link.cut(this.random, tellServer, tellClient);
  }

  #stall(): void {
    for (const link of this.#links) link.stalled = this.random.oneIn(3);
  }

  #stop(): void {
    this.#did("the server stops");
    this.#host.stop();
    this.#stopping = 1 + this.random.below(10);
  }

  /** The server is killed at once, or somewhere in its next turn. */
  #kill(): void {
    this.#disk.death = this.random.pick([...DEATHS, null]);
    this.#did(`the server will be killed: ${this.#disk.death ?? "now"}`);
    if (this.#disk.death === null) this.#disk.die();
  }

  /** A server that was killed has come to the end of its turn: another one starts. */
  #bury(): void {
    if (!this.#disk.isDead) return;
    this.#did("the server was killed, and starts again");
    this.#stopping = 0;
    this.#dialed = [];
    for (const link of this.#links) link.serverKilled(this.random);
    this.#host.startAfterKill();
  }

  #refuse(on: boolean): void {
    this.#did(`the disk ${on ? "refuses" : "accepts writes again"}`);
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
      this.#did(`${user.name} is killed`);
      program.kill();
    } else if (what < 8 && program.link?.trusted === false) {
      this.#did(`${user.name} lets go of the connection`);
      program.abandon(random.oneIn(2));
    } else if (!program.ready) return;
    else if (what < 11) this.#ask(user, program, "logout");
    else for (let times = random.between(1, 4); times > 0; times--) this.#ask(user, program, random.pick(VERBS));
  }

  #login(user: User): void {
    const { random } = this;
    const kind = user.lostLogins > 5 ? "plain" : random.pick(["plain", "resumable", "resumable", "callback"] as const);
    this.#did(`${user.name} logs in: ${kind}`);
    if (kind === "plain") new PlainProgram(user);
    else if (kind === "resumable") new ResumableProgram(user);
    else new CallbackProgram(user);
  }

  #ask(user: User, program: Program, verb: Verb): void {
    if (!program.ready) return;
    const request = this.#request(program, verb);
    this.#did(`${user.name} asks: ${request.line.slice(0, 60).trimEnd()} (${request.line.length})`);
    program.ask(request);
  }

  #request(program: Program, verb: Verb): Request {
    const { random } = this;
    const end = random.oneIn(8) ? "\r\n" : "\n";
    const request: Request = { verb, line: verb, text: "", confirms: -1, end: 0 };
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
      request.confirms = beyond ? Number.MAX_SAFE_INTEGER : random.oneIn(4) ? random.below(position + 1) : position;
      request.line = `${verb} ${request.confirms}`;
    }
    request.line += end;
    return request;
  }

  /** Nothing goes wrong any more: all come back, and in the end there is nothing that anybody waits for. */
  #finish(): void {
    this.calm = true;
    this.#did("all is calm from now on");
    this.#disk.death = null;
    if (this.#disk.refuses) this.#refuse(false);
    this.#host.pass(3000);
    if (!this.#host.listening) this.#host.startAgain();
    for (let round = 0; round < ROUNDS_MAX; round++) {
      for (const user of this.#users) this.#comeBack(user, round);
      this.#settle();
      this.#host.pass(200);
      this.#settle();
      this.#host.check();
      if (this.#isQuiet()) break;
    }
    this.ledger.checkAllHeard();
    if (!this.#isQuiet()) throw new Violation("somebody still waits for something");
    for (const { name, blocksDone, blocksUnknown } of this.#users) {
      const acted = this.ledger.blocked.get(name) ?? 0;
      if (acted >= blocksDone && acted <= blocksDone + blocksUnknown) continue;
      throw new Violation(`${name} saw ${blocksDone} blocks done, ${blocksUnknown} unknown; acted on: ${acted}`);
    }
  }

  #comeBack(user: User, round: number): void {
    const { program } = user;
    if (program === null) return this.#login(user);
    if (program.link?.severed && !program.link.busy) program.abandon(false);
    program.act();
    if (program.ready && program.idle && round % 3 === 0) {
      const request = this.#request(program, "alive");
      const confirms = Math.max(0, program.position);
      program.ask({ ...request, confirms, line: `alive ${confirms}\n` });
      program.act();
    }
  }

  /** Everything on its way arrives. */
  #settle(): void {
    for (const link of this.#links) link.stalled = false;
    for (let times = 0; ; times++) {
      if (times > 1000) throw new Violation("the network never comes to rest");
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

/** What it is refused with, and a line that is. */
const NONSENSE: [string, string][] = [
  ["unknown_command", "nonsense"],
  ["bad_request", ""],
  ["bad_request", "message nobody"],
  ["unknown_user", "message nobody hello"],
  ["already_logged_in", "login a b"],
  ["line_too_long", ""],
];

/** Runs one seed. When it fails, it runs again to tell what was done, since the same seed does the same. */
export function simulate(seed: number, hardships = true): number {
  try {
    return new Simulation(seed, { hardships }).run();
  } catch (error) {
    const trace: string[] = [];
    try {
      new Simulation(seed, { hardships, trace }).run();
    } catch {}
    console.log(`SEED=${seed}: ${String(error)}\n  ${trace.slice(-40).join("\n  ")}`);
    throw error;
  }
}
