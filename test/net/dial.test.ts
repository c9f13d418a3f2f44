import { afterEach, beforeEach, expect, test } from "bun:test";
import { readdirSync, readlinkSync } from "node:fs";
import { type DialedSocket, dial } from "../../src/net/dial.ts";
import { FullPort } from "../support/full-port.ts";

const HOST = "127.0.0.1";
const isLinux = process.platform === "linux";
if (!isLinux) console.warn("\n  SKIPPED: connections that are not accepted; descriptors are counted in /proc\n");

/** The events of a connection, one word each. */
let events: string[];
let changed = (): void => {};
const listeners: Bun.TCPSocketListener[] = [];

beforeEach(() => {
  events = [];
});

afterEach(() => {
  for (const listener of listeners.splice(0)) listener.stop(true);
});

function dialed(port: number): DialedSocket {
  const happened = (what: string) => (): void => {
    events.push(what);
    changed();
  };
  return dial(HOST, port, {
    open: happened("open"),
    data: (chunk) => happened(`data ${chunk}`)(),
    drain: happened("drain"),
    closed: happened("closed"),
  });
}

async function until(what: string): Promise<void> {
  while (!events.includes(what)) await new Promise<void>((resolve) => (changed = resolve));
}

function listen(socket: Bun.SocketHandler<undefined>): number {
  const listener = Bun.listen<undefined>({ hostname: HOST, port: 0, socket });
  listeners.push(listener);
  return listener.port;
}

/** The sockets of this process that are not in `others`. */
function sockets(others: readonly string[] = []): string[] {
  const links = readdirSync("/proc/self/fd").map((descriptor) => {
    try {
      return readlinkSync(`/proc/self/fd/${descriptor}`);
    } catch {
      return ""; // The descriptor of /proc/self/fd itself, which is closed by now.
    }
  });
  return links.filter((link) => link.startsWith("socket:") && !others.includes(link));
}

for (const way of ["end", "terminate"] as const) {
  test.skipIf(!isLinux)(`${way} closes the descriptor at once while the connection is not accepted`, async () => {
    const full = new FullPort();
    try {
      const first = dialed(full.port);
      await until("open");
      events = [];
      const before = sockets();
      const second = dialed(full.port);
      const third = dialed(full.port);
      await new Promise(setImmediate);
      expect(sockets(before)).toHaveLength(2);
      expect(events).toEqual([]);
      second[way]();
      third[way]();
      expect(sockets(before)).toEqual([]);
      await until("closed");
      first.end();
    } finally {
      full.close();
    }
  });
}

test("bytes are accepted in parts, each after the kernel has the one before, and all arrive", async () => {
  const count = 300_000;
  let arrived = 0;
  const { promise: all, resolve } = Promise.withResolvers<void>();
  const port = listen({ data: (_socket, chunk) => void ((arrived += chunk.length) === count && resolve()) });
  const socket = dialed(port);
  await until("open");
  const bytes = Buffer.alloc(count, "x");
  for (let at = 0; at < count;) {
    const taken = socket.write(bytes, at, count - at);
    expect(taken).toBeGreaterThan(0);
    expect(socket.write(bytes, at + taken, 1)).toBe(0);
    at += taken;
    await until("drain");
    events = [];
  }
  await all;
  socket.end();
  await until("closed");
});

test("a refused connection closes without an open event, and a reset one closes too", async () => {
  const listener = Bun.listen({ hostname: HOST, port: 0, socket: { data() {} } });
  listener.stop(true);
  dialed(listener.port);
  await until("closed");
  expect(events).toEqual(["closed"]);
  events = [];
  dialed(listen({ open: (socket) => socket.terminate(), data() {} }));
  await until("closed");
  expect(events).toEqual(["open", "closed"]);
});
