import { type Stay, Violation, show } from "./ledger.ts";
import type { Link } from "./network.ts";
import type { Left, Program, Request, User } from "./users.ts";

/** Bytes as they come, out as lines; the beginning of a line waits. */
export class Lines {
  #partial = "";

  *of(bytes: string): Generator<string> {
    this.#partial += bytes;
    for (let lf = this.#partial.indexOf("\n"); lf >= 0; lf = this.#partial.indexOf("\n")) {
      const line = this.#partial.slice(0, lf);
      this.#partial = this.#partial.slice(lf + 1);
      yield line;
    }
  }

  /** What came after the line that was given last. */
  get rest(): string {
    return this.#partial;
  }

  drop(): void {
    this.#partial = "";
  }
}

export function isReply(line: string): boolean {
  return line === "ok" || line.startsWith("ok ") || line.startsWith("err ");
}

/** A session that lives and dies with its connection. What the server's kernel took is read even after it died. */
export class PlainProgram implements Program {
  readonly kind = "plain";
  readonly position = -1;
  readonly link: Link | null;
  readonly #user: User;
  readonly #lines = new Lines();
  readonly #unanswered: Request[] = [];
  #stay: Stay | null = null;
  #leaving = false;
  /** A newer login has what this connection did not take, but for the line that was begun. */
  #settled = false;
  #repeated = 0;

  constructor(user: User) {
    this.#user = user;
    this.link = user.around.connect(this);
    if (this.link === null) return;
    this.link.faithful = true;
    user.program = this;
    this.link.send(user.loginLine(""));
  }

  get ready(): boolean {
    return this.#stay !== null && !this.#leaving;
  }

  get idle(): boolean {
    return this.#unanswered.length === 0;
  }

  ask(request: Request): void {
    this.#unanswered.push(request);
    this.#leaving ||= request.verb === "logout";
    this.link?.send(request.line);
  }

  heard(_link: Link, bytes: string): void {
    for (const line of this.#lines.of(bytes)) {
      if (this.#stay === null) {
        this.#loggedIn(line);
        if (this.#settled) this.settled();
      } else if (isReply(line)) {
        const request = this.#unanswered.shift();
        if (request === undefined) throw new Violation(`${this.#user.name} got a reply to nothing: ${show(line)}`);
        this.#user.reply(this.#stay, request, line);
      } else {
        if (this.#settled && /^(message|stored) /.test(line) && ++this.#repeated > 1) {
          throw new Violation(`${this.#user.name} heard more than one line after a takeover: ${show(line)}`);
        }
        this.#user.event(this.#stay, line, this.#settled);
      }
    }
  }

  #loggedIn(line: string): void {
    if (this.#user.program !== this) {
      // It was killed before it could keep anything.
      this.#stay = this.#user.around.ledger.stays.get(line.split(" ")[1]!)!;
      return;
    }
    const { stay, again } = this.#user.loggedIn(line, null);
    this.#stay = stay;
    for (const request of again) this.ask(request);
  }

  settled(): void {
    this.#settled = true;
    this.#stay?.withdrawn();
  }

  closed(): void {
    this.#forgetLogin();
    this.link?.hangUp();
    this.#end();
  }

