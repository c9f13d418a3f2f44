import { afterEach, describe, expect, test } from "bun:test";
import { BlockList } from "node:net";
import pino from "pino";
import {
  LIMITS_DEFAULT,
  LOG_ADDRESSES_LISTED,
  type Limits,
  PROXY_HEADER_MS,
  TLS_HANDSHAKE_MS,
} from "../../src/limits.ts";
import { Admission, TLS_PORT, fitDescriptors } from "../../src/net/admission.ts";
import type { SocketEvents } from "../../src/net/transport.ts";
import { TICK_MS } from "../../src/timer-wheel.ts";
import { World } from "../support/chat.ts";
import { PASSWORD, type WireClient, WireServer, proxyHeader } from "../support/wire.ts";

const running: WireServer[] = [];

afterEach(async () => {
  for (const server of running.splice(0)) {
    server.cut();
    await server.stop();
  }
});

function start(limits: Partial<Limits>, proxyFrom: BlockList | null = null): WireServer {
  const server = new WireServer({ limits, proxyFrom });
  running.push(server);
  return server;
}

/** A server that accepts PROXY headers from this machine. */
function behindProxy(limits: Partial<Limits> = {}): WireServer {
  return start(limits, loopback());
}

function loopback(): BlockList {
  const list = new BlockList();
  list.addSubnet("127.0.0.0", 8);
  return list;
}

async function connectAs(server: WireServer, address: string): Promise<WireClient> {
  const client = await server.connect();
  client.send(proxyHeader(address));
  return client;
}

describe("with a limited number of descriptors", () => {
  const fit = (limits: Partial<Limits>, descriptors: number): [number, number] => {
    const { connectionsMax, callbacksMax } = fitDescriptors({ ...LIMITS_DEFAULT, ...limits }, descriptors);
    return [connectionsMax, callbacksMax];
  };

  test("connections get the descriptors that calls and files leave", () => {
    expect(fit({}, 20_000)).toEqual([18_900, 1000]);
    expect(fit({ connectionsMax: 500 }, 20_000)).toEqual([500, 1000]);
    expect(fit({ connectionsMax: 50_000, callbacksMax: 10 }, 20_000)).toEqual([19_890, 10]);
  });

  test("calls get a quarter at most when there are few", () => {
    expect(fit({}, 500)).toEqual([300, 100]);
    const [connections, calls] = fit({}, 50);
    expect(connections + calls).toBeGreaterThan(0);
  });
});

describe("when all connections are taken", () => {
  test("a new connection replaces the oldest one without a session", async () => {
    const server = start({ connectionsMax: 3 });
    const alice = await server.login("alice");
    const [first, second] = [await server.connect(), await server.connect()];
    await second.expectReply("alive", "err not_logged_in");
    const bob = await server.connect();
    await first.expectEnd();
    await bob.expectReply(`login bob ${PASSWORD}`, "ok <token> 35");
    await alice.expectLines("joined bob");
    await second.expectReply("alive", "err not_logged_in");
  });

  test("by sessions, a new connection is refused with busy, and the sessions are not affected", async () => {
    const server = start({ connectionsMax: 2 });
    const [alice, bob] = (await server.online("alice", "bob")) as [WireClient, WireClient];
    const late = await server.connect();
    await late.expectLines("err busy too many connections");
    await late.expectEnd();
    await alice.expectReply("message bob hi", "ok sent");
    await bob.expectLines("message alice hi");
    await bob.expectReply("logout", "ok");
    await bob.expectEnd();
    await (await server.connect()).expectReply("alive", "err not_logged_in");
  });
});

