import { once } from "node:events";
import { type AddressInfo, type Server, type Socket, createServer } from "node:net";
import { TLSSocket } from "node:tls";
import { PRIVATE_AUTH_MS, PRIVATE_AUTHS_MAX } from "../../limits.ts";
import { everyAddress } from "../../runtime/host.ts";
import type { Certificate } from "./certificate.ts";
import { PeerConnection } from "./peer-connection.ts";

/** Decides who may stay. */
export interface ConnectionAuthorizer {
  /** What to prove ourselves with to a caller; null while nobody may call. */
  readonly certificate: Certificate | null;
  /** Somebody has called and said their first line. False, and they are hung up on. */
  admit(line: PeerConnection, greeting: string): Promise<boolean>;
}

/**
 * Unauthenticated callers: at most GREETINGS_MAX, each for at most GREETING_MS. The oldest is cut for a new one, so
 * that silent callers keep nobody out.
 */
export class UnauthenticatedCallers<T> {
  readonly #callers = new Map<T, Timer>();
  readonly #cut: (caller: T) => void;

  constructor(cut: (caller: T) => void) {
    this.#cut = cut;
  }

  add(caller: T): void {
    const [oldest] = this.#callers.keys();
    if (oldest !== undefined && this.#callers.size >= PRIVATE_AUTHS_MAX) {
      this.delete(oldest);
      this.#cut(oldest);
    }
    const deadline = setTimeout(() => this.#cut(caller), PRIVATE_AUTH_MS);
    this.#callers.set(caller, deadline);
  }

  /** The caller is authenticated, or gone. */
  delete(caller: T): void {
    clearTimeout(this.#callers.get(caller));
    this.#callers.delete(caller);
  }

  cutAll(): void {
    for (const caller of this.#callers.keys()) this.#cut(caller);
  }
}

/**
 * The client's own port. Whoever connects has a few seconds to prove by certificate and ticket that they were invited,
 * and learns nothing else; only so many may try at a time, and none while nobody was invited.
 */
export class Listener {
  readonly #server: Server;
  readonly #doorkeeper: ConnectionAuthorizer;
  readonly #greetings = new UnauthenticatedCallers<PeerConnection>((line) => line.cut());

  private constructor(doorkeeper: ConnectionAuthorizer) {
    this.#doorkeeper = doorkeeper;
    this.#server = createServer((socket) => this.#accept(socket));
  }

  /** Listens on that port, or with 0 on a free one. Rejects with the system's error. */
  static async open(port: number, doorkeeper: ConnectionAuthorizer): Promise<Listener> {
    const listener = new Listener(doorkeeper);
    listener.#server.listen(port, everyAddress());
    await once(listener.#server, "listening");
    return listener;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  #accept(socket: Socket): void {
    socket.on("error", () => {});
    const { certificate } = this.#doorkeeper;
    if (certificate === null) return void socket.destroy();
    const { key, pem: cert } = certificate;
    // Anybody's certificate is taken here: whose it must be depends on the name that comes with the first line.
    const options = { isServer: true, requestCert: true, rejectUnauthorized: false, minVersion: "TLSv1.3" } as const;
    void this.#greet(new PeerConnection(new TLSSocket(socket, { ...options, key, cert })));
  }

  async #greet(line: PeerConnection): Promise<void> {
    this.#greetings.add(line);
    const admitted = line.lines.next().then(({ value }) => this.#doorkeeper.admit(line, value ?? ""));
    // A caller who is gone by now was not admitted either.
    const isAdmitted = await Promise.race([admitted, line.closed.then(() => false)]).catch(() => false);
    this.#greetings.delete(line);
    if (!isAdmitted) line.cut();
  }

  close(): void {
    this.#server.close();
    this.#greetings.cutAll();
  }
}
