/** The client library: ChatClient turns typed calls into requests, and lines of the server into events. */
import { withZone } from "../runtime/host.ts";
import { CallbackSession } from "./callback-session.ts";
import { type ChatEvent, type IntroductionEvent, type ServerEvent, parseEvent } from "./event.ts";
import { PrivateChats } from "./p2p/private.ts";
import { ChatError } from "./errors.ts";
import { HostAddresses } from "./host-addresses.ts";
import type { Login } from "./login.ts";
import type { ChatSession, SessionListener, StateStore } from "./session.ts";
import { StreamSession } from "./stream-session.ts";

export type { ChatEvent } from "./event.ts";
export { ChatError } from "./errors.ts";
export type { Login } from "./login.ts";
export type { ClientState, StateStore } from "./session.ts";

export interface ChatClientOptions {
  host: string;
  port: number;
  /**
   * Uses TLS. The certificate of the server must be valid for `host` and signed by a public authority, or by one of
   * `ca` (PEM) instead. Plain text by default. Not for callback sessions: the server's calls to them use no TLS.
   */
  tls?: boolean | { ca: string };
  /**
   * "resumable" (the default) reconnects after a loss, and nothing is lost or delivered twice; "plain" ends with its
   * connection; "callback" has no lasting connection: the server connects to this client to deliver.
   */
  session?: "plain" | "resumable" | "callback";
  /** Port on which a callback session listens; a free port by default. */
  callbackPort?: number;
  /** Port for incoming private chats, which `answer` accepts; 0: a free port. Default: no private chats. */
  listenPort?: number;
  /** Keeps the state that must survive this program. Without it, exactly-once delivery ends with the process. */
  store?: (user: string) => Promise<StateStore> | StateStore;
  /** How long the client tries to reach a lost server, in milliseconds; without limit by default. */
  giveUpMs?: number;
  /**
   * Called for each event, in order. An event is acknowledged to the server when the promise that the handler returns,
   * if any, is resolved, and so are those of all earlier events. Calls do not wait for the promise of the call before;
   * reading stops while more than 256 KiB of events are pending. The handler may await requests of this client. When it
   * throws or rejects, the error is emitted as a warning of the process, the session ends as "undelivered", and this
   * event and all later ones come again at the next login. The events `private`, `unreachable` and `impostor` do not
   * come from the server: for them there is only the warning.
   */
  onEvent?: (event: ChatEvent) => unknown;
  /** Called when the connection was lost. Requests wait until `onBack`. */
  onLost?: () => void;
  /** Called when the session continues after `onLost`. */
  onBack?: () => void;
  /** Called after `onLost` when the server's certificate is not valid, once for each reason. The client tries again. */
  onUntrusted?: (error: ChatError) => void;
  /**
   * Called for each request that an earlier run left without a reply. `error` is null when it was sent again and
   * accepted, the server's refusal, or `unknown_outcome` when it is unknown whether the server acted on it.
   */
  onRecovered?: (request: string, error: ChatError | null) => void;
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
 * is lost and the server may have acted on it, with `closed` when the session has ended, and with `bad_request`, before
 * anything is sent, when a name is not one word or a text is not one line.
 */
export class ChatClient {
  /**
   * Resolves when the session has ended for good and all events are delivered. The value is the reason: "logout", the
   * reason of the server's `goodbye`, the code that refused a new login, "undelivered", or "lost".
   */
  readonly ended: Promise<string>;
  readonly #session: ChatSession;
  readonly #private: PrivateChats;
  readonly #listenPort: number | null;
  /** Number of `stored` events. */
  #stored = 0;
  /** Local address of the last connection to the server. */
  #localAddress = "";
  #isThisMachine = false;
  /** Time of the login, by the wall clock. */
  #beganMs = 0;
  /** Whether a message has arrived that was sent after the login. */
  #hasNews = false;

