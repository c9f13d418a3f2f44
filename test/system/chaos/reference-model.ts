import type { Observer } from "./fault-proxy.ts";

/** A resumable session, as far as it went by. */
interface Stream {
  readonly user: string;
  /** Which of its user's logins it was. */
  readonly login: number;
  /** How far the server's stream went by, and the client's, with the requests in it that have no reply. */
  said: number;
  asked: number;
  readonly unanswered: { end: number; verb: string }[];
  /** How far the server acted on the client's stream, as its numbers and its replies say. */
  acted: number;
  /** What a later login was told of it; -1 before. */
  final: number;
}

/** The server remembers eight sessions of a user, of which the one that logs in may be one. */
const LOGINS_REMEMBERED = 7;
/** Sessions that are known here; nobody goes on after one that is so much older. */
const STREAMS_MAX = 20_000;

/**
 * Reads along between the clients and the server, and holds the server to its numbers: a session's replies, `alive`,
 * `resume` and `received=` must never take back what an earlier one of them had said, and must name the end of a
 * request that was made. What went by has left the server, so a crash is no excuse.
 */
export class ReferenceModel {
  readonly fault: (what: string) => void;
  /** Logins that had to be told `received=`. */
  takenUp = 0;
  readonly #streams = new Map<string, Stream>();
  readonly #logins = new Map<string, number>();

  constructor(fault: (what: string) => void) {
    this.fault = fault;
  }

  observe(): Observer {
    return new Reading(this);
  }

  stream(token: string): Stream | undefined {
    return this.#streams.get(token);
  }

  /** A login goes by; the server may act on it, whatever becomes of its reply. */
  loginAsked(user: string): void {
    this.#logins.set(user, (this.#logins.get(user) ?? 0) + 1);
  }

  /** Returns the session that a login has begun, unless it is none with a stream on this connection. */
  loggedIn(request: string, reply: string): Stream | null {
    const [, user = "", , ...options] = request.split(" ");
    const [, token = "", , ...words] = reply.split(" ");
    const login = this.#logins.get(user)!;
    const after = valueOf(options, "after=");
    const earlier = after === null ? undefined : this.#streams.get(after.split(":", 1)[0]!);
    if (earlier !== undefined) this.#takesUp(earlier, login, valueOf(words, "received="));
    if (!options.includes("resumable")) return null;
    const stream: Stream = { user, login, said: 0, asked: 0, unanswered: [], acted: 0, final: -1 };
    this.#streams.set(token, stream);
    if (this.#streams.size > STREAMS_MAX) this.#streams.delete(this.#streams.keys().next().value!);
    return stream;
  }

  #takesUp(stream: Stream, login: number, received: string | null): void {
    const isOwed = login - stream.login <= LOGINS_REMEMBERED;
    if (isOwed) this.takenUp++;
    if (received === null) {
      if (isOwed) this.fault(`${stream.user} went on after its last session, and was not told received=`);
      return;
    }
    const position = Number(received);
    this.names(stream, position);
    if (stream.final >= 0 && stream.final !== position) {
      this.fault(`${stream.user} was told received=${stream.final}, and later received=${position}`);
    }
    stream.final = position;
  }

  /**
   * The server has named a position in the client's stream: the end of a request, not before what it had to include. A
   * reply may be older than what a `resume` said before it.
   */
  names(stream: Stream, position: number, least = stream.acted): void {
    const { user, unanswered } = stream;
    const isEnd = position === least || unanswered.some(({ end }) => end === position);
    if (position < least) this.fault(`${user} was told ${position}, and the server had acted on ${least}`);
    else if (!isEnd) this.fault(`${user} was told ${position}, and no request of it ends there`);
    this.acts(stream, position);
  }

  /** The server has shown that it acted on the client's stream up to there. */
  acts(stream: Stream, position: number): void {
    const { user, final } = stream;
    stream.acted = Math.max(stream.acted, position);
    if (final >= 0 && position > final) this.fault(`${user} was told received=${final}, and ${position} was acted on`);
  }
}

/** One connection, read in both directions. */
class Reading implements Observer {
  readonly #witness: ReferenceModel;
  readonly #up = new Lines();
  readonly #down = new Lines();
  /** The `login` or `resume` that has no reply yet. */
  #greeting = "";
  /** The session whose streams go on here, and where they are. */
  #stream: Stream | null = null;
  #asked = 0;
  #said = 0;

  constructor(witness: ReferenceModel) {
    this.#witness = witness;
  }

  up(chunk: Buffer): Buffer {
    for (const line of this.#up.of(chunk)) this.#asks(line);
    return chunk;
  }

  down(chunk: Buffer): void {
    for (const line of this.#down.of(chunk)) this.#says(line);
  }

  #asks(line: string): void {
    const [verb = "", user = ""] = line.split(" ", 2);
    const stream = this.#stream;
    if (stream === null) {
      this.#greeting = line;
      if (verb === "login") this.#witness.loginAsked(user);
      return;
    }
    this.#asked += line.length + 1;
    // What is said again after a resume went by before.
    if (this.#asked <= stream.asked) return;
    stream.asked = this.#asked;
    stream.unanswered.push({ end: this.#asked, verb });
  }

  #says(line: string): void {
    const isReply = /^(ok|err)( |$)/.test(line);
    const stream = this.#stream;
    if (stream === null) {
      if (isReply && line.startsWith("ok")) this.#greeted(this.#greeting, line);
      return;
    }
    this.#said += line.length + 1;
    if (this.#said <= stream.said) return;
    stream.said = this.#said;
    if (!isReply) return;
    const request = stream.unanswered.shift();
    if (request === undefined) return this.#witness.fault(`${stream.user} got a reply to nothing: ${line}`);
    this.#witness.acts(stream, request.end);
    const [, number] = line.split(" ", 2);
    if (request.verb === "alive" && line.startsWith("ok")) this.#witness.names(stream, Number(number), request.end);
  }

  #greeted(request: string, reply: string): void {
    const [verb, token = "", received] = request.split(" ", 3);
    if (verb === "login") this.#stream = this.#witness.loggedIn(request, reply);
    if (verb !== "resume") return;
    const stream = this.#witness.stream(token);
    if (stream === undefined) return;
    this.#stream = stream;
    this.#said = Number(received);
    this.#asked = Number(reply.split(" ", 2)[1]);
    this.#witness.names(stream, this.#asked);
  }
}

/** The whole lines of one direction, byte for byte. */
class Lines {
  #rest = "";

  of(chunk: Buffer): string[] {
    const lines = (this.#rest + chunk.toString("latin1")).split("\n");
    this.#rest = lines.pop()!;
    return lines;
  }
}

/** What follows a prefix in the first word that has it. */
function valueOf(words: string[], prefix: string): string | null {
  return words.find((word) => word.startsWith(prefix))?.slice(prefix.length) ?? null;
}
