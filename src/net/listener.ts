/** Listening ports, over TCP or TLS, and the renewal of a certificate without closing the port. */

import { closeSync } from "node:fs";
import { isIPv6 } from "node:net";
import type { TCPSocketListener } from "bun";
import { everyAddress, formatAddress } from "../runtime/host.ts";
import type { Certificate } from "./certificate.ts";
import type { SocketHandlers } from "./socket-handlers.ts";
import type { SocketEvents } from "./transport.ts";
import { duplicate } from "../runtime/kernel.ts";

/** The server cannot listen on a port. The message is meant for the operator. */
export class ListenError extends Error {}

/** One listening port. */
export class Listener {
  /** `<ip>:<port>`. */
  readonly address: string;
  readonly port: number;
  readonly #handlers: SocketHandlers;
  #socket: TCPSocketListener<SocketEvents | null>;

  /** With a certificate it uses TLS, and `handlers` have `handshake`. Port 0 is any free port. Throws ListenError. */
  constructor(host: string, port: number, handlers: SocketHandlers, certificate: Certificate | null) {
    this.#handlers = handlers;
    try {
      this.#socket = listen({ hostname: host, port }, handlers, certificate);
    } catch (error) {
      const option = certificate !== null ? "--tls-port, or --port with --tls-only," : "--port";
      throw new ListenError(`cannot listen on ${formatAddress(host, port)}: ${listenFailure(error, host, option)}`);
    }
    const { hostname } = this.#socket;
    this.port = this.#socket.port;
    this.address = formatAddress(hostname, this.port);
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

  stop(): void {
    this.#socket.stop();
  }
}

function listen(
  at: { hostname: string; port: number } | { fd: number },
  socket: SocketHandlers,
  certificate: Certificate | null,
): TCPSocketListener<SocketEvents | null> {
  const tls = certificate === null ? {} : { tls: { cert: certificate.chain, key: certificate.key } };
  return Bun.listen({ ...(at as { hostname: string; port: number }), allowHalfOpen: true, data: null, socket, ...tls });
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
