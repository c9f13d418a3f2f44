/**
 * One connection of another server to the owner of a shard: dialing and the handshake. What happens with its bytes from
 * then on is in relay.ts, neighbour-link.ts, spare-links.ts and shard-admin.ts.
 */
import type { Socket } from "bun";
import { CLUSTER_LINE_BYTES_MAX } from "../limits.ts";
import { LineReader } from "../protocol/line-reader.ts";
import { isLoopback } from "../runtime/host.ts";
import { type Purpose, type ShardOwner, isNonce, isProof, linkLine, newNonce, numberOf } from "./cluster-handshake.ts";
import { firstLine, proofOf, wordsOf } from "./cluster-handshake.ts";
import { TcpTransport } from "./tcp-transport.ts";
import type { SocketEvents, Transport } from "./transport.ts";

/** The owner of a shard, as the shared log has it. */
export interface Owner extends ShardOwner {
  host: string;
  port: number;
}

/** Mutual TLS between the servers of a cluster, in PEM format. */
export interface ClusterTls {
  authorities: string;
  chain: string;
  key: string;
}

/** Why no connection to an owner came about: for metrics and the log. */
export type LinkFailure = "unreachable" | "tls" | "secret" | "handshake";

/** Receives what becomes of an attempt to connect, then the events of the socket. */
export interface DialEvents extends SocketEvents {
  connected(transport: Transport): void;
  failed(reason: LinkFailure, why: string): void;
}

export type DialOwner = (owner: Owner, events: DialEvents) => void;

/** `tls`: null for plain TCP. `beginTurn` is called before each event. */
export function dialOwner(tls: ClusterTls | null, beginTurn: () => void): DialOwner {
  return ({ host, port }, events) => {
    if (tls === null && !isLoopback(host)) {
      const why = "it is on another machine, and this server has no --cluster-ca, --cluster-cert and --cluster-key";
      return void queueMicrotask(() => events.failed("tls", why));
    }
    let isConnected = false;
    const connected = (socket: Socket<SocketEvents | null>): void => {
      isConnected = true;
      events.connected(new TcpTransport(socket, false, tls !== null));
    };
    const turn = (act: () => void): void => {
      beginTurn();
      act();
    };
    const failed = (reason: LinkFailure, why: string): void => {
      if (!isConnected) turn(() => events.failed(reason, why));
      isConnected = true; // Nothing of this attempt counts any more.
    };
    const handlers: Bun.SocketHandler<SocketEvents | null> = {
      open: (socket) => {
        socket.data = events;
        if (tls === null) turn(() => connected(socket));
      },
      handshake: (socket, isWell, error) => {
        if (isWell && socket.authorized) return turn(() => connected(socket));
        failed("tls", `the TLS handshake failed: ${error?.message ?? "no valid certificate"}`);
        socket.terminate();
      },
      data: (socket, chunk) => turn(() => socket.data?.data(chunk)),
      drain: (socket) => turn(() => socket.data?.drain()),
      end: (socket) => turn(() => socket.data?.end()),
      close: (socket, error) => {
        if (!isConnected) failed("tls", `the TLS handshake failed: ${error?.message ?? "the connection was closed"}`);
        else turn(() => socket.data?.closed(error !== undefined));
      },
      error: (socket) => socket.terminate(),
      connectError: (_socket, error) => failed("unreachable", error.message),
    };
    const encryption = tls === null ? {} : { tls: clientTls(tls, host) };
    const options = { hostname: host, port, data: null, allowHalfOpen: true, socket: handlers, ...encryption };
    Bun.connect(options).catch((error: Error) => failed("unreachable", error.message));
  };
}

/** The certificate of the owner must be valid for the address of its `--cluster-listen`. */
function clientTls({ authorities, chain, key }: ClusterTls, host: string): Bun.TLSOptions {
  return { ca: authorities, cert: chain, key, serverName: host, rejectUnauthorized: true };
}

