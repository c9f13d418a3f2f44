import { afterEach, describe, expect, test } from "bun:test";
import { BlockList } from "node:net";
import pino from "pino";
import { CLUSTER_HANDSHAKES_MAX, CLUSTER_HANDSHAKE_MS } from "../../src/limits.ts";
import { Admission } from "../../src/net/admission.ts";
import { CertificateError } from "../../src/net/certificate.ts";
import { firstLine, linkLine, newNonce, proofOf } from "../../src/net/cluster-handshake.ts";
import { formatProxyHeader } from "../../src/net/proxy-header.ts";
import { RelayedConnections } from "../../src/net/relayed-connections.ts";
import { socketHandlers } from "../../src/net/socket-handlers.ts";
import type { SocketEvents } from "../../src/net/transport.ts";
import { ClusterPort } from "../../src/server/cluster-port.ts";
import type { ClusterTlsConfig } from "../../src/server/config.ts";
import { makeCertificate, writeClusterCertificate } from "../support/certificate.ts";
import { removeFolders } from "../support/folders.ts";
import { World } from "../support/chat.ts";
import { type GatewayChoices, SECRET } from "../support/gateway.ts";
import { type Overrides, PASSWORD, WireClient, WireServer, proxyHeader } from "../support/wire.ts";

const running: WireServer[] = [];
const links: WireClient[] = [];

afterEach(async () => {
  for (const link of links.splice(0)) link.cut();
  for (const server of running.splice(0)) {
    server.cut();
    await server.stop();
  }
  removeFolders();
});

function start(choices: GatewayChoices = {}, overrides: Overrides = {}): WireServer {
  const server = new WireServer(overrides, undefined, choices);
  running.push(server);
  return server;
}

function refused(server: WireServer, reason: string): number {
  return server.server.measured.admission.refusals.get(reason as never)!;
}

/** A connection to the port for other servers. */
async function connect(server: WireServer): Promise<WireClient> {
  const link = await WireClient.connect(server.gateway!.owner.port);
  links.push(link);
  return link;
}

/** The handshake with a right proof, unless `proof` changes it. */
async function prove(link: WireClient, proof = (right: string) => right, first = firstLine("relay", newNonce(), 0)) {
  link.sendLines(first);
  const [verb, shard, epoch, ownerNonce = "", given] = (await link.line()).split(" ");
  const said = { first, shard: Number(shard), epoch: Number(epoch), ownerNonce };
  expect([verb, shard, epoch, given]).toEqual(["owner", "0", "1", proofOf("owner", SECRET, said)]);
  link.sendLines(`proof ${proof(proofOf("dialer", SECRET, said))}`);
}

test("a client of a gateway has its own address at the owner, and whether it uses TLS", async () => {
  const link = await connect(start());
  await prove(link);
  link.send(formatProxyHeader("192.0.2.7", true));
  link.sendLines(`login alice ${PASSWORD} callback=5000`, `login alice ${PASSWORD}`);
  await link.expectLines("err bad_request callback over TLS, since calls are plain TCP", "ok <token> 35");
  expect(running[0]!.logged.at(-1)).toContain('"address":"192.0.2.7"');
});

test("the handshake may be cut at any byte", async () => {
  const server = start();
  const link = await connect(server);
  const send = async (bytes: Buffer): Promise<void> => {
    for (const byte of bytes) {
      link.send(Uint8Array.of(byte));
      await new Promise((resolve) => setImmediate(resolve));
    }
  };
  const first = firstLine("relay", newNonce(), 0);
  await send(Buffer.from(`${first}\n`));
  const [, shard, epoch, ownerNonce = ""] = (await link.line()).split(" ");
  const proof = proofOf("dialer", SECRET, { first, shard: Number(shard), epoch: Number(epoch), ownerNonce });
  await send(Buffer.from(`proof ${proof}\n`));
  await send(Buffer.concat([formatProxyHeader("2001:db8::7", false), Buffer.from(`login alice ${PASSWORD}\n`)]));
  await link.expectLines("ok <token> 35");
});