  constructor({ onEvent, onLost, onBack, onUntrusted, onRecovered, listenPort, ...options }: ChatClientOptions) {
    const { promise, resolve } = Promise.withResolvers<string>();
    this.ended = promise;
    const listener: SessionListener = {
      event: (bytes, start, end) => {
        const event = parseEvent(bytes, start, end);
        if (event === null) return;
        this.#noteNews(event);
        if (isIntroduction(event)) return this.#private.handle(event);
        return onEvent?.(event);
      },
      began: (user) => {
        this.#beganMs = Date.now();
        this.#hasNews = false;
        this.#private.sessionBegan(user);
      },
      lost: () => onLost?.(),
      back: () => onBack?.(),
      untrusted: (error) => onUntrusted?.(error),
      recovered: (request, error) => onRecovered?.(request, error),
      ended: (reason) => {
        void this.#private.end();
        resolve(reason);
      },
    };
    this.#listenPort = listenPort ?? null;
    this.#private = new PrivateChats(
      (request) => this.#session.request(request),
      (event) => onEvent?.(event),
      (address) => withZone(address, { localAddress: this.#localAddress }),
    );
    const kind = options.session ?? "resumable";
    const { tls = false, callbackPort = 0, giveUpMs = Number.POSITIVE_INFINITY, store = () => null } = options;
    if (kind === "callback" && tls !== false)
      throw new ChatError("bad_request", "callback sessions do not support TLS");
    const connected = (localAddress: string, isThisMachine: boolean): void => {
      this.#localAddress = localAddress;
      this.#isThisMachine = isThisMachine;
    };
    const addresses = new HostAddresses(options.host);
    const all = { ...options, tls, kind, callbackPort, giveUpMs, store, connected, addresses };
    this.#session = kind === "callback" ? new CallbackSession(all, listener) : new StreamSession(all, listener);
  }

  /**
   * Connects without a login. Rejects with the system's error (such as `code` "ECONNREFUSED") when no server can be
   * reached. With TLS it rejects with `untrusted` or `closed` and a detail for people when the handshake fails.
   */
  connect(): Promise<void> {
    return this.#session.connect();
  }

  /** Whether the last connection stayed on this machine, where no network can read it. */
  get isThisMachine(): boolean {
    return this.#isThisMachine;
  }

  /**
   * Connects when necessary, and logs in. Rejects as `connect` does, and with `unknown_user`, `wrong_password <tries
   * left>`, `locked_out <seconds>`, `busy`, `needs_tls` when the port expects TLS, `unreachable` when the server cannot
   * call a callback session, or the system's error when `listenPort` is taken.
   */
  async login(user: string, password: string): Promise<Login> {
    const port = this.#listenPort === null ? 0 : await this.#private.listen(this.#listenPort);
    try {
      return await this.#session.login(oneWord(user), oneWord(password), port);
    } catch (error) {
      this.#private.stopListening();
      throw error;
    }
  }

  /**
   * Resolves with "sent" when the user is online, else with "stored": the user gets the message at the next login.
   * `text` is not empty and has no LF. Rejects with `unknown_user`, `blocked` or `mailbox_full`, among others.
   */
  async message(user: string, text: string): Promise<"sent" | "stored"> {
    return (await this.#session.request(`message ${oneWord(user)} ${oneLine(text)}`)) === "sent" ? "sent" : "stored";
  }

  /** Sends to all users who are online. Resolves with their number. `text` is as in `message`. */
  async broadcast(text: string): Promise<number> {
    return Number(await this.#session.request(`broadcast ${oneLine(text)}`));
  }

  /** Resolves with the users who are online. */
  async online(): Promise<Online> {
    const words = await this.#session.request("online");
    const names = words === "" ? [] : words.split(" ");
    const more = names.at(-1)?.startsWith("+") ? Number(names.pop()) : 0;
    return { names, more };
  }

  /** Rejects messages and broadcasts of a user from now on. That user no longer sees this one either. */
  async block(user: string): Promise<void> {
    await this.#session.request(`block ${oneWord(user)}`);
  }

  /** Undoes `block`. */
  async unblock(user: string): Promise<void> {
    await this.#session.request(`unblock ${oneWord(user)}`);
  }

  /**
   * Asks a user for a private chat. Rejects with `offline`, `not_listening`, `blocked` or `already_asked`. The answer
   * arrives within a minute as the event `agreed` or `denied`.
   */
  async getAddress(user: string): Promise<void> {
    await this.#private.ask(oneWord(user));
  }

  /** Answers the event `asked`. Rejects with `no_request` when it is too late. */
  async answer(user: string, yes: boolean): Promise<void> {
    await this.#private.answer(oneWord(user), yes);
  }

  /**
   * Sends a text directly to a user, encrypted, after the answer to `getAddress`. Resolves when it was sent; there is
   * no reply. Rejects with `not_introduced`, `denied`, `gone` when the user cannot be reached, `line_too_long`, or
   * `wrong_certificate` when the certificate at that address is not the user's.
   */
  async private(user: string, text: string): Promise<void> {
    await this.#private.send(oneWord(user), oneLine(text));
  }

  /**
   * The safety number of a private chat: 30 digits in groups of 5. When the two users see different numbers, an
   * attacker is between them. Throws `not_introduced` without a private chat.
   */
  safetyNumber(user: string): string {
    return this.#private.safetyNumber(user);
  }

  /**
   * Resolves when all messages that waited at the login are delivered and acknowledged. The server sends a mailbox in
   * portions, each after the acknowledgement of the one before. Messages that are stored after the login are not waited
   * for.
   */
  async catchUp(): Promise<void> {
    let failuresLeft = CATCH_UP_FAILURES_MAX;
    // The first reply may be sent before the portion that its request causes; the second one is not.
    for (let idle = 0; idle < 2 && !this.#hasNews; idle++) {
      const before = this.#stored;
      // A new session sends the mailbox from the beginning.
      await this.#session.ack().catch((error: ChatError) => {
        if (!RENEWED.includes(error.code) || --failuresLeft < 0) throw error;
        idle = -1;
      });
      if (this.#stored > before) idle = -1;
    }
    if (this.#hasNews) await this.#session.ack();
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

  /** Ends the private chats after their last line was sent, then the session. `ended` resolves with "logout". */
  async logout(): Promise<void> {
    await this.#private.end();
    await this.#session.logout();
  }

  /** Closes all connections without a logout. Requests without a reply reject with `closed`. */
  close(): void {
    void this.#private.end();
    this.#session.close();
  }
}

function isIntroduction(event: ServerEvent | IntroductionEvent): event is IntroductionEvent {
  return ["private_request", "address", "expect", "denied"].includes(event.kind);
}

/** A space in a name would make two words of it, and an LF two requests. */
function oneWord(text: string): string {
  if (text === "" || /[ \r\n]/.test(text)) throw new ChatError("bad_request", "a name or password must be one word");
  return text;
}

/** The server drops one CR before the LF, so a text that ends in CR gets a second one. */
function oneLine(text: string): string {
  if (text === "" || text.includes("\n")) throw new ChatError("bad_request", "a text must be one line and not empty");
  return text.endsWith("\r") ? `${text}\r` : text;
}
