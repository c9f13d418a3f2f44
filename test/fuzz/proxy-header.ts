import { isIP } from "node:net";
import fc from "fast-check";
import { PROXY_HEADER_BYTES_MAX } from "../../src/limits.ts";
import { type ProxyHeader, parseProxyHeader } from "../../src/net/proxy-header.ts";
import { expectAlike, expectThat, latin1, target } from "./target.ts";

const SIGNATURE = "\r\n\r\n\0\r\nQUIT\n";

const byte = fc.oneof(fc.constantFrom(0, 1, 255), fc.nat({ max: 255 }));

/** A PROXY header (version 2), the bytes after it, and changes to it. */
const input = fc.record({
  command: fc.oneof({ weight: 4, arbitrary: fc.constantFrom(0x21, 0x20) }, byte),
  family: fc.oneof({ weight: 4, arbitrary: fc.constantFrom(0x11, 0x21) }, byte),
  /** The difference between the stated and the real length. */
  lie: fc.oneof({ weight: 3, arbitrary: fc.constant(0) }, fc.integer({ min: -40, max: 600 })),
  body: fc.array(byte, { maxLength: 60, size: "max" }),
  changed: fc.array(fc.tuple(fc.nat({ max: 40 }), byte), { maxLength: 2 }),
});

/** The result of the parser: a header, null for too few bytes, or the message of an error. */
function read(bytes: Buffer): ProxyHeader | null | string {
  try {
    return parseProxyHeader(bytes);
  } catch (error) {
    return (error as Error).message;
  }
}

/** The canonical text of an IPv6 address (RFC 5952); an IPv4 address is unchanged. */
function canonical(address: string): string {
  return address.includes(":") ? new URL(`http://[${address}]`).hostname : address;
}

/** The expected address of a header; null for one without an address. */
function addressOf(bytes: Buffer): string | null {
  if (bytes[12] !== 0x21) return null;
  if (bytes[13] === 0x11) return bytes.subarray(16, 20).join(".");
  if (bytes[13] !== 0x21) return null;
  const groups = bytes.toString("hex", 16, 32).match(/.{4}/g)!;
  if (groups.join("").startsWith(`${"0".repeat(20)}ffff`)) return bytes.subarray(28, 32).join(".");
  return canonical(groups.join(":"));
}

export const proxyHeader = target(
  {
    name: "proxy-header",
    holds: "the first bytes of a proxy, cut anywhere, are an address, too few bytes, or an error",
  },
  input,
  ({ command, family, lie, body, changed }) => {
    const length = Math.max(0, body.length + lie);
    const head = [...latin1(SIGNATURE), command, family, length >> 8, length & 255];
    const bytes = Buffer.from([...head, ...body]);
    for (const [at, value] of changed) if (at < bytes.length) bytes[at] = value;
    const whole = read(bytes);
    // A prefix of the bytes gives the same result, or is too short.
    for (let end = 0; end < bytes.length; end++) {
      const part = read(bytes.subarray(0, end));
      if (part !== null) expectAlike(part, whole, `the first ${end} bytes`);
    }
    if (typeof whole === "string") return expectThat(/ PROXY header /.test(whole), () => whole);
    // The parser waits for a bounded number of bytes.
    if (whole === null) return expectThat(16 + bytes.readUInt16BE(14) <= PROXY_HEADER_BYTES_MAX, () => "it waits");
    expectThat(whole.bytes <= Math.min(bytes.length, PROXY_HEADER_BYTES_MAX), () => `${whole.bytes} bytes`);
    expectThat(whole.address === null || isIP(whole.address) > 0, () => `an address ${whole.address}`);
    expectAlike(whole.address === null ? null : canonical(whole.address), addressOf(bytes), "the address");
  },
);