describe("a connection that does not prove the secret gets nothing but a close:", () => {
  const cases: [what: string, reason: string, reply: RegExp, act: (link: WireClient) => unknown][] = [
    ["a client", "relay_handshake", /^$/, (link) => link.sendLines(`login alice ${PASSWORD}`)],
    [
      "a proxy",
      "relay_handshake",
      /^$/,
      (link) => link.send(Buffer.concat([proxyHeader("192.0.2.7"), Buffer.from("\n")])),
    ],
    ["an empty line", "relay_handshake", /^$/, (link) => link.sendLines("")],
    ["a long line", "relay_handshake", /^$/, (link) => link.send(Buffer.alloc(300, "x"))],
    ["a short nonce", "relay_handshake", /^$/, (link) => link.sendLines("relay 1 abc 0")],
    ["no shard", "relay_handshake", /^$/, (link) => link.sendLines(`relay 1 ${newNonce()}`)],
    ["a shard that is no number", "relay_handshake", /^$/, (link) => link.sendLines(`relay 1 ${newNonce()} x`)],
    ["a link without an epoch", "relay_handshake", /^$/, (link) => link.sendLines(`link 1 ${newNonce()} 1`)],
    [
      "another shard",
      "relay_handshake",
      /^refused it owns shard 0, not shard 1$/,
      (link) => link.sendLines(firstLine("relay", newNonce(), 1)),
    ],
    [
      "another version",
      "relay_handshake",
      /^refused version 1 .* not 2$/,
      (link) => link.sendLines(`relay 2 ${newNonce()}`),
    ],
    [
      "a link of another version",
      "relay_handshake",
      /^refused version 1 .* not 2$/,
      (link) => link.sendLines(`link 2 ${newNonce()} 1 5`),
    ],
    [
      "a link without a proof",
      "relay_secret",
      /^refused the secret/,
      (link) => link.sendLines(linkLine(newNonce(), { shard: 1, epoch: 9 }), "heard 0", "outcome 1 ok sent"),
    ],
    [
      "a command without a proof",
      "relay_secret",
      /^refused the secret/,
      (link) => link.sendLines(firstLine("admin", newNonce(), 0), "kick alice"),
    ],
    [
      "no proof",
      "relay_secret",
      /^refused the secret/,
      (link) => link.sendLines(firstLine("relay", newNonce(), 0), `login alice x`),
    ],
    [
      "a wrong proof",
      "relay_secret",
      /^refused the secret/,
      (link) => prove(link, () => `${newNonce()}${newNonce()}`.slice(1)),
    ],
    ["a short proof", "relay_secret", /^refused the secret/, (link) => prove(link, (right) => right.slice(1))],
    [
      "no header",
      "relay_handshake",
      /^$/,
      async (link) => (await prove(link), link.sendLines(`login alice ${PASSWORD}`)),
    ],
    [
      "a header without an address",
      "relay_handshake",
      /^$/,
      async (link) => (await prove(link), link.send("\r\n\r\n\0\r\nQUIT\n\x20\0\0\0")),
    ],
  ];

  test.each(cases)("%s", async (_what, reason, reply, act) => {
    const server = start();
    const link = await connect(server);
    await act(link);
    const lines = (await link.rest()).filter((line) => !line.startsWith("owner "));
    expect(lines.join("\n")).toMatch(reply);
    expect(refused(server, reason)).toBe(1);
    await (await server.connect()).expectReply(`login alice ${PASSWORD}`, "ok <token> 35");
  });
});

