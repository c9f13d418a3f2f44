import { withZone } from "../runtime/host.ts";
import { CallbackSession } from "./callback-session.ts";
import { type ChatEvent, type IntroductionEvent, parseEvent } from "./event.ts";
import { PrivateChats } from "./p2p/private.ts";
import { ChatError } from "./errors.ts";
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
   * Talks TLS, and only to who shows a certificate for `host` by a public authority, or by one of `ca` (PEM) instead.
   * Not for callback sessions: the server's calls have none. In plain text by default.
   */
  tls?: boolean | { ca: string };
  /**
   * "resumable" (the default) comes back by itself after a loss, with nothing lost and nothing twice; "plain" ends with
   * its connection; "callback" has no connection, and is called by the server.
   */
  session?: "plain" | "resumable" | "callback";
  /** Where a callback session listens; a free port by default. */
  callbackPort?: number;
  /** Where others may call for private chats, when you agree; 0 takes a free port. Nowhere by default. */
  listenPort?: number;
  /** Keeps what must outlive this program, so that also then nothing is lost and nothing comes twice. */
  store?: (user: string) => Promise<StateStore> | StateStore;
  /** For how long a lost server is tried again; for ever by default. */
  giveUpMs?: number;
  /**
   * Called for each event, in order. An event is acknowledged to the server when the promise that the handler returns,
   * if any, is resolved, and so are those of all earlier events. Calls do not wait for the promise of the call before;
   * reading stops while more than 256 KiB of events are pending. The handler may await requests of this client. When it
   * throws or rejects, the error is emitted as a warning of the process, the session ends as "undelivered", and this
   * event and all later ones come again at the next login.
   */
  onEvent?: (event: ChatEvent) => unknown;
  /** Hears that the connection was lost, and that it is there again. Requests wait in between. */
  onLost?: () => void;
  onBack?: () => void;
  /** Hears, while it was lost, that who answers there now is not to be trusted, and why. It is tried on. */
  onUntrusted?: (error: ChatError) => void;
  /**
   * Hears of a request that an earlier run left without an answer: it was made again; or the error says that it was
   * refused then, or with `unknown_outcome` that nobody knows what became of it.
   */
  onRecovered?: (request: string, error: ChatError | null) => void;
}

/** Failures of an acknowledgement whose session was followed by a new one, and how many of them `catchUp` takes. */
const RENEWED = ["unknown_outcome", "unknown_session"];
const CATCH_UP_FAILURES_MAX = 5;
/** Difference of the clocks of client and server up to which `catchUp` does not stop too early. */
const CLOCKS_DIFFER_MS = 1_000;

/** Who is online: names in byte order, and how many more there are than the server lists. */
export interface Online {
  names: string[];
  more: number;
}

/**
 * A chat session: requests as promises, which may be made without waiting for the one before; they are answered in
 * order. A refused request rejects with ChatError and the server's code; with `unknown_outcome` when the server acted
 * on it, or may have, but its answer is lost; with `closed` when the session has ended.
 */
export class ChatClient {
  /**
   * Resolves when the session has ended for good and all events are delivered, with the reason: "logout", the reason of
   * the server's goodbye, the code that refused a new login, "undelivered" or "lost".
   */
  readonly ended: Promise<string>;
  readonly #session: ChatSession;
  readonly #private: PrivateChats;
  readonly #listenPort: number | null;
  /** Messages that had waited for the user. */
  #stored = 0;
  /** This end of the last connection to the server, and whether the other end is on this machine, too. */
  #localAddress = "";
  #isThisMachine = false;
  /** Time of the login, and whether a message that was sent after it has come. */
  #beganMs = 0;
  #hasNews = false;

