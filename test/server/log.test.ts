import { afterAll, afterEach, expect, spyOn, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { formatLine } from "../../src/runtime/log.ts";
import { BoundedLog } from "../../src/server/bounded-log.ts";
import { Pty } from "../support/pty.ts";
import { ServerProcess, runWith } from "../support/process.ts";
import { WireClient, WireServer } from "../support/wire.ts";

const folder = mkdtempSync(join(tmpdir(), "heartline-log-"));
const USERS = join(folder, "users.txt");
writeFileSync(USERS, "alice right-Password\nbob right-Password\ncarol right-Password\n");
const OPTIONS = ["--host", "127.0.0.1", "--port", "0", "--data", ":memory:", "--credentials"];

let server: ServerProcess;

afterAll(() => rmSync(folder, { recursive: true }));
afterEach(async () => {
  server?.kill("SIGKILL");
  await server?.exits();
});

/** The lines of the server's log so far. Throws when one is not JSON. */
function lines(): Record<string, unknown>[] {
  const complete = server.stderr.slice(0, server.stderr.lastIndexOf("\n") + 1);
  return complete
    .split("\n")
    .slice(0, -1)
    .map((line) => JSON.parse(line));
}

test("every line of the log is a JSON object with level, time, event and message, from the start to the end", async () => {
  server = new ServerProcess(...OPTIONS, USERS);
  const alice = await WireClient.connect(await server.port());
  await alice.expectReply("login alice wrong", "err wrong_password 2");
  await alice.expectReply("login alice right-Password", "ok <token> 35");
  server.kill("SIGHUP");
  await server.logs(/credentials reloaded/);
  server.kill("SIGTERM");
  expect(await server.exits()).toBe(0);
  expect(lines().map(({ event }) => event)).toEqual([
    "config_warning",
    "listening",
    "web",
    "login_failed",
    "login",
    "reload",
    "stopping",
    "session_end",
    "stopped",
  ]);
  for (const { level, time, msg } of lines()) {
    expect([level, time, msg]).toEqual([expect.any(Number), expect.any(Number), expect.any(String)]);
  }
});

test("a server that cannot start writes all its warnings before the error", async () => {
  const variables = ["HEARTLINE_COLOR", "HEARTLINE_SPEED", "HEARTLINE_WEIGHT"];
  const env = Object.fromEntries(variables.map((name) => [name, "1"]));
  const data = join(folder, "file");
  writeFileSync(data, "");
  const { err, code } = await runWith({ env }, "src/main.ts", "serve", "--credentials", USERS, "--data", data);
  const rows = err.trimEnd().split("\n");
  expect(rows.slice(0, -1).map((row) => JSON.parse(row).msg.split(" ")[0])).toEqual(variables);
  expect(rows.at(-1)).toStartWith(`heartline: the data folder ${data} cannot be used`);
  expect(code).toBe(1);
});

test("--log-level hides lines below the level", async () => {
  server = new ServerProcess(...OPTIONS, USERS, "--log-level", "warn");
  const alice = await WireClient.connect(await server.port());
  await alice.expectReply("login alice right-Password", "ok <token> 35");
  await alice.expectReply("logout", "ok");
  const stranger = await WireClient.connect(await server.port());
  await stranger.expectReply("login alice wrong", "err wrong_password 2");
  server.kill("SIGTERM");
  expect(await server.exits()).toBe(0);
  expect(lines().map(({ event }) => event)).toEqual(["config_warning", "login_failed"]);
});

test("SIGUSR1 changes nothing", async () => {
  server = new ServerProcess(...OPTIONS, USERS);
  const alice = await WireClient.connect(await server.port());
  server.kill("SIGUSR1");
  await alice.expectReply("login alice right-Password", "ok <token> 35");
  server.kill("SIGUSR1");
  await alice.expectReply("alive", "ok");
  server.kill("SIGTERM");
  expect(await server.exits()).toBe(0);
});

test("the log has no password, token, secret, key or text, whatever clients send and wherever they type it", async () => {
  const phone = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data: () => {} } });
  const secrets = ["right-Password", "SECRET"];
  const users = join(folder, "changing.txt");
  writeFileSync(users, readFileSync(USERS));
  server = new ServerProcess(...OPTIONS, users, "--log-level", "trace", "--bad-lines", "20");
  const port = await server.port();
  const connect = (): Promise<WireClient> => WireClient.connect(port);
  const remember = (reply: string): void => {
    const found = reply.match(/[\w-]{22,}/g) ?? [];
    expect(found.length).toBeGreaterThan(0);
    secrets.push(...found);
  };
  try {
    const stranger = await connect();
    stranger.sendLines(
      "login alice SECRET",
      "login right-Password alice",
      "login SECRET SECRET",
      "SECRET",
      "GET SECRET",
    );
    stranger.sendLines("login alice SECRET SECRET", "login alice SECRET after=SECRET", "login bob SECRET callback=1");
    stranger.sendLines("resume SECRETSECRETSECRETSECRET 0", `login ${"SECRET".repeat(2000)}`, "login alice SECRET");
    stranger.sendLines("as SECRETSECRETSECRETSECRET message bob SECRET");
    expect((await stranger.rest()).at(-1)).toBe("err unknown_session");
    const guesser = await connect();
    guesser.sendLines("login carol SECRET", "login carol SECRET", "login carol SECRET");
    await guesser.until("err locked_out 60");
    const alice = await connect();
    alice.sendLines("login alice right-Password resumable listen=4242");
    remember(await alice.line());
    const bob = await connect();
    bob.sendLines(`login bob right-Password callback=${phone.port} listen=4243`);
    const reply = await bob.line();
    remember(reply);
    const token = reply.split(" ")[1];
    const ask = async (request: string): Promise<string> => {
      const once = await connect();
      once.sendLines(`as ${token} ${request}`);
      return once.line();
    };
    expect(await ask("message alice SECRET text")).toBe("ok sent");
    expect(await ask("broadcast SECRET text")).toBe("ok 1");
    alice.sendLines("getaddress bob SECRET", "message bob SECRET", "message nobody SECRET", "alive 1e9SECRET");
    await alice.until("err bad_request alive [<received>]");
    expect(await ask("private_answer alice yes SECRET")).toBe("ok");
    remember(await alice.line()); // address bob <ip> <port> <ticket> SECRET
    alice.sendLines(...Array<string>(20).fill("SECRET"));
    await alice.until("goodbye flood");
    expect(await ask("logout")).toBe("ok");
    // The second file has a password that was wrapped to a line of its own.
    for (const [line, text] of ["bob right-Password SECRET", "bob x\nright-Password,SECRET y"].entries()) {
      writeFileSync(users, `alice right-Password\n${text}\n`);
      server.kill("SIGHUP");
      await server.logs(new RegExp(`changing.txt:${line + 2}: .*nothing has changed`));
    }
  } finally {
    phone.stop(true);
  }
  server.kill("SIGTERM");
  expect(await server.exits()).toBe(0);
  const events = new Set(lines().map(({ event }) => event));
  for (const event of ["login_failed", "lockout", "login", "session_end", "flood", "reload"])
    expect(events).toContain(event);
  const everything = server.stdout + server.stderr;
  expect(secrets.filter((secret) => everything.includes(secret))).toEqual([]);
});

