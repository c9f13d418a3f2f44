import { describe, expect, test } from "bun:test";
import pino from "pino";
import { WEB_HEAD_BYTES_MAX, WEB_REQUEST_MS } from "../../src/limits.ts";
import { Admission } from "../../src/net/admission.ts";
import type { SocketEvents } from "../../src/net/transport.ts";
import { type Page, WebPort } from "../../src/net/web-client.ts";
import { TICK_MS } from "../../src/timer-wheel.ts";
import { World } from "../support/chat.ts";
import { handshake, request } from "../support/web.ts";

const GET = request("GET / HTTP/1.1");
const page: Page = new Map([
  ["/", { type: "text/html", cache: "no-store", bodies: new Map([["identity", Buffer.from("<p>")]]) }],
]);

/** An accepted socket that takes `room` bytes. */
class Socket {
  readonly remoteAddress = "192.0.2.7";
  readonly localAddress = "192.0.2.1";
  data: SocketEvents | null = null;
  room = Number.POSITIVE_INFINITY;
  output = "";
  /** Calls of the other methods. */
  readonly calls: string[] = [];

  write(bytes: Buffer, start = 0, count = bytes.length): number {
    const taken = Math.min(this.room, count);
    this.room -= taken;
    this.output += bytes.toString("latin1", start, start + taken);
    return taken;
  }

  pause = () => void this.calls.push("pause");
  resume = () => void this.calls.push("resume");
  shutdown = () => void this.calls.push("shutdown");

  end(text = ""): void {
    this.output += text;
    this.calls.push("end");
    this.data?.closed();
  }
}

function setUp(connectionsPerAddressMax = 2) {
  const lines: string[] = [];
  const world = new World(["alice"], {
    limits: { connectionsMax: 100, connectionsPerSecondMax: 0, connectionsPerAddressMax },
  });
  const log = pino({ level: "trace" }, { write: (line) => void lines.push(line) });
  const admission = new Admission(world.connections, null, log);
  const port = new WebPort(false, page, () => 0);
  const connect = (): Socket => {
    const socket = new Socket();
    admission.open(socket as never, port);
    return socket;
  };
  const reported = (): unknown[] => {
    admission.report();
    return lines.splice(0).map((line) => JSON.parse(line));
  };
  return { world, admission, connect, reported };
}

describe("a request", () => {
  test("that is not complete in time closes the connection, which is logged, and counts no longer", () => {
    const { world, admission, connect, reported } = setUp(1);
    const socket = connect();
    for (let ms = 0; ms < WEB_REQUEST_MS - 2 * TICK_MS; ms += TICK_MS) {
      socket.data!.data(Buffer.from(ms === 0 ? "GET / HTTP/1.1\r\nA: " : "x"));
      world.pass(TICK_MS);
    }
    expect(socket.calls).toEqual([]);
    world.pass(4 * TICK_MS);
    expect([socket.calls, socket.output, admission.pending.size]).toEqual([["end"], "", 0]);
    expect(reported()).toMatchObject([{ reason: "web_request", count: 1, address: "192.0.2.7" }]);
    expect(connect().calls).toEqual([]);
  });

  test("may follow another one within that time; then the connection is closed, and that is nothing to log", () => {
    const { world, connect, reported } = setUp();
    const socket = connect();
    for (let i = 0; i < 3; i++) {
      socket.data!.data(Buffer.from(GET));
      world.pass(WEB_REQUEST_MS - 2 * TICK_MS);
    }
    expect(socket.output.match(/HTTP\/1\.1 200 OK/g)).toHaveLength(3);
    expect(socket.calls).toEqual([]);
    world.pass(4 * TICK_MS);
    expect(socket.calls).toEqual(["end"]);
    expect(reported()).toEqual([]);
  });

  test("after one whose response is not taken waits, and the client is not read meanwhile", () => {
    const { world, connect } = setUp();
    const socket = connect();
    socket.room = 10;
    socket.data!.data(Buffer.from(GET + GET));
    socket.data!.drain(); // The runtime sends it after a pause.
    expect(socket.calls).toEqual(["pause"]);
    for (let i = 0; i < 5; i++) {
      world.pass(WEB_REQUEST_MS - 2 * TICK_MS);
      socket.room = 10;
      socket.data!.drain();
    }
    expect([socket.calls, socket.output.length]).toEqual([["pause"], 60]);
    socket.room = 10_000;
    socket.data!.drain();
    expect(socket.output.match(/HTTP\/1\.1 200 OK/g)).toHaveLength(2);
    expect(socket.calls).toEqual(["pause", "resume"]);
    world.pass(WEB_REQUEST_MS + 2 * TICK_MS);
    expect(socket.calls).toEqual(["pause", "resume", "end"]);
  });
});

test("requests that do not wait for a response close the connection, before they use much memory", () => {
  const { connect, reported } = setUp();
  const socket = connect();
  socket.room = 10;
  socket.data!.data(Buffer.from(GET));
  for (let i = 0; socket.calls.length < 2; i++) {
    expect(i * GET.length).toBeLessThan(WEB_HEAD_BYTES_MAX + GET.length);
    socket.data!.data(Buffer.from(GET));
  }
  expect(socket.calls).toEqual(["pause", "end"]);
  expect(reported()).toMatchObject([{ reason: "web_request" }]);
});

test("one connection too many gets 503 and a reason", () => {
  const { connect, reported } = setUp(1);
  connect();
  const second = connect();
  expect(second.output).toStartWith("HTTP/1.1 503 Service Unavailable\r\n");
  expect(second.output).toEndWith("\r\n\r\ntoo many connections from your address\n");
  expect(reported()).toMatchObject([{ reason: "address_connections" }]);
});

test("a connection counts once for its address, from the first request to the end of the WebSocket", () => {
  const { admission, connect, reported } = setUp(1);
  const socket = connect();
  socket.data!.data(Buffer.from(GET + handshake()));
  expect([admission.pending.size, admission.connections.open.size]).toEqual([0, 1]);
  expect(connect().output).toStartWith("HTTP/1.1 503 ");
  socket.data!.closed();
  expect(admission.connections.open.size).toBe(0);
  expect(connect().output).toBe("");
  expect(reported()).toHaveLength(1);
});

test("the pages of other sites are refused and logged", () => {
  const { connect, reported } = setUp();
  const socket = connect();
  socket.data!.data(Buffer.from(handshake({ Origin: "http://evil.example" })));
  expect(socket.output).toStartWith("HTTP/1.1 403 Forbidden\r\n");
  expect(socket.calls).toEqual(["shutdown"]);
  const msg = "connections were refused: the origin http://evil.example is not in --web-origin";
  expect(reported()).toMatchObject([{ reason: "web_origin", msg }]);
});
