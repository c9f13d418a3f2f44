/**
 * Checks the positions that the server states, from the bytes that pass the proxies: the counts of `alive`, `resume`
 * and `received=`. Whether messages arrive is checked by verdict.ts.
 */
import type { Observer } from "./fault-proxy.ts";

/** The two streams of a resumable session, as they passed the proxy. */
interface Stream {
  readonly user: string;
  /** The number of the login that began it, among the logins of its user. */
  readonly login: number;
  /** End of the server's stream so far. */
  serverBytes: number;
  /** End of the client's stream so far. */
  clientBytes: number;
  /** Requests without a reply, with the position of their end in the client's stream. */
  readonly unanswered: { end: number; verb: string }[];
  /** Position up to which the server has acted on the client's stream, from its replies. */
  actedUpTo: number;
  /** The `received=` of a later login that continued this session; -1 before. */
  finalPosition: number;
}

/** The server remembers eight sessions per user, one of which may be the new one. */
const LOGINS_REMEMBERED = 7;
/** Sessions remembered here. No client continues an older one. */
const STREAMS_MAX = 20_000;

/**
 * The model of all sessions. A position in a reply to `alive` or `resume` or in `received=` must never be lower than an
 * earlier one of the session, and must be the end of a request. What passes the proxy has left the server, so this
 * holds across crashes.
 */
export class ReferenceModel {
  readonly fault: (what: string) => void;
  /** Logins whose reply had to contain `received=`. */
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

  /** A login request passes. The server may act on it even if its reply is lost. */
  loginSeen(user: string): void {
    this.#logins.set(user, (this.#logins.get(user) ?? 0) + 1);
  }

  /** A login succeeded. Returns the streams of the new session; null unless it is resumable. */
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
      if (isOwed) this.fault(`${stream.user} logged in with after= and got no received=`);
      return;
    }
    const position = Number(received);
    this.checkPosition(stream, position);
    if (stream.finalPosition >= 0 && stream.finalPosition !== position) {
      this.fault(`${stream.user} got received=${stream.finalPosition}, and later received=${position}`);
    }
    stream.finalPosition = position;
  }

  /**
   * The server has stated a position in the client's stream. It must be the end of a request and at least `least`: after
   * a `resume`, replies are sent again with their old positions.
   */
  checkPosition(stream: Stream, position: number, least = stream.actedUpTo): void {
    const { user, unanswered } = stream;
    const isEnd = position === least || unanswered.some(({ end }) => end === position);
    if (position < least) this.fault(`${user} got position ${position}, but the server had acted up to ${least}`);
    else if (!isEnd) this.fault(`${user} got position ${position}, where no request ends`);
    this.advanceActed(stream, position);
  }

  /** The server has acted on the client's stream up to `position`. */
  advanceActed(stream: Stream, position: number): void {
    const { user, finalPosition: final } = stream;
    stream.actedUpTo = Math.max(stream.actedUpTo, position);
    if (final >= 0 && position > final)
      this.fault(`${user} got received=${final}, but position ${position} was acted on`);
  }
}

/** Reads both directions of one connection. */
class ConnectionReader implements Observer {
  readonly #model: ReferenceModel;
  readonly #up = new Lines();
  readonly #down = new Lines();
  /** The `login` or `resume` without a reply. */
  #loginRequest = "";
  /** The session of this connection, and the positions of this connection in its two streams. */
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

  /**
   * A login that arrives when its client has logged in again on another connection ends the newer session: the server
   * cannot know that it is older.
   */
  get isLoggingIn(): boolean {
    return this.#loginRequest.startsWith("login ");
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
    // Requests that are sent again after a resume are known.
    if (this.#clientBytes <= stream.clientBytes) return;
    stream.clientBytes = this.#clientBytes;
    stream.unanswered.push({ end: this.#clientBytes, verb });
  }

  #serverLine(line: string): void {
    const isReply = /^(ok|err)( |$)/.test(line);
    const stream = this.#stream;
    if (stream === null) {
      if (isReply && line.startsWith("ok")) this.#loginReply(this.#loginRequest, line);
      if (isReply) this.#loginRequest = "";
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

/** The complete lines of one direction, as latin1. */
class Lines {
  #rest = "";

  of(chunk: Buffer): string[] {
    const lines = (this.#rest + chunk.toString("latin1")).split("\n");
    this.#rest = lines.pop()!;
    return lines;
  }
}

/** The rest of the first word with the given prefix. */
function valueOf(words: string[], prefix: string): string | null {
  return words.find((word) => word.startsWith(prefix))?.slice(prefix.length) ?? null;
}