  constructor({ onEvent, onLost, onBack, onUntrusted, onRecovered, listenPort, ...options }: ChatClientOptions) {
    const { promise, resolve } = Promise.withResolvers<string>();
    this.ended = promise;
    const listener: SessionListener = {
      event: (bytes, start, end) => {
        const event = parseEvent(bytes, start, end);
        if (event === null) return;
        this.#note(event);
        if (isConsent(event)) return this.#private.handle(event);
        return onEvent?.(event);
      },
      began: (user) => {
        this.#beganMs = Date.now();
        this.#hasNews = false;
        this.#private.begin(user);
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
    if (kind === "callback" && tls !== false) throw new ChatError("bad_request", "no callback session over TLS");
    const connected = (localAddress: string, isThisMachine: boolean): void => {
      this.#localAddress = localAddress;
      this.#isThisMachine = isThisMachine;
    };
    const all = { ...options, tls, kind, callbackPort, giveUpMs, store, connected };
    this.#session = kind === "callback" ? new CallbackSession(all, listener) : new StreamSession(all, listener);
  }

  /**
   * Connects without logging in. Rejects with the system's error (`code` tells which) when nobody listens there; with
   * `untrusted` or `closed`, and words for people behind it, when no TLS comes about.
   */
  connect(): Promise<void> {
    return this.#session.connect();
  }

  /** Whether the last connection stayed on this machine, so that nobody on a network can read it. */
  get isThisMachine(): boolean {
    return this.#isThisMachine;
  }

  /**
   * Connects if need be. Rejects as `connect` does; with `unknown_user`, `wrong_password <tries left>` or `locked_out
   * <seconds>`; with `needs_tls` at a port that has TLS; with the system's error when `listenPort` is taken.
   */
  async login(user: string, password: string): Promise<Login> {
    const port = this.#listenPort === null ? 0 : await this.#private.listen(this.#listenPort);
    try {
      return await this.#session.login(word(user), word(password), port);
    } catch (error) {
      this.#private.stopListening();
      throw error;
    }
  }

  /** "sent" when the user is online, "stored" when the message waits. Text is a line: it has no line feed in it. */
  async message(user: string, text: string): Promise<"sent" | "stored"> {
    return (await this.#session.request(`message ${word(user)} ${line(text)}`)) === "sent" ? "sent" : "stored";
  }

  /** Returns how many users it went to. */
  async broadcast(text: string): Promise<number> {
    return Number(await this.#session.request(`broadcast ${line(text)}`));
  }

  async online(): Promise<Online> {
    const words = await this.#session.request("online");
    const names = words === "" ? [] : words.split(" ");
    const more = names.at(-1)?.startsWith("+") ? Number(names.pop()) : 0;
    return { names, more };
  }

  async block(user: string): Promise<void> {
    await this.#session.request(`block ${word(user)}`);
  }

  async unblock(user: string): Promise<void> {
    await this.#session.request(`unblock ${word(user)}`);
  }

  /**
   * Asks for a user's address, for a private chat. Rejects with `offline`, `not_listening`, `blocked` or
   * `already_asked`. The answer comes within a minute, as the event `agreed` or `denied`.
   */
  async getAddress(user: string): Promise<void> {
    await this.#private.ask(word(user));
  }

  /** Answers a user who asked for this client's address. Rejects with `no_request` when that is too late. */
  async answer(user: string, yes: boolean): Promise<void> {
    await this.#private.answer(word(user), yes);
  }

  /**
   * Says something to a user from machine to machine, once they have agreed. Resolves when it was sent: there is no
   * reply. Rejects with `not_introduced`, `denied`, `gone`, or `wrong_certificate` when somebody else answers there.
   */
  async private(user: string, text: string): Promise<void> {
    await this.#private.send(word(user), line(text));
  }

  /** The safety number of a private chat: the same on both sides, or somebody is in between. */
  safetyNumber(user: string): string {
    return this.#private.safetyNumber(user);
  }

  /**
   * Resolves when all messages that waited at login are delivered and acknowledged. A mailbox comes in portions, as
   * they are acknowledged; messages that join its end after the login are not waited for.
   */
  async catchUp(): Promise<void> {
    let failuresLeft = CATCH_UP_FAILURES_MAX;
    // The first answer may be on its way before the portion that it asks for; the next one is not.
    for (let idle = 0; idle < 2 && !this.#hasNews; idle++) {
      const before = this.#stored;
      // In a new session the mailbox begins anew.
      await this.#session.ack().catch((error: ChatError) => {
        if (!RENEWED.includes(error.code) || --failuresLeft < 0) throw error;
        idle = -1;
      });
      if (this.#stored > before) idle = -1;
    }
    if (this.#hasNews) await this.#session.ack();
  }

  /** Messages come oldest first, so one that was sent after the login follows all that waited at the login. */
  #note(event: NonNullable<ReturnType<typeof parseEvent>>): void {
    if (event.kind === "message") this.#hasNews = true;
    if (event.kind !== "stored") return;
    this.#stored++;
    const nowMs = Date.now();
    // A time in the future means that the server's clock is ahead: then times cannot be compared.
    this.#hasNews ||= event.unixMs > this.#beganMs + CLOCKS_DIFFER_MS && event.unixMs <= nowMs;
  }

  /** Ends the session, and before that the private chats, so that what was said arrives. */
  async logout(): Promise<void> {
    await this.#private.end();
    await this.#session.logout();
  }

  /** Hangs up for good. Requests that were not answered reject with the code `closed`. */
  close(): void {
    void this.#private.end();
    this.#session.close();
  }
}

function isConsent(event: NonNullable<ReturnType<typeof parseEvent>>): event is IntroductionEvent {
  return ["private_request", "address", "expect", "denied"].includes(event.kind);
}

/** A word of a request must not become two, or a line of its own. */
function word(text: string): string {
  if (text === "" || /[ \r\n]/.test(text)) throw new ChatError("bad_request", "a name or password is one word");
  return text;
}

/** The receiver drops one CR before the LF: a text that ends in one takes two. */
function line(text: string): string {
  if (text === "" || text.includes("\n")) throw new ChatError("bad_request", "a text is one line, and not empty");
  return text.endsWith("\r") ? `${text}\r` : text;
}
