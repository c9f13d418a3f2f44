import { type Stay, Violation, show } from "./ledger.ts";
import type { Link } from "./network.ts";
import { type Left, type Program, type Request, type Surroundings, type User, isRefusedAtDoor } from "./users.ts";

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

/** A client's positions in the server's stream: what it read, and what of that its output has taken. */
export class Reading {
  read = 0;
  readonly #around: Surroundings;
  readonly #show: (line: string) => void;
  readonly #unshown: { line: string; start: number }[] = [];
  /** How many more attempts the output takes nothing. */
  #stalls = 0;

  constructor(around: Surroundings, show: (line: string) => void) {
    this.#around = around;
    this.#show = show;
  }

  /** Up to here everything is shown: only that is acknowledged, and kept when the client is killed. */
  shown(): number {
    return this.#unshown[0]?.start ?? this.read;
  }

  /** An event that ends at that position was read. */
  take(line: string, position: number): void {
    this.#unshown.push({ line, start: this.read });
    this.read = position;
    this.flush();
  }

  /** The output takes what waits for it, unless it is stuck. */
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
    this.link.say(user.loginLine(""));
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
    this.link?.say(request.line);
  }

  heard(_link: Link, bytes: string): void {
    for (const line of this.#lines.of(bytes)) {
      if (this.#stay === null && this.#user.isRefused(line)) return;
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
  readonly unanswered: Request[] = [];
  link: Link | null;
  readonly #user: User;
  readonly #lines = new Lines();
  readonly #reading: Reading;
  /** The connection's position in the server's stream: behind what was read, after a resume from what was shown. */
  #at = 0;
  #phase: Phase = "login";
  #stay: Stay | null = null;
  /** Positions in the client's stream: what was asked, and what was answered. */
  #end = 0;
  #answered = 0;
  #leaving = false;

  constructor(user: User) {
    this.#user = user;
    this.#reading = new Reading(user.around, (line) => {
      if (!user.event(this.#stay!, line)) this.#over();
    });
    this.link = user.around.connect(this);
    if (this.link === null) return;
    user.program = this;
    this.link.trusted = user.lostLogins > 3;
    this.link.say(user.loginLine(" resumable"));
  }

  get ready(): boolean {
    return this.#stay !== null && !this.#leaving;
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

  /** A request joins the stream, whether there is a connection or not. */
  ask(request: Request): void {
    this.#end += request.line.length;
    const asked = { ...request, end: this.#end };
    this.#leaving ||= request.verb === "logout";
    this.unanswered.push(asked);
    if (this.#phase === "on") this.link!.say(asked.line);
  }

  heard(_link: Link, bytes: string): void {
    for (const line of this.#lines.of(bytes)) {
      if (this.#phase === "login") this.#loggedIn(line);
      else if (this.#phase === "resuming") this.#resumed(line);
      else if (this.#phase === "on") {
        this.#at += line.length + 1;
        if (this.#at > this.#reading.read) this.#line(this.#stay!, line);
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
    if (isRefusedAtDoor(line)) return this.abandon(false);
    if (line.startsWith("err unknown_session")) {
      if (stay.reason === "") throw new Violation(`${this.#user.name} could not resume what goes on`);
      if (line.endsWith(" replaced") && stay.reason !== "replaced") throw new Violation(`"${line}": ${stay.reason}`);
      // What waits to be shown would come once more in a new session.
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

  #line(stay: Stay, line: string): void {
    if (!isReply(line)) {
      if (line.startsWith("goodbye ")) this.#expectNoMore();
      return this.#reading.take(line, this.#at);
    }
    this.#reading.read = this.#at;
    const request = this.unanswered.shift();
    if (request === undefined) throw new Violation(`${this.#user.name} got a reply to nothing: ${show(line)}`);
    if (request.verb === "logout") {
      this.#expectNoMore();
      this.#reading.flushAll(); // What waits to be shown came before this reply.
    }
    this.#user.reply(stay, request, line);
    this.#answered = request.end;
    if (request.verb === "logout") this.#over();
  }

  /** The last line came: nothing follows it, nor is on its way. */
  #expectNoMore(): void {
    const rest = this.#lines.rest + this.link!.down;
    if (rest !== "") throw new Violation(`${this.#user.name} heard something after the last line: ${show(rest)}`);
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
    this.#reading.flush();
    if (this.#phase !== "away") return;
    this.link = this.#user.around.connect(this);
    if (this.link === null) return;
    this.#phase = "resuming";
    this.#at = this.position;
    this.link.say(`resume ${this.token} ${this.#at}\n`);
  }

  kill(): void {
    this.#letGo(false);
    this.#over();
  }
}
