import { afterAll, afterEach, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Certificate, makeCertificate, writeCertificate } from "../support/certificate.ts";
import { Pty } from "../support/pty.ts";
import { ServerProcess } from "../support/process.ts";
import { WireClient } from "../support/wire.ts";

const folder = mkdtempSync(join(tmpdir(), "heartline-"));
const USERS = join(folder, "users.txt");
writeFileSync(USERS, "alice secret\nbob secret\ncarol secret\n");

let folders = 0;

function start(...args: string[]): ServerProcess {
  return new ServerProcess(...args);
}

/** On loopback, at a free port, with three users. */
function serve(...args: string[]): ServerProcess {
  return start("--host", "127.0.0.1", "--port", "0", "--credentials", USERS, ...args);
}

function newFolder(): string {
  return join(folder, `data${folders++}`);
}

async function login(port: number, name: string): Promise<WireClient> {
  const client = await WireClient.connect(port);
  await client.expectReply(`login ${name} secret`, "ok <token> 35");
  return client;
}

afterEach(() => ServerProcess.killAll());
afterAll(() => rmSync(folder, { recursive: true }));

test("serve prints one line on stdout when it is ready, and logs to stderr", async () => {
  const server = serve("--data", newFolder());
  const port = await server.port();
  const alice = await login(port, "alice");
  await alice.expectReply("logout", "ok");
  server.kill("SIGTERM");
  expect(await server.exits()).toBe(0);
  expect(server.stdout).toMatch(/^[^\n]*listening on 127\.0\.0\.1:\d+\n$/);
  expect(server.stderr).toContain(String(port));
  expect(server.stderr).not.toContain("secret");
  expect(server.stderr).not.toContain("SAMPLE");
});

test.each([
  ["0.0.0.0", "127.0.0.1"],
  ["127.1", "127.0.0.1"],
  ["127.0.0.2", "127.0.0.2"],
])("a server that listens on %s logs the command that connects to %s", async (host, reached) => {
  const server = start("--host", host, "--port", "0", "--credentials", USERS, "--data", ":memory:");
  await server.logs(new RegExp(`join with: ${process.execPath} src/main.ts chat ${reached} ${await server.port()}"`));
});

test("serve warns while the sample credentials are in use", async () => {
  const server = start("--host", "127.0.0.1", "--port", "0", "--data", ":memory:");
  await server.port();
  await server.logs(/SAMPLE CREDENTIALS/);
  expect(server.stdout).not.toContain("SAMPLE");
});

test("serve warns how many passwords are plain text, and names the command that hashes them", async () => {
  const hash = "$2b$04$Oj0AIXo6Og6b/z9S/lV3GuC1ijec.GHDT.nL1aQjsQBsl6zNuJdPW";
  const [some, none] = ["some.txt", "none.txt"].map((name) => join(folder, name)) as [string, string];
  writeFileSync(some, `alice secret\nbob ${hash}\ncarol secret\n`);
  writeFileSync(none, `bob ${hash}\n`);
  const using = (file: string): ServerProcess =>
    start("--host", "127.0.0.1", "--port", "0", "--data", ":memory:", "--credentials", file);
  const [first, second] = [using(some), using(none)];
  await first.logs(/2 of 3 passwords are plain/);
  expect(first.stderr).toContain(`hash them with ${process.execPath} src/main.ts passwd --migrate ${some}`);
  await second.logs(/1 users/);
  expect(second.stderr).not.toContain("plain");
});

test("serve applies --buffer-size, --block-time, --heartbeat-interval, --durability and --rate-limit", async () => {
  const server = serve(
    "--data",
    newFolder(),
    "--buffer-size",
    "64",
    "--block-time",
    "2.5",
    "--heartbeat-interval",
    "17.5",
    "--durability",
    "power",
    "--rate-limit",
    "1000",
  );
  const alice = await WireClient.connect(await server.port());
  await alice.expectReply("x".repeat(64), "err line_too_long");
  await alice.expectReply("login bob a", "err wrong_password 2");
  await alice.expectReply("login bob b", "err wrong_password 1");
  await alice.expectReply("login alice secret", "ok <token> 17.5");
  const other = await WireClient.connect(await server.port());
  await other.expectReply("login bob c", "err locked_out 3");
  await other.expectEnd();
});

