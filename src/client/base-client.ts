/** What a chat client does on every platform: requests, events and the session. client.ts adds what needs sockets. */
/// <reference lib="esnext.disposable" preserve="true" />
import { type ChatError, warnOnFailure } from "./errors.ts";
import { EventQueue } from "./event-queue.ts";
import { type ChatEvent, type IntroductionEvent, type ServerEvent, parseEvent } from "./event.ts";
import type { Login } from "./login.ts";
import { oneLine, oneWord } from "./request.ts";
import type { ChatSession, ClientStatus, SessionListener, SessionOptions, StateStore } from "./session.ts";
import { LIMITS_DEFAULT } from "../limits.ts";

export interface BaseClientOptions {
  /** Keeps the state that must survive this program. Without it, exactly-once delivery ends with the process. */
  store?: (user: string) => Promise<StateStore> | StateStore;
  /** How long the client tries to reach a lost server, in milliseconds; without limit by default. */
  giveUpMs?: number;
  /**
   * Bytes of a request with its LF that the server takes: its option `--buffer-size`, 4096 by default. A longer request
   * rejects with `line_too_long` before it is sent, with the limit in its detail.
   */
  lineBytesMax?: number;
  /**
   * Called for each event, in order. An event is acknowledged to the server when the promise that the handler returns,
   * if any, is resolved, and so are those of all earlier events. Calls do not wait for the promise of the call before;
   * reading stops while more than 256 KiB of events are pending. The handler may await requests of this client. When it
   * throws or rejects, the error is emitted as a warning of the process (in a browser: of the console), the session
   * ends as "undelivered", and this event and all later ones come again at the next login. The events `lost`, `back`,
   * `private`, `unreachable` and `impostor` do not come from the server: for them there is only the warning.
   *
   * Without `onEvent` the events wait for a loop: `for await (const event of client)`. Before the loop begins, messages
   * are not acknowledged, and of the other events the last 1,000 are kept. A client that only sends, and whose user
   * gets no messages that matter, has `onEvent: () => {}`.
   */
  onEvent?: (event: ChatEvent) => unknown;
  /** Called with the event `lost`: the connection was lost. Requests wait until `onBack`. */
  onLost?: () => void;
  /** Called with the event `back`: the session continues. */
  onBack?: () => void;
  /** Called after `onLost` when the server's certificate is not valid, once for each reason. The client tries again. */
  onUntrusted?: (error: ChatError) => void;
  /**
   * Called for each request that an earlier run left without a reply. `error` is null when it was sent again and
   * accepted, the server's refusal, or `unknown_outcome` when it is unknown whether the server acted on it. `reply` is
   * what the server said with its `ok`, such as "sent" or "stored" after `message`.
   */
  onRecovered?: (request: string, error: ChatError | null, reply: string) => void;
}

/** The options that all kinds of sessions have. */
export function sessionDefaults(
  options: BaseClientOptions,
): Pick<SessionOptions, "giveUpMs" | "lineBytesMax" | "store"> {
  const { giveUpMs = Number.POSITIVE_INFINITY, lineBytesMax = LIMITS_DEFAULT.lineBytesMax } = options;
  return { giveUpMs, lineBytesMax, store: options.store ?? (() => null) };
}

export interface RequestOptions {
  /**
   * Takes the request back while it was not written yet, for example while the server is away: it then rejects with the
   * reason of the signal and is never sent. After that the signal has no effect.
   */
  signal?: AbortSignal;
}

/** Codes of a failed acknowledgement that a later session may repeat, and how many of them `catchUp` accepts. */
const RENEWED = ["unknown_outcome", "unknown_session"];
const CATCH_UP_FAILURES_MAX = 5;
/** Difference between the clocks of client and server up to which `catchUp` does not stop too early. */
const CLOCK_DIFFERENCE_MS = 1_000;

/** The users who are online. */
export interface Online {
  /** In byte order. The server limits the length of the list. */
  names: string[];
  /** Number of users who are online and not in the list. */
  more: number;
}

/**
 * A chat session. Requests are promises, may be made without waiting for earlier replies, and are answered in order. A
 * request rejects with ChatError: with the server's code when it was refused, with `unknown_outcome` when its reply
 * is lost and the server may have acted on it, with `closed` when the session has ended, and, before anything is sent,
 * with `line_too_long`, or with `bad_request` when a name is not one word or a text is not one line.
 */
