import { Random } from "../support/random.ts";
import { CallbackProgram } from "./callback-program.ts";
import { Ledger, Violation } from "./ledger.ts";
import { type ClientEnd, type DialedCall, Link, type ServerLife } from "./network.ts";
import { PlainProgram, ResumableProgram } from "./programs.ts";
import { WebLink } from "./web-link.ts";
import { CONNECTION_REFUSALS, type Environment, type Program, type Request, User, type Verb } from "./users.ts";

export const NAMES = ["a", "b", "c", "d"];
export const STEPS = 160;
/** 240 s. A call of 390 kB without an answer ends after 195 s: see CALLBACK_BYTES_PER_SECOND_MIN. */
export const ROUNDS_MAX = 1200;
export const IDLE_TIMEOUT_MS = 12_000;
const VERBS: readonly Verb[] = [
  ...(["message", "message", "message", "message", "message", "message", "message", "broadcast", "broadcast"] as const),
  ...(["online", "block", "unblock", "unblock", "nonsense", "alive", "alive"] as const),
];

/**
 * Users with all kinds of sessions over an unreliable network: everything of a simulation outside of the servers. What
 * happens to these, and when, is decided by subclasses.
 */
export abstract class Crowd implements Environment {
  readonly ledger = new Ledger();
  readonly random: Random;
  calm = false;
  protected users: User[];
  protected names = NAMES;
  protected verbs = VERBS;
  protected links: Link[] = [];
  protected dialed: DialedCall[] = [];
  /** Large messages, which reach the bounds. */
  protected readonly large: boolean;
  /** Random refusals of connections and stalls of outputs; null for none. */
  protected readonly hardships: Random | null;
  readonly #trace: string[] | null;
  /** A third of the connections of resumable sessions are over WebSocket; null: none. */
  readonly #web: Random | null;
  #texts = 0;

  constructor(random: Random, large: boolean, hardships: Random | null, trace: string[] | null, web: Random | null) {
    this.#web = web;
    this.random = random;
    this.large = large;
    this.hardships = hardships;
    this.#trace = trace;
    this.users = NAMES.map((name, index) => new User(name, 2000 + index, this));
  }

  /** One turn of the servers' loops: `ready` calls their handlers. */
  protected abstract turn(ready: () => void): void;

  abstract connect(client: ClientEnd): Link | null;

  /** A new connection. */
  protected linkTo(client: ClientEnd, room: number, life: ServerLife): Link {
    const isWeb = client instanceof ResumableProgram && this.#web?.oneIn(3) === true;
    return isWeb ? new WebLink(client, room, life, this.#web!) : new Link(client, room, life);
  }

  /** The server refuses the connection: it may send a line, and closes. */
  protected refused(client: ClientEnd, random: Random, life: ServerLife): Link {
    const link = new Link(client, 0, life);
    link.down = random.oneIn(4) ? "" : `${random.pick(CONNECTION_REFUSALS)}\n`;
    link.serverExits();
    this.links.push(link);
    return link;
  }

  /** Messages of a plain session move to the mailbox. */
  protected requeued(link: Link): void {
    link.takeDown(Number.POSITIVE_INFINITY);
    if (link.client instanceof PlainProgram) link.client.requeued();
  }

  /** At the end: blocks with a reply were made, and no others than those without a reply. */
  protected checkBlocks(): void {
    for (const { name, blocksDone, blocksUnknown, environment } of this.users) {
      const acted = environment.ledger.blocked.get(name) ?? 0;
      if (acted >= blocksDone && acted <= blocksDone + blocksUnknown) continue;
      throw new Violation(
        `${name} had ${blocksDone} blocks with ok, ${blocksUnknown} without a reply; the server made ${acted}`,
      );
    }
  }

  /** The next call of a server connects, or fails. */
  protected abstract dial(): void;

  outputStalls(): number {
    return this.hardships?.oneIn(3) === true ? 1 + this.hardships.below(20) : 0;
  }

  protected traced(what: string): void {
    this.#trace?.push(what);
  }

  /** Some connections transport bytes, all in one turn. */
  protected network(): void {
    const { random } = this;
    this.dial();
    this.turn(() => {
      for (let times = random.between(1, 8); times > 0; times--) {
        if (this.links.length === 0) return;
        const link = random.pick(this.links);
        if (link.stalled) continue;
        const count = random.oneIn(3) ? 1 + random.below(60) : Number.POSITIVE_INFINITY;
        if (random.oneIn(2)) link.deliverUp(count);
        else link.deliverDown(count);
      }
    });
  }

  protected cut(): void {
    if (this.links.length === 0) return;
    const link = this.random.pick(this.links);
    if (link.protected) return;
    const [closesServer, closesClient] = [this.random.oneIn(2), !this.random.oneIn(4)];
    this.traced(`a connection is cut; event at: server ${closesServer}, client ${closesClient}`);
    link.cut(this.random, closesServer, closesClient);
  }

  protected stall(): void {
    for (const link of this.links) link.stalled = this.random.oneIn(3);
  }

  protected act(user: User): void {
    const { random } = this;
    const { program } = user;
    if (program === null) return this.login(user);
    program.act();
    const what = random.below(100);
    if (what < 3) {
      this.traced(`${user.name} is killed`);
      program.kill();
    } else if (what < 8 && program.link?.protected === false) {
      this.traced(`${user.name} abandons the connection`);
      program.abandon(random.oneIn(2));
    } else if (!program.ready) return;
    else if (what < 11) this.ask(user, program, "logout");
    else for (let times = random.between(1, 4); times > 0; times--) this.ask(user, program, random.pick(this.verbs));
  }

  protected login(user: User): void {
    const { random } = this;
    const kind = user.lostLogins > 5 ? "plain" : random.pick(["plain", "resumable", "resumable", "callback"] as const);
    this.traced(`${user.name} logs in: ${kind}`);
    if (kind === "plain") new PlainProgram(user);
    else if (kind === "resumable") new ResumableProgram(user);
    else new CallbackProgram(user);
  }

  protected ask(user: User, program: Program, verb: Verb): void {
    if (!program.ready) return;
    const request = this.request(program, verb);
    if (verb === "private_answer") request.line = this.#answer(user);
    this.traced(`${user.name} requests: ${request.line.slice(0, 60).trimEnd()} (${request.line.length})`);
    program.ask(request);
  }

  /** To a user who has asked, if there is one. */
  #answer({ name, environment }: User): string {
    const { random } = this;
    const askers = [...(environment.ledger.online.get(name)?.introductions.requests ?? [])];
    const asker = random.pick(askers.length > 0 ? askers : this.names);
    return `private_answer ${asker} ${random.oneIn(3) ? "no" : "yes"}\n`;
  }