test("a connection without a complete handshake is closed after CLUSTER_HANDSHAKE_MS", () => {
  const world = new World([]);
  const admission = new Admission(world.connections, null, pino({ level: "silent" }));
  const handlers = socketHandlers(
    () => world.begin(),
    admission,
    () => {},
  );
  const { open } = new RelayedConnections(
    admission,
    { secret: SECRET, shard: 0, epoch: 1 },
    false,
    () => null,
  ).handlers(handlers);
  const sockets = Array.from({ length: 3 }, () => {
    const socket = { remoteAddress: "10.0.0.2", data: null as SocketEvents | null, ended: false, said: "" };
    const write = (text: string): void => void (socket.said += text);
    const end = (): void => void (socket.ended = true);
    open!(Object.assign(socket, { write, end }) as never);
    return socket;
  });
  sockets[1]!.data!.data(Buffer.from("relay 1 "));
  sockets[2]!.data!.data(Buffer.from(`${firstLine("relay", newNonce(), 0)}\n`));
  expect(sockets.map(({ said }) => said.split(" ")[0])).toEqual(["", "", "owner"]);
  world.pass(CLUSTER_HANDSHAKE_MS - 100);
  expect(sockets.map(({ ended }) => ended)).toEqual([false, false, false]);
  world.pass(300);
  expect(sockets.map(({ ended }) => ended)).toEqual([true, true, true]);
  expect([admission.pending.size, admission.connections.unauthenticated.size]).toEqual([0, 0]);
  expect(admission.refusals.get("relay_handshake")).toBe(3);
});

test("a proof is of no use on another connection", async () => {
  const server = start();
  let stolen = "";
  await prove(await connect(server), (right) => (stolen = right));
  const link = await connect(server);
  await prove(link, () => stolen);
  await link.expectLines("refused the secret of the cluster is wrong");
});

test("for more than CLUSTER_HANDSHAKES_MAX connections in the handshake the oldest is closed", async () => {
  const server = start();
  const first = await connect(server);
  first.sendLines(firstLine("relay", newNonce(), 0));
  await first.line();
  for (let i = 0; i < CLUSTER_HANDSHAKES_MAX; i++) await connect(server);
  await first.expectEnd();
  await links
    .at(-1)!
    .expectReply(`relay 2 ${newNonce()}`, "refused version 1 of the cluster port is needed, and not 2");
});

test("limits on connections of an address apply at the gateway only, lockouts at the owner by that address", async () => {
  const proxyFrom = new BlockList();
  proxyFrom.addSubnet("127.0.0.0", 8);
  const server = start({}, { proxyFrom, limits: { connectionsPerAddressMax: 3, connectionsPerSecondMax: 100 } });
  const client = async (address: string): Promise<WireClient> => {
    const each = await server.connect();
    each.send(proxyHeader(address));
    return each;
  };
  const clients: WireClient[] = [];
  for (const name of ["bob", "carol", "dave"]) {
    const each = await client("192.0.2.7");
    await each.expectReply(`login ${name} ${PASSWORD}`, "ok <token> 35");
    clients.push(each);
  }
  await (await client("192.0.2.7")).expectLines("err busy too many connections from your address");
  const { addresses } = server.server.measured.core.chat;
  for (let i = 0; i < 3; i++) expect(addresses.connect("192.0.2.7")).toBeNull();
  clients[0]!.cut();
  await clients[2]!.expectLines("left bob disconnected");
  expect(addresses.connect("192.0.2.7")).toBe("connections from your address");
  const other = await client("192.0.2.8");
  await other.expectReply("login alice x", "err wrong_password 2");
  await other.expectReply("login alice x", "err wrong_password 1");
  await other.expectReply("login alice x", "err locked_out 60");
  await other.expectEnd();
  await (await client("192.0.2.8")).expectReply(`login alice ${PASSWORD}`, "err locked_out 60");
  await (await client("192.0.2.9")).expectReply(`login alice ${PASSWORD}`, "ok <token> 35");
});

