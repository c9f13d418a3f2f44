/** What a session offers to ChatClient, and what it needs from it. The implementations are in *-session.ts. */
import type { ChatError } from "./errors.ts";
import type { Login } from "./login.ts";

/** What must survive the program, so that after a restart no message is lost or delivered twice. */
export interface ClientState {
  token: string;
  /** Position in the server's stream, in bytes. Everything before it was delivered. */
  received: number;
  /** Requests without a reply, each with the position in the client's stream after it. */
  unanswered: { line: string; position: number }[];
}

/** Keeps one state. Both methods return when the state is read or written. */
export interface StateStore {
  /** The last state that was saved, also by an earlier run of the program; null when there is none. */
  load(): ClientState | null;
  save(state: ClientState): void;
}

/** Requests and their replies, for any kind of session. */
export interface ChatSession {
  connect(): Promise<void>;
  /** `listenPort`: port for incoming private chats, 0 for none. Rejects as `ChatClient.login` does. */
  login(user: string, password: string, listenPort: number): Promise<Login>;
  /** Sends a line, given without LF. Resolves with the words after `ok`. Waits while the server cannot be reached. */
  request(line: string): Promise<string>;
  /** Acknowledges everything read so far, once it is delivered. Resolves after the server's reply. */
  ack(): Promise<void>;
  logout(): Promise<void>;
  /** Closes the connection and ends the session without a logout. */
  close(): void;
}

/** Calls from a session to its owner. */
export interface SessionListener {
  /** A session of this user begins, the first or a later one. Nothing of an earlier session holds except messages. */
  began(user: string): void;
  /**
   * An event's line, valid during the call. The line is acknowledged when the returned promise, if any, is resolved,
   * and so are the promises of earlier lines. A handler that throws or rejects ends the session as "undelivered".
   */
  event(bytes: Uint8Array, start: number, end: number): unknown;
  /** The connection was lost. */
  lost(): void;
  /** The session continues after `lost`. */
  back(): void;
  /** During a reconnect the certificate of the server was not valid. The session tries again. */
  untrusted(error: ChatError): void;
  /** The outcome of a request that an earlier run left without a reply: null when it was sent again and accepted. */
  recovered(line: string, error: ChatError | null): void;
  /** The session has ended for good. For `reason` see `ChatClient.ended`. */
  ended(reason: string): void;
}

/** Address of a server. */
export interface ServerAddress {
  host: string;
  port: number;
  /** With TLS, the certificate must be signed by a public authority, or by one of `ca` (PEM) instead. */
  tls: boolean | { ca: string };
  /** Called for each connection with its local address, and with whether the server is on the same machine. */
  connected?: (localAddress: string, isThisMachine: boolean) => void;
}

export interface SessionOptions extends ServerAddress {
  /** Plain ends with its connection; resumable reconnects; callback has no lasting connection: the server calls it. */
  kind: "plain" | "resumable" | "callback";
  /** Port on which a callback session listens; 0 takes a free port. */
  callbackPort: number;
  /** How long a session tries to reach a lost server. */
  giveUpMs: number;
  store: (user: string) => Promise<StateStore> | StateStore | null;
}
