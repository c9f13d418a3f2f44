import { ACK_BYTES_MAX } from "../limits.ts";
import { DeliveryQueue } from "./delivery.ts";
import { encodeText } from "./event.ts";
import { Heartbeat } from "./heartbeat.ts";
import { ServerConnection } from "./server-connection.ts";
import { asChatError, ChatError } from "./errors.ts";
import { type Login, loginLine, parseLogin } from "./login.ts";
import {
  goodbyeReason,
  isSessionRequest,
  type PendingReply,
  refusalIn,
  settleReply,
  startsWithWord,
  FINAL_REASONS,
} from "./reply.ts";
import { Backoff, NO_REPLY, REPLY_TIMEOUT_MS, retry } from "./retry.ts";
import type { ChatSession, SessionListener, SessionOptions, StateStore } from "./session.ts";

interface Pending extends PendingReply {
  line: string;
  /** Behind it in the client's stream. */
  position: number;
}

/** What was told is confirmed within this time, or after CONFIRM_BYTES_MAX. */
const CONFIRM_MS = 4_000;
/** What a later attempt to come back may overcome. All else is the server's refusal. */
const PASSING = ["closed", "busy", "internal", "locked_out", "untrusted", "needs_tls"];

/** Refusals of a login after which the server keeps the connection open. */
const ON_SAME_CONNECTION = ["wrong_password", "unknown_user"];

/**
 * A session over connections that come and go. Both directions are byte streams with positions (docs/protocol.md,
 * Sessions): after a loss they go on where they were, so that each request is acted on once and each line told once.
 */
