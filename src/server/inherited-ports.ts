/** Which of the sockets that systemd passed (socket activation) is which port of the server. */
import { ListenError } from "../net/listener.ts";
import { isListening } from "../runtime/kernel.ts";
import type { InheritedSocket } from "../runtime/systemd.ts";
import type { TlsConfig } from "./config.ts";

/** Descriptors of listening sockets; null: the server opens that port itself. */
export interface InheritedPorts {
  plain: number | null;
  encrypted: number | null;
}

/**
 * Sockets named `plain` and `tls` are these ports. The others are the remaining ports in that order. Throws ListenError
 * for a socket that is not one of the server's ports, or does not listen.
 */
export function assignPorts(sockets: readonly InheritedSocket[], tls: TlsConfig | null): InheritedPorts {
  const ports: InheritedPorts = { plain: null, encrypted: null };
  const free = new Set<keyof InheritedPorts>();
  if (tls === null || tls.port !== null) free.add("plain");
  if (tls !== null) free.add("encrypted");
  const named = (name: string): keyof InheritedPorts | null =>
    name === "plain" ? "plain" : name === "tls" ? "encrypted" : null;
  const namedFirst = sockets.toSorted((a, b) => Number(named(b.name) !== null) - Number(named(a.name) !== null));
  for (const { descriptor, name } of namedFirst) {
    const port = named(name) ?? [...free][0];
    if (port === undefined || !free.delete(port)) throw new ListenError(unusable(descriptor, name, tls));
    if (!isListening(descriptor)) {
      throw new ListenError(
        `cannot use descriptor ${descriptor} of LISTEN_FDS: it is not a listening TCP socket; ` +
          "the socket unit takes ListenStream=<port> and Accept=no",
      );
    }
    ports[port] = descriptor;
  }
  return ports;
}

function unusable(descriptor: number, name: string, tls: TlsConfig | null): string {
  const ports =
    tls === null ? "the plain port" : tls.port === null ? "the TLS port" : "the plain port and the TLS port, once each";
  const which = name === "" ? "" : ` (${name})`;
  return (
    `cannot use descriptor ${descriptor}${which} of LISTEN_FDS: the options ask for ${ports} only; ` +
    "remove it from the socket unit, or see --tls-cert and --tls-only"
  );
}
