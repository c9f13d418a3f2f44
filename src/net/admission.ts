import type { BlockList } from "node:net";
import { AddressCounts } from "../address-counts.ts";
import { DESCRIPTORS_SPARE, INPUT_BYTES_MAX, type Limits, PROXY_HEADER_MS, TLS_HANDSHAKE_MS } from "../limits.ts";
import { withZone } from "../runtime/host.ts";
import { WheelTimer, type TimerKind } from "../timer-wheel.ts";
import type { Logger } from "../runtime/log.ts";
import { Connection, type Connections } from "./connection.ts";
import { isListed, withoutMapping } from "./forwarded.ts";
import { type ProxyHeader, isProxyHeader, parseProxyHeader } from "./proxy-header.ts";
import { type AcceptedSocket, TcpTransport } from "./tcp-transport.ts";
import type { SocketEvents } from "./transport.ts";

/** Calls to clients may use at most this share of the descriptors. */
const CALLBACKS_SHARE = 1 / 4;
const NO_PROXY_HEADER = `no PROXY header within ${PROXY_HEADER_MS / 1000} seconds`;
const NO_HANDSHAKE = `no TLS handshake within ${TLS_HANDSHAKE_MS / 1000} seconds`;

/**
 * Reduces the limits on connections and calls to what the descriptors of this process allow. DESCRIPTORS_SPARE are kept
 * free: at the limit the runtime spins in accept, and the store and the journal need some.
 */
export function fitDescriptors(limits: Limits, descriptors: number): Limits {
  const free = Math.max(2, descriptors - DESCRIPTORS_SPARE);
  const callbacksMax = Math.min(limits.callbacksMax, Math.floor(free * CALLBACKS_SHARE));
  const connectionsMax = Math.min(limits.connectionsMax || free, free - callbacksMax);
  return { ...limits, callbacksMax, connectionsMax };
}

/** A connection with a session may hold this many times as many bytes as one without. */
const SESSION_WEIGHT = 8;

/**
 * Bounds the memory of incomplete lines and waiting requests of all connections together: closes the connections that
 * hold most. A connection without a session is closed earlier than one with a session.
 */
export function closeLargest(open: Iterable<Connection>): void {
  const all = [...open];
  let bytes = all.reduce((sum, { heldBytes }) => sum + heldBytes, 0);
  if (bytes <= INPUT_BYTES_MAX) return;
  const rank = ({ session, heldBytes }: Connection): number => heldBytes / (session === null ? 1 : SESSION_WEIGHT);
  for (const connection of all.sort((a, b) => rank(b) - rank(a))) {
    if (bytes <= INPUT_BYTES_MAX) return;
    bytes -= connection.heldBytes;
    connection.hangUp();
  }
}

/** Why a connection is refused, for metrics. */
const REFUSAL_REASONS = [
  "connections",
  "address_connections",
  "address_rate",
  "proxy_header",
  "tls_handshake",
  "relay_handshake",
  "relay_secret",
  "web_request",
  "web_origin",
] as const;
export type RefusalReason = (typeof REFUSAL_REASONS)[number];

/** By what `Addresses.connect` returns, and for `connectionsMax`. */
const REASONS: Record<string, RefusalReason> = {
  connections: "connections",
  "connections from your address": "address_connections",
  "new connections from your address": "address_rate",
};

/** A socket that was admitted. */
export interface Admitted {
  admission: Admission;
  socket: AcceptedSocket;
  transport: TcpTransport;
  /** Of the client. When it is not counted, it is that of a proxy, which names its clients later. */
  address: string;
  /** It counts among the connections of that address. */
  isCounted: boolean;
}

/** What differs between the ports for clients. */
export interface ClientPort {
  readonly isEncrypted: boolean;
  /** Its clients are browsers: the limits apply to this machine, too, and a proxy may send no PROXY header. */
  readonly isWeb: boolean;
  /** What a client receives that is refused because there are too many. */
  refusal(tooMany: string): string;
  /** What an admitted socket becomes. */
  begin(admitted: Admitted): SocketEvents;
}