test("serve --help shows the options on stdout and exits with 0", async () => {
  const server = start("--help");
  expect(await server.exits()).toBe(0);
  expect(server.stdout).toContain("--heartbeat-interval");
  expect(server.stderr).toBe("");
});

test("serve does not block on a full log pipe, and stops in order", async () => {
  const full = 'mkfifo "$0" && exec 9<>"$0" && head -c 65536 /dev/zero >&9 && exec "$@" 2>&9';
  const args = ["src/main.ts", "serve", "--port", "0", "--host", "127.0.0.1", "--credentials", USERS];
  const server = Bun.spawn(["sh", "-c", full, join(folder, "log"), process.execPath, ...args, "--data", newFolder()], {
    stdout: "pipe",
  });
  try {
    const { value } = await server.stdout.getReader().read();
    const alice = await login(Number(/:(\d+)/.exec(new TextDecoder().decode(value))![1]), "alice");
    await alice.expectReply("alive", "ok");
    server.kill("SIGTERM");
    await alice.expectLines("goodbye shutdown");
    expect(await server.exited).toBe(0);
  } finally {
    server.kill("SIGKILL");
  }
});

test("serve logs uncaught errors of timers and promises, and continues", async () => {
  const faults = join(folder, "faults.ts");
  writeFileSync(
    faults,
    `process.on("SIGUSR1", () => {
      setTimeout(() => { throw new Error("a fault in a timer"); });
      void Promise.reject(new Error("a fault in a promise"));
    });`,
  );
  process.env.BUN_OPTIONS = `--preload ${faults}`;
  const server = serve("--data", newFolder());
  delete process.env.BUN_OPTIONS;
  const alice = await login(await server.port(), "alice");
  server.kill("SIGUSR1");
  await server.logs(/a fault in a promise/);
  await server.logs(/a fault in a timer/);
  await alice.expectReply("alive", "ok");
  server.kill("SIGTERM");
  expect(await server.exits()).toBe(0);
});

test("SIGHUP reloads users and certificate; an invalid file changes nothing and is logged with its line", async () => {
  const users = join(folder, "changing.txt");
  const [first, second] = await Promise.all([makeCertificate(), makeCertificate()]);
  const write = (text: string, certificate: Certificate): ReturnType<typeof writeCertificate> => {
    writeFileSync(users, text);
    return writeCertificate(folder, certificate);
  };
  const { chain, key } = write("alice secret\nbob secret\n", first);
  const server = start(
    "--host",
    "127.0.0.1",
    "--port",
    "0",
    "--credentials",
    users,
    "--data",
    ":memory:",
    "--tls-cert",
    chain,
    "--tls-key",
    key,
    "--tls-only",
  );
  const port = await server.port();
  const login = async (name: string, { cert }: Certificate): Promise<WireClient> => {
    const client = await WireClient.connect(port, "127.0.0.1", cert);
    await client.expectReply(`login ${name} secret`, "ok <token> 35");
    return client;
  };
  const alice = await login("alice", first);
  write("alice secret\ncarol\n", { cert: second.cert, key: first.key });
  server.kill("SIGHUP");
  await server.logs(/"level":50,.*"event":"reload",.*changing\.txt:2: .*; nothing has changed/);
  await server.logs(/is not the key of the certificate in .*; nothing has changed/);
  const bob = await login("bob", first);
  await alice.expectLines("joined bob");
  write("alice secret\ncarol secret\n", second);
  server.kill("SIGHUP");
  await bob.expectLines("goodbye removed");
  await alice.expectLines("left bob removed");
  await login("carol", second);
  await alice.expectLines("joined carol");
  await server.logs(/"added":1,"changed":0,"removed":1/);
  server.kill("SIGTERM");
  await alice.expectLines("goodbye shutdown");
  expect(await server.exits()).toBe(0);
});

