import { afterAll, afterEach, describe, expect, test } from "bun:test";
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { makeCertificate, writeCertificate } from "../support/certificate.ts";
import { ServerProcess, type Service } from "../support/process.ts";
import { NotifySocket, hasSockets, holdPort } from "../support/sockets.ts";
import { RawWebClient } from "../support/web.ts";
import { WireClient } from "../support/wire.ts";

const folder = mkdtempSync(join(tmpdir(), "heartline-"));
const USERS = join(folder, "users.txt");
writeFileSync(USERS, "alice secret\nbob secret\n");

function serve(service: Partial<Service>, ...args: string[]): ServerProcess {
  const { sockets = [], environment = {} } = service;
  const options = ["--host", "127.0.0.1", "--port", "0", "--credentials", USERS, ...args];
  if (!args.includes("--data")) options.push("--data", ":memory:");
  return new ServerProcess({ sockets, environment }, ...options);
}

async function login(port: number, name: string, authority?: string): Promise<WireClient> {
  const client = await WireClient.connect(port, "127.0.0.1", authority);
  await client.expectReply(`login ${name} secret`, "ok <token> 35");
  return client;
}

afterEach(() => ServerProcess.killAll());
afterAll(() => rmSync(folder, { recursive: true }));

describe.skipIf(!hasSockets)("a server with inherited sockets", () => {
  /** A server with TLS that takes over two listening sockets of these names. */
  async function serveTwo(names: string) {
    const certificate = await makeCertificate();
    const { chain, key } = writeCertificate(folder, certificate);
    const [first, second] = [holdPort(), holdPort()];
    const service = { sockets: [first.descriptor, second.descriptor], environment: { LISTEN_FDNAMES: names } };
    return { server: serve(service, "--tls-cert", chain, "--tls-key", key), first, second, certificate };
  }

  test("listens on the first one, reports its address, and closes it on exec", async () => {
    const { descriptor, port } = holdPort();
    const server = serve({ sockets: [descriptor] });
    expect(await server.port()).toBe(port);
    await server.logs(/"inherited":1/);
    await login(port, "alice");
    expect(readFileSync(`/proc/${server.pid}/fdinfo/3`, "utf8")).toMatch(/^flags:\s+0?2\d{6}$/m);
    closeSync(descriptor);
  });

  test("takes those named plain and tls as these ports, in any order", async () => {
    const { server, first, second, certificate } = await serveTwo("tls:plain");
    expect(await server.port()).toBe(second.port);
    expect(server.stdout).toContain(`, and with TLS on 127.0.0.1:${first.port}\n`);
    await login(second.port, "alice");
    await login(first.port, "bob", certificate.cert);
    for (const { descriptor } of [first, second]) closeSync(descriptor);
  });

  test("takes the second one as the TLS port when they have other names", async () => {
    const { server, first, second } = await serveTwo("heartline.socket:heartline.socket");
    expect(await server.port()).toBe(first.port);
    expect(server.stdout).toContain(`, and with TLS on 127.0.0.1:${second.port}\n`);
    for (const { descriptor } of [first, second]) closeSync(descriptor);
  });

  test("takes one named web as the port of --web", async () => {
    const { descriptor, port } = holdPort();
    const server = serve({ sockets: [descriptor], environment: { LISTEN_FDNAMES: "web" } }, "--web", "0");
    await login(await server.port(), "alice");
    await RawWebClient.open(port, { Origin: `http://localhost:${port}` });
    closeSync(descriptor);
  });

  test("ignores them when they are for another process", async () => {
    const server = serve({ environment: { LISTEN_PID: "1", LISTEN_FDS: "1" } });
    await login(await server.port(), "alice");
  });

  async function fails(service: Partial<Service>, message: RegExp): Promise<void> {
    const server = serve(service);
    expect(await server.exits()).toBe(1);
    expect(server.stderr).toMatch(/^heartline: [^\n]+\n$/);
    expect(server.stderr).toMatch(message);
  }

  test("does not start with a descriptor that is no listening TCP socket", async () => {
    const { descriptor } = holdPort(false);
    const file = openSync("/dev/null", "r");
    const message = /cannot use descriptor 3 of LISTEN_FDS: it is not a listening TCP socket; /;
    await fails({ sockets: [descriptor] }, message);
    await fails({ sockets: [file] }, message);
    await fails({ sockets: [holdPort().descriptor], environment: { LISTEN_FDS: "2" } }, /descriptor 4/);
    for (const each of [descriptor, file]) closeSync(each);
  });

  test("does not start with a socket for a port that it does not have", async () => {
    const sockets = [holdPort().descriptor, holdPort().descriptor];
    await fails({ sockets }, /descriptor 4 of LISTEN_FDS: the options ask for the plain port only; /);
    await fails({ sockets, environment: { LISTEN_FDNAMES: "plain:plain" } }, /descriptor 4 \(plain\) of LISTEN_FDS/);
    await fails({ sockets, environment: { LISTEN_FDNAMES: "plain:tls" } }, /descriptor 4 \(tls\) of LISTEN_FDS/);
    for (const each of sockets) closeSync(each);
  });
});

test.skipIf(!hasSockets)(
  "the service manager receives READY, WATCHDOG, the drain as a status, and STOPPING",
  async () => {
    const socket = new NotifySocket(join(folder, "notify"));
    const server = serve({ environment: { NOTIFY_SOCKET: socket.name, WATCHDOG_USEC: "100000" } });
    expect(await socket.until(/^STATUS=serving/)).toContain("READY=1");
    await login(await server.port(), "alice");
    await socket.until(/^WATCHDOG=1/);
    server.kill("SIGUSR2");
    expect(await socket.until(/^STATUS=draining/)).not.toContain("STOPPING=1");
    server.kill("SIGTERM");
    expect(await socket.until(/^STATUS=stopping/)).toContain("STOPPING=1");
    expect(await server.exits()).toBe(0);
    socket.close();
  },
);

test.skipIf(!hasSockets)("a long recovery extends the time limit of the start", async () => {
  const data = join(folder, "data");
  const killed = serve({}, "--data", data);
  const alice = await login(await killed.port(), "alice");
  for (let i = 0; i < 10; i++) await alice.expectReply(`message bob ${i}`, "ok stored");
  killed.kill("SIGKILL");
  await killed.exits();
  // Each call of the monotonic clock takes 300 ms: the recovery is long.
  const clock = join(folder, "clock.ts");
  writeFileSync(clock, "const now = performance.now; let ms = 0; performance.now = () => now() + (ms += 300);");
  const socket = new NotifySocket(join(folder, "recovery"));
  const environment = { NOTIFY_SOCKET: socket.name, BUN_OPTIONS: `--preload ${clock}` };
  serve({ environment }, "--data", data);
  const received = await socket.until(/^READY=1/);
  expect(received).toContain("EXTEND_TIMEOUT_USEC=60000000");
  expect(received).toContainEqual(expect.stringMatching(/^STATUS=recovering messages of the last run: \d+ %$/));
  socket.close();
});

test("a server starts when its service manager cannot be reached", async () => {
  const server = serve({ environment: { NOTIFY_SOCKET: join(folder, "nobody"), WATCHDOG_USEC: "100000" } });
  await login(await server.port(), "alice");
});