test("a gateway of another cluster is refused, and both sides count it", async () => {
  const server = start({ secret: Buffer.from("another secret") });
  const { relays } = server.gateway!.gateway;
  const alice = await server.connect();
  alice.sendLines(`login alice ${PASSWORD}`);
  while (!server.logged.some((line) => line.includes("relay_failed"))) await Bun.sleep(1);
  expect(server.logged.join("")).toContain("it does not know the secret of this one");
  relays.stop();
  expect(server.gateway!.counts.open).toBe(0);
});

describe("between servers with TLS", () => {
  test("both need a certificate of the cluster's authority", async () => {
    const [authority, stranger] = [await makeCertificate(["cluster"]), await makeCertificate(["stranger"])];
    const node = await makeCertificate(["127.0.0.1"], { issuer: authority });
    const foreign = await makeCertificate(["127.0.0.1"], { issuer: stranger });
    const tls = writeClusterCertificate(node, authority);
    const alice = await start({ tls }).connect();
    await alice.expectReply(`login alice ${PASSWORD}`, "ok <token> 35");
    await alice.expectReply("message bob hi", "ok stored");
    const failures: [owner: ClusterTlsConfig, gateway: ClusterTlsConfig | null][] = [
      [tls, writeClusterCertificate(foreign, authority)],
      [tls, writeClusterCertificate(node, stranger)],
      [writeClusterCertificate(foreign, authority), tls],
      [tls, null],
    ];
    for (const [owner, gatewayTls] of failures) {
      const server = start({ tls: owner, gatewayTls });
      const client = await server.connect();
      client.sendLines(`login alice ${PASSWORD}`);
      while (!server.logged.some((line) => line.includes("relay_failed"))) await Bun.sleep(1);
      expect(client.lines).toEqual([]);
      expect(server.server.measured.core.connections.open.size).toBe(0);
    }
  });

  test("a certificate for another address than that of the port ends the start with one line", async () => {
    const authority = await makeCertificate(["cluster"]);
    const tls = writeClusterCertificate(await makeCertificate(["10.0.0.1"], { issuer: authority }), authority);
    const open = (): unknown => new ClusterPort({ listen: { host: "127.0.0.1", port: 0 }, tls });
    expect(open).toThrow(CertificateError);
    expect(open).toThrow(/ is not valid for 127\.0\.0\.1, .*subjectAltName=IP:127\.0\.0\.1$/);
  });

  test("a plain gateway connects to loopback only", async () => {
    const server = start();
    server.gateway!.setOwner({ shard: 0, host: "192.0.2.1", port: 6010, epoch: 1 });
    const client = await server.connect();
    client.sendLines(`login alice ${PASSWORD}`);
    while (!server.logged.some((line) => line.includes("relay_failed"))) await Bun.sleep(1);
    expect(server.logged.join("")).toContain("this server has no --cluster-ca, --cluster-cert and --cluster-key");
  });
});

test("a gateway that becomes the owner keeps its clients without a session, and the line that waits", async () => {
  const server = start();
  const { gateway } = server.gateway!;
  const bob = await server.login("bob");
  server.gateway!.setOwner(null);
  const [alice, carol] = [await server.connect(), await server.connect()];
  await carol.expectReply("online", "err not_logged_in");
  alice.sendLines(`login alice ${PASSWORD}`, "message carol hi");
  while (gateway.relays.all.size < 2) await Bun.sleep(1);
  server.gateway!.takeOver();
  await alice.expectLines("ok <token> 35", "ok stored");
  await carol.expectReply(`login carol ${PASSWORD}`, "ok <token> 35");
  await carol.expectLines("stored alice <ms> hi");
  await alice.expectLines("joined carol");
  await bob.expectLines("joined alice", "joined carol"); // Its relay goes on.
  await bob.expectReply("message carol hi again", "ok sent");
  await carol.expectLines("message bob hi again");
  const dave = await server.login("dave");
  await dave.expectReply("online", "ok alice bob carol");
  expect(gateway.measured.core.connections.open.size).toBe(1);
  expect(server.server.measured.admission.size).toBe(4 + 1); // Bob has a connection on each side of his relay.
});
