import { ACK_BYTES_MAX } from "../limits.ts";
import { ChatError } from "./errors.ts";
import { encodeText } from "./event.ts";
import { Heartbeat } from "./heartbeat.ts";
import { type Login, type LoginReply, parseLogin } from "./login.ts";
import { requestBytes } from "./request.ts";
import { FINAL_REASONS, type PendingReply, refusalIn, settleReply, startsWithWord } from "./reply.ts";
import { NO_REPLY, REPLY_TIMEOUT_MS } from "./retry.ts";
import { type ConnectionListener, ServerConnection } from "./server-connection.ts";
import { type PendingRequest, type ResumableState, SessionState } from "./session-state.ts";
import { type ChatSession, type ClientStatus, type SessionListener, type SessionOptions } from "./session.ts";
import { later } from "./timing.ts";

/** Delivered lines are acknowledged within this time, or after ACK_BYTES_MAX. */
const ACK_MS = 4_000;

/** Refusals after which the server keeps the connection open. */
const ON_SAME_CONNECTION = ["wrong_password", "unknown_user", "unknown_session"];

/**
 * Plain and resumable sessions: how their bytes travel over one connection after another. Both directions are byte
 * streams with positions (docs/protocol.md, Sessions). After a loss each stream continues at its position, so each
 * request is acted on once and each line is delivered once. SessionState owns everything else.
 */
