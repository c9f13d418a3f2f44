import { afterEach, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { World } from "../support/chat.ts";
import { makeCertificate, writeCertificate } from "../support/certificate.ts";
import { type Overrides, PASSWORD, type WireClient, WireServer } from "../support/wire.ts";

/** What a web page can make a browser send to any port. The page chooses the body. */
const HEADERS = [
  "Host: 127.0.0.1:6001",
  "Connection: keep-alive",
  "Content-Type: text/plain",
  "Origin: https://page.example",
  "",
  "",
].join("\r\n");
const LOCKS_OUT = "login alice x\nlogin alice x\nlogin alice x\n";
const LONG = "a".repeat(5000);

/** A connection that begins like this is closed without a reply, and the lines after it are not acted on. */
const OPENINGS: Record<string, string> = {
  "a POST of HTTP/1.1": `POST / HTTP/1.1\r\n${HEADERS}`,
  "a GET of HTTP/1.0 without headers": "GET / HTTP/1.0\r\n\r\n",
  "an unknown method, with a bare LF": "foo /bar HTTP/1.1\n",
  "a method that is a verb": "login /alice HTTP/1.1\r\n",
  "an unknown minor version of HTTP/1": "GET / HTTP/1.27\r\n",
  "OPTIONS *": `OPTIONS * HTTP/1.1\r\n${HEADERS}`,
  "an absolute target": `GET http://127.0.0.1:6001/ HTTP/1.1\r\n${HEADERS}`,
  CONNECT: "CONNECT 127.0.0.1:6001 HTTP/1.1\r\n",
  "a WebSocket upgrade": "GET /chat HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
  "lone CRs inside the line": "POST / HTTP/1.1\rHost: a\r\r\n",
  "a Host header": "Host: a\r\n",
  "a Host header in capitals, without a value": "HOST:\n",
  "an Origin header in any case": "oRiGiN: null\r\n",
  "a request line longer than a line may be": `POST /${LONG} HTTP/1.1\r\n`,
  "a Host header longer than a line may be": `Host: ${LONG}\r\n`,
  "the preface of HTTP/2": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
  "a ClientHello in the clear": "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n",
};

const running: WireServer[] = [];
const folders: string[] = [];

function start(overrides?: Overrides): WireServer {
  const server = new WireServer(overrides);
  running.push(server);
  return server;
}

afterEach(async () => {
  for (const server of running.splice(0)) {
    server.cut();
    await server.stop();
  }
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true });
});

/** No user is locked out or online. */
async function nothingHappened(server: WireServer, authority?: string): Promise<void> {
  const alice = await server.login("alice", authority);
  await alice.expectReply("online", "ok");
  await alice.expectReply("logout", "ok");
}

describe("a connection without a session is closed without a reply, and later lines are ignored, after", () => {
  for (const [name, opening] of Object.entries(OPENINGS)) {
    test(name, async () => {
      const server = start();
      const page = await server.connect();
      page.send(`${opening}${LOCKS_OUT}login bob ${PASSWORD}\n`);
      await page.expectEnd();
      page.send(LOCKS_OUT);
      await nothingHappened(server);
    });
  }

  test("an HTTP request over TLS", async () => {
    const folder = mkdtempSync(join(tmpdir(), "heartline-http-"));
    folders.push(folder);
    const certificate = await makeCertificate();
    const server = start({ tls: { ...writeCertificate(folder, certificate), port: 0 } });
    const page = await server.connect(certificate.cert);
    page.send(`POST / HTTP/1.1\r\n${HEADERS}${LOCKS_OUT}login bob ${PASSWORD}\n`);
    await page.expectEnd();
    await nothingHappened(server, certificate.cert);
  });

  test("a Host line after a failed login, or after any other line", async () => {
    const server = start();
    const page = await server.connect();
    page.sendLines("", "online", "login alice x", "Host: a", "login alice x", "login alice x");
    await page.expectLines("err bad_request <words>", "err not_logged_in", "err wrong_password 2");
    await page.expectEnd();
    await nothingHappened(server);
  });

  test("a request line before a resume or an as with a valid token", async () => {
    const server = start();
    const alice = await server.connect();
    alice.sendLines(`login alice ${PASSWORD} resumable`);
    const token = (await alice.line()).split(" ")[1]!;
    const bob = await server.connect();
    bob.sendLines(`login bob ${PASSWORD} callback=65535`);
    const callback = (await bob.line()).split(" ")[1]!;
    await alice.expectLines("joined bob");
    for (const line of [`resume ${token} 0`, `as ${callback} broadcast hi`]) {
      const page = await server.connect();
      page.sendLines("POST / HTTP/1.1", line);
      await page.expectEnd();
    }
    await alice.expectReply("alive", "ok 6");
  });
});

test("HTTP is detected wherever TCP cuts its bytes, also in a line that is too long", () => {
  const world = new World(["alice"]);
  for (const opening of ["POST /x HTTP/1.1\r\n", "Host: a\r\n", `POST /${"x".repeat(300)} HTTP/1.1\r\n`]) {
    for (let cut = 1; cut < opening.length; cut++) {
      const page = world.connect("192.0.2.9", 64);
      for (const chunk of [opening.slice(0, cut), opening.slice(cut), `login alice x\nHost: a\n`]) {
        world.begin();
        page.feed(Buffer.from(chunk));
        world.endTurns();
      }
      expect(page.read()).toEqual([]);
      expect(page.isClosed).toBe(true);
    }
  }
});

test("in a session such lines are ordinary requests, and a text may have any content", async () => {
  const server = start();
  const [alice, bob] = (await server.online("alice", "bob")) as [WireClient, WireClient];
  await alice.expectReply("message bob GET / HTTP/1.1", "ok sent");
  await bob.expectLines("message alice GET / HTTP/1.1");
  await alice.expectReply("broadcast Host: a", "ok 1");
  await bob.expectLines("broadcast alice Host: a");
  for (const line of ["GET / HTTP/1.1", "Host: a", "Origin: a"]) await alice.expectReply(line, "err unknown_command");
  await alice.expectReply(`POST /${LONG} HTTP/1.1`, "err line_too_long");
  await alice.expectReply("alive", "ok");
});

test("without a session, lines that only contain HTTP are answered", async () => {
  const page = await start().connect();
  const token = "t".repeat(64);
  await page.expectReply("GET /", "err unknown_command");
  await page.expectReply("HTTP/1.1 200 OK", "err unknown_command");
  await page.expectReply("Hosts: a", "err unknown_command");
  await page.expectReply("a Host: b", "err unknown_command");
  await page.expectReply(`as ${token} message bob GET / HTTP/1.1`, "err unknown_session");
  const another = await running.at(-1)!.connect();
  await another.expectReply(`as ${token} message bob ${LONG} HTTP/1.1`, "err line_too_long");
  await another.expectReply(`login alice ${PASSWORD}`, "ok <token> 35");
});
