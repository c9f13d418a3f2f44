import { afterEach, beforeAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createConnection } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { TLSSocket, connect } from "node:tls";
import { once } from "node:events";
import { CertificateError, readCertificate } from "../../src/net/certificate.ts";
import { type Certificate, makeCertificate, writeCertificate } from "../support/certificate.ts";
import { openssl, python, tellSkipped } from "../support/tls-programs.ts";
import { type Overrides, PASSWORD, WireClient, WireServer } from "../support/wire.ts";

let first: Certificate;
let second: Certificate;
const running: WireServer[] = [];
const folders: string[] = [];

beforeAll(async () => {
  [first, second] = await Promise.all([makeCertificate(), makeCertificate()]);
});

afterEach(async () => {
  for (const server of running.splice(0)) {
    server.cut();
    await server.stop();
  }
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true });
});

/** Files with a certificate and a key, in a folder of their own. */
function write(certificate: Certificate): { chain: string; key: string } {
  const folder = mkdtempSync(join(tmpdir(), "heartline-tls-"));
  folders.push(folder);
  return writeCertificate(folder, certificate);
}

function start(overrides: Overrides = {}, files = write(first)): WireServer {
  const server = new WireServer({ tls: { ...files, port: 0 }, ...overrides });
  running.push(server);
  return server;
}

function complaint(files: { chain: string; key: string }): string {
  try {
    readCertificate(files.chain, files.key);
  } catch (error) {
    if (error instanceof CertificateError) return error.message;
    throw error;
  }
  throw new Error("the certificate is taken");
}

test("a plain port and a TLS port serve the same chat", async () => {
  const server = start();
  const alice = await server.login("alice", first.cert);
  const bob = await server.login("bob");
  await alice.expectLines("joined bob");
  await bob.expectReply("message alice hello", "ok sent");
  await alice.expectLines("message bob hello");
  alice.sendLines("broadcast to all", "message bob and to you", "online");
  await alice.expectLines("ok 1", "ok sent", "ok bob");
  await bob.expectLines("broadcast alice to all", "message alice and to you");
  await bob.expectReply("broadcast back", "ok 1");
  await alice.expectLines("broadcast bob back");
  await alice.expectReply("logout", "ok");
  await alice.expectEnd();
  await bob.expectLines("left alice logout");
});

test("more bytes than the kernel accepts at once arrive complete and in order", async () => {
  const server = start({ limits: { unackedBytesMax: 16 << 20 } });
  const alice = await server.login("alice", first.cert);
  const bob = await server.login("bob");
  await alice.expectLines("joined bob");
  alice.pause();
  const texts = Array.from({ length: 2000 }, (_, i) => `${i} ${"x".repeat(3000)}`);
  for (const text of texts) bob.sendLines(`message alice ${text}`);
  for (const _ of texts) await bob.expectLines("ok sent");
  alice.resume();
  for (const text of texts) await alice.expectLines(`message bob ${text}`);
});

test("a session resumes on another connection, over TLS or not", async () => {
  const server = start();
  const one = await server.connect(first.cert);
  one.sendLines(`login alice ${PASSWORD} resumable`);
  const [, token] = (await one.line()).split(" ");
  one.cut();
  const bob = await server.login("bob");
  await bob.expectReply("message alice while you were away", "ok sent");
  const two = await server.connect(first.cert);
  await two.expectReply(`resume ${token} 0`, "ok 0");
  await two.expectLines("joined bob", "message bob while you were away");
  const three = await server.connect();
  await three.expectReply(`resume ${token} 11`, "ok 0");
  await three.expectLines("message bob while you were away");
});

test("a callback login over TLS is refused, since calls are plain TCP", async () => {
  const client = await start().connect(first.cert);
  await client.expectReply(`login alice ${PASSWORD} callback=5000`, "err bad_request <words>");
  await client.expectReply(`login alice ${PASSWORD}`, "ok <token> 35");
});

