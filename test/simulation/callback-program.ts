import { type Stay, Violation, show } from "./ledger.ts";
import type { ClientEnd, Link } from "./network.ts";
import { Lines, Reading } from "./programs.ts";
import { type Left, type Program, type Request, type User, isRefusedAtDoor } from "./users.ts";

/** A client that has no connection of its own: each request is one, and the server calls. */
export class CallbackProgram implements Program, Left {
  readonly kind = "callback";
  readonly unanswered: Request[] = [];
  token = "";
  secret = "";
  readonly reading: Reading;
  /** The login's connection, then the one of the request under way. */
  link: Link | null;
  /** The call that is listened to. */
  call: Link | null = null;
  readonly #user: User;
  #lines = new Lines();
  #asked: Request | null = null;
  readonly #waiting: Request[] = [];
  #stay: Stay | null = null;
  #leaving = false;

  constructor(user: User) {
    this.#user = user;
    this.reading = new Reading(user.around, (line) => {
      if (!user.event(this.#stay!, line)) this.over();
    });
    this.link = user.around.connect(this);
    if (this.link === null) return;
    user.program = this;
    this.link.trusted = user.lostLogins > 3;
    this.link.say(user.loginLine(` callback=${user.port}`));
  }

  get ready(): boolean {
    return this.#stay !== null && !this.#leaving;
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
    if (this.link !== null || this.#stay === null || this.#waiting.length === 0) return;
    this.link = this.#user.around.connect(this);
    if (this.link === null) return;
    this.#lines = new Lines();
    this.#asked = this.#waiting.shift()!;
    this.link.say(`as ${this.token} ${this.#asked.line}`);
  }

  heard(link: Link, bytes: string): void {
    for (const line of this.#lines.of(bytes)) {
      if (this.#stay === null && this.#user.isRefused(line)) this.over();
      else if (this.#stay === null) {
        const { stay, words, again } = this.#user.loggedIn(line, this);
        this.#stay = stay;
        this.token = stay.session.token;
        this.secret = words.find((word) => word.startsWith("secret="))!.slice("secret=".length);
        link.trusted = false;
        this.#waiting.push(...again);
      } else this.#replied(this.#stay, line);
    }
  }

  #replied(stay: Stay, line: string): void {
    const request = this.#asked;
    this.#asked = null;
    if (request === null) throw new Violation(`${this.#user.name} got a second reply: ${show(line)}`);
    if (isRefusedAtDoor(line)) {
      // Certainly not acted on: it is made again.
      this.#waiting.unshift(request);
      this.link?.hangUp();
      this.link = null;
      return;
    }
    if (line.startsWith("err unknown_session")) {
      if (stay.reason === "") throw new Violation(`${this.#user.name} is unknown in a session that goes on`);
      this.reading.flushAll();
      return this.over();
    }
    this.#user.reply(stay, request, line);
    if (request.verb === "logout") {
      this.reading.flushAll();
      return this.over();
    }
    // The server closes too, but not behind a line that was too long to be an `as`.
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
    if (this.#stay === null) this.over();
  }

  over(): void {
    this.link?.hangUp();
    this.link = null;
    if (this.#asked !== null) this.#user.unknown(this.#asked);
    for (const request of this.#waiting) this.#user.unknown(request);
    if (this.#user.program === this) this.#user.program = null;
  }

  kill(): void {
    this.link?.kill(this.#user.around.random);
    this.link = null;
    if (this.#asked !== null) this.#user.unknown(this.#asked);
    this.over();
  }

  /** Somebody calls. */
  called(): ClientEnd {
    return new CallReader(this.#user, this, this.#stay);
  }
}

type Manner = "proper" | "no answer" | "wrong token" | "hangs up" | "hangs up within" | "no received" | "too much";
const MANNERS: readonly Manner[] = [
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
  readonly #stay: Stay | null;
  readonly #manner: Manner;
  /** The line `callback ...` as far as it came. */
  #head = "";
  #isReady = false;
  /** Position in the stream of the next byte, and up to where the call brings it. */
  #position = 0;
  #to = 0;
  #partial = "";

  constructor(user: User, program: CallbackProgram, stay: Stay | null) {
    const { calm, random } = user.around;
    this.#user = user;
    this.#program = program;
    this.#stay = stay;
    this.#manner = calm || !random.oneIn(3) ? "proper" : random.pick(MANNERS);
  }

  heard(link: Link, bytes: string): void {
    if (this.#isReady) return this.#bytes(link, bytes);
    this.#head += bytes;
    const lf = this.#head.indexOf("\n");
    if (lf < 0) return;
    if (lf + 1 < this.#head.length) throw new Violation("a call went on before it was answered");
    const [verb, secret, position, count] = this.#head.slice(0, lf).split(" ");
    if (verb !== "callback") throw new Violation(`a call began with: ${show(this.#head)}`);
    // Another session's, or the login's reply has not come: a stranger.
    if (this.#stay === null || secret !== this.#program.secret || this.#user.program !== this.#program) {
      return link.hangUp();
    }
    this.#position = Number(position);
    this.#to = this.#position + Number(count);
    if (this.#position > this.#program.reading.read)
      throw new Violation(`${this.#user.name} was called from ${position}`);
    if (this.#manner === "no answer") return;
    if (this.#manner === "hangs up") return link.hangUp();
    this.#isReady = true;
    // The server has given up the call before: what of it is still on its way must not be mixed with this one.
    this.#program.call?.hangUp();
    this.#program.call = link;
    link.say(`ready ${this.#manner === "wrong token" ? "x".repeat(25) : this.#program.token}\n`);
    this.#bytes(link, "");
  }

  #bytes(link: Link, bytes: string): void {
    const program = this.#program;
    // What a later login said of this session holds: nothing more of it is shown.
    if (this.#user.program !== program) return link.hangUp();
    if (this.#manner === "wrong token" && bytes !== "")
      throw new Violation("a stranger at the port was told something");
    if (this.#position + bytes.length > this.#to) throw new Violation("a call brought more than it had said");
    const skipped = Math.max(0, Math.min(bytes.length, program.reading.read + this.#partial.length - this.#position));
    this.#position += bytes.length;
    this.#partial += bytes.slice(skipped);
    for (let lf = this.#partial.indexOf("\n"); lf >= 0; lf = this.#partial.indexOf("\n")) {
      const line = this.#partial.slice(0, lf);
      this.#partial = this.#partial.slice(lf + 1);
      if (line.startsWith("goodbye ") && (this.#partial !== "" || this.#position < this.#to))
        throw new Violation("a call went on after the last line");
      program.reading.take(line, program.reading.read + lf + 1);
      if (this.#manner === "hangs up within") return link.hangUp();
    }
    if (this.#position < this.#to) return;
    // What its output has not taken it does not acknowledge: it is called again.
    if (this.#manner === "no received" || program.received < program.reading.read) return;
    link.say(`received ${this.#manner === "too much" ? 1e12 : program.received}\n`);
    link.hangUp();
  }

  closed(link: Link): void {
    link.hangUp();
  }
}
