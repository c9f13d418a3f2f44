import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { join } from "node:path";
import { ChatClient as TcpClient, type ChatEvent } from "heartline/client";
import { ChatClient, type ChatClientOptions, memoryState } from "../../src/client/web-client.ts";
import { webSocketOptions } from "../../src/client/web-socket.ts";
import { FakeServer } from "../support/fake-server.ts";
import { WebRelay } from "../support/web-relay.ts";
import { PASSWORD, WireServer } from "../support/wire.ts";

let server: WireServer;
let relay: WebRelay;
const clients: { close(): void }[] = [];

beforeEach(() => {
  server = new WireServer();
  relay = new WebRelay(server.port);
});

afterEach(async () => {
  for (const client of clients.splice(0)) client.close();
  relay.stop();
  await server.stop();
});

function newClient(options: Partial<ChatClientOptions> = {}): ChatClient {
  const client = new ChatClient({ url: relay.url, ...options });
  clients.push(client);
  return client;
}

/** The texts of the next messages, up to `last`. */
async function textsUntil(client: AsyncIterable<ChatEvent>, last: string): Promise<string[]> {
  const texts: string[] = [];
  for await (const event of client) {
    if (event.kind === "message" || event.kind === "stored") texts.push(event.text);
    if (texts.at(-1) === last) break;
  }
  return texts;
}

test("a client over WebSocket and one over TCP send each other messages, any bytes included", async () => {
  const alice = newClient();
  const bob = new TcpClient({ host: "127.0.0.1", port: server.port });
  clients.push(bob);
  await alice.login("alice", PASSWORD);
  await bob.login("bob", PASSWORD);
  const text = "grüße \u{1f600} \udcff \u0001";
  expect(await alice.message("bob", text)).toBe("sent");
  expect(await textsUntil(bob, text)).toEqual([text]);
  expect(await bob.message("alice", text)).toBe("sent");
  expect(await textsUntil(alice, text)).toEqual([text]);
  await alice.logout();
  expect(await alice.ended).toBe("logout");
});

test("the client of Node and Bun takes a URL in place of host and port", async () => {
  const alice = new TcpClient({ url: relay.url, onEvent: () => {} });
  clients.push(alice);
  await alice.login("alice", PASSWORD);
  expect(await alice.message("bob", "hello")).toBe("stored");
  expect(relay.connections).toBe(1);
});

test.each([{ frameBytesMax: 1 }, { frameBytesMax: 7 }, { isText: true }])(
  "frames mean nothing: %j",
  async (choices) => {
    const other = new WebRelay(server.port, choices);
    const alice = newClient({ url: other.url });
    await alice.login("alice", PASSWORD);
    for (const text of ["one", "two", "three"]) await alice.message("alice", text);
    expect(await textsUntil(alice, "three")).toEqual(["one", "two", "three"]);
    alice.close();
    other.stop();
  },
);

test("every message arrives exactly once over connections that are cut again and again", async () => {
  const alice = newClient({ onEvent: () => {} });
  const bob = newClient();
  await alice.login("alice", PASSWORD);
  await bob.login("bob", PASSWORD);
  const sent = Array.from({ length: 300 }, (_, index) => `${index} ${"x".repeat(index * 5)}`);
  const receiving = textsUntil(bob, sent.at(-1)!);
  for (let at = 0; at < sent.length; at += 20) {
    const outcomes = Promise.all(sent.slice(at, at + 20).map((text) => alice.message("bob", text)));
    if (at % 40 === 0) relay.cut();
    expect(new Set(await outcomes)).toEqual(new Set(["sent"]));
  }
  expect(await receiving).toEqual(sent);
  expect(relay.connections).toBeGreaterThan(10);
});

test("messages that wait in a slow handler are not lost when the connection is cut meanwhile", async () => {
  const waiting: (() => void)[] = [];
  const texts: string[] = [];
  const alice = newClient({
    onEvent: (event) => {
      if (event.kind !== "message") return undefined;
      texts.push(event.text.slice(0, 3));
      return new Promise<void>((resolve) => waiting.push(resolve));
    },
  });
  const bob = newClient({ onEvent: () => {} });
  await alice.login("alice", PASSWORD);
  await bob.login("bob", PASSWORD);
  const count = 100; // More bytes than are read while nothing is delivered.
  for (let i = 100; i < 100 + count; i++) await bob.message("alice", `${i} ${"x".repeat(4_000)}`);
  expect(texts.length).toBeLessThan(count);
  relay.cut();
  while (texts.length < count || waiting.length > 0) {
    waiting.shift()?.();
    await new Promise(setImmediate);
  }
  expect(texts).toEqual(Array.from({ length: count }, (_, index) => String(100 + index)));
});