test("with --tls-only there is no plain port", async () => {
  const server = start({ tls: { ...write(first), port: null } });
  const client = await WireClient.connect(server.port, "127.0.0.1", first.cert);
  await client.expectReply(`login alice ${PASSWORD}`, "ok <token> 35");
  client.cut();
  expect(server.tlsPort).toBe(0);
});

test.each([
  ["a login in the clear", `login alice ${PASSWORD}\n`],
  ["garbage", "\x16\x03\x01\x00\x05hello"],
  ["nothing", ""],
])("%s instead of a handshake gets no connection, and costs nobody else theirs", async (_what, bytes) => {
  const server = start({ limits: { limitsLoopback: true, connectionsPerAddressMax: 2 } });
  const alice = await server.login("alice", first.cert);
  for (let i = 0; i < 3; i++) {
    const socket = createConnection(server.tlsPort, "127.0.0.1");
    socket.on("error", () => {});
    socket.end(Buffer.from(bytes, "latin1"));
    socket.resume();
    await once(socket, "close");
  }
  await alice.expectReply("alive", "ok");
  await server.login("bob", first.cert); // The stalled handshakes are not counted any longer.
});

test("a stalled handshake counts as a connection of its address", async () => {
  const server = start({ limits: { limitsLoopback: true, connectionsPerAddressMax: 2 } });
  const stalled = createConnection(server.tlsPort, "127.0.0.1");
  await once(stalled, "connect");
  const alice = await server.login("alice", first.cert);
  const refused = createConnection(server.tlsPort, "127.0.0.1");
  refused.on("error", () => {});
  await once(refused.resume(), "close");
  await alice.expectReply("alive", "ok");
  stalled.destroy();
});

test("invalid TLS records close their connection, and are not logged as faults", async () => {
  const server = start();
  const alice = await server.login("alice");
  const raw = createConnection(server.tlsPort, "127.0.0.1");
  const socket: TLSSocket = connect({ socket: raw, ca: first.cert, servername: "localhost" });
  socket.on("error", () => {});
  await once(socket, "secureConnect");
  socket.write(`login bob ${PASSWORD}\n`);
  await alice.expectLines("joined bob");
  raw.write(Buffer.concat([Buffer.from([0x17, 3, 3, 0, 32]), Buffer.alloc(32, "z")]));
  await alice.expectLines("left bob disconnected");
  expect(server.faults).toEqual([]);
});

test("new connections get a renewed certificate, and existing ones stay", async () => {
  const files = write(first);
  const server = start({}, files);
  const alice = await server.login("alice", first.cert);
  const waiting = createConnection(server.tlsPort, "127.0.0.1"); // It does not begin its handshake.
  await once(waiting, "connect");
  writeFileSync(files.chain, second.cert);
  writeFileSync(files.key, second.key);
  const crowd = Array.from({ length: 20 }, () =>
    WireClient.connect(server.tlsPort, "127.0.0.1", `${first.cert}\n${second.cert}`),
  );
  server.reload();
  for (const client of await Promise.all(crowd)) client.cut();
  const bob = await server.login("bob", second.cert);
  await alice.expectLines("joined bob");
  await bob.expectReply("message alice hello", "ok sent");
  await alice.expectLines("message bob hello");
  expect(server.connect(first.cert)).rejects.toThrow("self signed");
  waiting.destroy();
  await server.stop();
  expect(WireClient.connect(server.tlsPort)).rejects.toThrow(); // No listener with the old certificate is left.
});

test("a renewal with an invalid file is refused with its name, and the old certificate stays", async () => {
  const files = write(first);
  const server = start({}, files);
  writeFileSync(files.chain, second.cert);
  expect(() => server.reload()).toThrow(`${files.key} is not the key of the certificate in ${files.chain}`);
  const expired = await makeCertificate(["localhost"], { notBefore: new Date(0), notAfter: new Date(1e12) });
  writeFileSync(files.chain, expired.cert);
  writeFileSync(files.key, expired.key);
  expect(() => server.reload()).toThrow(`${files.chain} expired on 2001-09-09`);
  const future = await makeCertificate(["localhost"], { notBefore: new Date(3e12), notAfter: new Date(4e12) });
  writeFileSync(files.chain, future.cert);
  writeFileSync(files.key, future.key);
  expect(() => server.reload()).toThrow(`${files.chain} is not valid before 2065-01-24`);
  // The first certificate of the chain is valid, the second is not.
  writeFileSync(files.chain, `${second.cert}\n-----BEGIN CERTIFICATE-----\nrubbish\n-----END CERTIFICATE-----\n`);
  writeFileSync(files.key, second.key);
  const why = `cannot use ${files.chain}: there is no valid chain of certificates in it; it must be in PEM format`;
  expect(() => server.reload()).toThrow(why);
  const alice = await server.login("alice", first.cert);
  await alice.expectReply("alive", "ok");
});

