/** The binary header of the PROXY protocol, version 2 (haproxy.org, proxy-protocol.txt), which names the client. */

import { PROXY_HEADER_BYTES_MAX } from "../limits.ts";

const SIGNATURE = Buffer.from("\r\n\r\n\0\r\nQUIT\n", "latin1");
/** Signature, version and command, address family, and the length of the rest. */
const HEAD_BYTES = 16;
const LOCAL = 0x20;
const PROXY = 0x21;
const TCP_OVER_IPV4 = 0x11;
const TCP_OVER_IPV6 = 0x21;

/** A parsed header. */
export interface ProxyHeader {
  /** Length of the header. */
  bytes: number;
  /** Address of the client. Null when the proxy itself is the client, as in a health check. */
  address: string | null;
}

/** Parses the header at the beginning of `bytes`. Null when it is incomplete. Throws when it is invalid. */
export function parseProxyHeader(bytes: Buffer): ProxyHeader | null {
  const comparable = Math.min(bytes.length, SIGNATURE.length);
  if (bytes.compare(SIGNATURE, 0, comparable, 0, comparable) !== 0) throw new Error("no PROXY header of version 2");
  if (bytes.length < HEAD_BYTES) return null;
  const command = bytes[12]!;
  const family = bytes[13]!;
  const end = HEAD_BYTES + bytes.readUInt16BE(14);
  if (command !== LOCAL && command !== PROXY) throw new Error("a PROXY header with an unknown command");
  if (end > PROXY_HEADER_BYTES_MAX) throw new Error("a PROXY header that is too long");
  if (bytes.length < end) return null;
  if (command === PROXY && family === TCP_OVER_IPV4) return { bytes: end, address: ipv4(bytes, HEAD_BYTES, end) };
  if (command === PROXY && family === TCP_OVER_IPV6) return { bytes: end, address: ipv6(bytes, HEAD_BYTES, end) };
  return { bytes: end, address: null };
}

function ipv4(bytes: Buffer, start: number, end: number): string {
  if (end - start < 12) throw new Error("a PROXY header without its addresses");
  return bytes.subarray(start, start + 4).join(".");
}

function ipv6(bytes: Buffer, start: number, end: number): string {
  if (end - start < 36) throw new Error("a PROXY header without its addresses");
  const groups: string[] = [];
  for (let i = 0; i < 16; i += 2) groups.push(bytes.readUInt16BE(start + i).toString(16));
  if (groups.slice(0, 6).join() === "0,0,0,0,0,ffff") return bytes.subarray(start + 12, start + 16).join(".");
  return groups.join(":").replace(/(?:^|:)0(?::0)+(?::|$)/, "::");
}