export class StreamSession implements ChatSession {
  readonly #options: SessionOptions;
  readonly #listener: SessionListener;
  #store: StateStore | null = null;
  #link: ServerConnection | null = null;
  /** A reply outside the streams is awaited: to `login` or `resume`. */
  #greeting: PendingReply | null = null;
  /** Whether that reply was `ok` on this connection. Only lines after it belong to the server's stream. */
  #isAttached = false;
  #user = "";
  /** How it logs in, but for `after=`. */
  #login = "";
  #token = "";
  /** Reason of the end; empty while the session goes on. */
  #reason = "";
  #hasToldEnd = false;
  /** Requests without a reply, in their order, and the position behind the last one. */
  #pending: Pending[] = [];
  #position = 0;
  /** Positions in the server's stream: read and delivered, and the last one that was acknowledged. */
  readonly #stream = new DeliveryQueue(
    () => this.#delivered(),
    () => this.#end("undelivered", true),
  );
  #confirmed = 0;
  /** Position of the next line on this connection. After a resume it starts at the delivered position. */
  #at = 0;
  #unconfirmedSinceMs = 0;
  #saved = true;
  readonly #heartbeat = new Heartbeat({
    state: () => (this.#link === null || !this.#isAttached ? "away" : this.#link.isPaused ? "unread" : "read"),
    isDue: (nowMs) => this.#unconfirmedSinceMs > 0 && nowMs - this.#unconfirmedSinceMs >= CONFIRM_MS,
    beat: () => this.#confirm(),
    late: () => this.#link?.close(),
  });
  #comingBack = false;
  /** They go on growing while each connection that comes back ends early without a line but `goodbye`. */
  #pauses: Backoff | null = null;
  /** Why nobody who answered since the loss was to be trusted, as it was told last: the same is not told again. */
  #distrust = "";
  /** What a greeting fails with when the connection is closed. */
  #closedBy = new ChatError("closed");

  constructor(options: SessionOptions, listener: SessionListener) {
    this.#options = options;
    this.#listener = listener;
  }

  async connect(): Promise<void> {
    this.#closedBy = new ChatError("closed");
    this.#isAttached = false;
    this.#link = await ServerConnection.connect(this.#options, {
      line: (bytes, start, end, lineBytes) => this.#line(bytes, start, end, lineBytes),
      checkpoint: () => this.#save(),
      closed: (link) => this.#closed(link),
    }).catch((error: unknown) => {
      throw this.#closedBy.code === "closed" ? error : this.#closedBy;
    });
  }

  async login(user: string, password: string, listenPort: number): Promise<Login> {
    if (this.#link === null) await this.connect();
    this.#user = user;
    this.#login = loginLine(user, password, listenPort) + (this.#options.kind === "plain" ? "" : " resumable");
    this.#store = await this.#options.store(user);
    const earlier = this.#store?.load() ?? null;
    for (const { line, position } of earlier?.unanswered ?? []) {
      const reject = (error: ChatError): void => {
        if (error.code !== "closed") this.#listener.recovered(line, error); // Else the next run asks again.
      };
      this.#pending.push({ line, position, resolve: () => this.#listener.recovered(line, null), reject });
    }
    try {
      return await this.#logIn(earlier === null ? "" : ` after=${earlier.token}:${earlier.received}`);
    } catch (error) {
      this.#pending.length = 0;
      // After any other refusal the server may be about to close the connection.
      if (!ON_SAME_CONNECTION.includes((error as ChatError).code)) this.#link?.close();
      throw error;
    }
  }

  /** Logs in, and makes those requests again that an earlier session is known not to have acted on. */
  #logIn(after: string): Promise<Login> {
    return this.#greet(this.#login + after, (reply) => {
      const { token, silenceMs, actedOn } = parseLogin(reply);
      this.#token = token;
      this.#stream.restart();
      this.#at = this.#confirmed = this.#position = 0;
      const earlier = this.#pending;
      this.#pending = [];
      for (const pending of earlier) {
        // A beat's position is one of the earlier stream: in this one it would confirm what nobody has seen.
        if (!isSessionRequest(pending.line) && pending.position > actedOn) this.#send(pending);
        else if (pending.line.startsWith("logout")) this.#send({ ...pending, line: "logout" });
        else pending.reject(new ChatError("unknown_outcome"));
      }
      this.#saved = false;
      // After the loop: a handler may make requests, which are not to be sent again by it.
      this.#listener.began(this.#user);
      this.#heartbeat.start(silenceMs);
      return { token, silenceMs };
    });
  }

  request(line: string): Promise<string> {
    return new Promise((resolve, reject) => {
      if (this.#ended || this.#token === "") return reject(new ChatError("closed"));
      this.#send({ line, position: 0, resolve, reject });
    });
  }

  async ack(): Promise<void> {
    await this.#stream.settled();
    await this.#confirm();
  }

  async #confirm(): Promise<void> {
    this.#confirmed = this.#ackable;
    this.#unconfirmedSinceMs = 0;
    await this.request(this.#options.kind === "plain" ? "alive" : `alive ${this.#confirmed}`);
  }

  /** After a resume the delivered position may be ahead of what has come again; a server may skip what is acked. */
  get #ackable(): number {
    return Math.min(this.#stream.delivered, this.#at);
  }

  async logout(): Promise<void> {
    if (this.#link === null) return this.#end("logout");
    await this.request(this.#options.kind === "plain" ? "logout" : `logout ${this.#ackable}`);
    this.#end("logout");
  }

  close(): void {
    this.#end("lost", true);
  }

  /**
   * A request outside the streams. Its reply is taken at once, not in a promise's turn: the lines right behind it
   * belong to the stream that it begins.
   */
  #greet<T>(line: string, take: (words: string) => T): Promise<T> {
    return new Promise((resolve, reject) => {
      const link = this.#link;
      if (link === null) return reject(this.#closedBy);
      const deadline = setTimeout(() => {
        this.#closedBy = new ChatError("closed", NO_REPLY);
        link.close();
      }, REPLY_TIMEOUT_MS);
      const inTime =
        <V>(then: (value: V) => void) =>
        (value: V): void => {
          clearTimeout(deadline);
          then(value);
        };
      const taken = (words: string): void => {
        try {
          resolve(take(words));
        } catch (error) {
          link.close(); // What follows is no stream.
          reject(error);
        }
      };
      this.#greeting = { resolve: inTime(taken), reject: inTime(reject) };
      link.send(line);
    });
  }

  #send(pending: Pending): void {
    this.#position += encodeText(pending.line).length + 1;
    pending.position = this.#position;
    this.#pending.push(pending);
    this.#saved = false;
    // While a greeting is under way nobody knows yet where the stream goes on. What waits for it is kept all the same.
    if (this.#link === null || this.#greeting !== null) return void setImmediate(() => this.#save());
    this.#heartbeat.sent();
    this.#link.send(pending.line);
    this.#regulate();
  }

  #line(bytes: Uint8Array, start: number, end: number, lineBytes: number): void {
    const isOk = startsWithWord(bytes, start, end, "ok");
    if (!this.#isAttached) return this.#beforeStream(isOk, bytes, start, end);
    const isReply = isOk || startsWithWord(bytes, start, end, "err");
    this.#at += lineBytes;
    if (this.#at <= this.#stream.read) return; // Already read on an earlier connection.
    this.#saved = false;
    const reason = goodbyeReason(bytes, start, end);
    if (reason === null) this.#pauses = null;
    if (isReply) {
      this.#stream.take(this.#at);
      const pending = this.#pending.shift();
      if (pending === undefined) return;
      if (!pending.line.startsWith("alive")) this.#heard();
      return settleReply(pending, isOk, bytes, start, end);
    }
    this.#stream.take(this.#at, () => this.#listener.event(bytes, start, end));
    if (this.#stream.delivered === this.#at) this.#heard();
    else this.#regulate();
    if (reason !== null && (FINAL_REASONS.includes(reason) || this.#options.kind === "plain")) this.#end(reason);
  }

  /** A line before the stream begins: the reply to `login` or `resume`, a refusal of the connection, or noise. */
  #beforeStream(isOk: boolean, bytes: Uint8Array, start: number, end: number): void {
    const greeting = this.#greeting;
    const refusal = isOk ? null : refusalIn(bytes, start, end);
    if (greeting !== null && (isOk || startsWithWord(bytes, start, end, "err"))) {
      this.#greeting = null;
      this.#isAttached = isOk;
      settleReply(greeting, isOk, bytes, start, end);
    } else if (refusal !== null) {
      this.#closedBy = refusal;
      this.#link?.close();
    }
  }

  /** Something is there to be confirmed. */
  #heard(): void {
    if (this.#unconfirmedSinceMs === 0) this.#unconfirmedSinceMs = performance.now();
    if (this.#ackable - this.#confirmed >= ACK_BYTES_MAX) this.#heartbeat.beat();
  }

  /** The delivered position has advanced. */
  #delivered(): void {
    if (this.#hasToldEnd) return;
    if (this.#saved) setImmediate(() => this.#save());
    this.#saved = false;
    if (this.#ended || !this.#isAttached) return;
    this.#heard();
    this.#regulate();
  }

  get #ended(): boolean {
    return this.#reason !== "";
  }

  /** Whether a request other than a beat waits for its reply. */
  get #mustRead(): boolean {
    return this.#pending.some(({ line }) => !line.startsWith("alive"));
  }

  /** Pauses reading while too much is undelivered. */
  #regulate(): void {
    const link = this.#link;
    if (link === null) return;
    const isFull = this.#stream.isFull(link.isPaused, this.#mustRead);
    if (link.isPaused && !isFull) this.#heartbeat.readsAgain();
    link.isPaused = isFull;
  }

  /** Nothing leaves, and nothing more is read, before what is known is kept. */
  #save(): void {
    if (this.#saved || this.#hasToldEnd || this.#token === "" || this.#store === null) return;
    this.#saved = true;
    const unanswered = this.#pending
      .filter(({ line }) => !isSessionRequest(line))
      .map(({ line, position }) => ({ line, position }));
    this.#store.save({ token: this.#token, received: this.#stream.delivered, unanswered });
  }

  #closed(link: ServerConnection): void {
    if (link !== this.#link) return;
    this.#link = null;
    this.#isAttached = false;
    this.#greeting?.reject(link.speaksTls === true ? new ChatError("needs_tls") : this.#closedBy);
    this.#greeting = null;
    if (this.#ended || this.#token === "" || this.#comingBack) return;
    if (this.#options.kind === "plain") this.#end("lost");
    else void this.#comeBack();
  }

  /** Tries again with growing pauses, until the session goes on or cannot. */
  async #comeBack(): Promise<void> {
    this.#comingBack = true;
    this.#distrust = "";
    this.#listener.lost();
    const { giveUpMs } = this.#options;
    if (this.#pauses === null || this.#pauses.sinceLastMs > REPLY_TIMEOUT_MS) this.#pauses = new Backoff();
    const pauses = this.#pauses;
    if (pauses.elapsedMs > giveUpMs) return this.#end("lost");
    await pauses.next();
    const failure = await retry(() => this.#tryAgain(), PASSING, giveUpMs, pauses).catch(asChatError);
    this.#comingBack = false;
    if (this.#ended) return;
    if (failure === undefined) return this.#listener.back();
    const { code, detail } = failure;
    const [word = ""] = detail.split(" ");
    if (code === "unknown_session" && FINAL_REASONS.includes(word)) this.#end(word);
    else this.#end(code === "closed" ? "lost" : code);
  }

  async #tryAgain(): Promise<void> {
    if (this.#ended) return;
    try {
      await this.connect();
      if (!this.#ended) await this.#goOn();
      if (this.#ended) return this.#link?.close();
      if (this.#link === null) throw this.#closedBy;
    } catch (error) {
      this.#link?.close();
      const failure = asChatError(error);
      if (failure.code === "untrusted" && failure.detail !== this.#distrust) {
        this.#distrust = failure.detail;
        this.#listener.untrusted(failure);
      }
      throw failure;
    }
  }

  /** On a new connection: the streams go on; or, when the server has ended the session, a new one takes them up. */
  async #goOn(): Promise<void> {
    const { delivered } = this.#stream;
    try {
      await this.#greet(`resume ${this.#token} ${delivered}`, (acted) => {
        this.#at = this.#confirmed = delivered;
        this.#heartbeat.restart();
        for (const { line, position } of this.#pending) if (position > Number(acted)) this.#link?.send(line);
        this.#regulate();
      });
    } catch (error) {
      if (!(error instanceof ChatError) || error.code !== "unknown_session" || error.detail !== "") throw error;
      if (this.#stream.delivered < this.#stream.read) {
        this.#link?.close();
        await this.#stream.settledForNext(this.#mustRead);
        if (this.#ended) return;
        await this.connect();
      }
      await this.#logIn(` after=${this.#token}:${this.#stream.delivered}`);
    }
  }

  /** Ends the session. The listener is called at once, or when everything that was read is delivered. */
  #end(reason: string, atOnce = false): void {
    if (!this.#ended) {
      this.#reason = reason;
      // After `replaced` the state file belongs to the newer session.
      if (reason === "replaced") this.#store = null;
      this.#save();
      this.#heartbeat.stop();
      this.#link?.close();
      for (const { reject } of this.#pending) reject(new ChatError("closed"));
    }
    this.#stream.finish(atOnce, () => this.#tellEnd());
  }

  #tellEnd(): void {
    if (this.#hasToldEnd) return;
    this.#save();
    this.#hasToldEnd = true;
    if (this.#token !== "") this.#listener.ended(this.#reason);
  }
}
