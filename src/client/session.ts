/**
 * The interface between ChatClient and its session, in both directions, with the options and the saved state of a
 * session. The implementations are in stream-session.ts and callback-session.ts.
 */
import type { ChatError } from "./errors.ts";
import type { Login } from "./login.ts";
import type { OpenTransport, ServerAddress } from "./transport.ts";

/** The state that a program saves, so that no message is lost or delivered twice after its restart. */
export interface ClientState {
  token: string;
  /** Position in the server's stream, in bytes. Everything before it was delivered. */
  received: number;
  /** Requests without a reply, each with the position in the client's stream after it. */
  unanswered: { line: string; position: number }[];
  /** Position up to which the server's stream was read: replies before it were given to their requests. */
  read?: number;
  /** See `Login`. Without it the session cannot be resumed by a later run, which then logs in. */
  silenceMs?: number;
}

/**
 * Saves the state of a session. When `save` returns, or its promise resolves, the state is saved: what it allows to be
 * sent, such as acknowledgements, is written after that. When a save fails, the session ends as "not_saved".
 */
export interface StateStore {
  /** The state that was saved last, by this or an earlier run of the program; null when there is none. */
  load(): Promise<ClientState | null> | ClientState | null;
  save(state: ClientState): Promise<void> | void;
}

/** A store that saves at once. */
export interface SyncStateStore extends StateStore {
  load(): ClientState | null;
  save(state: ClientState): void;
}

/**
 * "new": not logged in yet. "online": logged in. "lost": the connection was lost, and the client tries to reach the
 * server again. "ended": for good.
 */
export type ClientStatus = "new" | "online" | "lost" | "ended";

/** Requests and their replies, for any kind of session. */
export interface ChatSession {
  readonly status: ClientStatus;
  /** Rejects as `OpenTransport` does. */
  connect(signal?: AbortSignal): Promise<void>;
  /** `listenPort`: port for incoming private chats, 0 for none. Rejects as `ChatClient.login` does. */
  login(user: string, password: string, listenPort: number, signal?: AbortSignal): Promise<Login>;
  /** Continues the session of an earlier run. Rejects as `BaseClient.resume` does. */
  resume(user: string, signal?: AbortSignal): Promise<Login>;
  /**
   * Sends a request, a line without its LF, as soon as the server can be reached. Resolves with the words of the reply
   * after `ok`; rejects as the methods of `ChatClient` do. While it was not written yet, `signal` takes it back.
   */
  request(line: string, signal?: AbortSignal): Promise<string>;
  /** Waits until every line read so far is delivered, and acknowledges these lines. Resolves after the reply. */
  ack(): Promise<void>;
  logout(): Promise<void>;
  /** Closes the connection and ends the session without a logout. */
  close(): void;
}

/** Calls from a session to its owner. */
export interface SessionListener {
  /**
   * A session of this user begins: the first one, or a new one after a reconnect. From an earlier session only messages
   * continue. All other state from it, such as open requests for private chats, is invalid.
   */
  began(user: string): void;
  /**
   * The line of an event is bytes[start..end), valid during the call. It is acknowledged when it is delivered: when the
   * returned promise, if any, and the promises of all earlier lines are resolved. If the method throws or the promise
   * rejects, the session ends as "undelivered".
   */
  event(bytes: Uint8Array, start: number, end: number): unknown;
  /**
   * A new session begins, or with `isEnd` none: lines that nobody has taken yet come again. Their promises are resolved
   * with DISCARDED. At the end, lines that somebody is about to take may stay.
   */
  discard(isEnd: boolean): void;
  /** `event` has thrown or rejected: reports the error, which no promise carries. */
  failed(error: unknown): void;
  /** The connection was lost. */
  lost(): void;
  /** The session continues after `lost`. */
  back(): void;
  /** A reconnect failed because the certificate of the server is not valid. The session tries again. */
  untrusted(error: ChatError): void;
  /** Outcome of a request of an earlier run: the words of its reply, or an error. See `BaseClientOptions`. */
  recovered(line: string, error: ChatError | null, words: string): void;
  /** The session has ended for good. For `reason` see `ChatClient.ended`. */
  ended(reason: string, detail: string): void;
}

export interface SessionOptions extends ServerAddress {
  /**
   * A plain session ends with its connection. A resumable one continues on another connection. In a callback session
   * the server connects to the client for each delivery, and the client to the server for each request.
   */
  kind: "plain" | "resumable" | "callback";
  /** How connections to the server are opened. */
  open: OpenTransport;
  /** The same at the host that the reply to a login names. Without it the session stays where it logged in. */
  openAt?: (host: string) => OpenTransport;
  /** Port on which a callback session listens; 0 takes a free port. */
  callbackPort: number;
  /** Bytes of a request with its LF. A longer one is refused here. */
  lineBytesMax: number;
  /** Time after which a session stops its attempts to reconnect, and ends as "lost". */
  giveUpMs: number;
  /** Where the state of a user's session is saved; null: it is not saved. */
  store: (user: string) => Promise<StateStore> | StateStore | null;
}