  #end(): void {
    for (const request of this.#unanswered) this.#user.unknown(request);
    if (this.#user.program === this) this.#user.program = null;
  }

  act(): void {}

  kill(): void {
    this.#forgetLogin();
    this.link?.kill(this.#user.around.random);
    this.#end();
  }

  abandon(): void {
    this.#forgetLogin();
    this.link?.hangUp();
    this.#end();
  }

  /** Else it might come after that of the user's next program, and be that of another device. */
  #forgetLogin(): void {
    if (this.#stay === null && this.link !== null) this.link.up = "";
  }
}

type Phase = "login" | "away" | "resuming" | "on" | "over";

/** A session of two byte streams with positions, whatever becomes of its connections. */
export class ResumableProgram implements Program, Left {
  readonly kind = "resumable";
  token = "";
  received = 0;
  readonly unanswered: Request[] = [];
  link: Link | null;
  readonly #user: User;
  readonly #lines = new Lines();
  #phase: Phase = "login";
  #stay: Stay | null = null;
  /** Positions in the client's stream: what was asked, and what was answered. */
  #end = 0;
  #answered = 0;
  #leaving = false;

  constructor(user: User) {
    this.#user = user;
    this.link = user.around.connect(this);
    if (this.link === null) return;
    user.program = this;
    this.link.trusted = user.lostLogins > 3;
    this.link.send(user.loginLine(" resumable"));
  }

  get ready(): boolean {
    return this.#stay !== null && !this.#leaving;
  }

  get idle(): boolean {
    return this.#phase === "on" && this.unanswered.length === 0;
  }

  get position(): number {
    return this.received;
  }

  /** A request joins the stream, whether there is a connection or not. */
  ask(request: Request): void {
    this.#end += request.line.length;
    const asked = { ...request, end: this.#end };
    this.#leaving ||= request.verb === "logout";
    this.unanswered.push(asked);
    if (this.#phase === "on") this.link!.send(asked.line);
  }

  heard(_link: Link, bytes: string): void {
    for (const line of this.#lines.of(bytes)) {
      if (this.#phase === "login") this.#loggedIn(line);
      else if (this.#phase === "resuming") this.#resumed(line);
      else if (this.#phase === "on") {
        this.received += line.length + 1;
        this.#line(this.#stay!, line);
      } else throw new Violation(`${this.#user.name} heard behind the end: ${show(line)}`);
    }
  }

  #loggedIn(line: string): void {
    if (this.#user.isRefused(line)) return this.#over();
    const { stay, again } = this.#user.loggedIn(line, this);
    this.#stay = stay;
    this.token = stay.session.token;
    this.#phase = "on";
    this.link!.trusted = false;
    for (const request of again) this.ask(request);
  }

  #resumed(line: string): void {
    const stay = this.#stay!;
    if (line.startsWith("err unknown_session")) {
      if (stay.reason === "") throw new Violation(`${this.#user.name} could not resume what goes on`);
      if (line.endsWith(" replaced") && stay.reason !== "replaced") throw new Violation(`"${line}": ${stay.reason}`);
      return this.#over();
    }
    const position = Number(line.slice("ok ".length));
    if (!/^ok \d+$/.test(line) || position < this.#answered || position > this.#end) {
      throw new Violation(`${this.#user.name} resumed with ${this.#answered} to ${this.#end} and got ${show(line)}`);
    }
    this.#phase = "on";
    for (const { line: asked, end } of this.unanswered) {
      if (end <= position) continue;
      if (end - asked.length < position) throw new Violation(`${this.#user.name} resumed in a line: ${position}`);
      this.link!.send(asked);
    }
  }

  #line(stay: Stay, line: string): void {
    if (!isReply(line)) {
      if (!this.#user.event(stay, line)) this.#ended();
      return;
    }
    const request = this.unanswered.shift();
    if (request === undefined) throw new Violation(`${this.#user.name} got a reply to nothing: ${show(line)}`);
    this.#user.reply(stay, request, line);
    this.#answered = request.end;
    if (request.verb === "logout") this.#ended();
  }

  /** The last line was heard: nothing follows it, nor is on its way. */
  #ended(): void {
    const rest = this.#lines.rest + this.link!.down;
    if (rest !== "") throw new Violation(`${this.#user.name} heard something after the last line: ${show(rest)}`);
    this.#over();
  }

  #over(): void {
    this.#phase = "over";
    this.#letGo(true);
    if (this.#user.program === this) this.#user.program = null;
  }

  #letGo(politely: boolean): void {
    const { link } = this;
    this.link = null;
    this.#lines.drop();
    if (politely) link?.hangUp();
    else link?.kill(this.#user.around.random);
  }

  closed(): void {
    this.abandon(false);
  }

  abandon(silently: boolean): void {
    if (silently) this.link?.cut(this.#user.around.random, false, false);
    this.#letGo(true);
    if (this.#phase === "login") this.#over();
    else if (this.#phase !== "over") this.#phase = "away";
  }

  act(): void {
    if (this.#phase !== "away") return;
    this.link = this.#user.around.connect(this);
    if (this.link === null) return;
    this.#phase = "resuming";
    this.link.send(`resume ${this.token} ${this.received}\n`);
  }

  kill(): void {
    this.#letGo(false);
    this.#over();
  }
}