test("SIGHUP reads the configuration file again, and an invalid one changes nothing", async () => {
  const file = join(folder, "heartline.toml");
  writeFileSync(file, 'data = ":memory:"\nport = 0\nhost = "127.0.0.1"\n');
  const server = start("--config", file, "--credentials", USERS);
  const alice = await login(await server.port(), "alice");
  await alice.expectReply("x".repeat(100), "err unknown_command");
  writeFileSync(file, 'data = ":memory:"\nport = 0\nbuffer-size = 1\n');
  server.kill("SIGHUP");
  await server.logs(/heartline\.toml:3: buffer-size takes a whole number [^\n]*; nothing has changed/);
  await alice.expectReply("x".repeat(100), "err unknown_command");
  writeFileSync(file, 'data = ":memory:"\nport = 6001\nbuffer-size = 64\n');
  server.kill("SIGHUP");
  await server.logs(/port needs a restart: until then it is 0/);
  await alice.expectReply("x".repeat(100), "err line_too_long");
});

test("serve takes options from the environment, and warns about variables that belong to no option", async () => {
  const env = { HEARTLINE_PORT: "0", HEARTLINE_HOST: "127.0.0.1", HEARTLINE_CREDENTIALS: USERS, HEARTLINE_PROT: "1" };
  const before = { ...process.env };
  Object.assign(process.env, env, { HEARTLINE_DATA: ":memory:" });
  const server = start();
  for (const name of [...Object.keys(env), "HEARTLINE_DATA"]) delete process.env[name];
  expect(process.env).toEqual(before);
  await login(await server.port(), "alice");
  await server.logs(/HEARTLINE_PROT belongs to no option/);
});

test("with the sample credentials, serve listens on loopback only unless a host is given, and says so", async () => {
  const sample = start("--port", "0", "--data", ":memory:");
  const given = start("--port", "0", "--data", ":memory:", "--host", "0.0.0.0");
  const own = start("--port", "0", "--data", ":memory:", "--credentials", USERS);
  for (const server of [sample, given, own]) await server.port();
  expect(sample.stdout).toContain("listening on 127.0.0.1:");
  await sample.logs(/SAMPLE CREDENTIALS: [^\n]* so the server listens on 127\.0\.0\.1 only; [^\n]*--host/);
  expect(given.stdout).toContain("listening on 0.0.0.0:");
  await given.logs(/SAMPLE CREDENTIALS: [^\n]*replace them before others can connect/);
  expect(own.stdout).toContain("listening on 0.0.0.0:");
});

test("SIGHUP does not block on a pipe in place of the credentials, certificate or key", async () => {
  const own = join(folder, "pipes");
  mkdirSync(own);
  const users = join(own, "users.txt");
  writeFileSync(users, "alice secret\n");
  const { chain, key } = writeCertificate(own, await makeCertificate());
  const files = ["--credentials", users, "--tls-cert", chain, "--tls-key", key, "--tls-port", "0"];
  const server = start("--host", "127.0.0.1", "--port", "0", "--data", ":memory:", ...files);
  const alice = await login(await server.port(), "alice");
  for (const file of [users, key, chain]) {
    rmSync(file);
    expect(Bun.spawnSync(["mkfifo", file]).exitCode).toBe(0);
    server.kill("SIGHUP");
    await server.logs(
      new RegExp(`cannot read [^\n]*${file}: not a regular file; a pipe can only be read when the server starts`),
    );
    await alice.expectReply("alive", "ok");
  }
});

test("serve stops in order when its terminal is closed", async () => {
  const options = ["--host", "127.0.0.1", "--port", "0", "--credentials", USERS, "--data", newFolder()];
  const pty = new Pty(["src/main.ts", "serve", ...options], { columns: 200 });
  try {
    const lines = await pty.sees("listening on 127.0.0.1:");
    const alice = await login(Number(/listening on \S+:(\d+)/.exec(lines.join("\n"))![1]), "alice");
    pty.hangUp();
    await alice.expectLines("goodbye shutdown");
    await alice.expectEnd();
    expect(await pty.exited).toBe(0);
  } finally {
    pty.end();
  }
});

