import { afterEach, describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { HELP_LINES } from "../../src/admin/commands.ts";
import { AdminListener, type AdminOptions } from "../../src/admin/listener.ts";
import { ADMIN_CONNECTIONS_MAX, ADMIN_LINE_BYTES_MAX } from "../../src/limits.ts";
import type { AdminRequest } from "../../src/protocol/admin.ts";
import { AdminClient } from "../support/admin.ts";
import { World } from "../support/chat.ts";
import { PASSWORD, WireServer, pattern } from "../support/wire.ts";

const running: { stop(): unknown }[] = [];
const clients: AdminClient[] = [];
const folders: string[] = [];

afterEach(async () => {
  for (const client of clients.splice(0)) client.cut();
  for (const each of running.splice(0).reverse()) await each.stop();
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true });
});

function newPath(): string {
  const folder = mkdtempSync(join(tmpdir(), "heartline-"));
  folders.push(folder);
  return join(folder, "admin.sock");
}

async function listen(path: string, options: Partial<AdminOptions> = {}): Promise<AdminListener> {
  const report = (error: unknown): never => {
    throw error;
  };
  const listener = new AdminListener(path, { report, ...options });
  await listener.listen();
  running.push(listener);
  return listener;
}

async function connect(path: string): Promise<AdminClient> {
  const client = await AdminClient.connect(path);
  clients.push(client);
  return client;
}

/** What only a whole server can do. */
const NO_SERVER = {
  stats: async () => [],
  reload: async () => [],
  restarts: () => [],
  drain: () => true,
  backup: async () => {},
};

/** A real server in memory with an admin socket, a client of that socket, and the changes that were made by commands. */
async function start({
  data = ":memory:",
  drains = [] as (number | undefined)[],
  reload = async (): Promise<string[]> => [],
  restarts = (): string[] => [],
} = {}) {
  const wire = new WireServer({ data });
  running.push(wire, { stop: () => wire.cut() });
  const path = newPath();
  const done: AdminRequest[] = [];
  const listener = await listen(path, { done: (request) => done.push(request) });
  listener.serve({
    ...wire.server.administered,
    stats: async () => ["heartline_connections 1", 'heartline_build_info{version="1 2"} 1'],
    reload,
    restarts,
    drain: (seconds) => drains.push(seconds) === 1,
  });
  return { wire, path, done, admin: await connect(path) };
}

describe("the socket", () => {
  test("can be used by its user only, from its creation on, and is removed at the stop", async () => {
    const path = newPath();
    const mask = process.umask();
    const listener = await listen(path);
    expect(statSync(path).mode & 0o777).toBe(0o600);
    expect(process.umask()).toBe(mask);
    listener.stop();
    expect(existsSync(path)).toBe(false);
  });

  test("replaces the socket of a server that was killed", async () => {
    const path = newPath();
    const script = `Bun.listen({ unix: ${JSON.stringify(path)}, socket: { data() {} } }); process.kill(process.pid, "SIGKILL");`;
    await Bun.spawn([process.execPath, "-e", script]).exited;
    expect(existsSync(path)).toBe(true);
    await listen(path);
    expect((await (await connect(path)).ask("help")).at(-1)).toBe("ok");
  });

  test("does not replace a socket that is answered, nor a file, and leaves both as they are", async () => {
    const path = newPath();
    await listen(path);
    expect(listen(path)).rejects.toThrow("another program listens there");
    expect((await (await connect(path)).ask("help")).at(-1)).toBe("ok");
    const file = newPath();
    writeFileSync(file, "precious");
    expect(listen(file)).rejects.toThrow("it is not a socket");
    expect(await Bun.file(file).text()).toBe("precious");
  });

  test("is refused at a path that is longer than the system takes, or in a missing folder", async () => {
    expect(listen(`${newPath()}${"x".repeat(100)}`)).rejects.toThrow(/the path has \d+ bytes.*--admin-socket/);
    expect(listen(join(newPath(), "sub"))).rejects.toThrow("the folder does not exist");
  });

  test("answers busy to all commands but help while there is no server", async () => {
    const path = newPath();
    let obstacle: string | null = "recovering";
    const listener = await listen(path, { obstacle: () => obstacle });
    const admin = await connect(path);
    expect(await admin.ask("who")).toEqual(["err busy recovering"]);
    expect(await admin.ask("drain")).toEqual(["err busy recovering"]);
    expect(await admin.ask("help")).toEqual([...HELP_LINES, "ok"]);
    const world = new World([]);
    const { chat, turn } = world;
    listener.serve({ chat, turn, ...NO_SERVER });
    obstacle = null;
    expect(await admin.ask("who")).toEqual(["ok 0"]);
  });
});