export abstract class BaseClient implements AsyncIterable<ChatEvent>, AsyncDisposable {
  /**
   * Resolves when the session has ended for good and all events are delivered. The value is the reason: "logout", the
   * reason of the server's `goodbye`, the code that refused a new login, "undelivered", "not_saved", or "lost".
   */
  readonly ended: Promise<string>;
  #endDetail = "";
  /** @internal */
  protected abstract readonly session: ChatSession;
  /** @internal */
  protected readonly sessionListener: SessionListener;
  readonly #queue: EventQueue | null;
  readonly #onEvent: (event: ChatEvent) => unknown;
  /** Number of `stored` events. */
  #stored = 0;
  /** Time of the login, by the wall clock. */
  #beganMs = 0;
  /** Whether a message has arrived that was sent after the login. */
  #hasNews = false;

  protected constructor({ onEvent, onLost, onBack, onUntrusted, onRecovered }: BaseClientOptions) {
    const { promise, resolve } = Promise.withResolvers<string>();
    this.ended = promise;
    const queue = onEvent === undefined ? new EventQueue() : null;
    this.#queue = queue;
    this.#onEvent = onEvent ?? ((event) => queue?.put(event));
    this.sessionListener = {
      event: (bytes, start, end) => {
        const event = parseEvent(bytes, start, end);
        if (event === null) return;
        this.#noteNews(event);
        return isIntroduction(event) ? this.introduced(event) : this.#onEvent(event);
      },
      discard: (isEnd) => this.#queue?.discard(isEnd),
      failed: (error) => this.warn(error),
      began: (user) => {
        this.#beganMs = Date.now();
        this.#hasNews = false;
        this.sessionBegan(user);
      },
      lost: () => {
        onLost?.();
        this.report({ kind: "lost" });
      },
      back: () => {
        onBack?.();
        this.report({ kind: "back" });
      },
      untrusted: (error) => onUntrusted?.(error),
      recovered: (request, error, words) => onRecovered?.(request, error, words),
      ended: (reason, detail) => {
        this.#endDetail = detail;
        void this.endPrivateChats();
        this.#queue?.end();
        resolve(reason);
      },
    };
  }

  /** "new" before the login, "online", "lost" while the server is away, and "ended". */
  get status(): ClientStatus {
    return this.session.status;
  }

  /** What the server said with the refusal in `ended`, such as the words after `busy`; empty for other reasons. */
  get endDetail(): string {
    return this.#endDetail;
  }

  /**
   * Connects without a login. Rejects with the system's error (such as `code` "ECONNREFUSED") when no server can be
   * reached. With TLS it rejects with `untrusted` or `closed` and a detail for people when the handshake fails.
   */
  connect({ signal }: RequestOptions = {}): Promise<void> {
    return this.session.connect(signal);
  }

  /**
   * Connects when necessary, and logs in. Rejects as `connect` does, and with `unknown_user`, `wrong_password <tries
   * left>`, `locked_out <seconds>`, `busy`, `needs_tls` when the port expects TLS, `unreachable` when the server cannot
   * call a callback session, or the system's error when `listenPort` is taken.
   */
  async login(user: string, password: string, { signal }: RequestOptions = {}): Promise<Login> {
    signal?.throwIfAborted();
    return this.session.login(oneWord(user), oneWord(password), await this.privatePort(), signal);
  }

  /**
   * Continues the session of an earlier run from the state in `store`, without a password. Rejects with
   * `unknown_session` when there is none: log in then, with this client or another one. Its detail is "replaced" or
   * "kicked" when the server ended it for that reason. Later, when a lost session can no longer be continued, `ended`
   * resolves with "unknown_session", because a new login needs the password. Not for callback sessions.
   */
  async resume(user: string, { signal }: RequestOptions = {}): Promise<Login> {
    signal?.throwIfAborted();
    return this.session.resume(oneWord(user), signal);
  }

  /**
   * Resolves with "sent" when the user is online, else with "stored": the user gets the message at the next login.
   * `text` is not empty and has no LF. Rejects with `unknown_user`, `blocked` or `mailbox_full`, among others.
   */
  async message(user: string, text: string, options?: RequestOptions): Promise<"sent" | "stored"> {
    const outcome = await this.request(`message ${oneWord(user)} ${oneLine(text)}`, options);
    return outcome === "sent" ? "sent" : "stored";
  }

  /** Sends to all users who are online. Resolves with their number. `text` is as in `message`. */
  async broadcast(text: string, options?: RequestOptions): Promise<number> {
    return Number(await this.request(`broadcast ${oneLine(text)}`, options));
  }

