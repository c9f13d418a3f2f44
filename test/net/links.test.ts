import { afterEach, describe, expect, test } from "bun:test";
import { firstLine, type HandshakeFields, linkLine, newNonce, proofOf } from "../../src/net/cluster-handshake.ts";
import { formatProxyHeader } from "../../src/net/proxy-header.ts";
import { tokenPrefix } from "../../src/protocol/shard.ts";
import { makeCertificate, writeClusterCertificate } from "../support/certificate.ts";
import { removeFolders } from "../support/folders.ts";
import { SECRET } from "../support/gateway.ts";
import { RawWebClient } from "../support/web.ts";
import { PASSWORD, WireClient } from "../support/wire.ts";
import { WireShard, type WireShardChoices } from "../support/wire-shard.ts";

/** Users of shard 0 are bob and carol, of shard 1 alice and dave. */
let cluster: WireShard[] = [];
const running: WireShard[] = [];
const clients: { cut(): void }[] = [];

afterEach(async () => {
  cluster = [];
  for (const client of clients.splice(0)) client.cut();
  for (const shard of running.splice(0)) await shard.wire.stop();
  removeFolders();
});

function start(shard: number, choices: WireShardChoices = {}): WireShard {
  const started = new WireShard(cluster, shard, choices);
  running.push(started);
  return started;
}

async function logged(shard: WireShard, pattern: RegExp): Promise<void> {
  while (!shard.wire.logged.some((line) => pattern.test(line))) await Bun.sleep(1);
}

describe("users of two shards", () => {
  for (const isTls of [false, true]) {
    test(`send messages to each other over links, ${isTls ? "over TLS" : "without TLS"}`, async () => {
      const authority = isTls ? await makeCertificate(["cluster"]) : null;
      const issued = authority && (await makeCertificate(["127.0.0.1"], { issuer: authority }));
      const tls = authority && writeClusterCertificate(issued!, authority);
      const [first, second] = [start(0, { tls }), start(1, { tls })];
      await Promise.all([first.linked(), second.linked()]);
      const [bob, alice] = [await first.wire.login("bob"), await second.wire.login("alice")];
      expect(await ask(bob, "message alice hello  you")).toBe("ok sent");
      expect(await lines(alice, 1)).toEqual(["message bob hello  you"]);
      expect(await ask(alice, "message carol later")).toBe("ok stored");
      expect(await ask(alice, "message nobody hi")).toBe("err unknown_user");
      const carol = await first.wire.login("carol");
      await carol.expectLines("stored alice <ms> later");
    });
  }

  test("get busy while the other server is away, and nothing is recorded", async () => {
    const bob = await start(0).wire.login("bob");
    await bob.expectReply("message alice hi", "err busy the server of that user is away; try again in a moment");
  });

  test("continue when the shard has another owner, whose loss of requests is reported", async () => {
    const first = start(0);
    const second = start(1);
    await first.linked();
    const bob = await first.wire.login("bob");
    await bob.expectReply("message alice one", "ok stored");
    const next = start(1, { epoch: 9 });
    await logged(second, /"event":"link_lost".*"reason":"(closed|goodbye)"/);
    await logged(first, /"event":"link_lost".*"reason":"replaced"/);
    await next.linked();
    expect(first.wire.faults.splice(0).join("")).toContain("shard 1 has lost requests");
    expect(next.wire.faults.splice(0).join("")).toContain("this shard has lost records");
    await bob.expectReply("message alice two", "ok stored");
    await (await next.wire.login("alice")).expectLines("stored bob <ms> two");
  });
});