describe("invalid input", () => {
  test.each([
    ["", "err bad_request the line is empty"],
    ["nonsense", "err unknown_command <words>"],
    ["constructor", "err unknown_command <words>"],
    ["WHO", "err unknown_command <words>"],
    ["who now", "err bad_request who"],
    ["who ", "err bad_request who"],
    ["user", "err bad_request user <name>"],
    ["user ", "err bad_request user <name>"],
    ["user b..b", "err bad_request user <name>"],
    ["kick  alice", "err bad_request kick <user> [<text>]"],
    ["kick alice ", "err bad_request kick <user> [<text>]"],
    ["ban alice x", "err bad_request ban <user> [<seconds>]"],
    ["ban alice -1", "err bad_request ban <user> [<seconds>]"],
    ["ban alice 0", "err bad_request a ban has at least 1 second"],
    ["ban alice 1 2", "err bad_request ban <user> [<seconds>]"],
    ["announce", "err bad_request announce <text>"],
    ["drain x", "err bad_request drain [<seconds>]"],
    ["drain 999999", "err bad_request a drain takes at most 86400 seconds"],
    ["backup", "err bad_request backup <new folder>"],
    ["backup relative", "err bad_request a backup takes an absolute path"],
    [`announce ${"x".repeat(1025)}`, "err bad_request a text has at most 1024 bytes"],
    ["x".repeat(ADMIN_LINE_BYTES_MAX), "err line_too_long"],
    ["kick nobody", "err unknown_user"],
    ["user nobody", "err unknown_user"],
    ["ban nobody", "err unknown_user"],
    ["unban nobody", "err unknown_user"],
    ["unlock nobody", "err unknown_user"],
    ["purge nobody", "err unknown_user"],
    ["kick alice", "err offline"],
    ["unban alice", "err not_banned"],
  ] as const)("%.40s", async (line, reply) => {
    const { admin, done } = await start();
    const [received, ...more] = await admin.ask(line);
    expect(received).toMatch(pattern(reply));
    expect([more, done]).toEqual([[], []]);
    expect(await admin.ask("who")).toEqual(["ok 0"]);
  });

  test("binary garbage gets one err for each line, and the chat and other connections go on", async () => {
    const { admin, path, wire } = await start();
    const alice = await wire.login("alice");
    let seed = 1;
    const garbage = Array.from({ length: 20_000 }, () => (seed = (seed * 48_271) % 0x7fffffff) & 255);
    const text = Buffer.from(garbage).toString("latin1");
    admin.send(`${text}\n`);
    const other = await connect(path);
    expect((await other.ask("who")).at(-1)).toBe("ok 1");
    await alice.expectReply("alive", "ok");
    for (let i = text.split("\n").length; i > 0; i--) expect((await admin.reply()).join()).toMatch(/^err \w+/);
    expect((await admin.ask("who")).at(-1)).toBe("ok 1");
  });

  test("requests before the end of the input are answered, and half a line is not", async () => {
    const { admin } = await start();
    admin.send("who\nwho\nwh");
    admin.finish();
    expect(await admin.rest()).toBe("ok 0\nok 0\n");
  });

  test("a request in many pieces is one request", async () => {
    const { admin } = await start();
    for (const byte of "user alice\n") {
      admin.send(byte);
      await new Promise(setImmediate);
    }
    expect((await admin.reply()).at(0)).toBe("user alice");
  });

  test("one connection too many is refused with a line, until another one closes", async () => {
    const { admin, path } = await start();
    const others = await Promise.all(Array.from({ length: ADMIN_CONNECTIONS_MAX - 1 }, () => connect(path)));
    for (const other of others) await other.ask("who");
    expect(await (await connect(path)).rest()).toBe("err busy too many connections\n");
    admin.finish();
    await admin.rest();
    expect(await (await connect(path)).ask("who")).toEqual(["ok 0"]);
  });

  test("a connection without a whole request is closed after the idle time", async () => {
    const path = newPath();
    await listen(path, { idleMs: 20 });
    const admin = await connect(path);
    admin.send("who");
    expect(await admin.rest()).toBe("");
  });

  test("a client that does not read its reply is closed, and meanwhile others are served", async () => {
    const names = Array.from({ length: 5000 }, (_, i) => `user${i}`);
    const world = new World(names);
    for (const name of names) world.login(name);
    const path = newPath();
    const { chat, turn } = world;
    const listener = await listen(path, { idleMs: 200 });
    listener.serve({ chat, turn, ...NO_SERVER });
    const deaf = await connect(path);
    deaf.pause();
    for (let i = 0; i < 4; i++) deaf.send("who\n");
    const reader = await connect(path);
    const lines = await reader.ask("who");
    expect(lines).toHaveLength(5001);
    expect(lines.at(-1)).toBe("ok 5000");
    expect(new Set(lines.map((line) => line.split(" ")[1])).size).toBe(5001);
    while (listener.size > 0) await new Promise(setImmediate); // The reader is idle, too.
    deaf.resume();
    expect((await deaf.rest()).length).toBeLessThan(4 * lines.join("\n").length);
  });
});

