import { afterAll, afterEach, beforeAll, describe, expect, test } from "bun:test";
import { BlockList } from "node:net";
import { join } from "node:path";
import { WEB_HEAD_BYTES_MAX } from "../../src/limits.ts";
import type { Page } from "../../src/net/web-client.ts";
import { makeCertificate, writeCertificate } from "../support/certificate.ts";
import { Folders } from "../support/command.ts";
import type { GatewayChoices } from "../support/gateway.ts";
import { ACCEPT, RawWebClient, frame, handshake, request } from "../support/web.ts";
import { type Overrides, PASSWORD, WireServer, pattern, proxyHeader } from "../support/wire.ts";

const running: WireServer[] = [];
const WEB = { host: "127.0.0.1", port: 0, origins: null };
const LOGIN = `login alice ${PASSWORD} resumable`;
const OK = pattern("ok <token> 35");

const page: Page = new Map([
  [
    "/",
    {
      type: "text/html; charset=utf-8",
      cache: "no-store",
      bodies: new Map([
        ["br", Buffer.from("B")],
        ["gzip", Buffer.from("GZ")],
        ["identity", Buffer.from("page")],
      ]),
    },
  ],
  [
    "/assets/app-1a2b.js",
    {
      type: "text/javascript; charset=utf-8",
      cache: "public, max-age=31536000, immutable",
      bodies: new Map([["identity", Buffer.alloc(3 << 20, "x")]]),
    },
  ],
]);

afterEach(async () => {
  for (const server of running.splice(0)) await server.stop();
});

function start(overrides: Overrides = {}, relay: GatewayChoices | null = null): WireServer {
  const server = new WireServer({ web: WEB, ...overrides }, undefined, relay, page);
  running.push(server);
  return server;
}

function proxies(...addresses: string[]): BlockList {
  const list = new BlockList();
  for (const address of addresses) list.addAddress(address, address.includes(":") ? "ipv6" : "ipv4");
  return list;
}

/** Sends a request; returns the status of the response. */
async function statusOf(port: number, bytes: string | Buffer): Promise<number> {
  const client = await RawWebClient.connect(port);
  client.send(bytes);
  const { status } = await client.response(bytes.toString().startsWith("HEAD"));
  client.cut();
  return status;
}

async function login(client: RawWebClient, name = "alice"): Promise<string> {
  const reply = await client.ask(`login ${name} ${PASSWORD} resumable`);
  expect(reply).toMatch(OK);
  return reply.split(" ")[1]!;
}

describe("the handshake", () => {
  test("the example of RFC 6455 is accepted, with the subprotocol and without an extension", async () => {
    const client = await RawWebClient.connect(start().webPort);
    client.send(handshake({ "Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits" }));
    const { status, headers } = await client.response();
    expect({ status, headers }).toEqual({
      status: 101,
      headers: {
        upgrade: "websocket",
        connection: "Upgrade",
        "sec-websocket-accept": ACCEPT,
        "sec-websocket-protocol": "heartline.1",
      },
    });
  });

  test.each([
    ["without the upgrade", { Upgrade: undefined }, 426],
    ["to another protocol", { Upgrade: "h2c" }, 426],
    ["of another version", { "Sec-WebSocket-Version": "8" }, 426],
    ["without the word in Connection", { Connection: "keep-alive" }, 426],
    ["without a key", { "Sec-WebSocket-Key": undefined }, 400],
    ["with a key of 15 bytes", { "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25j" }, 400],
    ["without the subprotocol", { "Sec-WebSocket-Protocol": undefined }, 400],
    ["for another subprotocol", { "Sec-WebSocket-Protocol": "heartline.2" }, 400],
    ["with a body", { "Content-Length": "3" }, 400],
    ["from the page of another site", { Origin: "http://evil.example" }, 403],
    ["from a page without an origin of its own", { Origin: "null" }, 403],
    ["from another port of this machine", { Origin: "http://localhost:1" }, 403],
  ])("%s is refused", async (_what, headers, status) => {
    expect(await statusOf(start().webPort, handshake(headers))).toBe(status);
  });

  test("words in any case and in lists are understood, as Firefox and proxies send them", async () => {
    const headers = {
      Connection: "keep-alive, UPGRADE",
      Upgrade: "WebSocket",
      "Sec-WebSocket-Protocol": "x, heartline.1",
    };
    expect(await statusOf(start().webPort, handshake(headers))).toBe(101);
  });

  test("the pages of the server's own addresses may connect, whatever the Host header says", async () => {
    const { webPort } = start();
    for (const host of ["localhost", "127.0.0.1", "[::1]"])
      expect(await statusOf(webPort, handshake({ Origin: `http://${host}:${webPort}` }))).toBe(101);
    const rebound = { Host: `evil.example:${webPort}`, Origin: `http://evil.example:${webPort}` };
    expect(await statusOf(webPort, handshake(rebound))).toBe(403);
  });

  test("with --web-origin only the pages of these origins may connect, and a reload changes them", async () => {
    const server = start({ web: { ...WEB, origins: ["https://chat.example.org"] } });
    const { webPort } = server;
    expect(await statusOf(webPort, handshake({ Origin: "https://chat.example.org" }))).toBe(101);
    expect(await statusOf(webPort, handshake({ Origin: `http://localhost:${webPort}` }))).toBe(403);
    server.reload({ web: { ...WEB, origins: null } });
    expect(await statusOf(webPort, handshake({ Origin: "https://chat.example.org" }))).toBe(403);
    expect(await statusOf(webPort, handshake({ Origin: `http://localhost:${webPort}` }))).toBe(101);
  });

  test("a client that sends its first frames with the request gets the reply", async () => {
    const client = await RawWebClient.connect(start().webPort);
    client.send(Buffer.concat([Buffer.from(handshake()), frame(`${LOGIN}\n`)]));
    expect((await client.response()).status).toBe(101);
    expect(await client.line()).toMatch(OK);
  });
});