describe("a server that is not of the cluster gets no link:", () => {
  test("another secret; its shard is served again when the right server is there", async () => {
    const [first, second] = [start(0), start(1, { secret: Buffer.from("another") })];
    await logged(first, /"event":"link_lost".*"reason":"secret"/);
    await logged(second, /"event":"link_lost".*"reason":"secret"/);
    expect([first.links.up, second.links.up]).toEqual([0, 0]);
    const bob = await first.wire.login("bob");
    await bob.expectReply("message alice hi", "err busy the server of that user is away; try again in a moment");
    await bob.expectReply("message carol hi", "ok stored");
    const right = start(1, { epoch: 9 });
    await Promise.all([first.linked(), right.linked()]);
    await bob.expectReply("message alice hi", "ok stored");
    await (await right.wire.login("alice")).expectLines("stored bob <ms> hi");
  });

  test("a certificate of another authority, or none", async () => {
    const [authority, stranger] = [await makeCertificate(["cluster"]), await makeCertificate(["stranger"])];
    const node = writeClusterCertificate(await makeCertificate(["127.0.0.1"], { issuer: authority }), authority);
    const foreign = writeClusterCertificate(await makeCertificate(["127.0.0.1"], { issuer: stranger }), stranger);
    for (const tls of [foreign, null]) {
      cluster = [];
      const [first, second] = [start(0, { tls: node }), start(1, { tls })];
      await logged(first, /"event":"link_lost".*"reason":"tls"/);
      await logged(second, /"event":"link_lost"/);
      expect([first.links.up, second.links.up]).toEqual([0, 0]);
    }
  });
});

/** Lines that are not about who is online. */
async function lines(client: WireClient, count: number): Promise<string[]> {
  const read: string[] = [];
  while (read.length < count) {
    const line = await client.line();
    if (!/^(present|joined|left)/.test(line)) read.push(line);
  }
  return read;
}

async function ask(client: WireClient, line: string): Promise<string> {
  client.sendLines(line);
  return (await lines(client, 1))[0]!;
}

/** A connection to the cluster port, after a handshake that begins with that line; `more` follows the proof. */
async function prove(
  { owner }: WireShard,
  first: string,
  more: string | Buffer,
  proof = (right: string) => right,
): Promise<WireClient> {
  const client = await WireClient.connect(owner.port);
  clients.push(client);
  client.sendLines(first);
  const [, of, ofEpoch, ownerNonce = ""] = (await client.line()).split(" ");
  const said: HandshakeFields = { first, shard: Number(of), epoch: Number(ofEpoch), ownerNonce };
  client.sendLines(`proof ${proof(proofOf("dialer", SECRET, said))}`);
  client.send(more);
  return client;
}

/** The end of a link of shard 1, played by a test. */
function dial(
  server: WireShard,
  { shard = 1, epoch = 5, heard = "heard 0", proof = (right: string) => right } = {},
): Promise<WireClient> {
  return prove(server, linkLine(newNonce(), { shard, epoch }), `${heard}\n`, proof);
}