describe("the command", () => {
  test("who lists each session with its kind, address, state, times and sizes", async () => {
    const { admin, wire } = await start();
    await wire.login("alice");
    const bob = await wire.connect();
    await bob.expectReply(`login bob ${PASSWORD} resumable`, "ok <token> 35");
    const [alice] = await wire.online("carol");
    await alice!.expectReply("message dave hi", "ok stored");
    bob.cut();
    let lines: string[] = [];
    while (!lines.some((line) => line.includes(" detached "))) lines = await admin.ask("who");
    expect(lines.at(-1)).toBe("ok 3");
    const of = (user: string): string => lines.find((line) => line.startsWith(`session ${user} `))!;
    expect(of("alice")).toMatch(/^session alice plain 127\.0\.0\.1 attached \d{13} \d+ 0 0$/);
    expect(of("bob")).toMatch(/^session bob resumable 127\.0\.0\.1 detached \d{13} \d+ \d+ 0$/);
  });

  test("user shows mailbox, senders, blocks, wrong passwords, ban and last login", async () => {
    const { admin, wire } = await start();
    const bob = await wire.login("bob");
    await bob.expectReply("block carol", "ok");
    await bob.expectReply("message alice one", "ok stored");
    const carol = await wire.login("carol");
    await bob.expectLines("joined carol");
    await carol.expectReply("message alice three", "ok stored");
    const stranger = await wire.connect();
    await stranger.expectReply("login alice wrong", "err wrong_password 2");
    expect(await admin.ask("user alice")).toEqual([
      "user alice",
      "mailbox 2 8",
      "wrong_passwords 1 127.0.0.1 60",
      "sender bob 1 3",
      "sender carol 1 5",
      "ok",
    ]);
    for (const reply of ["wrong_password 1", "locked_out 60"])
      await stranger.expectReply("login alice no", `err ${reply}`);
    expect(await admin.ask("user alice")).toContain("lockout 127.0.0.1 60");
    const lines = await admin.ask("user bob");
    expect(lines.slice(0, 3)).toEqual(["user bob", expect.stringMatching(/^session bob plain /), "mailbox 0 0"]);
    expect(lines[3]).toMatch(/^last_login \d{13} 127\.0\.0\.1$/);
    expect(lines.slice(4)).toEqual(["blocks carol", "ok"]);
    expect(await admin.ask("user carol")).toContain("blocked_by bob");
  });

  test("kick ends the session with the text byte for byte, and is reported as done", async () => {
    const { admin, wire, done } = await start();
    const [alice, bob] = await wire.online("alice", "bob");
    expect(await admin.ask("kick bob stop  it \xff")).toEqual(["ok"]);
    await bob!.expectLines("goodbye kicked stop  it \xff");
    await bob!.expectEnd();
    await alice!.expectLines("left bob kicked");
    expect(done).toEqual([{ verb: "kick", user: "bob", text: "stop  it \xff", number: null }]);
  });

  test("ban ends the session, refuses logins, and unban admits the user again", async () => {
    const { admin, wire } = await start();
    const bob = await wire.login("bob");
    expect(await admin.ask("ban bob 60")).toEqual(["ok"]);
    await bob.expectLines("goodbye kicked");
    const again = await wire.connect();
    await again.expectReply(`login bob ${PASSWORD}`, "err banned 60");
    expect((await admin.ask("user bob")).find((line) => line.startsWith("banned"))).toMatch(/^banned \d{13}$/);
    expect(await admin.ask("ban bob")).toEqual(["ok"]);
    await again.expectReply(`login bob ${PASSWORD}`, "err banned");
    expect(await admin.ask("user bob")).toContain("banned forever");
    expect(await admin.ask("unban bob")).toEqual(["ok"]);
    await again.expectReply(`login bob ${PASSWORD}`, "ok <token> 35");
  });

  test("unlock forgets the lockouts of a user, and tells from how many addresses", async () => {
    const { admin, wire } = await start();
    const stranger = await wire.connect();
    for (const reply of ["wrong_password 2", "wrong_password 1", "locked_out 60"])
      await stranger.expectReply("login bob wrong", `err ${reply}`);
    expect(await admin.ask("unlock bob")).toEqual(["ok 1"]);
    expect(await admin.ask("unlock bob")).toEqual(["ok 0"]);
    await wire.login("bob");
  });

  test("purge deletes the messages that wait, and tells how many and how large they were", async () => {
    const { admin, wire } = await start();
    const alice = await wire.login("alice");
    for (let i = 0; i < 600; i++) await alice.expectReply("message bob 12345", "ok stored");
    expect(await admin.ask("purge bob")).toEqual(["ok 600 3000"]);
    expect(await admin.ask("user bob")).toContain("mailbox 0 0");
    expect(await admin.ask("purge bob")).toEqual(["ok 0 0"]);
  });

  test("announce sends a notice to everybody online, as part of each stream", async () => {
    const { admin, wire } = await start();
    const alice = await wire.login("alice");
    const bob = await wire.connect();
    await bob.expectReply(`login bob ${PASSWORD} resumable`, "ok <token> 35");
    await alice.expectLines("joined bob");
    expect(await admin.ask("announce back at  six \xe9")).toEqual(["ok 2"]);
    await alice.expectLines("notice back at  six \xe9");
    await bob.expectLines("notice back at  six \xe9");
    await bob.expectReply(`alive ${"notice back at  six \xe9\n".length}`, "ok 9");
  });

  test("stats gives one figure a line", async () => {
    const { admin } = await start();
    const [name] = await admin.ask("stats");
    expect(name).toBe("heartline_connections 1");
  });

  test("reload gives the errors, one a line, and then fails", async () => {
    const errors = ["users.txt: line 3\nis wrong", "größe"];
    const { admin, done } = await start({ reload: async () => errors.splice(0) });
    expect((await admin.ask("reload")).map((line) => Buffer.from(line, "latin1").toString())).toEqual([
      "error users.txt: line 3 is wrong",
      "error größe",
      "err failed nothing has changed",
    ]);
    expect(await admin.ask("reload")).toEqual(["ok"]);
    expect(done.map(({ verb }) => verb)).toEqual(["reload"]);
  });

  test("reload gives a warning for each option that needs a restart", async () => {
    const { admin } = await start({ restarts: () => ["port needs a restart: until then it is 6001"] });
    expect(await admin.ask("reload")).toEqual(["warning port needs a restart: until then it is 6001", "ok"]);
  });

  test("drain begins a drain of the given time, and a second one is busy", async () => {
    const drains: (number | undefined)[] = [];
    const { admin } = await start({ drains });
    expect(await admin.ask("drain 3")).toEqual(["ok"]);
    expect(await admin.ask("drain")).toEqual(["err busy the server drains or stops already"]);
    expect(drains).toEqual([3, undefined]);
  });

  test("backup makes a new folder, and refuses one that exists already", async () => {
    const data = join(newPath(), "..", "data");
    const { admin } = await start({ data });
    const folder = join(newPath(), "..", "büro copy");
    const bytes = Buffer.from(folder).toString("latin1");
    expect(await admin.ask(`backup ${bytes}`)).toEqual(["ok"]);
    expect(existsSync(join(folder, "heartline.sqlite"))).toBe(true);
    expect((await admin.ask(`backup ${bytes}`)).join()).toMatch(/^err failed .*exists already/);
  });
});

