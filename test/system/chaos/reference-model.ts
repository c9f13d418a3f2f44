import type { Observer } from "./fault-proxy.ts";

/** A resumable session, as far as it went by. */
interface Stream {
  readonly user: string;
  /** Which of its user's logins it was. */
  readonly login: number;
  /** How far the server's stream went by, and the client's, with the requests in it that have no reply. */
  serverBytes: number;
  clientBytes: number;
  readonly unanswered: { end: number; verb: string }[];
  /** How far the server acted on the client's stream, as its numbers and its replies say. */
  actedUpTo: number;
  /** What a later login was told of it; -1 before. */
  finalPosition: number;
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
  continued = 0;
  readonly #streams = new Map<string, Stream>();
  readonly #logins = new Map<string, number>();

  constructor(fault: (what: string) => void) {
    this.fault = fault;
  }

  observe(): Observer {
    return new ConnectionReader(this);
  }

  stream(token: string): Stream | undefined {
    return this.#streams.get(token);
  }

  /** A login goes by; the server may act on it, whatever becomes of its reply. */
  loginSeen(user: string): void {
    this.#logins.set(user, (this.#logins.get(user) ?? 0) + 1);
  }

  /** Returns the session that a login has begun, unless it is none with a stream on this connection. */
  loggedIn(request: string, reply: string): Stream | null {
    const [, user = "", , ...options] = request.split(" ");
    const [, token = "", , ...words] = reply.split(" ");
    const login = this.#logins.get(user)!;
    const after = valueOf(options, "after=");
    const earlier = after === null ? undefined : this.#streams.get(after.split(":", 1)[0]!);
    if (earlier !== undefined) this.#continueStream(earlier, login, valueOf(words, "received="));
    if (!options.includes("resumable")) return null;
    const stream: Stream = {
      user,
      login,
      serverBytes: 0,
      clientBytes: 0,
      unanswered: [],
      actedUpTo: 0,
      finalPosition: -1,
    };
    this.#streams.set(token, stream);
    if (this.#streams.size > STREAMS_MAX) this.#streams.delete(this.#streams.keys().next().value!);
    return stream;
  }

  #continueStream(stream: Stream, login: number, received: string | null): void {
    const isOwed = login - stream.login <= LOGINS_REMEMBERED;
    if (isOwed) this.continued++;
    if (received === null) {
      if (isOwed) this.fault(`${stream.user} went on after its last session, and was not told received=`);
      return;
    }
    const position = Number(received);
    this.checkPosition(stream, position);
    if (stream.finalPosition >= 0 && stream.finalPosition !== position) {
      this.fault(`${stream.user} was told received=${stream.finalPosition}, and later received=${position}`);
    }
    stream.finalPosition = position;
  }

  /**
   * The server has named a position in the client's stream: the end of a request, not before what it had to include. A
   * reply may be older than what a `resume` said before it.
   */
  checkPosition(stream: Stream, position: number, least = stream.actedUpTo): void {
    const { user, unanswered } = stream;
    const isEnd = position === least || unanswered.some(({ end }) => end === position);
    if (position < least) this.fault(`${user} was told ${position}, and the server had acted on ${least}`);
    else if (!isEnd) this.fault(`${user} was told ${position}, and no request of it ends there`);
    this.advanceActed(stream, position);
  }

  /** The server has shown that it acted on the client's stream up to there. */
  advanceActed(stream: Stream, position: number): void {
    const { user, finalPosition: final } = stream;
    stream.actedUpTo = Math.max(stream.actedUpTo, position);
    if (final >= 0 && position > final) this.fault(`${user} was told received=${final}, and ${position} was acted on`);
  }
}

/** One connection, read in both directions. */
class ConnectionReader implements Observer {
  readonly #model: ReferenceModel;
  readonly #up = new Lines();
  readonly #down = new Lines();
  /** The `login` or `resume` that has no reply yet. */
  #loginRequest = "";
  /** The session whose streams go on here, and where they are. */
  #stream: Stream | null = null;
  #clientBytes = 0;
  #serverBytes = 0;

  constructor(model: ReferenceModel) {
    this.#model = model;
  }

  up(chunk: Buffer): Buffer {
    for (const line of this.#up.of(chunk)) this.#requestLine(line);
    return chunk;
  }

  down(chunk: Buffer): void {
    for (const line of this.#down.of(chunk)) this.#serverLine(line);
  }

  #requestLine(line: string): void {
    const [verb = "", user = ""] = line.split(" ", 2);
    const stream = this.#stream;
    if (stream === null) {
      this.#loginRequest = line;
      if (verb === "login") this.#model.loginSeen(user);
      return;
    }
    this.#clientBytes += line.length + 1;
    // What is said again after a resume went by before.
    if (this.#clientBytes <= stream.clientBytes) return;
    stream.clientBytes = this.#clientBytes;
    stream.unanswered.push({ end: this.#clientBytes, verb });
  }

  #serverLine(line: string): void {
    const isReply = /^(ok|err)( |$)/.test(line);
    const stream = this.#stream;
    if (stream === null) {
      if (isReply && line.startsWith("ok")) this.#loginReply(this.#loginRequest, line);
      return;
    }
    this.#serverBytes += line.length + 1;
    if (this.#serverBytes <= stream.serverBytes) return;
    stream.serverBytes = this.#serverBytes;
    if (!isReply) return;
    const request = stream.unanswered.shift();
    if (request === undefined) return this.#model.fault(`${stream.user} got a reply to nothing: ${line}`);
    this.#model.advanceActed(stream, request.end);
    const [, number] = line.split(" ", 2);
    if (request.verb === "alive" && line.startsWith("ok"))
      this.#model.checkPosition(stream, Number(number), request.end);
  }

  #loginReply(request: string, reply: string): void {
    const [verb, token = "", received] = request.split(" ", 3);
    if (verb === "login") this.#stream = this.#model.loggedIn(request, reply);
    if (verb !== "resume") return;
    const stream = this.#model.stream(token);
    if (stream === undefined) return;
    this.#stream = stream;
    this.#serverBytes = Number(received);
    this.#clientBytes = Number(reply.split(" ", 2)[1]);
    this.#model.checkPosition(stream, this.#clientBytes);
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