describe("the owner of a shard, as another one connects,", () => {
  test("gives it the requests of its users, and takes their outcomes", async () => {
    const server = start(0);
    const link = await dial(server);
    await link.expectLines("ok 0");
    expect(await ask(link, "alive 0")).toBe("ok 8");
    const bob = await server.wire.login("bob");
    bob.sendLines("message alice hi", "message dave hi");
    const [, one] = /^message bob (\d+) 0 message alice hi$/.exec((await lines(link, 1))[0]!)!;
    const [, two] = new RegExp(`^message bob (\\d+) ${one} message dave hi$`).exec((await lines(link, 1))[0]!)!;
    await link.expectReply(`outcome ${one} ok sent`, "ok");
    await link.expectReply(`outcome ${two} err unknown_user`, "ok");
    await bob.expectLines("ok sent", "err unknown_user");
  });

  const refusals: [what: string, reply: string | null, choices: Parameters<typeof dial>[1]][] = [
    ["it names this shard", "refused shard 0 is no neighbour of this one", { shard: 0 }],
    ["it names a shard that the cluster does not have", "refused shard 2 is no neighbour of this one", { shard: 2 }],
    ["its proof is wrong", "refused the secret of the cluster is wrong", { proof: (right) => right.slice(1) }],
    ["it does not say what it has heard", null, { heard: "alive 0" }],
    ["what it has heard is no number", null, { heard: "heard x" }],
  ];

  test.each(refusals)("refuses it when %s", async (_what, reply, choices) => {
    const server = start(0);
    const link = await dial(server, choices);
    if (reply !== null) await link.expectLines(reply);
    await link.expectEnd();
    expect(server.wire.server.measured.core.chat.neighbours!.all[1]!.session).toBeNull();
  });

  test("refuses a lower epoch, and ends the link of the present one for a new link", async () => {
    const server = start(0);
    const first = await dial(server, { epoch: 5 });
    await first.expectLines("ok 0");
    const lower = await dial(server, { epoch: 4 });
    await lower.expectLines("refused shard 1 has an owner of a higher epoch");
    await lower.expectEnd();
    expect(await ask(first, "alive 0")).toBe("ok 8");
    const next = await dial(server, { epoch: 5 });
    await next.expectLines("ok 0");
    expect((await first.rest()).at(-1)).toBe("goodbye replaced");
  });

  const garbage = [
    "nonsense",
    "",
    "outcome",
    "outcome 1 ok",
    "alive x",
    "alive 1000000",
    "logout",
    "\xff\0",
    "message bob hi",
  ];

  test.each(garbage)("closes the link after an invalid line, and loses no request: %p", async (line) => {
    const server = start(0);
    const bob = await server.wire.login("bob");
    const link = await dial(server);
    await link.expectLines("ok 0");
    bob.sendLines("message alice hi");
    const number = (await lines(link, 1))[0]!.split(" ")[2]!;
    link.sendLines(line === "outcome 1 ok" ? `outcome ${Number(number) + 1} ok` : line);
    await link.rest();
    server.wire.faults.length = 0; // It is logged.
    const next = await dial(server);
    const [ok, stored] = await lines(next, 2);
    expect([ok, stored!.replace(/ \d{5,}/, "")]).toEqual(["ok 0", `stored bob ${number} 0 message alice hi`]);
    await next.expectReply(`outcome ${number} ok stored`, "ok");
    await bob.expectLines("ok stored");
  });

  test("waits for the outcomes of its requests when it stops, but not for long", async () => {
    for (const isAnswered of [true, false]) {
      const server = start(0);
      const bob = await server.wire.login("bob");
      const link = await dial(server);
      bob.sendLines("message alice hi");
      const number = (await lines(link, 2))[1]!.split(" ")[2]!;
      const stopped = server.wire.stop();
      if (isAnswered) link.sendLines(`outcome ${number} ok sent`);
      await bob.expectLines(...(isAnswered ? ["ok sent"] : []), "goodbye shutdown");
      bob.cut();
      link.cut();
      await stopped;
      cluster = [];
    }
  });

  test("waits for the replies that it is owed when it stops, and takes no further request", async () => {
    const server = start(0);
    const bob = await server.wire.login("bob");
    const link = await dial(server);
    bob.sendLines("message alice one");
    const number = (await lines(link, 2))[1]!.split(" ")[2]!;
    const stopped = server.wire.stop();
    bob.sendLines("message alice two");
    link.sendLines(`outcome ${number} ok sent`);
    await bob.expectLines("ok sent", "goodbye shutdown");
    bob.cut();
    link.cut();
    await stopped;
  });
});

