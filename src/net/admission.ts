import type { BlockList } from "node:net";
import { DESCRIPTORS_SPARE, type Limits, PROXY_HEADER_MS, TLS_HANDSHAKE_MS } from "../limits.ts";
import { withZone } from "../runtime/host.ts";
import { WheelTimer, type TimerKind } from "../timer-wheel.ts";
import type { Logger } from "../runtime/log.ts";
import { Connection, type Connections } from "./connection.ts";
import { type ProxyHeader, parseProxyHeader } from "./proxy-header.ts";
import { type AcceptedSocket, TcpTransport } from "./tcp-transport.ts";
import type { SocketEvents } from "./transport.ts";

/** At most this part of the descriptors is kept for calls of clients. */
const CALLBACKS_SHARE = 1 / 4;

/**
 * The limits as far as a process with so many descriptors can keep them. Some are never used up: at the limit this
 * runtime spins in accept, and the store and the journal need theirs.
 */
export function fitDescriptors(limits: Limits, descriptors: number): Limits {
  const free = Math.max(2, descriptors - DESCRIPTORS_SPARE);
  const callbacksMax = Math.min(limits.callbacksMax, Math.floor(free * CALLBACKS_SHARE));
  const connectionsMax = Math.min(limits.connectionsMax || free, free - callbacksMax);
  return { ...limits, callbacksMax, connectionsMax };
}

/** Decides about sockets that were accepted: who gets a connection, who has to go for it, and in whose name it is. */
export class Admission {
  readonly connections: Connections;
  /** Those that have no connection yet. */
  readonly pending = new Set<PendingConnection>();
  readonly late: TimerKind<PendingConnection>;
  readonly #proxies: BlockList | null;
  readonly #log: Logger;
  #refused = 0;
  #last = { address: "", why: "" };

  /** `proxies`: from there connections begin with a header that says for whom they are. */
  constructor(connections: Connections, proxies: BlockList | null, log: Logger) {
    this.connections = connections;
    this.#proxies = proxies;
    this.#log = log;
    this.late = connections.wheel.kind((newcomer) => newcomer.late());
  }

  /** A socket was accepted, which may speak TLS. */
  open(socket: AcceptedSocket, isEncrypted = false): void {
    const { remoteAddress } = socket;
    if (remoteAddress === undefined) return void socket.end(); // Gone before anybody looked.
    // On an IPv6 socket IPv4 comes in disguise.
    const address = remoteAddress.replace(/^::ffff:(?=.*\.)/i, "");
    const { open, unauthenticated: strangers, limits } = this.connections;
    if (open.size + this.pending.size >= limits.connectionsMax) {
      // Whoever is not in has to go, the oldest first: a crowd that says nothing keeps nobody out.
      const [oldest] = strangers;
      if (oldest === undefined) return this.#refuse(socket, address, isEncrypted, "connections");
      strangers.delete(oldest);
      oldest.hangUp();
    }
    const isProxy = !isEncrypted && this.#proxies?.check(address, address.includes(":") ? "ipv6" : "ipv4");
    if (isProxy === true) socket.data = new AwaitingProxyHeader(this, socket, address);
    else this.admit(socket, withZone(address, socket), isEncrypted);
  }

  /** Lets it in, unless there are too many of that address. */
  admit(socket: AcceptedSocket, address: string, isEncrypted = false): void {
    const tooMany = this.connections.chat.addresses.connect(address);
    if (tooMany !== null) return this.#refuse(socket, address, isEncrypted, tooMany);
    const transport = new TcpTransport(socket, isEncrypted);
    socket.data = isEncrypted
      ? new Handshake(this, socket, address, transport)
      : new Connection(this.connections, transport, address);
  }

  #refuse(socket: AcceptedSocket, address: string, isEncrypted: boolean, tooMany: string): void {
    this.count(address, `too many ${tooMany}`);
    socket.data = null;
    // Before a handshake there is nobody to tell, and this runtime would wait for one.
    if (isEncrypted) socket.end();
    else socket.end(`err busy too many ${tooMany}\n`);
  }

  /** A connection was refused. */
  count(address: string, why: string): void {
    this.#refused++;
    this.#last = { address, why };
  }

  /** Now and then: the operator hears of those that were refused, in one line. */
  report(): void {
    if (this.#refused > 0) this.#log.warn({ refused: this.#refused, last: this.#last }, "connections were refused");
    this.#refused = 0;
  }
}

/** A socket that was accepted, and has to do something before it gets a connection, within some time. */
export abstract class PendingConnection implements SocketEvents {
  protected readonly admission: Admission;
  protected readonly socket: AcceptedSocket;
  protected readonly address: string;
  readonly #timer = new WheelTimer<PendingConnection>(this);
  readonly #missing: string;

  /** `missing`: what it has to say within `delayMs`. */
  constructor(admission: Admission, socket: AcceptedSocket, address: string, missing: string, delayMs: number) {
    const { connections, late, pending: newcomers } = admission;
    this.admission = admission;
    this.socket = socket;
    this.address = address;
    this.#missing = missing;
    connections.wheel.schedule(this.#timer, late, delayMs);
    newcomers.add(this);
    connections.unauthenticated.add(this);
  }

  late(): void {
    this.reject(`no ${this.#missing} came`);
  }

  protected reject(why: string): void {
    this.admission.count(this.address, why);
    this.hangUp();
  }

  /** It is none any more. */
  protected leave(): void {
    const { connections, pending: newcomers } = this.admission;
    connections.wheel.cancel(this.#timer);
    connections.unauthenticated.delete(this);
    newcomers.delete(this);
  }

  data(_chunk: Buffer): void {}

  drain(): void {}

  end(): void {
    this.hangUp();
  }

  closed(): void {
    this.leave();
  }

  hangUp(): void {
    this.leave();
    this.socket.end();
  }
}

/** A connection from a proxy that has not said yet for whom it is. */
export class AwaitingProxyHeader extends PendingConnection {
  #bytes = Buffer.alloc(0);

  constructor(admission: Admission, socket: AcceptedSocket, address: string) {
    super(admission, socket, address, "PROXY header", PROXY_HEADER_MS);
  }

  override data(chunk: Buffer): void {
    this.#bytes = Buffer.concat([this.#bytes, chunk]);
    let header: ProxyHeader | null;
    try {
      header = parseProxyHeader(this.#bytes);
    } catch (error) {
      return this.reject((error as Error).message);
    }
    if (header === null) return;
    this.leave();
    this.admission.admit(this.socket, header.address ?? this.address);
    if (this.#bytes.length > header.bytes) this.socket.data?.data(this.#bytes.subarray(header.bytes));
  }
}

/** A connection over TLS whose handshake is not over. It counts as one of its address already. */
export class Handshake extends PendingConnection {
  readonly #transport: TcpTransport;

  constructor(admission: Admission, socket: AcceptedSocket, address: string, transport: TcpTransport) {
    super(admission, socket, address, "TLS handshake", TLS_HANDSHAKE_MS);
    this.#transport = transport;
  }

  /** It is over; `failure`: what made it fail. */
  handshake(failure: Error | null): void {
    if (!this.admission.pending.has(this)) return; // It was hung up on, which this runtime calls a failure.
    if (failure !== null) return this.reject(`the TLS handshake failed: ${failure.message}`);
    this.leave();
    this.socket.data = new Connection(this.admission.connections, this.#transport, this.address);
  }

  override closed(): void {
    super.closed();
    this.admission.connections.chat.addresses.disconnect(this.address);
  }
}
