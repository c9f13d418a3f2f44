import { type ObservedSession, Violation, show } from "./ledger.ts";
import type { ClientEnd, Link } from "./network.ts";
import { Lines, ReadPositions } from "./programs.ts";
import { type SavedState, type Program, type Request, type User, isRefusedConnection } from "./users.ts";

/** A callback session: each request is a connection, and the server calls to deliver. */
export class CallbackProgram implements Program, SavedState {
  readonly kind = "callback";
  readonly unanswered: Request[] = [];
  token = "";
  secret = "";
  readonly reading: ReadPositions;
  /** The connection of the login, or of the current request. */
  link: Link | null;
  /** The call that is being read. */
  call: Link | null = null;
  readonly #user: User;
  #lines = new Lines();
  #asked: Request | null = null;
  readonly #waiting: Request[] = [];
  #observed: ObservedSession | null = null;
  #leaving = false;

  constructor(user: User) {
    this.#user = user;
    this.reading = new ReadPositions(user.environment, (line) => {
      if (!user.event(this.#observed!, line)) this.over();
    });
    this.link = user.environment.connect(this);
    if (this.link === null) return;
    user.program = this;
    this.link.protected = user.lostLogins > 3;
    this.link.say(user.loginLine(` callback=${user.port}`));
  }

  get ready(): boolean {
    return this.#observed !== null && !this.#leaving;
  }

  get idle(): boolean {
    return this.link === null && this.#waiting.length === 0 && this.received === this.reading.read;
  }

  get received(): number {
    return this.reading.shown();
  }

  get position(): number {
    return this.received;
  }

  ask(request: Request): void {
    this.#leaving ||= request.verb === "logout";
    this.#waiting.push(request);
  }

  act(): void {
    this.reading.flush();
    if (this.link !== null || this.#observed === null || this.#waiting.length === 0) return;
    this.link = this.#user.environment.connect(this);
    if (this.link === null) return;
    this.#lines = new Lines();
    this.#asked = this.#waiting.shift()!;
    this.link.say(`as ${this.token} ${this.#asked.line}`);
  }

  data(link: Link, bytes: string): void {
    for (const line of this.#lines.of(bytes)) {
      if (this.#observed === null && this.#user.isRefused(line)) this.over();
      else if (this.#observed === null) {
        const { observed, words, again } = this.#user.loggedIn(line, this);
        this.#observed = observed;
        this.token = observed.session.token;
        this.secret = words.find((word) => word.startsWith("secret="))!.slice("secret=".length);
        link.protected = false;
        this.#waiting.push(...again);
      } else this.#replied(this.#observed, line);
    }
  }

  #replied(observed: ObservedSession, line: string): void {
    const request = this.#asked;
    this.#asked = null;
    if (request === null) throw new Violation(`${this.#user.name} got a second reply: ${show(line)}`);
    if (isRefusedConnection(line)) {
      // The server has not processed it: it is repeated.
      this.#waiting.unshift(request);
      this.link?.hangUp();
      this.link = null;
      return;
    }
    if (line.startsWith("err unknown_session")) {
      if (observed.reason === "") throw new Violation(`${this.#user.name} is unknown in a session that has not ended`);
      this.reading.flushAll();
      return this.over();
    }
    this.#user.reply(observed, request, line);
    if (request.verb === "logout") {
      this.reading.flushAll();
      return this.over();
    }
    // The server closes too, but not after a line that was too long to be an `as`.
    this.link?.hangUp();
    this.link = null;
  }

  closed(): void {
    this.abandon();
  }

  abandon(): void {
    this.link?.hangUp();
    this.link = null;
    if (this.#asked !== null) this.#user.unknown(this.#asked);
    if (this.#asked?.verb === "logout") this.#leaving = false;
    this.#asked = null;
    if (this.#observed === null) this.over();
  }

  over(): void {
    this.link?.hangUp();
    this.link = null;
    if (this.#asked !== null) this.#user.unknown(this.#asked);
    for (const request of this.#waiting) this.#user.unknown(request);
    if (this.#user.program === this) this.#user.program = null;
  }

  kill(): void {
    this.link?.kill(this.#user.environment.random);
    this.link = null;
    if (this.#asked !== null) this.#user.unknown(this.#asked);
    this.over();
  }

  /** The server calls. */
  called(): ClientEnd {
    return new CallReader(this.#user, this, this.#observed);
  }
}

type Behaviour = "correct" | "no answer" | "wrong token" | "hangs up" | "hangs up within" | "no received" | "too much";
const FAULTS: readonly Behaviour[] = [
  "no answer",
  "wrong token",
  "hangs up",
  "hangs up within",
  "no received",
  "too much",
];

/** The client's side of one call: `callback`, `ready`, the bytes, `received`. */
class CallReader implements ClientEnd {
  readonly #user: User;
  readonly #program: CallbackProgram;
  readonly #observed: ObservedSession | null;
  readonly #behaviour: Behaviour;
  /** The part of the line `callback ...` that was received. */
  #head = "";
  #isReady = false;
  /** Stream position of the next byte, and of the end of the call. */
  #position = 0;
  #to = 0;
  #partial = "";

  constructor(user: User, program: CallbackProgram, observed: ObservedSession | null) {
    const { calm, random } = user.environment;
    this.#user = user;
    this.#program = program;
    this.#observed = observed;
    this.#behaviour = calm || !random.oneIn(3) ? "correct" : random.pick(FAULTS);
  }

  data(link: Link, bytes: string): void {
    if (this.#isReady) return this.#bytes(link, bytes);
    this.#head += bytes;
    const lf = this.#head.indexOf("\n");
    if (lf < 0) return;
    if (lf + 1 < this.#head.length) throw new Violation("a call continued before the reply");
    const [verb, secret, position, count] = this.#head.slice(0, lf).split(" ");
    if (verb !== "callback") throw new Violation(`a call began with: ${show(this.#head)}`);
    // A call for another session, or the login's reply is not here yet.
    if (this.#observed === null || secret !== this.#program.secret || this.#user.program !== this.#program) {
      return link.hangUp();
    }
    this.#position = Number(position);
    this.#to = this.#position + Number(count);
    if (this.#position > this.#program.reading.read)
      throw new Violation(`${this.#user.name} was called from ${position}`);
    if (this.#behaviour === "no answer") return;
    if (this.#behaviour === "hangs up") return link.hangUp();
    this.#isReady = true;
    // The server has given up the call before it: bytes of that in transit must not be mixed with this one.
    this.#program.call?.hangUp();
    this.#program.call = link;
    link.say(`ready ${this.#behaviour === "wrong token" ? "x".repeat(25) : this.#program.token}\n`);
    this.#bytes(link, "");
  }

  #bytes(link: Link, bytes: string): void {
    const program = this.#program;
    // A later login has taken over the position of this session: nothing more of it may be shown.
    if (this.#user.program !== program) return link.hangUp();
    if (this.#behaviour === "wrong token" && bytes !== "") throw new Violation("a wrong token was answered");
    if (this.#position + bytes.length > this.#to) throw new Violation("a call delivered more than it announced");
    const skipped = Math.max(0, Math.min(bytes.length, program.reading.read + this.#partial.length - this.#position));
    this.#position += bytes.length;
    this.#partial += bytes.slice(skipped);
    for (let lf = this.#partial.indexOf("\n"); lf >= 0; lf = this.#partial.indexOf("\n")) {
      const line = this.#partial.slice(0, lf);
      this.#partial = this.#partial.slice(lf + 1);
      if (line.startsWith("goodbye ") && (this.#partial !== "" || this.#position < this.#to))
        throw new Violation("a call continued after the last line");
      program.reading.take(line, program.reading.read + lf + 1);
      if (this.#behaviour === "hangs up within") return link.hangUp();
    }
    if (this.#position < this.#to) return;
    // Lines that the output has not taken are not acknowledged: the server calls again.
    if (this.#behaviour === "no received" || program.received < program.reading.read) return;
    link.say(`received ${this.#behaviour === "too much" ? 1e12 : program.received}\n`);
    link.hangUp();
  }

  closed(link: Link): void {
    link.hangUp();
  }
}
