import { CONFIRM_BYTES_MAX } from "../limits.ts";
import { decode, encodeText } from "./event.ts";
import { Link } from "./link.ts";
import {
  ANSWER_MS,
  type Asker,
  ChatError,
  type ChatSession,
  type Login,
  NO_ANSWER,
  Pauses,
  type SessionListener,
  type SessionOptions,
  type StateStore,
  answer,
  beatMsFor,
  goodbyeReason,
  isOwn,
  loginLine,
  startsWithWord,
} from "./request.ts";

interface Pending extends Asker {
  line: string;
  /** Behind it in the client's stream. */
  position: number;
}

/** What was told is confirmed within this time, or after CONFIRM_BYTES_MAX. */
const CONFIRM_MS = 4_000;
/** What a later attempt to come back may overcome. All else is the server's refusal. */
const PASSING = ["closed", "busy", "internal", "untrusted", "needs_tls"];
const TICK_MS = 1_000;
/** A tick that comes so late comes after a sleep of the machine: whether the server is there must be found out now. */
const SLEPT_MS = 5_000;

/**
 * A session over connections that come and go. Both directions are byte streams with positions (PROTOCOL.md, Sessions):
 * after a loss they go on where they were, so that each request is acted on once and each line told once.
 */
export class StreamSession implements ChatSession {
  readonly #options: SessionOptions;
  readonly #listener: SessionListener;
  #store: StateStore | null = null;
  #link: Link | null = null;
  /** A reply outside the streams is awaited: to `login` or `resume`. */
  #greeting: Asker | null = null;
  #user = "";
  /** How it logs in, but for `after=`. */
  #login = "";
  #token = "";
  #ended = false;
  /** Requests without a reply, in their order, and the position behind the last one. */
  #pending: Pending[] = [];
  #position = 0;
  /** How far the server's stream was told, and confirmed. */
  #received = 0;
  #confirmed = 0;
  #unconfirmedSinceMs = 0;
  #saved = true;
  #ticker: Timer | null = null;
  #beatMs = 0;
  #saidMs = 0;
  /** When the beat was sent that has no answer yet; 0 when every one has. */
  #beatSentMs = 0;
  #comingBack = false;
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
    this.#link = await Link.connect(this.#options, {
      line: (bytes, start, end, lineBytes) => this.#line(bytes, start, end, lineBytes),
      checkpoint: () => this.#save(),
      closed: (link) => this.#closed(link),
    });
  }

  async login(user: string, password: string, listenPort: number): Promise<Login> {
    if (this.#link === null) await this.connect();
    this.#user = user;
    this.#login = loginLine(user, password, listenPort) + (this.#options.kind === "plain" ? "" : " resumable");
    this.#store = this.#options.store(user);
    const earlier = this.#store?.load() ?? null;
    if (earlier === null) return this.#logIn("");
    for (const { line, position } of earlier.unanswered) {
      const reject = (error: ChatError): void => {
        if (error.code !== "closed") this.#listener.recovered(line, error); // Else the next run asks again.
      };
      this.#pending.push({ line, position, resolve: () => this.#listener.recovered(line, null), reject });
    }
    try {
      return await this.#logIn(` after=${earlier.token}:${earlier.received}`);
    } catch (error) {
      this.#pending.length = 0;
      throw error;
    }
  }

  /** Logs in, and makes those requests again that an earlier session is known not to have acted on. */
  #logIn(after: string): Promise<Login> {
    return this.#greet(this.#login + after, (reply) => {
      const [token = "", silence = "", ...more] = reply.split(" ");
      const acted = more.find((word) => word.startsWith("received="))?.slice("received=".length);
      this.#token = token;
      this.#received = this.#confirmed = this.#position = 0;
      this.#listener.began(this.#user);
      const earlier = this.#pending;
      this.#pending = [];
      for (const pending of earlier) {
        // A beat's position is one of the earlier stream: in this one it would confirm what nobody has seen.
        if (!isOwn(pending.line) && acted !== undefined && pending.position > Number(acted)) this.#send(pending);
        else if (pending.line.startsWith("logout")) this.#send({ ...pending, line: "logout" });
        else pending.reject(new ChatError("unknown_outcome"));
      }
      this.#saved = false;
      const silenceMs = Number(silence) * 1000;
      this.#beatMs = beatMsFor(silenceMs);
      this.#tickEvery(Math.min(TICK_MS, this.#beatMs / 2));
      return { token, silenceMs };
    });
  }

  request(line: string): Promise<string> {
    return new Promise((resolve, reject) => {
      if (this.#ended || this.#token === "") return reject(new ChatError("closed"));
      this.#send({ line, position: 0, resolve, reject });
    });
  }

  async confirm(): Promise<void> {
    this.#confirmed = this.#received;
    this.#unconfirmedSinceMs = 0;
    await this.request(this.#options.kind === "plain" ? "alive" : `alive ${this.#received}`);
  }

  async logout(): Promise<void> {
    if (this.#link === null) return this.#end("logout");
    await this.request(this.#options.kind === "plain" ? "logout" : `logout ${this.#received}`);
    this.#end("logout");
  }

  close(): void {
    this.#end("lost");
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
        this.#closedBy = new ChatError("closed", NO_ANSWER);
        link.close();
      }, ANSWER_MS);
      const inTime =
        <V>(then: (value: V) => void) =>
        (value: V): void => {
          clearTimeout(deadline);
          then(value);
        };
      this.#greeting = { resolve: inTime((words: string) => resolve(take(words))), reject: inTime(reject) };
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
    this.#saidMs = performance.now();
    this.#link.send(pending.line);
  }

  #line(bytes: Uint8Array, start: number, end: number, lineBytes: number): void {
    const isOk = startsWithWord(bytes, start, end, "ok");
    const isError = !isOk && startsWithWord(bytes, start, end, "err");
    if (this.#greeting !== null && (isOk || isError)) {
      const greeting = this.#greeting;
      this.#greeting = null;
      return answer(greeting, isOk, bytes, start, end);
    }
    if (startsWithWord(bytes, start, end, "busy"))
      this.#closedBy = new ChatError("busy", decode(bytes, start + 5, end));
    this.#received += lineBytes;
    this.#saved = false;
    if (isOk || isError) {
      const pending = this.#pending.shift();
      if (pending === undefined) return;
      if (!pending.line.startsWith("alive")) this.#heard();
      return answer(pending, isOk, bytes, start, end);
    }
    this.#heard();
    this.#listener.event(bytes, start, end);
    const reason = goodbyeReason(bytes, start, end);
    if (reason !== null && (reason === "replaced" || this.#options.kind === "plain")) this.#end(reason);
  }

  /** Something is there to be confirmed. */
  #heard(): void {
    if (this.#unconfirmedSinceMs === 0) this.#unconfirmedSinceMs = performance.now();
    if (this.#received - this.#confirmed >= CONFIRM_BYTES_MAX) this.#beat();
  }

  /** Nothing leaves, and nothing more is read, before what is known is kept. */
  #save(): void {
    if (this.#saved || this.#ended || this.#token === "" || this.#store === null) return;
    this.#saved = true;
    const unanswered = this.#pending
      .filter(({ line }) => !isOwn(line))
      .map(({ line, position }) => ({ line, position }));
    this.#store.save({ token: this.#token, received: this.#received, unanswered });
  }

  #tickEvery(tickMs: number): void {
    if (this.#ticker !== null) clearInterval(this.#ticker);
    let tickedMs = (this.#saidMs = performance.now());
    this.#beatSentMs = 0;
    this.#ticker = setInterval(() => {
      const nowMs = performance.now();
      const hasSlept = nowMs - tickedMs > tickMs + SLEPT_MS;
      tickedMs = nowMs;
      if (this.#link === null || this.#greeting !== null) return;
      if (this.#beatSentMs > 0) {
        if (nowMs - this.#beatSentMs >= Math.min(ANSWER_MS, this.#beatMs) && !hasSlept) this.#link.close();
        return;
      }
      const isConfirmDue = this.#unconfirmedSinceMs > 0 && nowMs - this.#unconfirmedSinceMs >= CONFIRM_MS;
      if (isConfirmDue || hasSlept || nowMs - this.#saidMs >= this.#beatMs - tickMs) this.#beat();
    }, tickMs);
  }

  #beat(): void {
    if (this.#beatSentMs === 0) this.#beatSentMs = performance.now();
    const answered = (): number => (this.#beatSentMs = 0);
    this.confirm().then(answered, answered);
  }

  #closed(link: Link): void {
    if (link !== this.#link) return;
    this.#link = null;
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
    const lostMs = performance.now();
    const pauses = new Pauses();
    while (!this.#ended && this.#link === null) {
      await pauses.next();
      if (!this.#ended) await this.#tryAgain(performance.now() - lostMs > this.#options.giveUpMs);
    }
    this.#comingBack = false;
    if (!this.#ended) this.#listener.back();
  }

  async #tryAgain(isLastTime: boolean): Promise<void> {
    try {
      await this.connect();
      if (this.#ended) return this.#link?.close();
      await this.#goOn();
    } catch (error) {
      const failure = error instanceof ChatError ? error : new ChatError("closed");
      const { code, detail } = failure;
      if (code === "untrusted" && detail !== this.#distrust) {
        this.#distrust = detail;
        this.#listener.untrusted(failure);
      }
      if (!PASSING.includes(code)) {
        this.#end(detail.startsWith("replaced") ? "replaced" : code);
      } else if (isLastTime) this.#end("lost");
      else this.#link?.close();
    }
  }

  /** On a new connection: the streams go on; or, when the server has ended the session, a new one takes them up. */
  async #goOn(): Promise<void> {
    try {
      await this.#greet(`resume ${this.#token} ${this.#received}`, (acted) => {
        this.#confirmed = this.#received;
        this.#beatSentMs = 0;
        this.#saidMs = performance.now();
        for (const { line, position } of this.#pending) if (position > Number(acted)) this.#link?.send(line);
      });
    } catch (error) {
      if (!(error instanceof ChatError) || error.code !== "unknown_session" || error.detail !== "") throw error;
      await this.#logIn(` after=${this.#token}:${this.#received}`);
    }
  }

  #end(reason: string): void {
    if (this.#ended) return;
    // After a replacement the state belongs to the newer session.
    if (reason !== "replaced") this.#save();
    this.#ended = true;
    if (this.#ticker !== null) clearInterval(this.#ticker);
    this.#link?.close();
    for (const { reject } of this.#pending.splice(0)) reject(new ChatError("closed"));
    if (this.#token !== "") this.#listener.ended(reason);
  }
}