test("requests wait while the server is away, and the next client of the same state sends those that were not", async () => {
  const state = memoryState();
  const alice = newClient({ onEvent: () => {}, store: () => state });
  await alice.login("alice", PASSWORD);
  relay.listens = false;
  relay.cut();
  while (alice.status !== "lost") await new Promise(setImmediate);
  const request = alice.message("bob", "typed offline").catch(({ code }) => code);
  await new Promise(setImmediate);
  alice.close();
  expect(await request).toBe("closed");
  relay.listens = true;
  const recovered = Promise.withResolvers<unknown[]>();
  const again = newClient({
    onEvent: () => {},
    store: () => state,
    onRecovered: (...outcome) => recovered.resolve(outcome),
  });
  await again.login("alice", PASSWORD);
  expect(await recovered.promise).toEqual(["message bob typed offline", null, "stored"]);
  const bob = newClient();
  await bob.login("bob", PASSWORD);
  expect(await textsUntil(bob, "typed offline")).toEqual(["typed offline"]);
});

test("with keepAlive a hidden page, whose timers are late, sends heartbeats and reconnects", async () => {
  const fake = new FakeServer((line, { send }) => {
    if (line.startsWith("login")) send(`ok ${"A".repeat(22)} 1\n`);
    else send("ok 0\n");
  });
  const other = new WebRelay(fake.port);
  const { setInterval, setTimeout } = globalThis;
  const late = (handler: () => void): Timer => setTimeout(handler, 60_000);
  Object.assign(globalThis, { setTimeout: late, setInterval: late });
  const alice = newClient({ url: other.url, onEvent: () => {} });
  try {
    await alice.login("alice", PASSWORD);
    const ticking = setInterval(() => alice.keepAlive(), 10);
    await fake.received(/^1: alive 0/);
    other.cut();
    await fake.received(/^2: resume/);
    clearInterval(ticking);
  } finally {
    Object.assign(globalThis, { setInterval, setTimeout });
    alice.close();
    other.stop();
    fake.stop();
  }
});

describe("a connection that fails", () => {
  test("rejects with closed when nothing listens, and when the server is another one", async () => {
    const other = new WebRelay(server.port, { subprotocol: "other.1" });
    await expect(newClient({ url: other.url }).connect()).rejects.toMatchObject({ code: "closed" });
    other.stop();
    const gone = newClient({ url: other.url }).connect();
    await expect(gone).rejects.toMatchObject({ code: "closed", detail: expect.stringContaining(other.url) });
  });

  test("rejects with the reason of a signal", async () => {
    const silent = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
    const controller = new AbortController();
    const connecting = newClient({ url: `ws://127.0.0.1:${silent.port}` }).connect({ signal: controller.signal });
    setImmediate(() => controller.abort(new Error("enough")));
    await expect(connecting).rejects.toThrow("enough");
    silent.stop(true);
  });

  test.each(["http://chat.example.org/", "chat.example.org", ""])("is refused for the URL %j", (url) => {
    expect(() => new ChatClient({ url })).toThrow("is not a URL such as");
  });
});

/** Stands in for a network that takes nothing. */
class FullWebSocket {
  static last: FullWebSocket;
  readonly protocol: string;
  readonly frames: number[] = [];
  bufferedAmount = 0;
  isClosed = false;
  onopen: (() => void) | null = null;

  constructor(_url: string, protocol: string) {
    this.protocol = protocol;
    FullWebSocket.last = this;
    setImmediate(() => this.onopen?.());
  }

  send({ length }: Uint8Array): void {
    this.frames.push(length);
    this.bufferedAmount += length;
  }

  close(): void {
    this.isClosed = true;
  }
}

test("a WebSocket gets no more than it can send, in small frames, and what waits is dropped when it is abandoned", async () => {
  const real = globalThis.WebSocket;
  globalThis.WebSocket = FullWebSocket as never;
  const { open, ...address } = webSocketOptions({ url: "ws://chat.example.org" });
  const closed = Promise.withResolvers<void>();
  const listener = { data: () => {}, closed: () => closed.resolve() };
  const transport = await open(address, listener, new AbortController().signal).finally(() => {
    globalThis.WebSocket = real;
  });
  const socket = FullWebSocket.last;
  const total = (): number => socket.frames.reduce((sum, bytes) => sum + bytes, 0);
  transport.write(new Uint8Array(1_000_000));
  expect(Math.max(...socket.frames)).toBeLessThanOrEqual(64 << 10);
  const first = total();
  expect(first).toBeLessThan(200_000);
  socket.bufferedAmount = 0;
  while (total() === first) await new Promise(setImmediate);
  expect(total()).toBe(2 * first);
  transport.abandon();
  await closed.promise;
  expect(socket.isClosed).toBe(true);
  socket.bufferedAmount = 0;
  transport.write(new Uint8Array(0));
  expect(total()).toBe(2 * first);
});

test("what a browser loads has no Buffer, process or module of Node, and no package", async () => {
  const entry = join(import.meta.dir, "../../src/client/web-client.ts");
  const { outputs } = await Bun.build({ entrypoints: [entry], target: "browser", packages: "external" });
  const code = await outputs[0]!.text();
  expect(code).toContain("class StreamSession");
  expect(code.match(/\bBuffer\b|\bprocess\b|"node:\w+"|\bBun\b|\brequire\(|\bimport\b/g)).toBeNull();
});
