import type { BlockList } from "node:net";
import { DESCRIPTORS_SPARE, KERNEL_RECEIVE_BYTES, KERNEL_SEND_BYTES, type Limits, PROXY_HEADER_MS } from "../limits.ts";
import type { TimerHandle, TimerKind } from "../timer-wheel.ts";
import { type Accepted, type AcceptedSocket, Connection, type Connections } from "./connection.ts";
import { setBuffers } from "./kernel.ts";
import type { Logger } from "./log.ts";
import { type ProxyHeader, parseProxyHeader } from "./proxy-header.ts";

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
  /** Those that a proxy has opened without having said yet for whom. */
  readonly unnamed = new Set<Unnamed>();
  readonly deadline: TimerKind<Unnamed>;
  readonly #proxies: BlockList | null;
  readonly #log: Logger;
  #refused = 0;
  #last = { address: "", why: "" };

  /** `proxies`: from there connections begin with a header that says for whom they are. */
  constructor(connections: Connections, proxies: BlockList | null, log: Logger) {
    this.connections = connections;
    this.#proxies = proxies;
    this.#log = log;
    this.deadline = connections.wheel.kind((unnamed) => unnamed.reject("no PROXY header came"));
  }

  /** A socket was accepted. */
  open(socket: AcceptedSocket): void {
    const { remoteAddress } = socket;
    if (remoteAddress === undefined) return void socket.end(); // Gone before anybody looked.
    // On an IPv6 socket IPv4 comes in disguise.
    const address = remoteAddress.replace(/^::ffff:(?=.*\.)/i, "");
    const { open, strangers, limits } = this.connections;
    if (open.size + this.unnamed.size >= limits.connectionsMax) {
      // Whoever is not in has to go, the oldest first: a crowd that says nothing keeps nobody out.
      const [oldest] = strangers;
      if (oldest === undefined) return this.#refuse(socket, address, "connections");
      strangers.delete(oldest);
      oldest.hangUp();
    }
    if (this.#proxies?.check(address, address.includes(":") ? "ipv6" : "ipv4")) {
      socket.data = new Unnamed(this, socket, address);
    } else this.admit(socket, address);
  }

  /** Gives it a connection, unless there are too many of that address. */
  admit(socket: AcceptedSocket, address: string): void {
    const tooMany = this.connections.chat.addresses.connect(address);
    if (tooMany !== null) return this.#refuse(socket, address, tooMany);
    setBuffers((socket as unknown as { fd: number }).fd, KERNEL_SEND_BYTES, KERNEL_RECEIVE_BYTES);
    socket.data = new Connection(this.connections, socket, address);
  }

  #refuse(socket: AcceptedSocket, address: string, tooMany: string): void {
    this.count(address, `too many ${tooMany}`);
    socket.data = null;
    socket.end(`busy too many ${tooMany}\n`);
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

/** A connection from a proxy that has not said yet for whom it is. */
class Unnamed implements Accepted {
  readonly #admission: Admission;
  readonly #socket: AcceptedSocket;
  readonly #address: string;
  readonly #timer: TimerHandle;
  #bytes = Buffer.alloc(0);

  constructor(admission: Admission, socket: AcceptedSocket, address: string) {
    this.#admission = admission;
    this.#socket = socket;
    this.#address = address;
    this.#timer = admission.connections.wheel.schedule(admission.deadline, this, PROXY_HEADER_MS);
    admission.unnamed.add(this);
  }

  data(chunk: Buffer): void {
    this.#bytes = Buffer.concat([this.#bytes, chunk]);
    let header: ProxyHeader | null;
    try {
      header = parseProxyHeader(this.#bytes);
    } catch (error) {
      return this.reject((error as Error).message);
    }
    if (header === null) return;
    this.closed();
    this.#admission.admit(this.#socket, header.address ?? this.#address);
    if (this.#bytes.length > header.bytes) this.#socket.data?.data(this.#bytes.subarray(header.bytes));
  }

  reject(why: string): void {
    this.closed();
    this.#admission.count(this.#address, why);
    this.hangUp();
  }

  drain(): void {}

  end(): void {
    this.hangUp();
  }

  closed(): void {
    this.#admission.connections.wheel.cancel(this.#timer);
    this.#admission.unnamed.delete(this);
  }

  hangUp(): void {
    this.#socket.end();
  }
}