/** A port for the line protocol. */
function linePort(isEncrypted: boolean): ClientPort {
  return {
    isEncrypted,
    isWeb: false,
    refusal: (tooMany) => `err busy too many ${tooMany}\n`,
    begin: ({ admission, transport, address }) => new Connection(admission.connections, transport, address),
  };
}
export const PLAIN_PORT = linePort(false);
export const TLS_PORT = linePort(true);

/**
 * Decides which accepted sockets become connections: the limits on connections, the PROXY header, the TLS handshake.
 * When all connections are taken, it closes the oldest one without a session.
 */
export class Admission {
  readonly connections: Connections;
  /** Sockets that wait for a PROXY header or a TLS handshake. */
  readonly pending = new Set<PendingConnection>();
  /** The deadline of a pending socket. */
  readonly late: TimerKind<PendingConnection>;
  /** Connections from these addresses begin with a PROXY header; null: none does. */
  proxies: BlockList | null;
  /** Connections of this process that are not among these, and count towards `connectionsMax`. */
  others: () => number = () => 0;
  readonly #log: Logger;
  /** Refused connections since the start. */
  readonly refusals = new Map<RefusalReason, number>(REFUSAL_REASONS.map((reason) => [reason, 0]));
  /** Refused connections since the last report, and the words of the last of them. */
  readonly #refused = new Map<RefusalReason, { counts: AddressCounts; why: string }>();

  constructor(connections: Connections, proxies: BlockList | null, log: Logger) {
    this.connections = connections;
    this.proxies = proxies;
    this.#log = log;
    this.late = connections.wheel.kind((pending) => pending.late());
  }

  /** Open connections, and sockets that wait. */
  get size(): number {
    return this.connections.open.size + this.pending.size + this.others();
  }

  /** A socket was accepted. */
  open(socket: AcceptedSocket, port = PLAIN_PORT): void {
    const { remoteAddress } = socket;
    if (remoteAddress === undefined) return void socket.end(); // The peer has closed it already.
    const address = withoutMapping(remoteAddress);
    const { unauthenticated, limits } = this.connections;
    if (this.size >= limits.connectionsMax) {
      // The oldest connection without a session is closed, so that idle connections do not keep users out.
      const [oldest] = unauthenticated;
      if (oldest === undefined) return this.#refuse(socket, address, port, "connections");
      unauthenticated.delete(oldest);
      oldest.hangUp();
    }
    const isProxy = isListed(this.proxies, address);
    if (isProxy && !port.isEncrypted) socket.data = new AwaitingProxyHeader(this, socket, address, port);
    else this.admit(socket, withZone(address, socket), port, !(isProxy && port.isWeb));
  }

  /**
   * The socket becomes what the port makes of it, over TLS after the handshake, unless its address has too many.
   * `isCounted`: see `Admitted`.
   */
  admit(socket: AcceptedSocket, address: string, port: ClientPort, isCounted = true): void {
    const { isEncrypted, isWeb } = port;
    const tooMany = isCounted ? this.connections.chat.addresses.connect(address, isWeb) : null;
    if (tooMany !== null) return this.#refuse(socket, address, port, tooMany);
    const transport = new TcpTransport(socket, isEncrypted);
    const admitted = { admission: this, socket, transport, address, isCounted };
    socket.data = isEncrypted ? new Handshake(admitted, port) : port.begin(admitted);
  }

  #refuse(socket: AcceptedSocket, address: string, port: ClientPort, tooMany: string): void {
    this.countTooMany(address, tooMany);
    socket.data = null;
    // Before the TLS handshake nothing can be sent, and the runtime would wait for the handshake.
    if (port.isEncrypted) socket.end();
    else socket.end(port.refusal(tooMany));
  }

  /** Counts a connection that is refused for the reason that `Addresses.connect` gave. */
  countTooMany(address: string, tooMany: string): void {
    this.count(REASONS[tooMany]!, address, `too many ${tooMany}`);
  }

  /** Counts a refused connection, also for the next report. */
  count(reason: RefusalReason, address: string, why: string): void {
    this.refusals.set(reason, (this.refusals.get(reason) ?? 0) + 1);
    const { counts } = this.#refused.get(reason) ?? { counts: new AddressCounts() };
    counts.add(address);
    this.#refused.set(reason, { counts, why });
  }

  /** Logs the connections that were refused since the last call, in one line for each address and reason. */
  report(): void {
    for (const [reason, { counts, why }] of this.#refused) {
      const { addresses, others } = counts.summary();
      for (const [address, count] of addresses) this.#logRefused(address, count, reason, why);
      if (others > 0) this.#logRefused("others", others, reason, why);
    }
    this.#refused.clear();
  }

  #logRefused(address: string, count: number, reason: RefusalReason, why: string): void {
    this.#log.warn({ event: "connection_refused", address, count, reason }, `connections were refused: ${why}`);
  }
}

