/** Listening ports over TCP or TLS, own or inherited, and the renewal of a certificate without closing the port. */

import { closeSync } from "node:fs";
import { isIPv6 } from "node:net";
import type { TCPSocketListener } from "bun";
import { everyAddress, formatAddress } from "../runtime/host.ts";
import type { Certificate } from "./certificate.ts";
import type { SocketHandlers } from "./socket-handlers.ts";
import type { SocketEvents } from "./transport.ts";
import { duplicate, setBacklog } from "../runtime/kernel.ts";

/** The server cannot listen on a port. The message is meant for the operator. */
export class ListenError extends Error {}

/** One listening port. */
export class Listener {
  /** `<ip>:<port>`. */
  readonly address: string;
  readonly host: string;
  readonly port: number;
  #handlers: SocketHandlers;
  #socket: TCPSocketListener<SocketEvents | null>;

  /**
   * With a certificate it uses TLS, and `handlers` have `handshake`. Port 0 is any free port. With a descriptor it
   * takes over that listening socket; `host` and `port` are not used. `option` names the port. `isShared`: other
   * processes may listen at it too (SO_REUSEPORT), and each connection goes to one of them. Throws ListenError.
   */
  constructor(
    host: string,
    port: number,
    handlers: SocketHandlers,
    certificate: Certificate | null,
    descriptor: number | null = null,
    option = certificate === null ? "--port" : "--tls-port, or --port with --tls-only,",
    isShared = false,
  ) {
    this.#handlers = handlers;
    try {
      const at = descriptor === null ? { hostname: host, port, reusePort: isShared } : { fd: descriptor };
      this.#socket = listen(at, handlers, certificate);
    } catch (error) {
      throw new ListenError(`cannot listen on ${formatAddress(host, port)}: ${listenFailure(error, host, option)}`);
    }
    const { hostname, port: bound } = descriptor === null ? this.#socket : nameOf(this.#socket);
    this.host = hostname;
    this.port = bound;
    this.address = formatAddress(hostname, bound);
  }

  /**
   * New connections use this certificate. The runtime cannot change the certificate of a listener, so a new listener
   * takes over the same socket, with the connections that wait in it. When that fails, it throws, and the old listener
   * stays.
   */
  renew(certificate: Certificate): void {
    const fd = duplicate((this.#socket as unknown as { fd: number }).fd);
    if (fd < 0) throw new Error("this system cannot share a listening socket; restart to use the new certificate");
    let renewed: TCPSocketListener<SocketEvents | null>;
    try {
      renewed = listen({ fd }, this.#handlers, certificate);
    } catch (error) {
      closeSync(fd);
      throw error;
    }
    this.#socket.stop();
    this.#socket = renewed;
  }

  /** From now on these handlers are called, for the connections that are open, too. The port is never closed. */
  handle(handlers: SocketHandlers): void {
    this.#handlers = handlers;
    this.#socket.reload({ socket: handlers });
  }

  stop(): void {
    this.#socket.stop();
  }
}

function listen(
  at: { hostname: string; port: number; reusePort: boolean } | { fd: number },
  socket: SocketHandlers,
  certificate: Certificate | null,
): TCPSocketListener<SocketEvents | null> {
  const tls = certificate === null ? {} : { tls: tlsOptions(certificate) };
  const address = at as { hostname: string; port: number }; // The type has no `fd`.
  const listener = Bun.listen({ ...address, allowHalfOpen: true, data: null, socket, ...tls });
  if ("fd" in at) setBacklog(at.fd);
  return listener;
}

function tlsOptions({ chain, key, authorities }: Certificate): Bun.TLSOptions {
  const own = { cert: chain, key };
  return authorities === null ? own : { ...own, ca: authorities, requestCert: true, rejectUnauthorized: true };
}

/** The address of an inherited socket, which the runtime does not have in `hostname` and `port`. */
function nameOf(socket: object): { hostname: string; port: number } {
  const name = { address: "", port: 0 };
  (socket as { getsockname: (name: object) => void }).getsockname(name);
  return { hostname: name.address, port: name.port };
}

/** Why the port cannot be used. `option` is the one that names it. */
export function listenFailure(error: unknown, host: string, option: string): string {
  const { code, message } = error as NodeJS.ErrnoException;
  if (code === "EADDRINUSE") return `the port is taken; ${option} chooses another, 0 a free one`;
  if (code === "EACCES") return "not allowed; ports below 1024 need privileges";
  if (code === "EADDRNOTAVAIL") return "this machine has no such address";
  if (code === "EINVAL" && isIPv6(host)) return "a link-local address needs its interface, like fe80::1%eth0";
  if (isIPv6(host) && everyAddress() !== "::") return "this machine has no IPv6"; // The runtime gives no code.
  if (code === undefined && host.includes("%")) return "there is no such interface, or not with that address";
  return message;
}
