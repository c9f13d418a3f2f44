import { isIPv4, isIPv6 } from "node:net";
import { networkInterfaces } from "node:os";

/** Reads hosts that people write, formats addresses, and decides which address to listen on. */

/** The text is not a host; the message is for people. */
export class HostError extends Error {}

/**
 * A host as a person writes it: a name in any case, IPv4 also in its short forms (`127.1`), IPv6 with or without
 * brackets, and with a zone (`fe80::1%eth0`). Returns the form that `connect` takes; throws HostError.
 */
export function readHost(text: string): string {
  const [, bracketed] = /^\[(.*)\]$/.exec(text) ?? [];
  const host = bracketed ?? text;
  if (isIPv6(host)) {
    const [address = "", ...zone] = host.split("%");
    return [shortForm(address), ...zone].join("%");
  }
  // What a URL takes for something else than a host.
  const isHost = bracketed === undefined && /^[^\s/:@?#\\[\]%]+$/.test(host) && URL.canParse(`http://${host}`);
  if (!isHost) throw new HostError(`"${text}" is not a host`);
  const { hostname } = new URL(`http://${host}`);
  return hostname === "localhost." ? "localhost" : hostname;
}

/** IPv6 in its shortest form; an IPv4 address in it as that. */
function shortForm(address: string): string {
  const host = new URL(`http://[${address}]`).hostname.slice(1, -1);
  const [, high, low] = /^::ffff:([\da-f]+):([\da-f]+)$/.exec(host) ?? [];
  if (high === undefined || low === undefined) return host;
  const bits = Number.parseInt(high, 16) * 0x10000 + Number.parseInt(low, 16);
  return [24, 16, 8, 0].map((shift) => (bits >>> shift) & 255).join(".");
}

/** The name that a certificate has for that host. */
export function nameInCertificate(host: string): string {
  return host.replace(/%.*/, "").replace(/\.$/, "");
}

/** As `<host>:<port>`, with brackets where they are needed. */
export function formatAddress(host: string, port: number): string {
  return host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`;
}

let every: "::" | "0.0.0.0" | null = null;

/** The address to listen on for every address of this machine: of both families, if the kernel has IPv6. */
export function everyAddress(): "::" | "0.0.0.0" {
  if (every !== null) return every;
  try {
    Bun.listen({ hostname: "::", port: 0, socket: { data() {} } }).stop();
    every = "::";
  } catch {
    every = "0.0.0.0";
  }
  return every;
}

/** Whether a connection from `local` to `remote` does not leave this machine. */
export function isThisMachine(local: string, remote: string): boolean {
  return local === remote || remote === "::1" || (isIPv4(remote) && remote.startsWith("127."));
}

/**
 * Adds its zone to a link-local IPv6 address (RFC 4007), which is ambiguous without one. The zone is not sent on the
 * wire: it is the interface of the connection over which the address came, whose own address is `localAddress`. Any
 * other address is returned as it is.
 */
export function withZone(address: string, connection: { readonly localAddress: string }): string {
  if (!/^fe[89ab][\da-f]:[^%]*$/i.test(address)) return address;
  const { localAddress } = connection;
  for (const [zone, addresses] of Object.entries(networkInterfaces())) {
    if (addresses?.some(({ address: own }) => own === localAddress) === true) return `${address}%${zone}`;
  }
  return address;
}