describe("nobody becomes a shard with lines", () => {
  const WEB = { web: { host: "127.0.0.1", port: 0, origins: null } };
  /** As of a session of shard 0. */
  const TOKEN = tokenPrefix(0) + "t".repeat(22);

  function sessionsOf({ wire }: WireShard): unknown[] {
    return wire.server.measured.core.chat.neighbours!.all.map((each) => each?.session);
  }

  async function overWeb({ wire }: WireShard): Promise<(line: string) => Promise<string>> {
    const client = await RawWebClient.open(wire.webPort);
    clients.push(client);
    return (line) => client.ask(line);
  }

  function over(client: WireClient): (line: string) => Promise<string> {
    clients.push(client);
    return (line) => ask(client, line);
  }

  /** How a line gets to the owner of shard 0. */
  const ways: [
    where: string,
    connect: (owner: WireShard, other: WireShard) => Promise<(line: string) => Promise<string>>,
  ][] = [
    ["at its port for clients", async ({ wire }) => over(await wire.connect())],
    ["at the port of another server", async (_owner, { wire }) => over(await wire.connect())],
    ["over WebSocket", (owner) => overWeb(owner)],
    ["over WebSocket at another server", (_owner, other) => overWeb(other)],
    [
      "of a client that a server with the secret relays",
      async (owner) =>
        over(await prove(owner, firstLine("relay", newNonce(), 0), formatProxyHeader("192.0.2.7", false))),
    ],
  ];
  const logins = ["#1", "#0", "#", "#1#", "%231"].flatMap((user) => [
    `login ${user} ${PASSWORD}`,
    `login ${user} ${PASSWORD} resumable`,
    `login ${user} ${PASSWORD} callback=5000`,
    `login ${user} ${PASSWORD} resumable after=${TOKEN}:0`,
    `resume ${user} 0`,
    `as ${user} outcome 1 ok sent`,
  ]);
  const others = [
    ...["resume  0", `resume ${TOKEN} 0`, `as ${TOKEN} outcome 1 ok sent`, `as ${TOKEN} message #1 hi`],
    ...[linkLine(newNonce(), { shard: 1, epoch: 99 }), firstLine("relay", newNonce(), 0)],
    ...[firstLine("admin", newNonce(), 0), `proof ${newNonce()}`, "heard 0", "outcome 1 ok sent", "alive 0"],
  ];
  const refusal = /^err (bad_request .+|unknown_command|unknown_session|not_logged_in)$/;

  test.each(ways)("%s: they are refused, and the links stay", async (_where, connect) => {
    const [owner, other] = [start(0, WEB), start(1, WEB)];
    await Promise.all([owner.linked(), other.linked()]);
    const before = [...sessionsOf(owner), ...sessionsOf(other)];
    const [bob, alice] = [await owner.wire.login("bob"), await other.wire.login("alice")];
    let send = await connect(owner, other);
    for (const line of [...logins, ...others]) {
      const reply = await send(line);
      if (!refusal.test(reply)) throw new Error(`${line}: ${reply}`);
      if (line.startsWith("as ")) send = await connect(owner, other); // The reply may close the connection.
    }
    expect(await ask(bob, "message alice hello")).toBe("ok sent");
    expect(await lines(alice, 1)).toEqual(["message bob hello"]);
    expect(await ask(alice, "message bob hello")).toBe("ok sent");
    const after = [...sessionsOf(owner), ...sessionsOf(other)];
    expect(after.map((session, i) => session === before[i])).toEqual([true, true, true, true]);
    for (const { wire } of [owner, other]) expect(wire.logged.join("")).not.toMatch(/link_lost|neighbour_error/);
  });

  test("in a session they are refused too", async () => {
    const [owner, other] = [start(0), start(1)];
    await Promise.all([owner.linked(), other.linked()]);
    const bob = await owner.wire.login("bob");
    for (const line of ["outcome 1 ok sent", "heard 0", "joined eve", "present", "tell 1 denied bob", "gone 1"])
      expect(await ask(bob, line)).toBe("err unknown_command");
    for (const line of ["message #1 hi", "block #1", "unblock #1", "getaddress #1", "private_answer #1 yes"])
      expect(await ask(bob, line)).toMatch(/^err bad_request /);
    expect(await ask(bob, "message alice hello")).toBe("ok stored");
  });

  test("a login that a server relays to the owner of another shard than the user's gets no session", async () => {
    const owner = start(0);
    const client = await prove(owner, firstLine("relay", newNonce(), 0), formatProxyHeader("192.0.2.7", false));
    await client.expectReply(
      `login alice ${PASSWORD}`,
      "err internal this server does not have the sessions of that user",
    );
    await client.expectReply(`login bob ${PASSWORD}`, "ok <token> 35");
    await client.expectReply("online", "ok");
  });
});