  protected request(program: Program, verb: Verb): Request {
    const { random } = this;
    const end = random.oneIn(8) ? "\r\n" : "\n";
    const request: Request = { verb, line: verb, text: "", acks: -1, end: 0 };
    if (verb === "message" || verb === "broadcast") {
      const isLong = random.oneIn(this.large ? 2 : 5);
      const bytes = !isLong ? random.below(20) : this.large ? random.below(390_000) : random.below(120);
      request.text = `${verb[0]}${++this.#texts} ${"x".repeat(bytes)}`;
      request.line =
        verb === "message" ? `message ${random.pick(this.names)} ${request.text}` : `broadcast ${request.text}`;
    } else if (verb === "block" || verb === "unblock" || verb === "getaddress") {
      request.line = `${verb} ${random.pick(this.names)}`;
    } else if (verb === "nonsense") {
      [request.text, request.line] = random.pick(NONSENSE);
      if (request.text === "line_too_long") request.line = "y".repeat(this.large ? 400_000 : 200 + random.below(50));
    } else if ((verb === "alive" || verb === "logout") && !random.oneIn(4)) {
      const position = Math.max(0, program.position);
      const beyond = verb === "alive" && random.oneIn(12);
      request.acks = beyond ? Number.MAX_SAFE_INTEGER : random.oneIn(4) ? random.below(position + 1) : position;
      request.line = `${verb} ${request.acks}`;
    }
    request.line += end;
    return request;
  }

  protected comeBack(user: User, round: number): void {
    const { program } = user;
    if (program === null) return this.login(user);
    if (program.link?.isCut && !program.link.busy) program.abandon(false);
    program.act();
    if (program.ready && program.idle && round % 3 === 0) {
      const request = this.request(program, "alive");
      const acks = Math.max(0, program.position);
      program.ask({ ...request, acks, line: `alive ${acks}\n` });
      program.act();
    }
  }

  /** Everything in transit arrives. */
  protected deliverAll(): void {
    for (const link of this.links) link.stalled = false;
    for (let times = 0; ; times++) {
      if (times > 1000) throw new Violation("the network never becomes idle");
      while (this.dialed.length > 0) this.dial();
      const busy = this.links.filter((link) => link.busy);
      if (busy.length === 0) break;
      this.turn(() => {
        for (const link of busy) {
          link.deliverUp(Number.POSITIVE_INFINITY);
          link.deliverDown(Number.POSITIVE_INFINITY);
        }
      });
    }
    this.links = this.links.filter((link) => !link.over);
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
