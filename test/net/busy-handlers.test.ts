import { afterEach, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { connect } from "node:net";
import { connect as connectTls } from "node:tls";
import type { Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { busyHandlers } from "../../src/net/busy-handlers.ts";
import { readCertificate } from "../../src/net/certificate.ts";
import { Listener } from "../../src/net/listener.ts";
import { makeCertificate, writeCertificate } from "../support/certificate.ts";

const LINE = "err busy words\n";
const closing: (() => void)[] = [];

afterEach(() => {
  for (const close of closing.splice(0)) close();
});

/** What a connection receives until the server closes it. */
function textOf(socket: Socket): Promise<string> {
  let text = "";
  socket.on("data", (chunk) => void (text += String(chunk)));
  socket.on("error", () => {});
  return new Promise((resolve) => socket.on("close", () => resolve(text)));
}

function dial(port: number): Socket {
  const socket = connect(port, "127.0.0.1");
  closing.push(() => socket.destroy());
  return socket;
}

test("each connection receives one line and is closed, whatever it sends", async () => {
  const listener = new Listener("127.0.0.1", 0, busyHandlers(LINE).plain, null);
  closing.push(() => listener.stop());
  const loud = dial(listener.port);
  loud.write("login alice secret\n".repeat(1000));
  expect(await Promise.all([textOf(dial(listener.port)), textOf(loud)])).toEqual([LINE, LINE]);
});

test("over TLS the line follows the handshake", async () => {
  const folder = mkdtempSync(join(tmpdir(), "heartline-"));
  closing.push(() => rmSync(folder, { recursive: true }));
  const { chain, key } = writeCertificate(folder, await makeCertificate());
  const certificate = readCertificate(chain, key);
  const listener = new Listener("127.0.0.1", 0, busyHandlers(LINE).tls, certificate);
  closing.push(() => listener.stop());
  const socket = connectTls({ port: listener.port, host: "127.0.0.1", rejectUnauthorized: false });
  closing.push(() => socket.destroy());
  expect(await textOf(socket)).toBe(LINE);
  expect(await textOf(dial(listener.port).end("no handshake"))).not.toContain("busy");
});

test("a port changes its handlers without being closed, and connections of the old ones stay closed", async () => {
  const listener = new Listener("127.0.0.1", 0, busyHandlers(LINE).plain, null);
  closing.push(() => listener.stop());
  const open = connect({ port: listener.port, host: "127.0.0.1", allowHalfOpen: true });
  closing.push(() => open.destroy());
  await new Promise((resolve) => open.once("data", resolve));
  listener.handle(busyHandlers("welcome\n").plain);
  expect(await textOf(dial(listener.port))).toBe("welcome\n");
  open.write("more");
  expect(await textOf(open.end())).toBe("");
});

test("of many connections that do not close, the oldest one is cut off", () => {
  const { open, close } = busyHandlers(LINE).plain;
  const cut: number[] = [];
  const sockets = Array.from({ length: 131 }, (_, i) => ({ end: () => {}, terminate: () => void cut.push(i) }));
  const call = (handler: unknown, socket: object): void => (handler as (socket: object) => void)(socket);
  for (const socket of sockets.slice(0, 128)) call(open, socket);
  expect(cut).toEqual([]);
  call(close, sockets[1]!);
  call(open, sockets[128]!);
  expect(cut).toEqual([]);
  call(open, sockets[129]!);
  call(open, sockets[130]!);
  expect(cut).toEqual([0, 2]);
});