test("an error about a certificate or key names the file", async () => {
  const good = write(first);
  const other = write(second);
  const bad = write({ cert: "", key: "-----BEGIN ENCRYPTED PRIVATE KEY-----\n" });
  expect(complaint({ ...good, key: other.key })).toBe(
    `${other.key} is not the key of the certificate in ${good.chain}`,
  );
  expect(complaint({ ...good, chain: bad.chain })).toBe(
    `cannot use ${bad.chain}: there is no valid certificate in it; it must be in PEM format`,
  );
  expect(complaint({ ...good, key: bad.key })).toBe(
    `cannot use ${bad.key}: there is no valid private key in it; it must be in PEM format`,
  );
  expect(complaint({ ...good, key: "/nowhere" })).toBe("cannot read /nowhere: there is no such file");
});

describe("other TLS implementations", () => {
  tellSkipped("server");

  /** Exchanges messages with bob and logs out; returns the program's output and its exit code. */
  async function chats(command: string[]): Promise<{ heard: string; code: number }> {
    const files = write(first);
    const server = start({}, files);
    const bob = await server.login("bob");
    const words = command.map((word) => word.replace("<port>", String(server.tlsPort)).replace("<ca>", files.chain));
    const program = Bun.spawn(words, { stdin: "pipe", stdout: "pipe", stderr: "ignore" });
    program.stdin.write(`login alice ${PASSWORD}\nmessage bob hello\n`);
    program.stdin.flush();
    await Promise.race([bob.expectLines("joined alice", "message alice hello"), program.exited]);
    program.stdin.write("logout\n");
    program.stdin.flush();
    const [heard, code] = await Promise.all([program.stdout.text(), program.exited]);
    return { heard, code };
  }

  const WELL = /^ok \S+ 35\nok sent\nok\n$/;
  const s_client = ["s_client", "-quiet", "-verify_return_error", "-verify_hostname", "localhost"];
  const at = ["-connect", "127.0.0.1:<port>", "-CAfile", "<ca>"];

  test.skipIf(openssl === null).each(["tls1_3", "tls1_2"])("openssl chats by %s", async (version) => {
    const { heard } = await chats([openssl!, ...s_client, ...at, `-${version}`]);
    expect(heard).toMatch(WELL);
  });

  test.skipIf(openssl === null)("openssl is refused below TLS 1.2", async () => {
    const { heard, code } = await chats([openssl!, ...s_client, ...at, "-tls1_1", "-cipher", "ALL:@SECLEVEL=0"]);
    expect(heard).toBe("");
    expect(code).not.toBe(0);
  });

  test.skipIf(python === null)("Python chats", async () => {
    const script = `
import ssl, socket, sys
context = ssl.create_default_context(cafile=sys.argv[2])
with context.wrap_socket(socket.create_connection(("127.0.0.1", int(sys.argv[1]))), server_hostname="localhost") as s:
    lines = s.makefile("rb")
    for line in sys.stdin.buffer:
        s.sendall(line)
        sys.stdout.buffer.write(lines.readline())
        sys.stdout.flush()
        if line == b"logout\\n":
            break
    print(lines.read())
`;
    const { heard, code } = await chats([python!, "-u", "-c", script, "<port>", "<ca>"]);
    expect({ heard, code }).toEqual({ heard: expect.stringMatching(/^ok \S+ 35\nok sent\nok\nb''\n$/), code: 0 });
  });
});
