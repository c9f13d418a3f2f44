import { type ObservedSession, Violation, show } from "./ledger.ts";
import type { Link } from "./network.ts";
import {
  type SavedState,
  type Program,
  type Request,
  type Environment,
  type User,
  isRefusedConnection,
} from "./users.ts";

/** Splits received bytes into lines; keeps an incomplete last line. */
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

  /** The bytes after the last complete line. */
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

/** A client's positions in the server's stream: what it has read, and what its output has taken of that. */
export class ReadPositions {
  read = 0;
  readonly #around: Environment;
  readonly #show: (line: string) => void;
  readonly #unshown: { line: string; start: number }[] = [];
  /** Attempts for which the output still takes nothing. */
  #stalls = 0;

  constructor(around: Environment, show: (line: string) => void) {
    this.#around = around;
    this.#show = show;
  }

  /** Everything before this position is shown: only that is acknowledged, and survives a kill of the client. */
  shown(): number {
    return this.#unshown[0]?.start ?? this.read;
  }

  /** An event was read that ends at that position. */
  take(line: string, position: number): void {
    this.#unshown.push({ line, start: this.read });
    this.read = position;
    this.flush();
  }

  /** The output takes all events that wait for it, unless it stalls. */
  flush(): void {
    if (this.#around.calm) this.#stalls = 0;
    else if (this.#stalls === 0) this.#stalls = this.#around.outputStalls();
    if (this.#stalls === 0) return this.flushAll();
    this.#stalls--;
  }

  flushAll(): void {
    for (let next = this.#unshown[0]; next !== undefined; next = this.#unshown[0]) {
      this.#show(next.line);
      this.#unshown.shift();
    }
  }
}

/** A plain session. What the server's kernel took is read even after the connection was cut. */
export class PlainProgram implements Program {
  readonly kind = "plain";
  readonly position = -1;
  readonly link: Link | null;
  readonly #user: User;
  readonly #lines = new Lines();
  readonly #unanswered: Request[] = [];
  #observed: ObservedSession | null = null;
  #leaving = false;
  /** The messages that this connection did not take are in the mailbox; a line that was begun may be repeated. */
  #isRequeued = false;
  #repeated = 0;

  constructor(user: User) {
    this.#user = user;
    this.link = user.environment.connect(this);
    if (this.link === null) return;
    this.link.lossless = true;
    user.program = this;
    this.link.say(user.loginLine(""));
  }

  get ready(): boolean {
    return this.#observed !== null && !this.#leaving;
  }

  get idle(): boolean {
    return this.#unanswered.length === 0;
  }

  ask(request: Request): void {
    this.#unanswered.push(request);
    this.#leaving ||= request.verb === "logout";
    this.link?.say(request.line);
  }

  data(_link: Link, bytes: string): void {
    for (const line of this.#lines.of(bytes)) {
      if (this.#observed === null && this.#user.isRefused(line)) return;
      if (this.#observed === null) {
        this.#loggedIn(line);
        if (this.#isRequeued) this.requeued();
      } else if (isReply(line)) {
        const request = this.#unanswered.shift();
        if (request === undefined)
          throw new Violation(`${this.#user.name} got a reply without a request: ${show(line)}`);
        this.#user.reply(this.#observed, request, line);
      } else {
        if (this.#isRequeued && /^(message|stored) /.test(line) && ++this.#repeated > 1) {
          throw new Violation(
            `${this.#user.name} received more than one line after its messages were requeued: ${show(line)}`,
          );
        }
        this.#user.event(this.#observed, line, this.#isRequeued);
      }
    }
  }

  #loggedIn(line: string): void {
    if (this.#user.program !== this) {
      // It was killed before it could save anything.
      this.#observed = this.#user.environment.ledger.sessions.get(line.split(" ")[1]!)!;
      return;
    }
    const { observed, again } = this.#user.loggedIn(line, null);
    this.#observed = observed;
    for (const request of again) this.ask(request);
  }

  requeued(): void {
    this.#isRequeued = true;
    this.#observed?.withdrawn();
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
    this.link?.kill(this.#user.environment.random);
    this.#end();
  }

  abandon(): void {
    this.#forgetLogin();
    this.link?.hangUp();
    this.#end();
  }

  /** Otherwise the login could arrive after the login of the user's next program, and replace it. */
  #forgetLogin(): void {
    if (this.#observed === null && this.link !== null) this.link.up = "";
  }
}

type Phase = "login" | "away" | "resuming" | "on" | "over";

/** A resumable session: two byte streams with positions that outlive connections. */
export class ResumableProgram implements Program, SavedState {
  readonly kind = "resumable";
  token = "";
  readonly unanswered: Request[] = [];
  link: Link | null;
  readonly #user: User;
  readonly #lines = new Lines();
  readonly #reading: ReadPositions;
  /** The connection's position in the server's stream: after a resume at the first line not shown, before `read`. */
  #at = 0;
  #phase: Phase = "login";
  #observed: ObservedSession | null = null;
  /** Positions in the client's stream: the end of all requests, and of those with a reply. */
  #end = 0;
  #answered = 0;
  #leaving = false;

  constructor(user: User) {
    this.#user = user;
    this.#reading = new ReadPositions(user.environment, (line) => {
      if (!user.event(this.#observed!, line)) this.#over();
    });
    this.link = user.environment.connect(this);
    if (this.link === null) return;
    user.program = this;
    this.link.protected = user.lostLogins > 3;
    this.link.say(user.loginLine(" resumable"));
  }

  get ready(): boolean {
    return this.#observed !== null && !this.#leaving;
  }

  get idle(): boolean {
    return this.#phase === "on" && this.unanswered.length === 0 && this.received === this.#reading.read;
  }

  get received(): number {
    return this.#reading.shown();
  }

  get position(): number {
    return this.received;
  }

  /** Appends a request to the stream, with or without a connection. */
  ask(request: Request): void {
    this.#end += request.line.length;
    const asked = { ...request, end: this.#end };
    this.#leaving ||= request.verb === "logout";
    this.unanswered.push(asked);
    if (this.#phase === "on") this.link!.say(asked.line);
  }

  data(_link: Link, bytes: string): void {
    for (const line of this.#lines.of(bytes)) {
      if (this.#phase === "login") this.#loggedIn(line);
      else if (this.#phase === "resuming") this.#resumed(line);
      else if (this.#phase === "on") {
        this.#at += line.length + 1;
        if (this.#at > this.#reading.read) this.#line(this.#observed!, line);
      } else throw new Violation(`${this.#user.name} received a line after the end: ${show(line)}`);
    }
  }

  #loggedIn(line: string): void {
    if (this.#user.isRefused(line)) return this.#over();
    const { observed, again } = this.#user.loggedIn(line, this);
    this.#observed = observed;
    this.token = observed.session.token;
    this.#phase = "on";
    this.link!.protected = false;
    for (const request of again) this.ask(request);
  }

  #resumed(line: string): void {
    const observed = this.#observed!;
    if (isRefusedConnection(line)) return this.abandon(false);
    if (line.startsWith("err unknown_session")) {
      if (observed.reason === "")
        throw new Violation(`${this.#user.name} could not resume a session that has not ended`);
      const [, , final] = line.split(" ");
      if (final !== undefined && observed.reason !== final) throw new Violation(`"${line}": ${observed.reason}`);
      // Otherwise events that wait to be shown would come again in a new session.
      this.#reading.flushAll();
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
      this.link!.say(asked);
    }
  }

  #line(observed: ObservedSession, line: string): void {
    if (!isReply(line)) {
      if (line.startsWith("goodbye ")) this.#expectNoMore();
      return this.#reading.take(line, this.#at);
    }
    this.#reading.read = this.#at;
    const request = this.unanswered.shift();
    if (request === undefined) throw new Violation(`${this.#user.name} got a reply without a request: ${show(line)}`);
    if (request.verb === "logout") this.#expectNoMore();
    // Events that wait to be shown came before this reply.
    if (request.verb === "logout" || request.verb === "getaddress") this.#reading.flushAll();
    this.#user.reply(observed, request, line);
    this.#answered = request.end;
    if (request.verb === "logout") this.#over();
  }

  /** The last line was received: nothing follows it, also not in transit. */
  #expectNoMore(): void {
    const rest = this.#lines.rest + this.link!.unread;
    if (rest !== "") throw new Violation(`${this.#user.name} received something after the last line: ${show(rest)}`);
  }

  #over(): void {
    this.#phase = "over";
    this.#dropLink(true);
    if (this.#user.program === this) this.#user.program = null;
  }

  #dropLink(politely: boolean): void {
    const { link } = this;
    this.link = null;
    this.#lines.drop();
    if (politely) link?.hangUp();
    else link?.kill(this.#user.environment.random);
  }

  closed(): void {
    this.abandon(false);
  }

  abandon(silently: boolean): void {
    if (silently) this.link?.cut(this.#user.environment.random, false, false);
    this.#dropLink(true);
    if (this.#phase === "login") this.#over();
    else if (this.#phase !== "over") this.#phase = "away";
  }

  act(): void {
    this.#reading.flush();
    if (this.#phase !== "away") return;
    this.link = this.#user.environment.connect(this);
    if (this.link === null) return;
    this.#phase = "resuming";
    this.#at = this.position;
    this.link.say(`resume ${this.token} ${this.#at}\n`);
  }

  kill(): void {
    this.#dropLink(false);
    this.#over();
  }
}