describe("a PROXY header names the client", () => {
  test("so that the limits apply to that address only", async () => {
    const server = behindProxy({ connectionsPerAddressMax: 2 });
    const [one, two] = [await connectAs(server, "192.0.2.7"), await connectAs(server, "192.0.2.7")];
    await one.expectReply("alive", "err not_logged_in");
    await two.expectReply("alive", "err not_logged_in");
    const three = await connectAs(server, "192.0.2.7");
    await three.expectLines("err busy too many connections from your address");
    await three.expectEnd();
    await (await connectAs(server, "192.0.2.8")).expectReply("alive", "err not_logged_in");
    one.cut();
    await two.expectReply("online", "err not_logged_in");
    for (;;) {
      const again = await connectAs(server, "192.0.2.7");
      again.sendLines("alive");
      if ((await again.line()) === "err not_logged_in") break;
    }
  });

  test("so that a lockout applies to that address, and private chats receive it", async () => {
    const server = behindProxy();
    const guesser = await connectAs(server, "192.0.2.7");
    guesser.sendLines("login alice a", "login alice b", "login alice c");
    await guesser.expectLines("err wrong_password 2", "err wrong_password 1", "err locked_out 60");
    const alice = await connectAs(server, "2001:db8:0:0:0:0:0:5");
    await alice.expectReply(`login alice ${PASSWORD} listen=7000`, "ok <token> 35");
    const bob = await connectAs(server, "192.0.2.7");
    await bob.expectReply(`login bob ${PASSWORD}`, "ok <token> 35");
    await bob.expectReply("getaddress alice", "ok asked");
    await alice.expectLines("joined bob", "private_request bob");
    await alice.expectReply("private_answer bob yes", "expect bob 192.0.2.7 <token>");
    await bob.expectLines("address alice 2001:db8::5 7000 <token>");
  });

  test("in pieces of any size, and a request may follow it at once", async () => {
    const server = behindProxy();
    const client = await server.connect();
    const bytes = Buffer.concat([proxyHeader("192.0.2.7"), Buffer.from(`login alice ${PASSWORD}\nalive\n`)]);
    client.send(bytes.subarray(0, 5));
    await (await connectAs(server, "192.0.2.8")).expectReply("alive", "err not_logged_in");
    client.send(bytes.subarray(5));
    await client.expectLines("ok <token> 35", "ok");
  });

  test("or the connection is closed, and the log has one line about it", () => {
    const lines: string[] = [];
    const { admission, world } = setUp(loopback(), lines);
    const garbage = new Socket("127.0.0.1");
    const silent = new Socket("127.0.0.1");
    for (const socket of [garbage, silent]) admission.open(socket as never);
    garbage.data!.data(Buffer.from("login alice secret\n"));
    expect([garbage.ended, silent.ended]).toEqual([true, false]);
    world.pass(PROXY_HEADER_MS + 200);
    expect(silent.ended).toBe(true);
    for (const socket of [garbage, silent]) socket.data!.closed();
    expect(admission.pending.size).toBe(0);
    expect(garbage.output + silent.output).toBe("");
    admission.report();
    admission.report();
    expect(lines.map((line) => JSON.parse(line))).toMatchObject([
      {
        event: "connection_refused",
        address: "127.0.0.1",
        count: 2,
        reason: "proxy_header",
        msg: "connections were refused: no PROXY header within 5 seconds",
      },
    ]);
  });

  test("once, and its connections count for that address", () => {
    const { admission, world } = setUp(loopback(), []);
    const sockets = Array.from({ length: 3 }, () => new Socket("127.0.0.1"));
    for (const socket of sockets) {
      admission.open(socket as never);
      socket.data!.data(proxyHeader("192.0.2.7"));
    }
    expect(sockets.map(({ ended }) => ended)).toEqual([false, false, true]);
    expect(sockets[2]!.data).toBeNull();
    expect(admission.pending.size).toBe(0);
    world.pass(PROXY_HEADER_MS + 200);
    expect(sockets.map(({ ended }) => ended)).toEqual([false, false, true]);
    expect(admission.connections.open.size).toBe(2);
  });

  test("and a server that stops does not wait for missing headers", async () => {
    const server = behindProxy();
    const client = await server.connect();
    client.send(proxyHeader("192.0.2.7").subarray(0, 5));
    await (await connectAs(server, "192.0.2.8")).expectReply("alive", "err not_logged_in");
    await Promise.all([server.stop(), client.expectEnd()]);
  });

  test("and only from the addresses of proxies", async () => {
    const client = await connectAs(start({}), "192.0.2.7");
    await client.expectLines("err bad_request the line is empty");
  });
});

