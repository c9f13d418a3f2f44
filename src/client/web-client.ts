/** The client library for browsers: ChatClient over WebSocket, without callback sessions and private chats. */
import { BaseClient } from "./base-client.ts";
import { StreamSession } from "./stream-session.ts";
import { type WebSocketOptions, webSocketOptions } from "./web-socket.ts";

export type { BaseClient, Online, RequestOptions } from "./base-client.ts";
export type { ChatEvent, ConnectionEvent, UserEvent } from "./event.ts";
export { ChatError } from "./errors.ts";
export { type IndexedDbState, type IndexedDbStateOptions, type Key, indexedDbState } from "./indexed-db-state.ts";
export type { Login } from "./login.ts";
export { memoryState } from "./memory-state.ts";
export type { ClientState, ClientStatus, StateStore } from "./session.ts";

export type ChatClientOptions = WebSocketOptions;

/** A resumable chat session over WebSocket: see `BaseClient`. */
export class ChatClient extends BaseClient {
  /** @internal */
  protected readonly session: StreamSession;

  constructor(options: ChatClientOptions) {
    super(options);
    this.session = new StreamSession(webSocketOptions(options), this.sessionListener);
  }

  /**
   * Sends a heartbeat or reconnects when that is due. In a page that nobody looks at, timers run once a minute:
   * too late for the server. The timers of a worker go on: a page may call this each second by messages of a worker.
   */
  keepAlive(): void {
    this.session.keepAlive();
  }
}
