import { afterEach, beforeEach, describe, expect, jest, spyOn, test } from "bun:test";
import { cpSync, existsSync, mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { type Socket, connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { HTTP_CONNECTIONS_MAX, HTTP_HEADER_BYTES_MAX, HTTP_MS } from "../../src/limits.ts";
import type { HttpAddress } from "../../src/server/options.ts";
import { HttpServer } from "../../src/server/http.ts";
import { Metrics } from "../../src/server/metrics.ts";
import { Readiness } from "../../src/server/readiness.ts";
import { openStore, openStoreInSlices } from "../../src/storage/recovery.ts";
import type { Store } from "../../src/storage/store.ts";
import { exchange, get } from "../support/http.ts";
import { ServerProcess } from "../support/process.ts";

let folder: string;
let readiness: Readiness;
const running: HttpServer[] = [];
const clients: Socket[] = [];

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "heartline-"));
  readiness = new Readiness();
});

afterEach(() => {
  for (const http of running.splice(0)) http.close();
  for (const client of clients.splice(0)) client.destroy();
  rmSync(folder, { recursive: true });
});

async function open(address: HttpAddress): Promise<HttpServer> {
  const http = await HttpServer.open(address, readiness, new Metrics(readiness, ":memory:"));
  running.push(http);
  return http;
}

/** A server at a free port. */
async function serve(): Promise<{ port: number }> {
  const { url } = await open({ host: "127.0.0.1", port: 0 });
  return { port: Number(new URL(url).port) };
}

/** A client that sends an incomplete header; resolves when it is connected. `closed` resolves at the server's end. */
function slowClient({ port }: { port: number }): Promise<{ socket: Socket; closed: Promise<void> }> {
  const { promise, resolve, reject } = Promise.withResolvers<{ socket: Socket; closed: Promise<void> }>();
  const end = Promise.withResolvers<void>();
  const socket = connect({ host: "127.0.0.1", port }, () => {
    socket.write("GET /healthz HTTP/1.1\r\nHost: ");
    resolve({ socket, closed: end.promise });
  });
  clients.push(socket);
  socket.on("data", () => {});
  socket.on("close", () => end.resolve());
  socket.on("error", reject);
  return promise;
}

test("/healthz is 200 ok in each state of the server", async () => {
  const at = await serve();
  for (const state of ["recovering", "serving", "draining", "stopping"] as const) {
    readiness.enter(state);
    expect(readiness.state).toBe(state);
    expect(await get(at, "/healthz")).toEqual([200, "ok"]);
  }
});

test("/readyz is 503 with the reason while the server recovers, drains or cannot write, and 200 ready otherwise", async () => {
  const at = await serve();
  expect(await get(at, "/readyz")).toEqual([503, "recovering"]);
  const store = { writeError: null as string | null };
  readiness.serve(store as Store);
  expect(await get(at, "/readyz")).toEqual([200, "ready"]);
  store.writeError = "the disk refuses: no room";
  expect(await get(at, "/readyz")).toEqual([503, "disk: the disk refuses: no room"]);
  for (const state of ["draining", "stopping"] as const) {
    readiness.enter(state);
    expect(await get(at, "/readyz")).toEqual([503, "draining"]);
  }
});

test("pages are served while a recovery runs", async () => {
  const options = { salvage: false, unixMs: 1, progress: () => {} };
  const { store } = openStore(join(folder, "running"), "process", options);
  for (let i = 0; i < 5000; i++) {
    store.stored("bob", { number: store.newNumber(), unixMs: 1, from: "alice", text: Buffer.from("hello") });
    store.save();
  }
  cpSync(join(folder, "running"), join(folder, "killed"), { recursive: true });
  store.close();
  const at = await serve();
  // Each step of the recovery takes a millisecond on this clock, so there are many slices.
  let nowMs = 0;
  const clock = spyOn(performance, "now").mockImplementation(() => ++nowMs);
  let isOver = false;
  const recovery = openStoreInSlices(join(folder, "killed"), "process", options).finally(() => (isOver = true));
  expect(await get(at, "/readyz")).toEqual([503, "recovering"]);
  expect(await get(at, "/healthz")).toEqual([200, "ok"]);
  expect(isOver).toBe(false);
  const recovered = await recovery;
  clock.mockRestore();
  expect(recovered.store.waiting()).toEqual([{ user: "bob", from: "alice", messages: 5000, bytes: 25_000 }]);
  recovered.store.close();
});

test("/metrics has the version and the process during recovery, and no sessions yet", async () => {
  const [status, text] = await get(await serve(), "/metrics");
  expect(status).toBe(200);
  expect(text).toContain('\nheartline_build_info{version="');
  expect(text).toContain("\nheartline_ready 0\n");
  expect(text).toMatch(/\nprocess_resident_memory_bytes \d+\n/);
  expect(text).not.toContain("\nheartline_sessions{");
});

test("the content type of /metrics is that of the text format", async () => {
  expect(await exchange(await serve(), "/metrics")).toContain(
    "\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n",
  );
});