describe("the page", () => {
  const CSP =
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; " +
    "form-action 'none'; frame-ancestors 'none'; base-uri 'none'";

  test("is sent with the headers that keep other scripts out, and is not cached", async () => {
    const client = await RawWebClient.connect(start().webPort);
    client.send(request("GET / HTTP/1.1"));
    const { status, headers, body } = await client.response();
    expect([status, body.toString()]).toEqual([200, "page"]);
    expect(headers).toMatchObject({
      "content-type": "text/html; charset=utf-8",
      "content-security-policy": CSP,
      "x-content-type-options": "nosniff",
      "referrer-policy": "no-referrer",
      "cache-control": "no-store",
      vary: "Accept-Encoding",
      "content-length": "4",
      connection: "keep-alive",
    });
    expect(headers["set-cookie"]).toBeUndefined();
  });

  test("is compressed in the best way that the browser accepts", async () => {
    const client = await RawWebClient.connect(start().webPort);
    const ask = async (accepted: string): Promise<[string | undefined, string]> => {
      client.send(request("GET / HTTP/1.1", { Host: "x", "Accept-Encoding": accepted }));
      const { headers, body } = await client.response();
      return [headers["content-encoding"], body.toString()];
    };
    expect(await ask("gzip, deflate, br")).toEqual(["br", "B"]);
    expect(await ask("gzip;q=1.0, br;q=0")).toEqual(["gzip", "GZ"]);
    expect(await ask("zstd")).toEqual([undefined, "page"]);
  });

  test("a long file arrives whole at a slow reader, and the next request of the connection is answered", async () => {
    const client = await RawWebClient.connect(start().webPort);
    client.pause();
    client.send(request("GET /assets/app-1a2b.js HTTP/1.1") + request("HEAD / HTTP/1.1"));
    client.resume();
    const file = await client.response();
    expect(file.body.equals(Buffer.alloc(3 << 20, "x"))).toBe(true);
    expect(file.headers["cache-control"]).toBe("public, max-age=31536000, immutable");
    const { status, headers } = await client.response(true);
    expect([status, headers["content-length"]]).toEqual([200, "4"]);
    client.send(request("GET / HTTP/1.1", { Host: "x", Connection: "close" }));
    expect((await client.response()).body.toString()).toBe("page");
    expect((await client.rest()).length).toBe(0);
  });

  test("a client that closes its side after the request gets the response", async () => {
    const client = await RawWebClient.connect(start().webPort);
    client.send(request("GET /assets/app-1a2b.js HTTP/1.0"));
    client.finish();
    expect((await client.response()).body.length).toBe(3 << 20);
  });

  test.each([
    ["another path", request("GET /healthz HTTP/1.1"), 404],
    ["a path with a query", request("GET /?token=x HTTP/1.1"), 404],
    ["a path with dots", request("GET /../package.json HTTP/1.1"), 404],
    ["POST", request("POST / HTTP/1.1", { Host: "x", "Content-Length": "1" }), 405],
    ["HEAD of the chat", request("HEAD /chat HTTP/1.1"), 405],
    ["the chat without WebSocket", request("GET /chat HTTP/1.1"), 426],
    ["no HTTP", "login alice secret\r\n\r\n", 400],
    ["HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400],
    ["a request without a host", request("GET / HTTP/1.1", {}), 400],
    ["two hosts", request("GET / HTTP/1.1", { Host: "x", host: "y" }), 400],
    ["a folded header", "GET / HTTP/1.1\r\nHost: x\r\n y\r\n\r\n", 400],
    ["a header with a space before the colon", "GET / HTTP/1.1\r\nHost : x\r\n\r\n", 400],
    ["a bare LF", "GET / HTTP/1.1\nHost: x\r\n\r\n", 400],
    ["a body in chunks", request("GET / HTTP/1.1", { Host: "x", "Transfer-Encoding": "chunked" }), 400],
    ["a head that is too long", request("GET / HTTP/1.1", { Host: "x".repeat(WEB_HEAD_BYTES_MAX) }), 431],
    ["a head without an end", "x".repeat(WEB_HEAD_BYTES_MAX + 1), 431],
  ])("%s gets an error", async (_what, bytes, status) => {
    expect(await statusOf(start().webPort, bytes)).toBe(status);
  });

  test("that was not built gets 503 and one sentence, and the chat works", async () => {
    const server = new WireServer({ web: WEB }, undefined, null);
    running.push(server);
    const client = await RawWebClient.connect(server.webPort);
    client.send(request("GET / HTTP/1.1"));
    const { status, body } = await client.response();
    expect([status, body.toString()]).toEqual([503, "this server has no page: it was not built\n"]);
    client.send(handshake());
    expect((await client.response()).status).toBe(101);
  });
});

describe("a session", () => {
  test("is resumable, or refused: what the kernel took is not known here", async () => {
    const client = await RawWebClient.open(start().webPort);
    const why = "err bad_request over WebSocket a session is resumable: login <user> <password> resumable";
    expect(await client.ask(`login alice ${PASSWORD}`)).toBe(why);
    expect(await client.ask(`login alice ${PASSWORD} callback=7000`)).toBe(why);
    expect(await client.ask("as abcdefghijklmnopqrstuv online")).toMatch(/^err bad_request /);
    await login(client);
  });

  test("has the same dialogue as over TCP, with clients of both", async () => {
    const server = start();
    const alice = await RawWebClient.open(server.webPort);
    await login(alice);
    const bob = await server.login("bob");
    expect(await alice.line()).toBe("joined bob");
    expect(await alice.ask("message bob caf\xe9 \x00\xff")).toBe("ok sent");
    await bob.expectLines("message alice caf\xe9 \x00\xff");
    await bob.expectReply("message alice hi", "ok sent");
    expect(await alice.line()).toBe("message bob hi");
    await bob.expectReply("broadcast all", "ok 1");
    expect(await alice.line()).toBe("broadcast bob all");
    expect(await alice.ask("alive 0")).toMatch(/^ok \d+$/);
    alice.say("logout");
    expect(await alice.line()).toBe("ok");
    expect(await alice.frame()).toEqual({ opcode: 8, payload: Buffer.from([0x03, 0xe8]) });
    await bob.expectLines("left alice logout");
  });

  test("resumes over TCP, and over WebSocket again, at the same positions", async () => {
    const server = start();
    const first = await RawWebClient.open(server.webPort);
    const token = await login(first);
    expect(await first.ask("online")).toBe("ok");
    first.cut();
    const second = await server.connect();
    await second.expectReply(`resume ${token} 3`, "ok 7");
    second.sendLines("message alice self");
    await second.expectLines("message alice self", "ok sent");
    const third = await RawWebClient.open(server.webPort);
    third.say(`resume ${token} 3`);
    const lines = [await third.line(), await third.line(), await third.line()];
    expect(lines).toEqual(["ok 26", "message alice self", "ok sent"]);
    await second.expectEnd();
  });

  test("a ping is answered with its payload, also in the middle of a message, and does not end up in a line", async () => {
    const client = await RawWebClient.open(start().webPort);
    client.send(Buffer.concat([frame("onl", 0x01), frame("are you there", 0x89), frame("ine\n", 0x80)]));
    const frames = [await client.frame(), await client.frame()].toSorted((a, b) => b.opcode - a.opcode);
    expect(frames.map(({ opcode, payload }) => [opcode, payload.toString()])).toEqual([
      [10, "are you there"],
      [2, "err not_logged_in\n"],
    ]);
  });

  test("a close frame is answered with its status after the requests before it, and the session goes on", async () => {
    const server = start();
    const client = await RawWebClient.open(server.webPort);
    const token = await login(client);
    client.send(Buffer.concat([frame("online\n"), frame("\x0f\xa0bye", 0x88), frame("online\n")]));
    expect(await client.line()).toBe("ok");
    expect(await client.frame()).toEqual({ opcode: 8, payload: Buffer.from([0x0f, 0xa0]) });
    expect((await client.rest()).length).toBe(0);
    const again = await RawWebClient.open(server.webPort);
    expect(await again.ask(`resume ${token} 3`)).toBe("ok 7");
  });

  test("a frame without a mask gets a close frame with 1002, after the requests before it were taken", async () => {
    const server = start();
    const client = await RawWebClient.open(server.webPort);
    const token = await login(client);
    client.send(Buffer.concat([frame("block bob\n"), Buffer.from("820762616420210a0a", "hex")]));
    expect(await client.frame()).toEqual({ opcode: 8, payload: Buffer.from([0x03, 0xea]) });
    expect((await client.rest()).length).toBe(0);
    const again = await RawWebClient.open(server.webPort);
    again.say(`resume ${token} 0`);
    expect([await again.line(), await again.line()]).toEqual(["ok 10", "ok"]);
  });

  test("goodbye and a close frame end it when the server stops", async () => {
    const server = start();
    const client = await RawWebClient.open(server.webPort);
    await login(client);
    const stopped = server.stop();
    expect(await client.line()).toBe("goodbye shutdown");
    expect(await client.frame()).toEqual({ opcode: 8, payload: Buffer.from([0x03, 0xe8]) });
    client.send(frame("\x03\xe8", 0x88));
    await stopped;
  });

  test("a client that does not read is not read, and ends as slow; its messages are kept", async () => {
    const server = start({ limits: { unackedBytesMax: 512 << 10, requestsPerSecondMax: 0 } });
    const alice = await RawWebClient.open(server.webPort);
    const token = await login(alice);
    alice.pause();
    const bob = await server.connect();
    await bob.expectReply(`login bob ${PASSWORD}`, "ok <token> 35");
    const text = "x".repeat(4000);
    let reply = "";
    for (let i = 0; i < 1000 && reply !== "ok stored"; i++) {
      bob.sendLines(`message alice ${text}`);
      do reply = await bob.line();
      while (!reply.startsWith("ok"));
    }
    expect(reply).toBe("ok stored");
    alice.cut();
    const again = await RawWebClient.open(server.webPort);
    expect(await again.ask(`login alice ${PASSWORD} resumable after=${token}:0`)).toMatch(/^ok \S+ 35 received=0$/);
    expect(await again.line()).toMatch(/^stored bob \d+ x+$/);
  });

  test("long output arrives in frames of 16 KiB at most, also when the socket takes a part of one", async () => {
    const server = start({ limits: { unackedBytesMax: 8 << 20, requestsPerSecondMax: 0 } });
    const alice = await RawWebClient.open(server.webPort);
    await login(alice);
    const bob = await server.login("bob");
    expect(await alice.line()).toBe("joined bob");
    alice.pause();
    const lines = Array.from({ length: 1000 }, (_, i) => `message alice ${i} ${"y".repeat(i)}`);
    bob.sendLines(...lines);
    for (const _ of lines) await bob.expectLines("ok sent");
    alice.send(frame("probe", 0x89)); // Its pong waits for the end of a frame.
    alice.resume();
    let received = "";
    let pongs = 0;
    while (received.split("\n").length <= lines.length || pongs === 0) {
      const { opcode, payload } = await alice.frame();
      if (opcode === 10) pongs++;
      else received += payload.toString();
      expect(payload.length).toBeLessThanOrEqual(16 << 10);
    }
    expect(received).toBe(lines.map((line) => `${line.replace("message alice", "message bob")}\n`).join(""));
    expect(pongs).toBe(1);
  });
});

describe("limits", () => {
  test("of an address hold for this machine, apart from those of TCP", async () => {
    const server = start({ limits: { connectionsPerAddressMax: 2 } });
    for (let i = 0; i < 4; i++) await server.login(["alice", "bob", "carol", "dave"][i]!);
    const open = [await RawWebClient.open(server.webPort), await RawWebClient.open(server.webPort)];
    const third = await RawWebClient.connect(server.webPort);
    expect(await third.response()).toMatchObject({ status: 503, body: expect.anything() });
    open[0]!.cut();
    for (;;) {
      try {
        await RawWebClient.open(server.webPort);
        break;
      } catch {
        // The server has not read the end of the first one yet.
      }
    }
  });

  test("on failed logins and lockouts hold for this machine", async () => {
    const { webPort } = start({ limits: { failedLoginsPerMinuteMax: 4 } });
    const client = await RawWebClient.open(webPort);
    for (let i = 0; i < 4; i++) expect(await client.ask("login nobody x resumable")).toBe("err unknown_user");
    expect(await client.ask("login nobody x resumable")).toMatch(/^err busy /);
  });

  test("the third wrong password locks out, and closes with a close frame", async () => {
    const { webPort } = start();
    const client = await RawWebClient.open(webPort);
    for (const left of [2, 1]) expect(await client.ask("login alice x resumable")).toBe(`err wrong_password ${left}`);
    expect(await client.ask("login alice x resumable")).toBe("err locked_out 60");
    expect((await client.frame()).opcode).toBe(8);
  });

  test("a request that is incomplete is among the first to be closed for a new connection", async () => {
    const server = start({ limits: { connectionsMax: 2 } });
    const alice = await RawWebClient.open(server.webPort);
    await login(alice);
    const slow = await RawWebClient.connect(server.webPort);
    slow.send("GET / HTTP/1.1\r\n");
    await RawWebClient.open(server.webPort);
    expect((await slow.rest()).length).toBe(0);
    expect(await alice.ask("online")).toBe("ok");
  });
});

describe("behind a proxy of --proxy-from", () => {
  const behind = (...more: string[]): WireServer =>
    start({ proxyFrom: proxies("127.0.0.1", ...more), limits: { connectionsPerAddressMax: 1 } });

  /** The address to which a lockout applies, of a client with these headers. */
  async function addressOf(
    server: WireServer,
    headers: Record<string, string>,
    before: Buffer = Buffer.alloc(0),
  ): Promise<string> {
    const client = await RawWebClient.connect(server.webPort);
    client.send(before);
    client.send(handshake(headers));
    expect((await client.response()).status).toBe(101);
    await client.ask("login alice x resumable");
    const line = server.logged.find((each) => each.includes("login_failed"))!;
    client.cut();
    return JSON.parse(line).address;
  }

  test.each([
    ["the PROXY header", { "X-Forwarded-For": "192.0.2.1" }, proxyHeader("192.0.2.7"), "192.0.2.7"],
    ["X-Forwarded-For", { "X-Forwarded-For": "192.0.2.1" }, undefined, "192.0.2.1"],
    ["its last address", { "X-Forwarded-For": "10.9.9.9, 192.0.2.1" }, undefined, "192.0.2.1"],
    ["the last one that is no proxy", { "X-Forwarded-For": "192.0.2.1, 10.0.0.1,127.0.0.1" }, undefined, "192.0.2.1"],
    ["an IPv6 address", { "X-Forwarded-For": "2001:db8::5" }, undefined, "2001:db8::5"],
    ["an IPv4 address in IPv6", { "X-Forwarded-For": "::ffff:192.0.2.1" }, undefined, "192.0.2.1"],
    ["nothing: the proxy itself", {}, undefined, "127.0.0.1"],
    ["only proxies: the proxy itself", { "X-Forwarded-For": "10.0.0.1" }, undefined, "127.0.0.1"],
    ["garbage: the proxy itself", { "X-Forwarded-For": "192.0.2.1, unknown" }, undefined, "127.0.0.1"],
    ["an empty part: the proxy itself", { "X-Forwarded-For": "192.0.2.1," }, undefined, "127.0.0.1"],
  ])("the client is named by %s", async (_what, headers, before, address) => {
    expect(await addressOf(behind("10.0.0.1"), headers as Record<string, string>, before)).toBe(address);
  });

  test("limits apply to that address; the proxy has as many connections as it needs", async () => {
    const server = behind();
    const first = await RawWebClient.open(server.webPort, { "X-Forwarded-For": "192.0.2.1" });
    await RawWebClient.open(server.webPort, { "X-Forwarded-For": "192.0.2.2" });
    const third = await RawWebClient.connect(server.webPort);
    third.send(handshake({ "X-Forwarded-For": "192.0.2.1" }));
    const { status, body } = await third.response();
    expect([status, body.toString()]).toEqual([503, "too many connections from your address\n"]);
    await login(first);
  });

  test("other peers name nobody", async () => {
    const server = start({ proxyFrom: proxies("192.0.2.99") });
    expect(await addressOf(server, { "X-Forwarded-For": "192.0.2.1" })).toBe("127.0.0.1");
  });

  test("an invalid PROXY header closes the connection", async () => {
    const client = await RawWebClient.connect(behind().webPort);
    client.send("\r\n\r\n\0\r\nQUIT\n\x55\x11\0\0");
    expect((await client.rest()).length).toBe(0);
  });
});

describe("over TLS", () => {
  const folders = new Folders();
  const folder = folders.make();
  let authority = "";
  const tls = { chain: join(folder, "cert.pem"), key: join(folder, "key.pem"), port: 0 };

  beforeAll(async () => {
    const certificate = await makeCertificate();
    authority = certificate.cert;
    writeCertificate(folder, certificate);
  });
  afterAll(() => folders.remove());

  test("the page and the chat work, and the origins begin with https", async () => {
    const server = start({ tls });
    const client = await RawWebClient.connect(server.webPort, authority);
    client.send(request("GET /assets/app-1a2b.js HTTP/1.1"));
    expect((await client.response()).body.length).toBe(3 << 20);
    client.send(handshake({ Origin: `https://localhost:${server.webPort}` }));
    expect((await client.response()).status).toBe(101);
    await login(client);
    const other = await RawWebClient.connect(server.webPort, authority);
    other.send(handshake({ Origin: `http://localhost:${server.webPort}` }));
    expect((await other.response()).status).toBe(403);
  });

  test("a proxy names its clients there too", async () => {
    const server = start({ tls, proxyFrom: proxies("127.0.0.1"), limits: { connectionsPerAddressMax: 1 } });
    for (const [address, status] of [
      ["192.0.2.1", 101],
      ["192.0.2.2", 101],
      ["192.0.2.1", 503],
    ] as const) {
      const client = await RawWebClient.connect(server.webPort, authority);
      client.send(handshake({ "X-Forwarded-For": address }));
      expect((await client.response()).status).toBe(status);
    }
  });
});

describe("at a gateway of a cluster", () => {
  test("a client is relayed to the owner, which refuses sessions that are not resumable", async () => {
    const server = start({}, {});
    const alice = await RawWebClient.open(server.webPort);
    expect(await alice.ask(`login alice ${PASSWORD}`)).toMatch(/^err bad_request over WebSocket /);
    await login(alice);
    const bob = await server.login("bob");
    expect(await alice.line()).toBe("joined bob");
    expect(await alice.ask(`message bob ${"x".repeat(3000)}`)).toBe("ok sent");
    await bob.expectLines(`message alice ${"x".repeat(3000)}`);
    alice.send(frame("there?", 0x89));
    expect(await alice.frame()).toEqual({ opcode: 10, payload: Buffer.from("there?") });
    alice.send(frame("\x03\xe8", 0x88));
    expect((await alice.frame()).opcode).toBe(8);
  });

  test("a client is not sent to a port for TCP", async () => {
    const server = start({}, {});
    server.server.measured.core.chat.direct = { address: "127.0.0.1:6003", isEncrypted: false };
    const tcp = await server.connect();
    await tcp.expectReply(`login bob ${PASSWORD} resumable`, "ok <token> 35 at=127.0.0.1:6003");
    await login(await RawWebClient.open(server.webPort));
  });

  test("a client without a session stays connected when the gateway becomes the owner", async () => {
    const server = start({}, {});
    const client = await RawWebClient.open(server.webPort);
    expect(await client.ask("online")).toBe("err not_logged_in");
    server.gateway!.takeOver();
    expect(await client.ask(`login alice ${PASSWORD}`)).toMatch(/^err bad_request over WebSocket /);
    await login(client);
    await login(await RawWebClient.open(server.webPort), "bob");
  });
});