test("a server summarizes periodically what it has not logged, and before it stops", async () => {
  const summarize = spyOn(BoundedLog.prototype, "summarize");
  const inProcess = new WireServer({ limits: { failedLoginsPerMinuteMax: 0 } });
  try {
    const stranger = await inProcess.connect();
    stranger.sendLines(...Array<string>(150).fill("login nobody x"), "alive");
    await stranger.until("err not_logged_in");
    while (summarize.mock.calls.length === 0) await new Promise((resolve) => setImmediate(resolve));
    await inProcess.stop();
    expect(JSON.parse(inProcess.logged.at(-1)!)).toMatchObject({
      event: "login_failed",
      count: 50,
      addresses: { "127.0.0.1": 50 },
    });
  } finally {
    summarize.mockRestore();
    await inProcess.stop();
  }
});

test("a line on a terminal has time, level, message and fields, and an error has its stack below", () => {
  const time = new Date(2026, 0, 2, 3, 4, 5).getTime();
  const line = { level: 40, time, event: "login_failed", user: "alice", address: "192.0.2.7", msg: "login failed" };
  expect(formatLine(JSON.stringify(line), false)).toBe(
    "03:04:05 WARN  login failed event=login_failed user=alice address=192.0.2.7\n",
  );
  const err = { type: "Error", message: "a fault", stack: "Error: a fault\n    at here" };
  expect(
    formatLine(JSON.stringify({ level: 50, time, event: "internal_error", err, msg: "internal error" }), false),
  ).toBe("03:04:05 ERROR internal error event=internal_error\n    Error: a fault\n        at here\n");
  expect(formatLine(JSON.stringify(line), true)).toContain("\x1b[33mWARN ");
});

test("no control character of a value or a message reaches the terminal", () => {
  const bad = "a\x1b[2J\r\n\u009b\u202e\u0007b";
  const line = { level: 30, time: 0, event: bad, list: [bad], err: { stack: bad }, msg: bad };
  expect(formatLine(JSON.stringify(line), false).replaceAll("\n", "")).not.toMatch(/[\x00-\x1f\x7f-\x9f\u202e]/);
});

test.each([
  ["with colours", {}, true],
  ["without colours when NO_COLOR is set", { NO_COLOR: "1" }, false],
])("the log on a terminal is text %s", async (_how, env, isColored) => {
  const pty = new Pty(["src/main.ts", "serve", ...OPTIONS, USERS], { columns: 200, env });
  try {
    const shown = await pty.sees("event=listening");
    expect(shown.join("\n")).toMatch(/^\d\d:\d\d:\d\d INFO {2}\d users; join with: .* event=listening address=127/m);
    expect(shown.join("\n")).not.toContain("{");
    await pty.sees("no chat in a browser; to switch it on: ");
    expect(pty.colored).toBe(isColored);
  } finally {
    pty.end();
  }
});