test("a second signal ends the process at once, also when the log cannot be written", async () => {
  const options = ["--host", "127.0.0.1", "--port", "0", "--credentials", USERS, "--data", ":memory:"];
  const pty = new Pty(["src/main.ts", "serve", ...options], { columns: 200 });
  const lines = await pty.sees("listening on 127.0.0.1:");
  // A connection that does not close keeps the stop from ending by itself.
  const open = await WireClient.connect(Number(/listening on \S+:(\d+)/.exec(lines.join("\n"))![1]));
  pty.kill("SIGTERM");
  pty.hangUp();
  await open.expectEnd();
  pty.kill("SIGTERM");
  expect(await pty.exited).toBe(1);
});

describe("serve fails with one line on stderr and exit code", () => {
  async function fails(server: ServerProcess, code: number, ...words: string[]): Promise<void> {
    expect(await server.exits()).toBe(code);
    expect(server.stdout).toBe("");
    expect(server.stderr).toMatch(/^[^\n]+\n$/);
    for (const word of words) expect(server.stderr).toContain(word);
    expect(server.stderr).not.toMatch(/\bat .*:\d+:\d+|\.ts:/);
  }

  test("1 when the port is taken", async () => {
    const first = serve("--data", ":memory:");
    const port = String(await first.port());
    await fails(start("--host", "127.0.0.1", "--port", port, "--credentials", USERS, "--data", ":memory:"), 1, port);
  });

  test("1 when the address is invalid or not an address of this machine", async () => {
    await Promise.all(
      ["192.0.2.1", "999.1.1.1"].map((host) =>
        fails(start("--host", host, "--port", "0", "--credentials", USERS, "--data", ":memory:"), 1, host),
      ),
    );
  });

  test("1 when the credentials are missing, have an invalid line, or a user twice", async () => {
    const [bad, twice, missing] = ["bad.txt", "twice.txt", "missing.txt"].map((name) => join(folder, name));
    writeFileSync(bad!, "alice secret\n\nbob\n");
    writeFileSync(twice!, "alice secret\nbob secret\nalice secret\n");
    const using = (file: string): ServerProcess => start("--port", "0", "--data", ":memory:", "--credentials", file);
    await Promise.all([
      fails(using(bad!), 1, `${bad}:3`),
      fails(using(twice!), 1, `${twice}:3`, "alice"),
      fails(using(missing!), 1, missing!),
    ]);
  });

  test("1 when the data folder cannot be written", async () => {
    await fails(serve("--data", join(USERS, "data")), 1, join(USERS, "data"));
    const occupied = newFolder();
    mkdirSync(join(occupied, "heartline.sqlite"), { recursive: true });
    await fails(serve("--data", occupied), 1, occupied);
  });

  test("1 when another server uses the data folder, which continues", async () => {
    const data = newFolder();
    const first = serve("--data", data);
    const port = await first.port();
    await fails(serve("--data", data), 1, data, "in use");
    await (await login(port, "alice")).expectReply("message bob hi", "ok stored");
  });

  test("2 for an invalid configuration file or environment, which the line names", async () => {
    const file = join(folder, "invalid.toml");
    writeFileSync(file, "[network]\nport = 1\nport = 2\n");
    process.env.HEARTLINE_BAD_LINES = "x";
    const other = serve();
    delete process.env.HEARTLINE_BAD_LINES;
    await Promise.all([
      fails(serve("--config", file), 2, `${file}:3:1: `),
      fails(serve("--config", folder), 2, folder, "folder"),
      fails(other, 2, 'HEARTLINE_BAD_LINES takes a whole number from 0 to 1000000, not "x"'),
    ]);
  });

  test("2 for an invalid command line", async () => {
    await Promise.all([
      fails(serve("--nonsense"), 2, "nonsense", "help serve"),
      fails(serve("extra"), 2, "extra"),
      fails(serve("--data", ":memory:", "--durability", "power"), 2, "--durability"),
      fails(serve("--port", "1"), 2, "--port"),
      fails(serve("--data"), 2, "data"),
      fails(serve("--heartbeat-interval", "soon"), 2, "--heartbeat-interval", "soon"),
      fails(serve("--buffer-size", "-1"), 2, "buffer-size"),
    ]);
  });
});