test("the ok of a ban leaves only when the turn is durable", async () => {
  const world = new World(["bob"]);
  const saved = Promise.withResolvers<void>();
  world.saves = () => (world.store.save(), saved.promise);
  const path = newPath();
  const { chat, turn } = world;
  (await listen(path)).serve({ chat, turn, ...NO_SERVER });
  const admin = await connect(path);
  let isAnswered = false;
  const reply = admin.ask("ban bob").finally(() => (isAnswered = true));
  while (world.account("bob").bannedUntilMs === 0) await world.later();
  for (let i = 0; i < 5; i++) await world.later();
  const other = await connect(path);
  expect(await other.ask("who")).toEqual(["ok 0"]);
  expect(isAnswered).toBe(false);
  saved.resolve();
  for (let i = 0; i < 5; i++) await world.later();
  expect(await reply).toEqual(["ok"]);
});

test("of all commands that wait, one continues in each turn, in the order in which they came", async () => {
  const listener = new AdminListener("/unused", { report: () => {} });
  const continued: string[] = [];
  for (const command of ["who", "user", "purge"]) void listener.nextTurn().then(() => continued.push(command));
  for (const expected of [["who"], ["who", "user"], ["who", "user", "purge"]]) {
    await new Promise(setImmediate);
    expect(continued).toEqual(expected);
  }
});
