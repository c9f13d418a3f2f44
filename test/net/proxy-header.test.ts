import { describe, expect, test } from "bun:test";
import { PROXY_HEADER_BYTES_MAX } from "../../src/limits.ts";
import { formatProxyHeader, parseProxyHeader } from "../../src/net/proxy-header.ts";
import { proxyHeader } from "../support/wire.ts";

test.each([
  ["192.0.2.7", "192.0.2.7"],
  ["2001:db8:0:1:2:3:4:5", "2001:db8:0:1:2:3:4:5"],
  ["2001:db8:0:0:0:0:0:5", "2001:db8::5"],
  ["0:0:0:0:0:0:0:1", "::1"],
  ["fe80:0:0:0:0:0:0:0", "fe80::"],
  ["0:0:0:0:0:ffff:c000:0207", "192.0.2.7"],
])("a header gives the address of the client: %s", (written, address) => {
  const header = proxyHeader(written);
  expect(parseProxyHeader(Buffer.concat([header, Buffer.from("login")]))).toEqual({
    bytes: header.length,
    address,
    isEncrypted: false,
    isWebSocket: false,
    waited: { ms: 0, uncertainMs: 0 },
  });
});

test("a header is incomplete until its last byte", () => {
  const header = Buffer.concat([proxyHeader("192.0.2.7", Buffer.from("\x04\0\x03abc", "latin1"))]);
  for (let cut = 0; cut < header.length; cut++) expect(parseProxyHeader(header.subarray(0, cut))).toBeNull();
  expect(parseProxyHeader(header)).toEqual({
    bytes: header.length,
    address: "192.0.2.7",
    isEncrypted: false,
    isWebSocket: false,
    waited: { ms: 0, uncertainMs: 0 },
  });
});

test.each([
  ["a health check", 0x20, 0x00, 0],
  ["a Unix socket", 0x21, 0x31, 216],
  ["an unknown family", 0x21, 0x00, 0],
])("a header gives no address for a connection of the proxy itself: %s", (_what, command, family, length) => {
  const header = proxyHeader("192.0.2.7").subarray(0, 16);
  header[12] = command;
  header[13] = family;
  header.writeUInt16BE(length, 14);
  const bytes = Buffer.concat([header, Buffer.alloc(length)]);
  expect(parseProxyHeader(bytes)).toEqual({
    bytes: bytes.length,
    address: null,
    isEncrypted: false,
    isWebSocket: false,
    waited: { ms: 0, uncertainMs: 0 },
  });
});

describe("invalid bytes are rejected before a header is complete:", () => {
  const change = (at: number, value: number): Buffer => {
    const header = Buffer.from(proxyHeader("192.0.2.7"));
    header[at] = value;
    return header;
  };

  test.each([
    ["a request", Buffer.from("login alice secret\n")],
    ["one byte", Buffer.from("l")],
    ["version 1", Buffer.from("PROXY TCP4 192.0.2.7 192.0.2.1 1 2\r\n")],
    ["an unknown version", change(12, 0x11)],
    ["an unknown command", change(12, 0x22)],
    ["addresses that are too short", change(15, 11)],
    ["a length above the limit", change(14, PROXY_HEADER_BYTES_MAX >> 8)],
  ])("%s", (_what, bytes) => {
    expect(() => parseProxyHeader(bytes)).toThrow("PROXY header");
  });
});

test.each(["192.0.2.7", "2001:db8:0:1:2:3:4:5", "2001:db8::5", "::1", "fe80::", "::"])(
  "a header that is formatted names the client, how it is connected, and for how long it has waited: %s",
  (address) => {
    for (const isEncrypted of [false, true]) {
      for (const isWebSocket of [false, true]) {
        for (const ms of [0, 4096]) {
          const waited = { ms, uncertainMs: ms / 2 };
          const header = formatProxyHeader(address, isEncrypted, isWebSocket, waited);
          expect(parseProxyHeader(header)).toEqual({
            bytes: header.length,
            address,
            isEncrypted,
            isWebSocket,
            waited,
          });
        }
      }
    }
  },
);

test("a field for the time of waiting that is too short means none", () => {
  const header = proxyHeader("192.0.2.7", Buffer.from("\xe1\0\x07abcdefg", "latin1"));
  expect(parseProxyHeader(header)!.waited).toEqual({ ms: 0, uncertainMs: 0 });
});

test("a header that is formatted has no zone of a link-local address", () => {
  expect(parseProxyHeader(formatProxyHeader("fe80::1%eth0", false))?.address).toBe("fe80::1");
});

test("a client uses TLS only when the field about TLS says so", () => {
  const read = (more: string): boolean =>
    parseProxyHeader(proxyHeader("192.0.2.7", Buffer.from(more, "latin1")))!.isEncrypted;
  expect(read("\x04\0\x03abc\x20\0\x05\x01\0\0\0\0")).toBe(true);
  expect(read("\x20\0\x05\x02\0\0\0\0")).toBe(false);
  expect(read("\x04\xff\xff\x20\0\x05\x01")).toBe(false);
  expect(read("\x20\0\0")).toBe(false);
  expect(read("\x20")).toBe(false);
});