describe("serve stops", () => {
  test.each(["SIGTERM", "SIGINT"] as const)(
    "on %s: sessions receive goodbye shutdown, stored messages and blocks are kept, the exit code is 0",
    async (signal) => {
      const data = newFolder();
      const first = serve("--data", data);
      const port = await first.port();
      const [alice, bob, unauthenticated] = [
        await login(port, "alice"),
        await login(port, "bob"),
        await WireClient.connect(port),
      ];
      await alice.expectLines("joined bob");
      await alice.expectReply("message carol one", "ok stored");
      await bob.expectReply("message carol two", "ok stored");
      await bob.expectReply("block alice", "ok");
      first.kill(signal);
      for (const client of [alice, bob]) {
        await client.expectLines("goodbye shutdown");
        await client.expectEnd();
      }
      await unauthenticated.expectEnd();
      expect(await first.exits()).toBe(0);
      const port2 = await serve("--data", data).port();
      await (await login(port2, "carol")).expectLines("stored alice <ms> one", "stored bob <ms> two");
      await (await login(port2, "alice")).expectReply("message bob hi", "err blocked");
    },
  );

  test("on a signal also while a client does not read; a second signal exits at once", async () => {
    const server = serve("--data", newFolder());
    const alice = await login(await server.port(), "alice");
    alice.pause();
    server.kill("SIGTERM");
    await server.logs(/"event":"stopping","signal":"SIGTERM"/);
    server.kill("SIGTERM");
    expect(await server.exits()).not.toBe(0);
    expect(server.stderr).not.toMatch(/\bat .*:\d+:\d+/);
  });
});

test("SIGUSR2 drains; a second one is ignored and logged; SIGTERM then stops at once, in order", async () => {
  const server = serve("--data", newFolder());
  const port = await server.port();
  const alice = await login(port, "alice");
  server.kill("SIGUSR2");
  await server.logs(/"event":"drain"/);
  const bob = await WireClient.connect(port);
  await bob.expectReply("login bob secret", "err busy <words>");
  await bob.expectEnd();
  server.kill("SIGUSR2");
  await server.logs(/SIGUSR2 is ignored: the server is draining/);
  await alice.expectReply("alive", "ok");
  server.kill("SIGTERM");
  await alice.expectLines("goodbye shutdown");
  await alice.expectEnd();
  expect(await server.exits()).toBe(0);
});

test("SIGUSR1 changes nothing", async () => {
  const server = serve("--data", newFolder());
  const alice = await login(await server.port(), "alice");
  server.kill("SIGUSR1");
  await server.logs(/SIGUSR1 is ignored/);
  await alice.expectReply("alive", "ok");
  server.kill("SIGTERM");
  expect(await server.exits()).toBe(0);
});

test("messages and blocks that were acknowledged with ok survive kill -9", async () => {
  const data = newFolder();
  const first = serve("--data", data);
  const alice = await login(await first.port(), "alice");
  await alice.expectReply("message bob hi", "ok stored");
  await alice.expectReply("block carol", "ok");
  first.kill("SIGKILL");
  await first.exits();
  const second = serve("--data", data);
  const port = await second.port();
  await second.logs(/"event":"recovered","messages":\d+,"ms":\d+/);
  await (await login(port, "bob")).expectLines("stored alice <ms> hi");
  await (await login(port, "carol")).expectReply("message alice hi", "err blocked");
});

test("an idle session receives goodbye expired after --heartbeat-interval", async () => {
  const server = serve("--data", ":memory:", "--heartbeat-interval", "0.3");
  const alice = await WireClient.connect(await server.port());
  await alice.expectReply("login alice secret", "ok <token> 0.3");
  await alice.expectLines("goodbye expired");
  await alice.expectEnd();
});
