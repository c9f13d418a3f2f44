/**
 * The seam between a connection and the carrier of its bytes. `TcpTransport` carries them over TCP and TLS, tests use
 * simulated transports; `WebSocketTransport` carries them in frames over one of these. A transport knows nothing of
 * lines, streams and sessions.
 */

/** Receives the events of one accepted socket. */
export interface SocketEvents {
  /** The receiver owns the chunk until it calls `Transport.release`. */
  data(chunk: Buffer): void;
  /** The socket accepts bytes again. */
  drain(): void;
  /** The peer has closed its side (FIN). */
  end(): void;
  /** The socket is closed: by either side, or after an error, which is a reset by the peer as a rule. */
  closed(isReset?: boolean): void;
  /** Closes the socket without waiting for unsent bytes. */
  hangUp(): void;
  /** The TLS handshake has ended; `failure` is null when it succeeded. */
  handshake?(failure: Error | null): void;
}

export interface Transport {
  readonly isEncrypted: boolean;
  /** The client uses WebSocket, whatever carries the bytes here. */
  readonly isWebSocket: boolean;
  /**
   * Writes bytes[start..start + count) and returns how many bytes were accepted: below 0 when the connection is dead;
   * when fewer than `count`, `drain` follows. It may call `closed`.
   */
  write(bytes: Buffer, start: number, count: number): number;
  /**
   * A faster `write` that never calls back. When it accepts fewer than `count` bytes, `write` must be called with the
   * rest: only `write` detects failures and leads to `drain`.
   */
  send(bytes: Buffer, start: number, count: number): number;
  /** Stops and restarts the `data` events, so that the kernel's receive buffer fills and the peer has to wait. */
  pause(): void;
  resume(): void;
  /** Closes our side (FIN) after the bytes that were accepted. */
  shutdown(): void;
  /** Closes both sides. Bytes that the kernel accepted are still delivered. */
  end(): void;
  /** Closes both sides with a reset (RST). Bytes that the kernel accepted are dropped. */
  reset(): void;
  /** The events of the socket go to another receiver from now on. */
  handOver(receiver: SocketEvents): void;
  /** The socket is closed. */
  closed(): void;
  /** The receiver of a chunk needs it no longer. */
  release(chunk: Uint8Array): void;
}

/** Serves the client in place of a connection. */
export interface Successor extends SocketEvents {
  /** Bytes in memory. */
  readonly heldBytes: number;
  /**
   * Everything before is written, and the events of the socket come here from now on. It is not read until `resume`.
   * `unread`: what the client has sent already; `hasEnded`: and then it has closed its side.
   */
  begin(transport: Transport, unread: Uint8Array[], hasEnded: boolean): void;
}
