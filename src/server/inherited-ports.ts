/** Which of the sockets that systemd passed (socket activation) is which port of the server. */
import { ListenError } from "../net/listener.ts";
import { isListening } from "../runtime/kernel.ts";
import type { InheritedSocket } from "../runtime/systemd.ts";
import type { Config } from "./config.ts";

/** Descriptors of listening sockets; null: the server opens that port itself. */
export interface InheritedPorts {
  plain: number | null;
  encrypted: number | null;
  web: number | null;
}

export const NO_PORTS: InheritedPorts = { plain: null, encrypted: null, web: null };

/** Names of the sockets in a socket unit. */
const NAMES: ReadonlyMap<string, keyof InheritedPorts> = new Map([
  ["plain", "plain"],
  ["tls", "encrypted"],
  ["web", "web"],
]);
const WORDS: Record<keyof InheritedPorts, string> = {
  plain: "the plain port",
  encrypted: "the TLS port",
  web: "the port of --web",
};

/**
 * Sockets named `plain`, `tls` and `web` are these ports. The others are the remaining ports in that order. Throws
 * ListenError for a socket that is not one of the server's ports, or does not listen.
 */
export function assignPorts(
  sockets: readonly InheritedSocket[],
  { tls, web }: Pick<Config, "tls" | "web">,
): InheritedPorts {
  const ports = { ...NO_PORTS };
  const wanted: (keyof InheritedPorts)[] = [];
  if (tls === null || tls.port !== null) wanted.push("plain");
  if (tls !== null) wanted.push("encrypted");
  if (web !== null) wanted.push("web");
  const free = new Set(wanted);
  const namedFirst = sockets.toSorted((a, b) => Number(NAMES.has(b.name)) - Number(NAMES.has(a.name)));
  for (const { descriptor, name } of namedFirst) {
    const port = NAMES.get(name) ?? [...free][0];
    if (port === undefined || !free.delete(port)) throw new ListenError(unusable(descriptor, name, wanted));
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

function unusable(descriptor: number, name: string, wanted: readonly (keyof InheritedPorts)[]): string {
  const ports = wanted.map((port) => WORDS[port]).join(" and ") + (wanted.length > 1 ? ", once each" : "");
  const which = name === "" ? "" : ` (${name})`;
  return (
    `cannot use descriptor ${descriptor}${which} of LISTEN_FDS: the options ask for ${ports} only; ` +
    "remove it from the socket unit, or see --tls-cert, --tls-only and --web"
  );
}
