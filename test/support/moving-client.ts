/** A client of resumable sessions that moves with its user from one server to another. */
import { PASSWORD, type World } from "./chat.ts";
import { Wire } from "./simulated-transport.ts";

/** Servers: which of them has a user, and how everything arrives that is on its way. */
export interface Stage {
  worldOf(user: string): World;
  arrive(): Promise<void>;
}

export class MovingClient {
  readonly name: string;
  /** What it has received, `<from> <text>` each, without presence. */
  readonly events: string[] = [];
  readonly replies: string[] = [];
  isOnline = false;
  #token = "";
  #received = 0;
  #wire: Wire | null = null;
  /** What has arrived and is not read. */
  #unread = "";

  constructor(name: string) {
    this.name = name;
  }

  /** Logs in after the last session, if there was one. */
  async login(stage: Stage): Promise<void> {
    const after = this.#token === "" ? "" : ` after=${this.#token}:${this.#received}`;
    this.#wire = new Wire({}, stage.worldOf(this.name));
    this.#wire.feed(`login ${this.name} ${PASSWORD} resumable${after}\n`);
    await stage.arrive();
    this.#unread = this.#wire.take();
    const reply = this.#line();
    const [ok, token = ""] = reply.split(" ");
    if (ok !== "ok") throw new Error(`${this.name}: ${reply}`);
    this.#token = token;
    this.#received = 0;
    this.isOnline = true;
  }

  #line(): string {
    const end = this.#unread.indexOf("\n") + 1;
    const line = this.#unread.slice(0, end - 1);
    this.#unread = this.#unread.slice(end);
    return line;
  }

  /** Reads at most that many lines. */
  read(linesMax = Number.POSITIVE_INFINITY): void {
    this.#unread += this.#wire!.take();
    for (let lines = 0; lines < linesMax && this.#unread.includes("\n"); lines++) {
      const line = this.#line();
      this.#received += line.length + 1;
      const [verb, from = "", ...words] = line.split(" ");
      if (verb === "ok" || verb === "err") this.replies.push(line);
      if (verb === "message") this.events.push([from, ...words].join(" "));
      if (verb === "stored") this.events.push([from, ...words.slice(1)].join(" "));
    }
  }

  /** Sends a request and reads everything up to its reply. */
  async ask(stage: Stage, request: string): Promise<string> {
    const { length } = this.replies;
    this.#wire!.feed(`${request}\n`);
    for (let i = 0; i < 20 && this.replies.length === length; i++) {
      await stage.arrive();
      this.read();
    }
    if (this.replies.length !== length + 1) throw new Error(`${this.name}: ${request}: ${this.replies.slice(length)}`);
    return this.replies.at(-1)!;
  }

  /** It ends, or its server does: what it has not read is lost with the connection. */
  end(): void {
    this.isOnline = false;
    this.#unread = "";
  }

  acknowledge(stage: Stage): Promise<string> {
    return this.ask(stage, `alive ${this.#received}`);
  }
}
