import { isIPv4, isIPv6 } from "node:net";
import { networkInterfaces } from "node:os";

/** Hosts as people write them, addresses as programs print them, and the address families of this machine. */

/** The text is not a host; the message is for the user. */
export class HostError extends Error {}

/**
 * Normalizes a host: a name in any case, IPv4 also in its short forms (`127.1`), IPv6 with or without brackets, also
 * with a zone (`fe80::1%eth0`). Returns the form that `connect` takes; throws HostError.
 */
export function readHost(text: string): string {
  const [, bracketed] = /^\[(.*)\]$/.exec(text) ?? [];
  const host = bracketed ?? text;
  if (isIPv6(host)) {
    const [address = "", ...zone] = host.split("%");
    return [shortForm(address), ...zone].join("%");
  }
  // Excludes the characters that separate the other parts of a URL.
  const isHost = bracketed === undefined && /^[^\s/:@?#\\[\]%]+$/.test(host) && URL.canParse(`http://${host}`);
  if (!isHost) throw new HostError(`"${text}" is not a host name or an IP address`);
  const { hostname } = new URL(`http://${host}`);
  return hostname === "localhost." ? "localhost" : hostname;
}

/** IPv6 in its shortest form; an IPv4-mapped address (`::ffff:127.0.0.1`) as IPv4. */
function shortForm(address: string): string {
  const host = new URL(`http://[${address}]`).hostname.slice(1, -1);
  const [, high, low] = /^::ffff:([\da-f]+):([\da-f]+)$/.exec(host) ?? [];
  if (high === undefined || low === undefined) return host;
  const bits = Number.parseInt(high, 16) * 0x10000 + Number.parseInt(low, 16);
  return [24, 16, 8, 0].map((shift) => (bits >>> shift) & 255).join(".");
}

/** The host as a certificate contains it: without a zone and without a dot at the end. */
export function nameInCertificate(host: string): string {
  return host.replace(/%.*/, "").replace(/\.$/, "");
}

/** `<host>:<port>`, with brackets around IPv6. */
export function formatAddress(host: string, port: number): string {
  return host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`;
}

let wildcard: "::" | "0.0.0.0" | null = null;

/** The wildcard address to listen on: `::`, which includes IPv4, or `0.0.0.0` when the kernel has no IPv6. */
export function everyAddress(): "::" | "0.0.0.0" {
  if (wildcard !== null) return wildcard;
  try {
    Bun.listen({ hostname: "::", port: 0, socket: { data() {} } }).stop();
    wildcard = "::";
  } catch {
    wildcard = "0.0.0.0";
  }
  return wildcard;
}

export function isLoopback(address: string): boolean {
  return address === "::1" || (isIPv4(address) && address.startsWith("127."));
}

/** Whether a connection between the addresses `local` and `remote` stays on this machine. */
export function isThisMachine(local: string, remote: string): boolean {
  return local === remote || isLoopback(remote);
}

/**
 * Adds the zone to a link-local IPv6 address, which is ambiguous without one (RFC 4007). The zone is the network
 * interface of the connection over which the address arrived; its own end has `localAddress`. Any other address is
 * returned unchanged.
 */
export function withZone(address: string, connection: { readonly localAddress: string }): string {
  if (!/^fe[89ab][\da-f]:[^%]*$/i.test(address)) return address;
  const { localAddress } = connection;
  for (const [zone, addresses] of Object.entries(networkInterfaces())) {
    if (addresses?.some(({ address: own }) => own === localAddress) === true) return `${address}%${zone}`;
  }
  return address;
}
