/** The port for incoming private chats, and the bound on callers that are not authenticated. */
import { type Server, type Socket, createServer } from "node:net";
import { TLSSocket } from "node:tls";
import { PRIVATE_AUTH_MS, PRIVATE_AUTHS_MAX } from "../../limits.ts";
import { listenOnAllAddresses } from "../listen.ts";
import type { Timeout } from "../timing.ts";
import type { Certificate } from "./certificate.ts";
import { PeerConnection } from "./peer-connection.ts";

/** Decides which incoming connections are accepted. */
export interface ConnectionAuthorizer {
  /** The certificate of this client; null while no caller is expected. */
  readonly certificate: Certificate | null;
  /** Checks the first line of a caller. When it resolves with false, the connection is closed. */
  admit(connection: PeerConnection, firstLine: string): Promise<boolean>;
}

/**
 * Callers that are not authenticated: at most PRIVATE_AUTHS_MAX, each for at most PRIVATE_AUTH_MS. A new caller
 * replaces the oldest one, so silent callers cannot keep others out.
 */
export class UnauthenticatedCallers<T> {
  readonly #callers = new Map<T, Timeout>();
  readonly #destroy: (caller: T) => void;

  constructor(destroy: (caller: T) => void) {
    this.#destroy = destroy;
  }

  add(caller: T): void {
    const [oldest] = this.#callers.keys();
    if (oldest !== undefined && this.#callers.size >= PRIVATE_AUTHS_MAX) {
      this.delete(oldest);
      this.#destroy(oldest);
    }
    const deadline = setTimeout(() => this.#destroy(caller), PRIVATE_AUTH_MS);
    this.#callers.set(caller, deadline);
  }

  /** The caller is authenticated, or its connection is closed. */
  delete(caller: T): void {
    clearTimeout(this.#callers.get(caller));
    this.#callers.delete(caller);
  }

  destroyAll(): void {
    for (const caller of this.#callers.keys()) this.#destroy(caller);
  }
}

/**
 * The port for incoming private chats. A caller must prove by certificate and ticket that it was invited, within
 * PRIVATE_AUTH_MS, and learns nothing else. While no caller is expected, each connection is closed at once.
 */
export class Listener {
  port = 0;
  readonly #server: Server;
  readonly #authorizer: ConnectionAuthorizer;
  readonly #unauthenticated = new UnauthenticatedCallers<PeerConnection>((caller) => caller.destroy());

  private constructor(authorizer: ConnectionAuthorizer) {
    this.#authorizer = authorizer;
    this.#server = createServer((socket) => this.#accept(socket));
  }

  /** Listens on a port; 0 takes a free one. Rejects with the system's error. */
  static async open(port: number, authorizer: ConnectionAuthorizer): Promise<Listener> {
    const listener = new Listener(authorizer);
    listener.port = await listenOnAllAddresses(listener.#server, port);
    return listener;
  }

  #accept(socket: Socket): void {
    socket.on("error", () => {});
    const { certificate } = this.#authorizer;
    if (certificate === null) return void socket.destroy();
    const { key, pem: cert } = certificate;
    // Any certificate is accepted here: which one is right depends on the name in the first line.
    const options = { isServer: true, requestCert: true, rejectUnauthorized: false, minVersion: "TLSv1.3" } as const;
    void this.#authenticate(new PeerConnection(new TLSSocket(socket, { ...options, key, cert })));
  }

  async #authenticate(caller: PeerConnection): Promise<void> {
    this.#unauthenticated.add(caller);
    const admitted = caller.lines.next().then(({ value }) => this.#authorizer.admit(caller, value ?? ""));
    // A connection that closes meanwhile is not admitted.
    const isAdmitted = await Promise.race([admitted, caller.closed.then(() => false)]).catch(() => false);
    this.#unauthenticated.delete(caller);
    if (!isAdmitted) caller.destroy();
  }

  close(): void {
    this.#server.close();
    this.#unauthenticated.destroyAll();
  }
}
