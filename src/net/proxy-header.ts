/** The binary header of the PROXY protocol, version 2 (haproxy.org, proxy-protocol.txt), which names the client. */

import { NOT_WAITED, type Waited } from "../chat/session.ts";
import { PROXY_HEADER_BYTES_MAX } from "../limits.ts";

const SIGNATURE = Buffer.from("\r\n\r\n\0\r\nQUIT\n", "latin1");
/** Signature, version and command, address family, and the length of the rest. */
const HEAD_BYTES = 16;
const LOCAL = 0x20;
const PROXY = 0x21;
const TCP_OVER_IPV4 = 0x11;
const TCP_OVER_IPV6 = 0x21;
/** Bytes of the addresses and ports, by the family. */
const ADDRESS_BYTES: Record<number, number> = { [TCP_OVER_IPV4]: 12, [TCP_OVER_IPV6]: 36 };
/** PP2_TYPE_SSL: flags in the first byte, then the result of a check of a client certificate (0: well, or no check). */
const TLV_SSL = 0x20;
const CLIENT_SSL = 0x01;

/**
 * Of this project (0xe0 to 0xef are free for that), between servers: the client came over WebSocket, without a value;
 * and for how many milliseconds its request has waited for this server, and how many of these are uncertain, in four
 * bytes each.
 */
const TLV_WEBSOCKET = 0xe0;
const TLV_WAITED = 0xe1;
const WAITED_BYTES = 8;

/** A parsed header. */
export interface ProxyHeader {
  /** Length of the header. */
  bytes: number;
  /** Address of the client. Null when the proxy itself is the client, as in a health check. */
  address: string | null;
  /** The client uses TLS. */
  isEncrypted: boolean;
  /** The client uses WebSocket. Only another server of the cluster is asked for it. */
  isWebSocket: boolean;
  /** See `Waited`. */
  waited: Waited;
}

/** Whether these bytes can be the beginning of a header. No other protocol of this server begins like it. */
export function isProxyHeader(bytes: Buffer): boolean {
  const comparable = Math.min(bytes.length, SIGNATURE.length);
  return bytes.compare(SIGNATURE, 0, comparable, 0, comparable) === 0;
}

/** Parses the header at the beginning of `bytes`. Null when it is incomplete. Throws when it is invalid. */
export function parseProxyHeader(bytes: Buffer): ProxyHeader | null {
  if (!isProxyHeader(bytes)) throw new Error("no PROXY header of version 2");
  if (bytes.length < HEAD_BYTES) return null;
  const command = bytes[12]!;
  const family = bytes[13]!;
  const end = HEAD_BYTES + bytes.readUInt16BE(14);
  if (command !== LOCAL && command !== PROXY) throw new Error("a PROXY header with an unknown command");
  if (end > PROXY_HEADER_BYTES_MAX) throw new Error("a PROXY header that is too long");
  if (bytes.length < end) return null;
  const addressBytes = command === PROXY ? ADDRESS_BYTES[family] : undefined;
  if (addressBytes === undefined)
    return { bytes: end, address: null, isEncrypted: false, isWebSocket: false, waited: NOT_WAITED };
  const address = (family === TCP_OVER_IPV4 ? ipv4 : ipv6)(bytes, HEAD_BYTES, end);
  const fields = HEAD_BYTES + addressBytes;
  const ssl = findField(bytes, fields, end, TLV_SSL);
  const isEncrypted = ssl > 0 && ssl < end && (bytes[ssl]! & CLIENT_SSL) !== 0;
  const isWebSocket = findField(bytes, fields, end, TLV_WEBSOCKET) > 0;
  const at = findField(bytes, fields, end, TLV_WAITED);
  const hasWaited = at > 0 && at + WAITED_BYTES <= end;
  const waited = hasWaited ? { ms: bytes.readUInt32BE(at), uncertainMs: bytes.readUInt32BE(at + 4) } : NOT_WAITED;
  return { bytes: end, address, isEncrypted, isWebSocket, waited };
}

/** A header that names a client. The zone of a link-local address is left out: it has no meaning elsewhere. */
export function formatProxyHeader(
  address: string,
  isEncrypted: boolean,
  isWebSocket = false,
  { ms, uncertainMs } = NOT_WAITED,
): Buffer {
  const from = address.includes(".") ? address.split(".").map(Number) : ipv6Bytes(address.split("%")[0]!);
  const family = from.length === 4 ? TCP_OVER_IPV4 : TCP_OVER_IPV6;
  const addresses = Buffer.alloc(ADDRESS_BYTES[family]!);
  addresses.set(from);
  const fields = [
    ...(isEncrypted ? [TLV_SSL, 0, 5, CLIENT_SSL, 0, 0, 0, 0] : []),
    ...(isWebSocket ? [TLV_WEBSOCKET, 0, 0] : []),
  ];
  const waited = Buffer.from([TLV_WAITED, 0, WAITED_BYTES, 0, 0, 0, 0, 0, 0, 0, 0]);
  waited.writeUInt32BE(Math.round(ms), 3);
  waited.writeUInt32BE(Math.round(uncertainMs), 7);
  const length = addresses.length + fields.length + waited.length;
  return Buffer.concat([
    SIGNATURE,
    Buffer.from([PROXY, family, length >> 8, length & 255]),
    addresses,
    Buffer.from(fields),
    waited,
  ]);
}

/** Index of the value of that field, after the addresses: a type, a length of two bytes, a value. 0: there is none. */
function findField(bytes: Buffer, start: number, end: number, type: number): number {
  for (let at = start; at + 3 <= end; at += 3 + bytes.readUInt16BE(at + 1)) if (bytes[at] === type) return at + 3;
  return 0;
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

function ipv6Bytes(address: string): number[] {
  const [head = [], tail = []] = address.split("::").map((part) => (part === "" ? [] : part.split(":")));
  const groups = [...head, ...Array<string>(8 - head.length - tail.length).fill("0"), ...tail];
  return groups.flatMap((group) => [Number.parseInt(group, 16) >> 8, Number.parseInt(group, 16) & 255]);
}