export class StreamSession implements ChatSession {
  readonly #state: SessionState;
  #connection: ServerConnection | null = null;
  /** The request `login` or `resume`, until it is written. It belongs to no stream, and its reply neither. */
  #greetingRequest = "";
  #greeting: PendingReply | null = null;
  /** Whether that reply was `ok` on this connection. Only lines after it belong to the server's stream. */
  #isAttached = false;
  /** Position in the client's stream after the last request. */
  #requestEnd = 0;
  /** The last position in the server's stream that was acknowledged. */
  #acked = 0;
  /** Position after the last line of this connection. After a resume it starts at the delivered position. */
  #connectionEnd = 0;
  /** Time of the oldest delivery that is not acknowledged; 0 when there is none. */
  #unackedSinceMs = 0;
  readonly #heartbeat = new Heartbeat({
    state: () => (!this.#isAttached ? "disconnected" : this.#connection?.isPaused ? "paused" : "reading"),
    isDue: (nowMs) => this.#unackedSinceMs > 0 && nowMs - this.#unackedSinceMs >= ACK_MS,
    beat: () => this.#ack(),
    overdue: () => this.#connection?.abandon(),
  });
  /** Error of a pending greeting when its connection closes. */
  #closeError = new ChatError("closed");

  constructor(options: SessionOptions, listener: SessionListener) {
    this.#state = new SessionState(options, listener, {
      delivered: () => this.#delivered(),
      stop: () => {
        this.#heartbeat.stop();
        this.#connection?.close();
      },
    });
  }

  get status(): ClientStatus {
    return this.#state.status;
  }

  async connect(signal?: AbortSignal): Promise<void> {
    await this.#connect(signal);
    if (!this.#state.hasEnded) return;
    this.#connection?.close(); // `close` was called meanwhile.
    throw new ChatError("closed");
  }

  async #connect(signal?: AbortSignal): Promise<void> {
    this.#closeError = new ChatError("closed");
    this.#isAttached = false;
    this.#greetingRequest = "";
    const { options } = this.#state;
    this.#connection = await ServerConnection.connect(options, this.#listener, signal).catch((error: unknown) => {
      throw this.#closeError.code === "closed" ? error : this.#closeError;
    });
  }

  /** What every connection of this session calls. */
  readonly #listener = {
    line: (bytes: Uint8Array, start: number, end: number, lineBytes: number): void =>
      this.#line(bytes, start, end, lineBytes),
    checkpoint: (): Promise<void> | null => this.#state.save(),
    flush: (): string => this.#flush(),
    closed: (connection: ServerConnection): void => this.#closed(connection),
  };

  async login(user: string, password: string, listenPort: number, signal?: AbortSignal): Promise<Login> {
    if (this.#connection?.isOpen !== true) await this.connect(signal);
    const login = this.#state.login(user, password, listenPort, () => this.#logIn(signal));
    return login.catch((error: unknown) => this.#refused(error));
  }

  async resume(user: string, signal?: AbortSignal): Promise<Login> {
    if (this.#connection?.isOpen !== true) await this.connect(signal);
    const resume = this.#state.resume(user, (earlier) => this.#resumeEarlier(earlier, signal));
    return resume.catch((error: unknown) => this.#refused(error));
  }

  #refused(error: unknown): never {
    // After any other refusal the server may be about to close the connection.
    if (!ON_SAME_CONNECTION.includes((error as ChatError).code)) this.#connection?.close();
    throw error;
  }

  #logIn(signal?: AbortSignal): Promise<Login> {
    const request = this.#state.loginRequest(this.#state.options.kind === "plain" ? "" : " resumable");
    return this.#greet(
      request,
      (words) => {
        const { token, silenceMs, actedOn, at } = parseLogin(words);
        this.#state.startStream(token, silenceMs);
        this.#connectionEnd = this.#acked = this.#requestEnd = 0;
        this.#state.repeatPending(actedOn, (pending) => this.#send(pending));
        this.#heartbeat.start(silenceMs);
        // Last: a handler may end the session, or make requests, which must not be repeated.
        this.#state.listener.began(this.#state.user);
        if (at !== null) void this.#moveTo(at);
        return { token, silenceMs };
      },
      signal,
    );
  }

  async request(line: string, signal?: AbortSignal): Promise<string> {
    signal?.throwIfAborted();
    if (!this.#state.isOpen) throw new ChatError("closed");
    const { promise, resolve, reject } = Promise.withResolvers<string>();
    const bytes = requestBytes(line, this.#state.options.lineBytesMax);
    const request = { line, position: 0, isWritten: false, isRecovered: false, resolve, reject };
    this.#send(request, bytes);
    if (signal === undefined) return promise;
    const onAbort = (): void => {
      if (!this.#state.cancelPending(request, bytes)) return;
      this.#requestEnd -= bytes;
      reject(signal.reason);
    };
    signal.addEventListener("abort", onAbort);
    return promise.finally(() => signal.removeEventListener("abort", onAbort));
  }

  async ack(): Promise<void> {
    await this.#state.stream.settled();
    await this.#ack();
  }

  async #ack(): Promise<void> {
    this.#acked = this.#ackable;
    this.#unackedSinceMs = 0;
    await this.request(this.#state.options.kind === "plain" ? "alive" : `alive ${this.#acked}`);
  }

  /**
   * The position that may be acknowledged. After a resume the delivered position may be ahead of what this connection
   * has brought again; the server may skip what is acknowledged, and then the positions would no longer agree.
   */
  get #ackable(): number {
    return Math.min(this.#state.stream.delivered, this.#connectionEnd);
  }

  async logout(): Promise<void> {
    if (this.#connection === null) return this.#state.end("logout");
    if (this.#state.options.kind === "plain") await this.request("logout");
    else {
      this.#state.stream.hold();
      await this.request(`logout ${this.#ackable}`);
    }
    this.#state.end("logout");
  }

  close(): void {
    this.#state.end("lost", true);
  }

  /** Does what is due, a heartbeat or a reconnect, for a platform whose timers are late. */
  keepAlive(): void {
    this.#heartbeat.tick();
    this.#state.retryIfDue();
  }

  /**
   * Sends `login` or `resume`. Its reply is handled at once, not in a later microtask: the lines right after it belong
   * to the stream that it begins.
   */
  #greet<T>(line: string, handle: (words: string) => T, signal?: AbortSignal): Promise<T> {
    const connection = this.#connection;
    if (connection === null) return Promise.reject(this.#closeError);
    const { promise, resolve, reject } = Promise.withResolvers<T>();
    const deadline = setTimeout(() => {
      this.#closeError = new ChatError("closed", NO_REPLY);
      connection.abandon();
    }, REPLY_TIMEOUT_MS);
    const accept = (words: string): void => {
      try {
        resolve(handle(words));
      } catch (error) {
        reject(error);
        connection.close(); // No stream follows an invalid reply.
      }
    };
    const onAbort = (): void => {
      reject(signal?.reason);
      connection.close();
    };
    signal?.addEventListener("abort", onAbort);
    if (signal?.aborted === true) onAbort();
    this.#greeting = { resolve: accept, reject };
    this.#greetingRequest = `${line}\n`;
    connection.markDirty();
    return promise.finally(() => {
      clearTimeout(deadline);
      signal?.removeEventListener("abort", onAbort);
    });
  }

  #send(pending: PendingRequest, bytes = encodeText(pending.line).length + 1): void {
    this.#requestEnd += bytes;
    pending.position = this.#requestEnd;
    pending.isWritten = false;
    this.#state.addPending(pending);
    // Before the reply to a greeting it is unknown where the stream continues. The request is saved all the same.
    const connection = this.#greeting === null ? this.#connection : null;
    if (connection?.isOpen !== true) return void later(() => this.#state.save());
    this.#heartbeat.sent();
    connection.markDirty();
    this.#regulate();
  }

  /** The lines for the network at the end of a turn. Requests wait until it is known where their stream continues. */
  #flush(): string {
    const greeting = this.#greetingRequest;
    this.#greetingRequest = "";
    const isReady = this.#isAttached && this.#greeting === null;
    return greeting + (isReady ? this.#state.unwrittenLines() : "");
  }

  #line(bytes: Uint8Array, start: number, end: number, lineBytes: number): void {
    const isOk = startsWithWord(bytes, start, end, "ok");
    if (!this.#isAttached) return this.#greetingLine(isOk, bytes, start, end);
    this.#connectionEnd += lineBytes;
    this.#heartbeat.restartDeadline();
    if (this.#connectionEnd <= this.#state.stream.read) return; // Already read on an earlier connection.
    if (isOk || startsWithWord(bytes, start, end, "err")) {
      const pending = this.#state.takeReply(this.#connectionEnd);
      if (pending === undefined) return;
      if (!pending.line.startsWith("alive")) this.#noteUnacked();
      return settleReply(pending, isOk, bytes, start, end);
    }
    const goodbye = this.#state.takeEvent(this.#connectionEnd, bytes, start, end);
    if (this.#state.stream.delivered === this.#connectionEnd) this.#noteUnacked();
    else this.#regulate();
    if (goodbye === null) return;
    if (FINAL_REASONS.includes(goodbye) || this.#state.options.kind === "plain") this.#state.end(goodbye);
  }

  /** A line before the stream: the reply to `login` or `resume`, or a refusal of the connection. Others are ignored. */
  #greetingLine(isOk: boolean, bytes: Uint8Array, start: number, end: number): void {
    const greeting = this.#greeting;
    const refusal = isOk ? null : refusalIn(bytes, start, end);
    if (greeting !== null && (isOk || startsWithWord(bytes, start, end, "err"))) {
      this.#greeting = null;
      this.#isAttached = isOk;
      settleReply(greeting, isOk, bytes, start, end);
    } else if (refusal !== null) {
      this.#closeError = refusal;
      this.#connection?.close();
    }
  }

  /** Something was delivered that is not acknowledged. Above ACK_BYTES_MAX it is acknowledged at once. */
  #noteUnacked(): void {
    if (this.#unackedSinceMs === 0) this.#unackedSinceMs = performance.now();
    if (this.#ackable - this.#acked >= ACK_BYTES_MAX) this.#heartbeat.beat();
  }

  #delivered(): void {
    if (this.#state.hasEnded || !this.#isAttached) return;
    this.#noteUnacked();
    this.#regulate();
  }

  /** Whether a request other than `alive` waits for its reply. */
  get #mustRead(): boolean {
    return this.#state.pending.some(({ line }) => !line.startsWith("alive"));
  }

  /** Pauses reading while too much is undelivered. */
  #regulate(): void {
    const connection = this.#connection;
    if (connection === null) return;
    const isFull = this.#state.stream.isFull(connection.isPaused, this.#mustRead);
    if (connection.isPaused && !isFull) this.#heartbeat.restartDeadline();
    connection.isPaused = isFull;
  }

  #closed(connection: ServerConnection): void {
    if (connection !== this.#connection) return;
    this.#connection = null;
    this.#isAttached = false;
    this.#greeting?.reject(connection.speaksTls === true ? new ChatError("needs_tls") : this.#closeError);
    this.#greeting = null;
    void this.#state.reconnect(() => this.#reconnect());
  }

  /** One attempt to continue on a new connection. */
  async #reconnect(): Promise<void> {
    try {
      if (!this.#state.hasEnded) await this.#connect();
      if (!this.#state.hasEnded) await this.#resume();
      if (this.#state.hasEnded) return this.#connection?.close();
      if (this.#connection === null) throw this.#closeError;
    } catch (error) {
      this.#connection?.close();
      throw error;
    }
  }

  /** Continues the streams on this connection. */
  #continue(): Promise<void> {
    const { stream, token } = this.#state;
    const { delivered } = stream;
    return this.#greet(`resume ${token} ${delivered}`, (actedOn) => {
      this.#heartbeat.restart();
      this.#continueAt(delivered, Number(actedOn));
    });
  }

  /** Both streams continue: the server's at `received`, and the client's at `actedOn`. */
  #continueAt(received: number, actedOn: number): void {
    this.#connectionEnd = this.#acked = received;
    for (const request of this.#state.pending) request.isWritten = request.position <= actedOn;
    this.#connection?.markDirty();
    this.#regulate();
  }

  #resumeEarlier(earlier: ResumableState, signal?: AbortSignal): Promise<Login> {
    const { token, received, silenceMs } = earlier;
    const accept = (words: string): Login => {
      const { pending } = this.#state;
      const actedOn = Number(words);
      this.#requestEnd = pending.at(-1)?.position ?? actedOn;
      // Requests that the state does not know have replies that the others would get.
      if (actedOn > this.#requestEnd) throw new ChatError("unknown_session");
      this.#state.continueStream(earlier);
      this.#heartbeat.start(silenceMs);
      this.#continueAt(received, actedOn);
      this.#state.listener.began(this.#state.user);
      return { token, silenceMs };
    };
    return this.#greet(`resume ${token} ${received}`, accept, signal);
  }

  /**
   * Another server relays this session: it continues on a connection to its owner. While that cannot be reached, or
   * when that connection is lost later, the session is where it began.
   */
  async #moveTo({ host, port }: NonNullable<LoginReply["at"]>): Promise<void> {
    const { options, token } = this.#state;
    const relayed = this.#connection;
    if (options.openAt === undefined || options.kind !== "resumable" || relayed === null) return;
    let isCurrent = false;
    const line: ConnectionListener["line"] = (...args) => void (isCurrent && this.#line(...args));
    const direct = { ...options, port, open: options.openAt(host) };
    const connection = await ServerConnection.connect(direct, { ...this.#listener, line }).catch(() => null);
    if (connection === null) return;
    const isWanted = this.#connection === relayed && this.#isAttached && this.#state.token === token;
    if (!isWanted || this.#state.hasEnded || !connection.isOpen) return connection.close();
    isCurrent = true;
    this.#connection = connection;
    this.#isAttached = false;
    relayed.abandon(); // What it has not read comes again.
    await this.#continue().catch(() => connection.close());
  }

  /** Continues the streams. When the server has ended the session, a new session continues it. */
  async #resume(): Promise<void> {
    const { stream } = this.#state;
    try {
      await this.#continue();
    } catch (error) {
      const isOver = error instanceof ChatError && error.code === "unknown_session" && error.detail === "";
      if (!isOver || !this.#state.canLogIn) throw error;
      if (stream.delivered < stream.read) {
        this.#connection?.close();
        await stream.settledForNext(this.#mustRead);
        if (this.#state.hasEnded) return;
        await this.#connect();
      }
      await this.#logIn();
    }
  }
}
