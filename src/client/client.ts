/** The client library for Node and Bun: ChatClient, with sockets, callback sessions and private chats. */
import { withZone } from "../runtime/host.ts";
import { BaseClient, type BaseClientOptions, type RequestOptions, sessionDefaults } from "./base-client.ts";
import { CallbackSession } from "./callback-session.ts";
import { ChatError } from "./errors.ts";
import { HostAddresses } from "./host-addresses.ts";
import type { IntroductionEvent } from "./event.ts";
import type { Login } from "./login.ts";
import { PrivateChats } from "./p2p/private.ts";
import { oneLine, oneWord } from "./request.ts";
import type { ChatSession, SessionOptions } from "./session.ts";
import { StreamSession } from "./stream-session.ts";
import { openTcp } from "./tcp.ts";
import type { OpenTransport } from "./transport.ts";
import { emitWarning } from "./warning.ts";
import { type WebSocketOptions, webSocketOptions } from "./web-socket.ts";

export type { BaseClient, Online, RequestOptions } from "./base-client.ts";
export type { ChatEvent, ConnectionEvent, UserEvent } from "./event.ts";
export { ChatError } from "./errors.ts";
export { fileState } from "./file-state.ts";
export type { Login } from "./login.ts";
export { memoryState } from "./memory-state.ts";
export type { ClientState, ClientStatus, StateStore } from "./session.ts";

/** The first version of Node with all that the library uses. */
const NODE_MIN = 22;
if (process.versions.bun === undefined && Number.parseInt(process.versions.node, 10) < NODE_MIN)
  throw new Error(`heartline/client needs Node ${NODE_MIN} or newer, and this is ${process.version}`);

/** A session over WebSocket, or over TCP. */
export type ChatClientOptions = WebSocketOptions | TcpOptions;

export interface TcpOptions extends BaseClientOptions {
  url?: never;
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
}

/** A chat session over TCP, TLS or WebSocket: see `BaseClient`. */
export class ChatClient extends BaseClient {
  /** @internal */
  protected readonly session: ChatSession;
  readonly #private: PrivateChats;
  readonly #listenPort: number | null;
  /** Local address of the last connection to the server. */
  #localAddress = "";
  #isThisMachine = false;

  constructor(options: ChatClientOptions) {
    super(options);
    this.#listenPort = options.url === undefined ? (options.listenPort ?? null) : null;
    this.#private = new PrivateChats(
      (request) => this.session.request(request),
      (event) => this.emit(event),
      (event) => this.report(event),
      (address) => withZone(address, { localAddress: this.#localAddress }),
    );
    const connected = (localAddress: string, isThisMachine: boolean): void => {
      this.#localAddress = localAddress;
      this.#isThisMachine = isThisMachine;
    };
    const all = options.url === undefined ? tcpOptions(options, connected) : webSocketOptions(options);
    const Session = all.kind === "callback" ? CallbackSession : StreamSession;
    this.session = new Session(all, this.sessionListener);
  }

  /** Whether the last connection stayed on this machine, where no network can read it. */
  get isThisMachine(): boolean {
    return this.#isThisMachine;
  }

  override async login(user: string, password: string, options?: RequestOptions): Promise<Login> {
    try {
      return await super.login(user, password, options);
    } catch (error) {
      this.#private.stopListening();
      throw error;
    }
  }

  override async resume(user: string, options?: RequestOptions): Promise<Login> {
    if (this.#listenPort !== null) throw new ChatError("bad_request", "private chats need a login");
    return super.resume(user, options);
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

  /** @internal */
  protected override warn(error: unknown): void {
    emitWarning(error);
  }

  /** @internal */
  protected override introduced(event: IntroductionEvent): unknown {
    return this.#private.handle(event);
  }

  /** @internal */
  protected override sessionBegan(user: string): void {
    this.#private.sessionBegan(user);
  }

  /** @internal */
  protected override async privatePort(): Promise<number> {
    return this.#listenPort === null ? 0 : this.#private.listen(this.#listenPort);
  }

  /** @internal */
  protected override async endPrivateChats(): Promise<void> {
    await this.#private.end();
  }
}

function tcpOptions(options: TcpOptions, connected: NonNullable<SessionOptions["connected"]>): SessionOptions {
  const { host, port, tls = false, session: kind = "resumable", callbackPort = 0 } = options;
  if (kind === "callback" && tls !== false) throw new ChatError("bad_request", "callback sessions do not support TLS");
  const openAt = (at: string): OpenTransport => openTcp(new HostAddresses(at));
  return { ...sessionDefaults(options), host, port, tls, connected, kind, open: openAt(host), openAt, callbackPort };
}