/** An accepted socket that must send something, within a time limit, before it becomes a connection. */
export abstract class PendingConnection implements SocketEvents {
  protected abstract readonly refusal: RefusalReason;
  protected readonly admission: Admission;
  protected readonly socket: AcceptedSocket;
  protected readonly address: string;
  readonly #timer = new WheelTimer<PendingConnection>(this);
  readonly #tooLate: string;

  /** `tooLate`: why it is refused after `delayMs`, for the log. */
  constructor(admission: Admission, socket: AcceptedSocket, address: string, tooLate: string, delayMs: number) {
    const { connections, late, pending } = admission;
    this.admission = admission;
    this.socket = socket;
    this.address = address;
    this.#tooLate = tooLate;
    connections.wheel.schedule(this.#timer, late, delayMs);
    pending.add(this);
    connections.unauthenticated.add(this);
  }

  late(): void {
    this.reject(this.#tooLate);
  }

  /** The time limit begins again. */
  protected prolong(delayMs: number): void {
    const { connections, late } = this.admission;
    connections.wheel.schedule(this.#timer, late, delayMs);
  }

  protected reject(why: string): void {
    this.admission.count(this.refusal, this.address, why);
    this.hangUp();
  }

  /** The socket becomes a connection, or is closed. */
  protected leave(): void {
    const { connections, pending } = this.admission;
    connections.wheel.cancel(this.#timer);
    connections.unauthenticated.delete(this);
    pending.delete(this);
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

/** A socket from a proxy that has not sent its PROXY header, which names the client. */
export class AwaitingProxyHeader extends PendingConnection {
  protected readonly refusal = "proxy_header";
  readonly #port: ClientPort;
  #bytes = Buffer.alloc(0);

  constructor(admission: Admission, socket: AcceptedSocket, address: string, port: ClientPort) {
    super(admission, socket, address, NO_PROXY_HEADER, PROXY_HEADER_MS);
    this.#port = port;
  }

  override data(chunk: Buffer): void {
    this.#bytes = Buffer.concat([this.#bytes, chunk]);
    if (this.#port.isWeb && !isProxyHeader(this.#bytes)) return this.#admit(this.address, 0, false);
    let header: ProxyHeader | null;
    try {
      header = parseProxyHeader(this.#bytes);
    } catch (error) {
      return this.reject((error as Error).message);
    }
    if (header !== null) this.#admit(header.address ?? this.address, header.bytes, true);
  }

  #admit(address: string, headerBytes: number, isCounted: boolean): void {
    this.leave();
    this.admission.admit(this.socket, address, this.#port, isCounted);
    if (this.#bytes.length > headerBytes) this.socket.data?.data(this.#bytes.subarray(headerBytes));
  }
}

/** A socket during the TLS handshake. It counts as a connection of its address already. */
export class Handshake extends PendingConnection {
  protected readonly refusal = "tls_handshake";
  readonly #admitted: Admitted;
  readonly #port: ClientPort;

  constructor(admitted: Admitted, port: ClientPort) {
    super(admitted.admission, admitted.socket, admitted.address, NO_HANDSHAKE, TLS_HANDSHAKE_MS);
    this.#admitted = admitted;
    this.#port = port;
  }

  handshake(failure: Error | null): void {
    if (!this.admission.pending.has(this)) return; // The runtime reports a handshake that `hangUp` interrupted.
    if (failure !== null) return this.reject(`the TLS handshake failed: ${failure.message}`);
    this.leave();
    this.socket.data = this.#port.begin(this.#admitted);
  }

  override closed(): void {
    super.closed();
    const { address, isCounted } = this.#admitted;
    if (isCounted) this.admission.connections.chat.addresses.disconnect(address, this.#port.isWeb);
  }
}
