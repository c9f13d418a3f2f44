/**
 * The seam between a session and the network: how the bytes of one connection travel. tcp.ts has TCP and TLS. Nothing
 * above it knows sockets, so that another kind of connection needs only this interface.
 */

/** Address of a server. */
export interface ServerAddress {
  host: string;
  port: number;
  /** With TLS, the certificate must be signed by a public authority, or by one of `ca` (PEM) instead. */
  tls: boolean | { ca: string };
  /** Called for each new connection; `isThisMachine`: the server is on the same machine. */
  connected?: (localAddress: string, isThisMachine: boolean) => void;
}

/** An open connection. */
export interface Transport {
  /** Sends bytes, which are the transport's from now on. It keeps those that the network does not take yet. */
  write(bytes: Uint8Array): void;
  /** Closes the connection. What the network has taken is still sent. */
  close(): void;
  /** Closes a connection that does not answer, and drops what the network has not sent. */
  abandon(): void;
  /** Whether the server takes this client here: it may be busy, and another one serves clients. */
  verdict(isAccepted: boolean): void;
  /** Stops and continues the calls of `data`. */
  pause(): void;
  resume(): void;
}

/** Calls from a transport to its owner. */
export interface TransportListener {
  /** Received bytes, which are the listener's from now on. */
  data(chunk: Uint8Array): void;
  /** The connection is closed, by either side. Called once, and only after `open` has resolved. */
  closed(): void;
}

/**
 * Opens a connection. Resolves when bytes may be sent: after a TLS handshake, if there is one. Rejects with the
 * system's error (such as `code` "ECONNREFUSED"), with a ChatError `untrusted` or `closed`, or with the reason of
 * `signal` when that is aborted.
 */
export type OpenTransport = (
  address: ServerAddress,
  listener: TransportListener,
  signal: AbortSignal,
) => Promise<Transport>;