describe("the response to", () => {
  test.each([
    ["another path", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", 404],
    ["a path with a known beginning", "GET /metrics/a HTTP/1.1\r\nHost: a\r\n\r\n", 404],
    ["a query", "GET /healthz?a=1 HTTP/1.1\r\nHost: a\r\n\r\n", 200],
    ["POST", "POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nabc", 405],
    ["DELETE", "DELETE /healthz HTTP/1.1\r\nHost: a\r\n\r\n", 405],
    ["CONNECT", "CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 405],
    ["PUT", "PUT /other HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", 405],
    [
      "a header of more than 8 KiB",
      `GET /healthz HTTP/1.1\r\nHost: a\r\nX: ${"x".repeat(HTTP_HEADER_BYTES_MAX)}\r\n\r\n`,
      431,
    ],
    ["an endless header line", `GET /healthz HTTP/1.1\r\nX: ${"x".repeat(4 * HTTP_HEADER_BYTES_MAX)}`, 431],
    ["garbage", "\x00\xff\x16\x03\x01\r\n\r\n", 400],
    ["a line of the chat", "login alice secret\n", 400],
    ["HTTP/1.0", "GET /healthz HTTP/1.0\r\n\r\n", 200],
  ])("%s", async (_name, request, status) => {
    const response = await exchange(await serve(), request);
    expect(response).toStartWith(`HTTP/1.1 ${status} `);
    expect(response).toContain("\r\nConnection: close\r\n");
    if (status === 405) expect(response).toContain("\r\nAllow: GET, HEAD\r\n");
  });

  test("HEAD has the header of GET and no body", async () => {
    const response = await exchange(await serve(), "HEAD /healthz HTTP/1.1\r\nHost: a\r\n\r\n");
    expect(response).toStartWith("HTTP/1.1 200 OK\r\n");
    expect(response).toContain("\r\nContent-Length: 2\r\n");
    expect(response).toEndWith("\r\n\r\n");
  });

  test("several requests on one connection is one response", async () => {
    const request = "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n";
    const response = await exchange(await serve(), request.repeat(100));
    expect(response.match(/HTTP\/1\.1 200/g)).toHaveLength(1);
  });
});

test("a connection without a complete header is closed after 5 seconds", async () => {
  jest.useFakeTimers();
  try {
    const at = await serve();
    const { closed } = await slowClient(at);
    await get(at, "/healthz"); // By then the server has accepted the slow client.
    jest.advanceTimersByTime(HTTP_MS - 1);
    expect(await Promise.race([closed.then(() => "closed"), get(at, "/healthz").then(() => "open")])).toBe("open");
    jest.advanceTimersByTime(1);
    await closed;
  } finally {
    jest.useRealTimers();
  }
});

test("of a thousand slow clients all but the newest are closed, and others are served", async () => {
  const count = 1000;
  const at = await serve();
  const { promise: bounded, resolve } = Promise.withResolvers<void>();
  let closed = 0;
  const isClosed = (): void => {
    if (++closed === count - HTTP_CONNECTIONS_MAX) resolve();
  };
  const connecting = Array.from({ length: count }, () => slowClient(at));
  for (const client of connecting) void client.then(({ closed: end }) => end.then(isClosed));
  await bounded;
  expect(await get(at, "/healthz")).toEqual([200, "ok"]);
  expect(closed).toBeLessThan(count);
});

test("clients that send requests in a row and do not read keep nobody out once they have their responses", async () => {
  jest.useFakeTimers();
  try {
    const at = await serve();
    const sent = Array.from({ length: HTTP_CONNECTIONS_MAX }, () => {
      const { promise, resolve } = Promise.withResolvers<void>();
      const client = connect({ host: "127.0.0.1", port: at.port }, () => {
        client.pause();
        client.write("GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n".repeat(100), () => resolve());
      });
      client.on("error", () => {});
      clients.push(client);
      return promise;
    });
    await Promise.all(sent);
    let response = await get(at, "/healthz");
    // While all these requests wait for a rendering, one more connection is closed. Their deadlines do not pass.
    for (let ms = 100; ms < HTTP_MS && response[0] === 0; ms += 100) {
      jest.advanceTimersByTime(100);
      response = await get(at, "/healthz");
    }
    expect(response).toEqual([200, "ok"]);
  } finally {
    jest.useRealTimers();
  }
});

test("many scrapes at once share renderings, and each of them gets all metrics", async () => {
  const at = await serve();
  const texts = await Promise.all(Array.from({ length: 40 }, () => get(at, "/metrics")));
  for (const [status, text] of texts) {
    expect(status).toBe(200);
    expect(text).toContain("\nprocess_cpu_seconds_total ");
  }
  expect(new Set(texts.map(([, text]) => text)).size).toBeLessThan(10);
});

test("close ends all connections, and the port is free", async () => {
  const at = await serve();
  const { closed } = await slowClient(at);
  await get(at, "/healthz");
  running[0]!.close();
  await closed;
  expect(await exchange(at, "/healthz")).toBe("");
});

test("a taken port is an error in one line that names the option", async () => {
  const { port } = await serve();
  const failure = open({ host: "127.0.0.1", port });
  expect(failure).rejects.toThrow(`cannot listen on 127.0.0.1:${port}: the port is taken; --http chooses another`);
});

describe("a Unix socket", () => {
  const umask = process.umask();

  test("has mode 0660, serves the same pages, and is removed by close", async () => {
    const path = join(folder, "http.sock");
    const http = await open({ path });
    expect(http.url).toBe(`unix:${path}`);
    expect(statSync(path).mode & 0o777).toBe(0o660);
    expect(process.umask()).toBe(umask);
    expect(await get({ path }, "/healthz")).toEqual([200, "ok"]);
    http.close();
    expect(existsSync(path)).toBe(false);
  });

  test("that refuses connections is replaced", async () => {
    const path = join(folder, "http.sock");
    await leaveStaleSocket(path);
    await open({ path });
    expect(await get({ path }, "/healthz")).toEqual([200, "ok"]);
  });

  test("at which another program listens is an error, and stays", async () => {
    const path = join(folder, "http.sock");
    await open({ path });
    expect(open({ path })).rejects.toThrow(`cannot listen on ${path}: another program listens there`);
    expect(await get({ path }, "/healthz")).toEqual([200, "ok"]);
  });

  test("does not replace a file", async () => {
    const path = join(folder, "http.sock");
    writeFileSync(path, "text");
    expect(open({ path })).rejects.toThrow(`cannot listen on ${path}: it is not a socket; choose another path`);
    expect(statSync(path).size).toBe(4);
  });

  test("in a folder that does not exist, or with a path that is too long, is an error", async () => {
    expect(open({ path: join(folder, "none", "http.sock") })).rejects.toThrow("the folder does not exist");
    expect(open({ path: join(folder, "x".repeat(120)) })).rejects.toThrow("the path is too long");
    expect(process.umask()).toBe(umask);
  });
});

/** As a killed server leaves it: the file without a program that listens. */
async function leaveStaleSocket(path: string): Promise<void> {
  const code = `require("net").createServer().listen(${JSON.stringify(path)}, () => process.kill(process.pid, "SIGKILL"))`;
  await Bun.spawn([process.execPath, "-e", code]).exited;
  expect(statSync(path).isSocket()).toBe(true);
}

describe("the server with --http", () => {
  afterEach(() => ServerProcess.killAll());

  function start(...args: string[]): ServerProcess {
    const credentials = join(folder, "users.txt");
    writeFileSync(credentials, "alice secret\nbob secret\n");
    const options = ["--host", "127.0.0.1", "--port", "0", "--credentials", credentials, ...args];
    return new ServerProcess(...options);
  }

  test("prints its address, is ready once the chat listens, and says draining until the end of the stop", async () => {
    const server = start("--data", join(folder, "data"), "--http", "0");
    const chat = await server.port();
    const [, port] = /http:\/\/127\.0\.0\.1:(\d+)/.exec(server.stderr) ?? [];
    const at = { port: Number(port) };
    expect(await get(at, "/readyz")).toEqual([200, "ready"]);
    // A client that does not close its side: the stop waits for it for a second.
    const client = connect({ host: "127.0.0.1", port: chat, allowHalfOpen: true });
    clients.push(client);
    const goodbye = Promise.withResolvers<void>();
    client.on("data", (bytes: Buffer) => bytes.includes("goodbye shutdown") && goodbye.resolve());
    client.write("login alice secret\n");
    while (!(await get(at, "/metrics"))[1].includes('heartline_sessions{kind="plain"} 1')) {}
    server.kill("SIGTERM");
    await goodbye.promise;
    expect(await get(at, "/readyz")).toEqual([503, "draining"]);
    expect(await get(at, "/healthz")).toEqual([200, "ok"]);
    expect((await get(at, "/metrics"))[1]).toContain('heartline_sessions_ended_total{reason="shutdown"} 1');
    expect(await server.exits()).toBe(0);
  });

  test("refuses a socket at which another server listens, and removes its own at the stop", async () => {
    const path = join(folder, "http.sock");
    const data = join(folder, "data");
    const first = start("--data", data, "--http", `unix:${path}`);
    await first.port();
    const second = start("--data", data, "--http", `unix:${path}`);
    expect(await second.exits()).toBe(1);
    expect(second.stderr).toContain(`heartline: cannot listen on ${path}: another program listens there\n`);
    first.kill("SIGTERM");
    expect(await first.exits()).toBe(0);
    expect(existsSync(path)).toBe(false);
  });

  test("listens before it opens the data folder", async () => {
    const data = join(folder, "data");
    writeFileSync(data, "not a folder");
    const server = start("--data", data, "--http", "0");
    expect(await server.exits()).toBe(1);
    // The log is written asynchronously, so the order of the lines says nothing.
    expect(server.stderr).toContain("health and metrics at http:");
    expect(server.stderr).toContain("heartline: the data folder");
  });
});
