import { afterAll, afterEach, expect, test } from "bun:test";
import { chmodSync, existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { FORMATS } from "../../src/ctl/format.ts";
import { ADMIN_SHAPES } from "../../src/protocol/admin.ts";
import { ServerProcess, run, runWith } from "../support/process.ts";
import { bindDatagramSocket, bindFullSocket, hasUnixSockets } from "../support/unix-sockets.ts";
import { WireClient } from "../support/wire.ts";

const folder = mkdtempSync(join(tmpdir(), "heartline-"));
const USERS = join(folder, "users.txt");
writeFileSync(USERS, "alice secret\nbob secret\n");
const clients: WireClient[] = [];
const closing: (() => void)[] = [];
let folders = 0;

afterEach(async () => {
  for (const client of clients.splice(0)) client.cut();
  for (const close of closing.splice(0)) close();
  await ServerProcess.killAll();
});
afterAll(() => rmSync(folder, { recursive: true }));

function newFolder(): string {
  return join(folder, `data${folders++}`);
}

function serve(...args: string[]): ServerProcess {
  const port = args.includes("--port") ? [] : ["--port", "0"];
  return new ServerProcess("--host", "127.0.0.1", "--credentials", USERS, ...port, ...args);
}

async function connect(server: ServerProcess): Promise<WireClient> {
  const client = await WireClient.connect(await server.port());
  clients.push(client);
  return client;
}

async function login(server: ServerProcess, user: string): Promise<WireClient> {
  const client = await connect(server);
  await client.expectReply(`login ${user} secret`, "ok <token> 35");
  return client;
}

function ctl(data: string, ...args: string[]): ReturnType<typeof run> {
  return run("src/main.ts", "ctl", ...args, "--data", data);
}

test("who and user print tables, or one JSON value, in the order of names", async () => {
  const data = newFolder();
  const server = serve("--data", data);
  await login(server, "bob");
  await login(server, "alice");
  const who = await ctl(data, "who");
  expect(who.err).toBe("");
  const [heads, first, second, sum] = who.out.split("\n");
  expect(heads).toMatch(/^USER +KIND +ADDRESS +STATE +SINCE +IDLE +UNACKED +MAILBOX$/);
  expect(first).toMatch(/^alice +plain +127\.0\.0\.1 +attached +20\d\d-\d\d-\d\d \d\d:\d\d:\d\d +\d+ s +0 +0$/);
  expect([second!.split(" ")[0], sum, who.code]).toEqual(["bob", "2 sessions", 0]);
  const rows = JSON.parse((await ctl(data, "who", "--json")).out);
  expect(rows).toMatchObject([
    { user: "alice", kind: "plain", state: "attached", mailbox_messages: 0 },
    { user: "bob" },
  ]);
  expect(rows[0].since_unix_ms).toBeGreaterThan(1.7e12);
  const user = await ctl(data, "user", "bob");
  expect(user.out).toMatch(/^user +bob\nsession +plain, attached, from 127\.0\.0\.1 since /);
  expect(user.out).toMatch(/\nlast login +20.* from 127\.0\.0\.1\nmailbox +0 messages with 0 bytes\n$/);
  expect(JSON.parse((await ctl(data, "user", "bob", "--json")).out)).toMatchObject({
    user: "bob",
    session: { kind: "plain" },
    mailbox: { messages: 0, bytes: 0 },
    last_login: { address: "127.0.0.1" },
    banned: null,
    blocks: [],
  });
});

test("each command prints what it did, and its refusals go to stderr with exit code 1", async () => {
  const data = newFolder();
  const server = serve("--data", data);
  const alice = await login(server, "alice");
  await alice.expectReply("message bob waits", "ok stored");
  const out = async (...args: string[]): Promise<string> => {
    const { out, err, code } = await ctl(data, ...args);
    return `${out}${err}${code}`;
  };
  expect(await out("announce", "back", "at", "six")).toBe("sent to 1 user\n0");
  await alice.expectLines("notice back at six");
  expect(await out("purge", "bob")).toBe("deleted 1 message with 5 bytes\n0");
  expect(await out("purge", "bob", "--json")).toBe('{"messages":0,"bytes":0}\n0');
  expect(await out("unlock", "bob")).toBe("forgot the wrong passwords of bob from 0 addresses\n0");
  expect(await out("kick", "alice", "größe")).toBe("the session of alice has ended\n0");
  expect(Buffer.from(await alice.line(), "latin1").toString()).toBe("goodbye kicked größe");
  expect(await out("kick", "alice")).toBe("heartline: alice is not online\n1");
  expect(await out("kick", "nobody", "--json")).toBe("heartline: there is no user nobody\n1");
  expect(await out("ban", "bob", "60")).toBe("bob is banned for 60 seconds\n0");
  expect(await out("user", "bob")).toMatch(/\nbanned +until 20\d\d-.*\n0$/);
  expect(await out("unban", "bob")).toBe("bob is no longer banned\n0");
  expect(await out("unban", "bob")).toBe("heartline: bob is not banned\n1");
  expect(await out("reload", "--json")).toBe('{"ok":true}\n0');
  expect(await out("stats")).toMatch(/^heartline_build_info\{.*\} +1\n(.*\n)*heartline_connections +\d+\n/);
  expect(JSON.parse((await ctl(data, "stats", "--json")).out)).toMatchObject({ heartline_ready: 1 });
  writeFileSync(USERS, "alice\n");
  expect(await out("reload")).toMatch(/^heartline: .*users\.txt.*\n(heartline: .*\n)?1$/);
  writeFileSync(USERS, "alice secret\nbob secret\n");
});

test("backup takes a path that is relative to the folder of ctl, and the copy opens", async () => {
  const data = newFolder();
  const server = serve("--data", data);
  const alice = await login(server, "alice");
  await alice.expectReply("message bob kept", "ok stored");
  const copy = newFolder();
  const { out, err, code } = await ctl(data, "backup", relative(process.cwd(), copy));
  expect([out, err, code]).toEqual([`backed up to ${copy}\n`, "", 0]);
  const second = await ctl(data, "backup", copy);
  expect(second).toMatchObject({ out: "", err: expect.stringMatching(/exists already/), code: 1 });
  const restored = serve("--data", copy);
  const bob = await login(restored, "bob");
  await bob.expectLines("stored alice <ms> kept");
});

test("drain is answered at once; the server then ends its sessions, exits with 0 and removes the socket", async () => {
  const data = newFolder();
  const server = serve("--data", data);
  const alice = await login(server, "alice");
  expect(await ctl(data, "drain", "0")).toMatchObject({ code: 0 });
  await alice.expectLines("goodbye shutdown");
  expect(await server.exits()).toBe(0);
  expect(existsSync(join(data, "admin.sock"))).toBe(false);
});

test("a server that cannot listen leaves no socket behind", async () => {
  const port = String(await serve("--data", newFolder()).port());
  const data = newFolder();
  const second = serve("--data", data, "--port", port);
  expect(await second.exits()).toBe(1);
  expect(existsSync(join(data, "heartline.sqlite"))).toBe(true);
  expect(existsSync(join(data, "admin.sock"))).toBe(false);
});

test("a second server on the folder is refused, and the socket of the first one stays", async () => {
  const data = newFolder();
  await serve("--data", data).port();
  const second = serve("--data", data);
  expect(await second.exits()).toBe(1);
  expect(second.stderr).toContain("in use by another server");
  expect((await ctl(data, "who")).code).toBe(0);
});

test("a ban that was answered with ok survives kill -9, and its end too", async () => {
  const data = newFolder();
  const first = serve("--data", data);
  await login(first, "alice");
  expect((await ctl(data, "ban", "bob")).code).toBe(0);
  first.kill("SIGKILL");
  await first.exits();
  const second = serve("--data", data);
  const bob = await connect(second);
  await bob.expectReply("login bob secret", "err banned");
  expect((await ctl(data, "unban", "bob")).code).toBe(0);
  second.kill("SIGKILL");
  await second.exits();
  await login(serve("--data", data), "bob");
});

test("without a server ctl prints one line with a hint and exits with 1", async () => {
  const data = newFolder();
  const gone = await ctl(data, "who");
  expect(gone).toMatchObject({ out: "", code: 1 });
  expect(gone.err).toMatch(/^heartline: no server at .*admin\.sock: there is no such socket; .*--data.*\n$/);
  const server = serve("--data", data);
  await server.port();
  server.kill("SIGKILL");
  await server.exits();
  expect((await ctl(data, "who", "--json")).err).toMatch(/^heartline: no server at .*: nobody listens there; .*\n$/);
  mkdirSync(join(newFolder(), "sub"), { recursive: true });
  const long = await ctl(join(folder, "x".repeat(120)), "who");
  expect(long.err).toMatch(/^heartline: .* is longer than the 107 bytes of a socket's path\n$/);
  expect(long.code).toBe(1);
});

test.skipIf(!hasUnixSockets)("ctl says that a server hangs, and that a socket is not one of a server", async () => {
  const path = join(folder, "hanging.sock");
  closing.push(bindFullSocket(path));
  const hanging = await run("src/main.ts", "ctl", "who", "--socket", path);
  expect(hanging.err).toBe(`heartline: the server at ${path} accepts no connection: it is busy, or it hangs\n`);
  const other = join(folder, "datagrams.sock");
  closing.push(bindDatagramSocket(other));
  const { err, code } = await run("src/main.ts", "ctl", "who", "--socket", other);
  expect(err).toStartWith(`heartline: no server at ${other}: another program uses it; `);
  expect(code).toBe(1);
});

const GARBAGE = ["HTTP/1.1 400 Bad Request\r\n", "220 mail.example ESMTP\n", "a\n", "x".repeat(2 << 20)];

test.each(GARBAGE)("ctl stops at the first line that no server of this kind sends: %#", async (garbage) => {
  const path = join(folder, `garbage${folders++}.sock`);
  const program = createServer((socket) => void socket.on("error", () => {}).write(garbage)).listen(path);
  closing.push(() => program.close());
  const { out, err, code } = await run("src/main.ts", "ctl", "who", "--socket", path);
  expect([out, code]).toEqual(["", 1]);
  expect(err).toMatch(/^heartline: the program at \S+ is not a Heartline server: it sent "[^\n]{1,100}"\n$/);
});

test.skipIf(process.getuid?.() === 0)("without permission ctl says whose permission is needed", async () => {
  const data = newFolder();
  await serve("--data", data).port();
  chmodSync(join(data, "admin.sock"), 0);
  expect((await ctl(data, "who")).err).toMatch(/permission denied; run it as the server's user or root\n$/);
});

test("--socket, the environment and --admin-socket name the socket of a server in memory", async () => {
  const socket = join(folder, "own.sock");
  const server = serve("--data", ":memory:", "--admin-socket", socket);
  await server.port();
  expect((await run("src/main.ts", "ctl", "who", "--socket", socket)).out).toEndWith("0 sessions\n");
  await server.logs(/"event":"listening",.*"admin":"[^"]*own\.sock"/);
  const env = { HEARTLINE_ADMIN_SOCKET: socket };
  expect((await runWith({ env }, "src/main.ts", "ctl", "who", "--json")).out).toBe("[]\n");
  const data = newFolder();
  await serve("--data", data).port();
  expect((await runWith({ env: { HEARTLINE_DATA: data } }, "src/main.ts", "ctl", "who")).code).toBe(0);
});

test("reload prints what needs a restart, until the option has its old value again", async () => {
  const data = newFolder();
  const file = join(folder, "heartline.toml");
  writeFileSync(file, "bad-lines = 10\n");
  const server = serve("--data", data, "--config", file);
  await server.port();
  writeFileSync(file, 'bad-lines = 11\nlockout-scope = "user"\n');
  const warning = "lockout-scope needs a restart: until then it is address";
  expect(await ctl(data, "reload")).toEqual({ out: `reloaded\n${warning}\n`, err: "", code: 0 });
  expect(JSON.parse((await ctl(data, "reload", "--json")).out)).toEqual({ ok: true, warnings: [warning] });
  writeFileSync(file, "");
  expect((await ctl(data, "reload")).out).toBe("reloaded\n");
});

test.each([
  [],
  ["nonsense"],
  ["constructor"],
  ["who", "now"],
  ["kick"],
  ["kick", "b..b"],
  ["kick", "bob", "two\nlines"],
  ["ban", "bob", "soon"],
  ["announce"],
  ["backup"],
  ["backup", "one", "two"],
  ["backup", ""],
  ["who", "--wat"],
  ["who", "--data", ""],
  ["who", "--data", "a", "--socket", "b"],
])("an invalid command line is reported in one line, with exit code 2: %s %s %s", async (...args) => {
  const { out, err, code } = await run("src/main.ts", "ctl", ...args.filter((arg) => typeof arg === "string"));
  expect([out, code]).toEqual(["", 2]);
  expect(err).toMatch(/^heartline: [^\n]+ \(\S+ src\/main\.ts help ctl lists the commands\)\n$/);
});

test("a text that begins with a dash follows --, as the help says", async () => {
  const data = newFolder();
  const server = serve("--data", data);
  const alice = await login(server, "alice");
  expect((await run("src/main.ts", "ctl", "announce", "--data", data, "--", "- at noon")).out).toBe("sent to 1 user\n");
  expect(await alice.line()).toBe("notice - at noon");
  expect((await run("src/main.ts", "ctl", "help")).out).toMatch(/\n {2}-- +before a text that begins with a dash\n/);
});

test("the help lists every command of the admin socket", async () => {
  for (const args of [["--help"], ["help"]]) {
    const { out, code } = await run("src/main.ts", "ctl", ...args);
    expect(code).toBe(0);
    for (const { usage } of Object.values(ADMIN_SHAPES)) expect(out).toContain(`  ${usage} `);
  }
});

test("cluster says of a server with a journal of its own that it is in none", async () => {
  const data = newFolder();
  await serve("--data", data).port();
  const { out, err, code } = await ctl(data, "cluster");
  expect([out, err, code]).toEqual(["", "heartline: this server keeps its own journal: it is not in a cluster\n", 1]);
});

test("cluster prints the shards, this server and the engine, or one JSON value", () => {
  const lines = [
    "engine PostgreSQL 15.8 at db1:5432",
    "node owner 10.0.0.1:6010 1.2.0 812 0",
    "shard 0 10.0.0.1:6010 1.1.0 7 31 5 950",
    "shard 1 - - 0 0 0 2500",
    "spare 10.0.0.2:6010 1.1.0 3120",
    "spare 10.0.0.3:6010 1.2.0 80",
  ];
  const request = { verb: "cluster" as const, user: "", text: "", number: null };
  const reply = { lines, code: null, words: "" };
  expect(FORMATS.cluster.text(request, reply).split("\n")).toEqual([
    "SHARD  OWNER          VERSION  EPOCH  HEAD  LAG  SILENT",
    "0      10.0.0.1:6010  1.1.0    7      31    26   0.9 s",
    "1      nobody                  0      0     0    2.5 s",
    "SPARE          VERSION  SILENT",
    "10.0.0.2:6010  1.1.0    3.1 s",
    "10.0.0.3:6010  1.2.0    0.1 s",
    "this server: owner of shard 0, 10.0.0.1:6010; last write confirmed 0.8 s ago",
    "engine: PostgreSQL 15.8 at db1:5432",
    "warning: versions differ: 1.1.0 (1 owner, 1 spare), 1.2.0 (1 spare)",
  ]);
  expect(FORMATS.cluster.json(request, reply)).toEqual({
    engine: "PostgreSQL 15.8 at db1:5432",
    node: { role: "owner", address: "10.0.0.1:6010", version: "1.2.0", silent_ms: 812, shard: 0 },
    shards: [
      { shard: 0, owner: "10.0.0.1:6010", version: "1.1.0", epoch: 7, head: 31, snapshot: 5, lag: 26, silent_ms: 950 },
      { shard: 1, owner: null, version: null, epoch: 0, head: 0, snapshot: 0, lag: 0, silent_ms: 2500 },
    ],
    spares: [
      { address: "10.0.0.2:6010", version: "1.1.0", silent_ms: 3120 },
      { address: "10.0.0.3:6010", version: "1.2.0", silent_ms: 80 },
    ],
  });
  const spare = { ...reply, lines: ["node spare 10.0.0.2:6010 1.2.0 100 -"] };
  const text = FORMATS.cluster.text(request, spare).split("\n");
  expect(text.slice(1)).toEqual([
    "no spares",
    "this server: spare, 10.0.0.2:6010; last read answered 0.1 s ago",
    "engine: ",
  ]);
});