describe("a TLS handshake", () => {
  test("that fails or takes too long closes the connection, and the log has one line about it", () => {
    const lines: string[] = [];
    const { admission, world } = setUp(null, lines);
    const [silent, garbage] = [new Socket("192.0.2.7"), new Socket("192.0.2.7")];
    for (const socket of [silent, garbage]) admission.open(socket as never, TLS_PORT);
    garbage.data!.handshake!(new Error("wrong version number"));
    expect([silent.ended, garbage.ended]).toEqual([false, true]);
    world.pass(TLS_HANDSHAKE_MS - TICK_MS);
    expect(silent.ended).toBe(false);
    world.pass(4 * TICK_MS);
    expect(silent.ended).toBe(true);
    silent.data!.handshake!(new Error("this runtime says so when it is hung up on"));
    for (const socket of [silent, garbage]) socket.data!.closed();
    expect([admission.pending.size, admission.connections.unauthenticated.size]).toEqual([0, 0]);
    expect(silent.output + garbage.output).toBe("");
    admission.report();
    expect(lines.map((line) => JSON.parse(line))).toMatchObject([
      { address: "192.0.2.7", count: 2, msg: "connections were refused: no TLS handshake within 5 seconds" },
    ]);
  });

  test("that succeeds in time leads to a connection, which is counted once", () => {
    const { admission, world } = setUp(null, []);
    const socket = new Socket("192.0.2.7");
    admission.open(socket as never, TLS_PORT);
    socket.data!.handshake!(null);
    expect([...admission.connections.open]).toMatchObject([{ address: "192.0.2.7", isEncrypted: true }]);
    world.pass(2 * TLS_HANDSHAKE_MS);
    expect(socket.ended).toBe(false);
    socket.data!.closed();
    expect(world.chat.addresses.connect("192.0.2.7")).toBeNull();
    world.chat.addresses.disconnect("192.0.2.7");
    expect([admission.pending.size, admission.connections.unauthenticated.size]).toEqual([0, 0]);
  });

  test("that is not over is closed for a new connection when all are taken", () => {
    const { admission } = setUp(null, [], { connectionsMax: 2, connectionsPerSecondMax: 0 });
    const sockets = Array.from({ length: 3 }, () => new Socket("192.0.2.7"));
    for (const socket of sockets) admission.open(socket as never, TLS_PORT);
    expect(sockets.map(({ ended }) => ended)).toEqual([true, false, false]);
  });

  test("that is refused gets no bytes, which would not be TLS", () => {
    const { admission } = setUp(null, []);
    const sockets = Array.from({ length: 3 }, () => new Socket("192.0.2.7"));
    for (const socket of sockets) admission.open(socket as never, TLS_PORT);
    expect(sockets.map(({ ended, output }) => [ended, output])).toEqual([
      [false, ""],
      [false, ""],
      [true, ""],
    ]);
  });

  test("counts for the address of the socket, also when that is a proxy's", () => {
    const { admission } = setUp(loopback(), []);
    const socket = new Socket("127.0.0.1");
    admission.open(socket as never, TLS_PORT);
    socket.data!.handshake!(null);
    expect(admission.connections.open.size).toBe(1);
  });
});

test("the log has the number of connections that were refused above the rate, for each address", () => {
  const lines: string[] = [];
  const { admission } = setUp(null, lines);
  const sockets = Array.from({ length: 5 }, () => new Socket("::ffff:192.0.2.7"));
  for (const socket of sockets) admission.open(socket as never);
  expect(sockets.map(({ output }) => output)).toEqual([
    "",
    "",
    ...Array<string>(3).fill("err busy too many new connections from your address\n"),
  ]);
  expect(sockets.map(({ data }) => data === null)).toEqual([false, false, true, true, true]);
  admission.open(new Socket("2001:db8::1") as never);
  for (let i = 0; i < 3; i++) admission.open(new Socket("2001:db8::1") as never);
  admission.open(new Socket("192.0.2.7") as never);
  admission.report();
  admission.report();
  const reason = "address_rate";
  expect(lines.map((line) => JSON.parse(line))).toMatchObject([
    { event: "connection_refused", address: "192.0.2.7", count: 4, reason },
    { event: "connection_refused", address: "2001:db8::1", count: 2, reason },
  ]);
});

test("however many addresses are refused, a report lists the 20 with the most, and counts the others", () => {
  const lines: string[] = [];
  const { admission } = setUp(null, lines);
  for (let i = 0; i < 5000; i++)
    admission.count("address_connections", `198.51.${i >> 8}.${i & 255}`, "too many connections");
  for (let i = 0; i < 7; i++) admission.count("address_connections", "198.51.0.9", "too many connections");
  admission.report();
  const logged = lines.map((line) => JSON.parse(line));
  expect(logged).toHaveLength(LOG_ADDRESSES_LISTED + 1);
  expect(logged[0]).toMatchObject({ address: "198.51.0.9", count: 8 });
  expect(logged.at(-1)).toMatchObject({ address: "others", count: 5007 - 8 - (LOG_ADDRESSES_LISTED - 1) });
});

/** An admission under the test's clock that allows two new connections per second. */
function setUp(
  proxies: BlockList | null,
  lines: string[],
  limits: Partial<Limits> = {},
): { admission: Admission; world: World } {
  const world = new World(["alice"], { limits: { connectionsPerSecondMax: 2, connectionsMax: 100, ...limits } });
  const log = pino({ level: "trace" }, { write: (line) => void lines.push(line) });
  return { admission: new Admission(world.connections, proxies, log), world };
}

class Socket {
  readonly remoteAddress: string;
  data: SocketEvents | null = null;
  ended = false;
  output = "";

  constructor(remoteAddress: string) {
    this.remoteAddress = remoteAddress;
  }

  end(text = ""): void {
    this.ended = true;
    this.output += text;
  }
}
