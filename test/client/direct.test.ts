import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ChatClient, type ChatClientOptions, type ChatEvent } from "heartline/client";
import { parseLogin } from "../../src/client/login.ts";
import { makeCertificate, writeCertificate } from "../support/certificate.ts";
import { FakeServer } from "../support/fake-server.ts";
import { type Overrides, PASSWORD, WireServer } from "../support/wire.ts";
import { Proxy } from "../system/chaos/fault-proxy.ts";

const TOKEN = "t".repeat(24);
let folder: string;
let server: WireServer;
/** In front of the direct port. */
let direct: Proxy;
const clients: ChatClient[] = [];

beforeEach(() => void (folder = mkdtempSync(join(tmpdir(), "heartline-"))));

afterEach(async () => {
  for (const client of clients.splice(0)) client.close();
  direct.stop();
  await server.stop();
  rmSync(folder, { recursive: true });
});

/** An owner whose clients connect to a gateway, and are told where the owner is. */
function start(overrides: Overrides = {}, isEncrypted = false): void {
  server = new WireServer(overrides, ["alice", "bob"], {});
  direct = new Proxy(server.directPort);
  server.server.measured.core.chat.direct = { address: `127.0.0.1:${direct.port}`, isEncrypted };
}

/** Clients that the gateway relays. */
function relayed(): number {
  return server.gateway!.counts.open;
}

function newClient(options: Partial<ChatClientOptions> = {}) {
  const texts: string[] = [];
  const seen = { lost: 0, back: 0 };
  const client = new ChatClient({
    host: "127.0.0.1",
    port: server.port,
    onEvent: (event: ChatEvent) => void ("text" in event && texts.push(event.text)),
    onLost: () => void seen.lost++,
    onBack: () => void seen.back++,
    ...options,
  });
  clients.push(client);
  return { client, texts, seen };
}

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await Bun.sleep(1);
}

test("a session that is relayed continues at its owner, and nobody notices", async () => {
  start();
  const [alice, bob] = [newClient(), newClient()];
  await bob.client.login("bob", PASSWORD);
  await alice.client.login("alice", PASSWORD);
  await until(() => relayed() === 0);
  expect(await alice.client.message("bob", "hi")).toBe("sent");
  await until(() => bob.texts.length === 1);
  expect([alice.client.status, alice.seen, bob.seen]).toEqual(["online", { lost: 0, back: 0 }, { lost: 0, back: 0 }]);
  expect(server.server.measured.core.chat.presence.online).toHaveLength(2);
});

test("what is on its way in both directions while it moves arrives once and in order", async () => {
  start();
  const [alice, bob] = [newClient(), newClient()];
  await bob.client.login("bob", PASSWORD);
  await alice.client.login("alice", PASSWORD);
  const numbers = Array.from({ length: 300 }, (_, i) => String(i));
  const sent: Promise<unknown>[] = [];
  for (const number of numbers) {
    sent.push(alice.client.message("bob", number), bob.client.message("alice", number));
    if (sent.length % 20 === 0) await new Promise(setImmediate);
  }
  await Promise.all(sent);
  await until(() => alice.texts.length >= 300 && bob.texts.length >= 300 && relayed() === 0);
  expect(alice.texts).toEqual(numbers);
  expect(bob.texts).toEqual(numbers);
});

test("a session whose owner cannot be reached stays where it is", async () => {
  start();
  direct.stop();
  const alice = newClient();
  await alice.client.login("alice", PASSWORD);
  expect(await alice.client.message("bob", "hi")).toBe("stored");
  expect([relayed(), alice.seen]).toEqual([1, { lost: 0, back: 0 }]);
});

test("a session that loses the direct connection continues through the shared address, and stays there", async () => {
  start();
  const alice = newClient();
  await alice.client.login("alice", PASSWORD);
  await until(() => relayed() === 0);
  direct.stop();
  direct.cut();
  await until(() => alice.seen.back === 1);
  expect(relayed()).toBe(1);
  expect(await alice.client.message("bob", "hi")).toBe("stored");
});

describe("a server that refuses the session at its direct address is left:", () => {
  const cases: [what: string, reply: string][] = [
    ["it is busy", "err busy too many connections\n"],
    ["it knows no session", "err unknown_session\n"],
    ["it is something else", "HTTP/1.1 400 Bad Request\r\n\r\n"],
  ];
  test.each(cases)("%s", async (_what, reply) => {
    start();
    const fake = new FakeServer((_line, { send, close }) => {
      send(reply);
      close();
    });
    server.server.measured.core.chat.direct = { address: `127.0.0.1:${fake.port}`, isEncrypted: false };
    const alice = newClient();
    const { token } = await alice.client.login("alice", PASSWORD);
    expect(await fake.received(/resume/)).toBe(`1: resume ${token} 0`);
    fake.stop();
    await until(() => alice.seen.back === 1);
    expect(await alice.client.message("bob", "hi")).toBe("stored");
    expect(relayed()).toBe(1);
  });
});

test("a plain session stays where it is", async () => {
  start();
  const alice = newClient({ session: "plain" });
  await alice.client.login("alice", PASSWORD);
  expect(await alice.client.message("bob", "hi")).toBe("stored");
  expect(relayed()).toBe(1);
});

test("over TLS the certificate of the owner is that of the name that the client knows", async () => {
  const certificate = await makeCertificate(["localhost"]);
  start({ tls: { ...writeCertificate(folder, certificate), port: null } }, true);
  const alice = newClient({ host: "localhost", tls: { ca: certificate.cert } });
  await alice.client.login("alice", PASSWORD);
  await until(() => relayed() === 0);
  expect(await alice.client.message("bob", "hi")).toBe("stored");
  expect(alice.seen.lost).toBe(0);
});

test("only a resumable client that is relayed, with the transport of the direct port, is told where the owner is", async () => {
  const certificate = await makeCertificate(["127.0.0.1"]);
  start({ tls: { ...writeCertificate(folder, certificate), port: 0 } }, true);
  const at = ` at=127.0.0.1:${direct.port}`;
  const plain = await server.connect();
  await plain.expectReply(`login alice ${PASSWORD} resumable`, "ok <token> 35");
  const encrypted = await server.connect(certificate.cert);
  await encrypted.expectReply(`login alice ${PASSWORD} resumable`, `ok <token> 35${at}`);
  const once = await server.connect(certificate.cert);
  await once.expectReply(`login alice ${PASSWORD}`, "ok <token> 35");
});

test("the address in a login reply has brackets around IPv6, and anything else is ignored", () => {
  const at = (word: string): unknown => parseLogin(`${TOKEN} 35 received=5 ${word}`).at;
  expect(at("at=10.0.0.1:6003")).toEqual({ host: "10.0.0.1", port: 6003 });
  expect(at("at=[fd00::1]:6003")).toEqual({ host: "fd00::1", port: 6003 });
  expect(at("at=node-1.example.org:6003")).toEqual({ host: "node-1.example.org", port: 6003 });
  for (const word of ["", "at=", "at=:6003", "at=fd00::1:6003", "at=host", "at=a b:1"]) expect(at(word)).toBeNull();
});