export interface LinkEvents extends SocketEvents {
  /** The owner has proved itself: `epoch` is its own. What is written from now on comes after the handshake. */
  ready(transport: Transport, epoch: number, proof: string): void;
  failed(reason: LinkFailure, why: string): void;
}

/**
 * - `dialing`: waits for the connection; `greeting`: for the owner's proof.
 * - `ready`: all events go on to the receiver.
 * - `over`: nothing does.
 */
type LinkState = "dialing" | "greeting" | "ready" | "over";

/** Which server connects, and how. */
export interface OwnerLinkOptions {
  /** Of the cluster. */
  secret: Uint8Array;
  dial: DialOwner;
  /** The owner of another shard, or what another server wants. */
  self: ShardOwner | Purpose;
}

export class OwnerLink implements DialEvents {
  readonly owner: Owner;
  readonly #secret: Uint8Array;
  readonly #receiver: LinkEvents;
  readonly #settled: () => void;
  readonly #first: string;
  readonly #reader = new LineReader(CLUSTER_LINE_BYTES_MAX);
  #state: LinkState = "dialing";
  #transport: Transport | null = null;

  /** `settled`: the attempt to connect has ended. */
  constructor(owner: Owner, { secret, dial, self }: OwnerLinkOptions, receiver: LinkEvents, settled: () => void) {
    this.owner = owner;
    this.#secret = secret;
    this.#first = typeof self === "string" ? firstLine(self, newNonce(), owner.shard) : linkLine(newNonce(), self);
    this.#receiver = receiver;
    this.#settled = settled;
    dial(owner, this);
  }

  connected(transport: Transport): void {
    this.#settled();
    this.#transport = transport;
    if (this.#state === "over") return transport.end();
    this.#state = "greeting";
    const line = Buffer.from(`${this.#first}\n`);
    transport.write(line, 0, line.length); // The buffer of a new socket is empty, so it accepts the whole line.
  }

  failed(reason: LinkFailure, why: string): void {
    this.#settled();
    this.#fail(reason, why);
  }

  #fail(reason: LinkFailure, why: string): void {
    if (this.#state === "over") return;
    this.hangUp();
    this.#receiver.failed(reason, why);
  }

  data(chunk: Buffer): void {
    if (this.#state === "ready") return this.#receiver.data(chunk);
    if (this.#state !== "greeting") return;
    this.#reader.feed(chunk);
    if (this.#reader.next()) this.#greeted(wordsOf(this.#reader) ?? []);
    else if (this.#reader.takeSkipped() > 0) this.#greeted([]);
  }

  #greeted([verb, ...words]: string[]): void {
    if (verb === "refused") return this.#fail("handshake", `it refuses: ${words.join(" ")}`);
    const [shard, epoch] = words.map(numberOf);
    const [, , ownerNonce, proof = ""] = words;
    if (verb !== "owner" || Number.isNaN(shard! + epoch!) || !isNonce(ownerNonce))
      return this.#fail("handshake", "it is no server of a cluster, or of another version");
    const said = { first: this.#first, shard: shard!, epoch: epoch!, ownerNonce };
    if (!isProof(proof, proofOf("owner", this.#secret, said)))
      return this.#fail("secret", "it belongs to another cluster: it does not know the secret of this one");
    if (said.shard !== this.owner.shard || said.epoch < this.owner.epoch)
      return this.#fail("handshake", "it is not the owner any more");
    this.#state = "ready";
    this.#receiver.ready(this.#transport!, said.epoch, proofOf("dialer", this.#secret, said));
  }

  drain(): void {
    if (this.#state === "ready") this.#receiver.drain();
  }

  end(): void {
    if (this.#state === "ready") this.#receiver.end();
    else this.#fail("handshake", "it closes the connection");
  }

  closed(isReset?: boolean): void {
    this.#transport?.closed();
    if (this.#state === "ready") this.#receiver.closed(isReset);
    else this.#fail("handshake", "it closes the connection");
  }

  /** Nothing of this connection matters any more. */
  hangUp(): void {
    if (this.#state === "over") return;
    this.#state = "over";
    this.#transport?.reset();
  }
}