  /** Resolves with the users who are online. */
  async online(options?: RequestOptions): Promise<Online> {
    const words = await this.request("online", options);
    const names = words === "" ? [] : words.split(" ");
    const more = names.at(-1)?.startsWith("+") ? Number(names.pop()) : 0;
    return { names, more };
  }

  /** Rejects messages and broadcasts of a user from now on. That user no longer sees this one either. */
  async block(user: string, options?: RequestOptions): Promise<void> {
    await this.request(`block ${oneWord(user)}`, options);
  }

  /** Undoes `block`. */
  async unblock(user: string, options?: RequestOptions): Promise<void> {
    await this.request(`unblock ${oneWord(user)}`, options);
  }

  /**
   * Resolves when all messages that waited at the login are delivered and acknowledged. The server sends a mailbox in
   * portions, each after the acknowledgement of the one before. Messages that are stored after the login are not waited
   * for.
   */
  async catchUp(): Promise<void> {
    if (this.#queue?.hasLoop === false)
      throw new TypeError("catchUp waits for handled events: set onEvent, or begin a loop");
    let failuresLeft = CATCH_UP_FAILURES_MAX;
    // The first reply may be sent before the portion that its request causes; the second one is not.
    for (let idle = 0; idle < 2 && !this.#hasNews; idle++) {
      const before = this.#stored;
      // A new session sends the mailbox from the beginning.
      await this.session.ack().catch((error: ChatError) => {
        if (!RENEWED.includes(error.code) || --failuresLeft < 0) throw error;
        idle = -1;
      });
      if (this.#stored > before) idle = -1;
    }
    if (this.#hasNews) await this.session.ack();
  }

  /** Messages arrive oldest first, so one that was sent after the login follows all that waited at the login. */
  #noteNews(event: ServerEvent | IntroductionEvent): void {
    if (event.kind === "message") this.#hasNews = true;
    if (event.kind !== "stored") return;
    this.#stored++;
    const nowMs = Date.now();
    // A time in the future means that the server's clock is ahead, and that times cannot be compared.
    this.#hasNews ||= event.unixMs > this.#beganMs + CLOCK_DIFFERENCE_MS && event.unixMs <= nowMs;
  }

  /**
   * The events, for one loop at a time, of a client without `onEvent`. An event is acknowledged when the loop asks for
   * the next one, or is left by `break`. The loop ends with the session.
   */
  [Symbol.asyncIterator](): AsyncIterator<ChatEvent, undefined> {
    if (this.#queue === null) throw new TypeError("the events of this client go to onEvent");
    return this.#queue.begin();
  }

  /** Logs out when the session has not ended. For `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.status === "online") await this.logout().catch((error: unknown) => this.warn(error));
    this.close();
  }

  /**
   * Ends the private chats after their last line was sent, then the session. `ended` resolves with "logout". Events
   * that no loop has taken yet come again at the next login. So does the one that a loop has in hand, unless `store`
   * keeps that the loop went on.
   */
  async logout(): Promise<void> {
    if (this.#queue?.hasLoop === false) this.#queue.deliver();
    this.#queue?.discard(false);
    await this.endPrivateChats();
    await this.session.logout();
  }

  /** Closes all connections without a logout. Requests without a reply reject with `closed`. */
  close(): void {
    void this.endPrivateChats();
    this.session.close();
  }

  /** @internal */
  protected request(line: string, { signal }: RequestOptions = {}): Promise<string> {
    return this.session.request(line, signal);
  }

  /** An event that does not come from the server, so that a failure of its handler is only a warning. @internal */
  protected report(event: ChatEvent): void {
    const handler = (): unknown => (this.#queue === null ? this.#onEvent(event) : this.#queue.report(event));
    warnOnFailure(handler, (error) => this.warn(error));
  }

  /** Reports an error of the application that no promise carries. @internal */
  protected warn(error: unknown): void {
    console.warn(error);
  }

  /** Gives an event to the application. @internal */
  protected emit(event: ChatEvent): unknown {
    return this.#onEvent(event);
  }

  /** What private chats need. A platform without listening sockets has none. @internal */
  protected introduced(_event: IntroductionEvent): unknown {
    return undefined;
  }

  /** @internal */
  protected sessionBegan(_user: string): void {}

  /** The port for incoming private chats; 0 without one. @internal */
  protected async privatePort(): Promise<number> {
    return 0;
  }

  /** @internal */
  protected async endPrivateChats(): Promise<void> {}
}

function isIntroduction(event: ServerEvent | IntroductionEvent): event is IntroductionEvent {
  return ["private_request", "address", "expect", "denied"].includes(event.kind);
}
