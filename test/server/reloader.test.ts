import { afterEach, describe, expect, spyOn, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import pino from "pino";
import { SAMPLE_MARK, readCredentials } from "../../src/auth/credentials.ts";
import { type Configuration, readConfiguration } from "../../src/server/config.ts";
import { Reloader } from "../../src/server/reload.ts";
import { makeCertificate, writeCertificate } from "../support/certificate.ts";
import { PASSWORD, WireServer } from "../support/wire.ts";

const started: Running[] = [];

/** A server with a configuration file and a credentials file, and its reloader. */
class Running {
  readonly folder = mkdtempSync(join(tmpdir(), "heartline-"));
  readonly file = join(this.folder, "heartline.toml");
  readonly users = join(this.folder, "users.txt");
  readonly lines: string[] = [];
  readonly server: WireServer;
  readonly #reloader: Reloader;
  readonly #args: readonly string[];

  /** The text of the configuration file, whether the sample credentials are in use, and more arguments. */
  constructor(text = "", isSample = false, ...args: string[]) {
    const names = ["alice", "bob"];
    this.#args = ["--config", this.file, ...args];
    this.configure(text);
    this.setUsers(names, isSample);
    const read = (): Configuration => readConfiguration(this.#args, {})!;
    const first = read();
    this.server = new WireServer({ ...first.config, host: "127.0.0.1", port: 0, data: ":memory:" }, names);
    const log = pino({ level: "trace" }, { write: (line) => void this.lines.push(JSON.parse(line).msg) });
    this.#reloader = new Reloader(this.server.server, log, read, first, readCredentials(this.users));
    started.push(this);
  }

  /** Writes the configuration file. */
  configure(text: string): void {
    writeFileSync(this.file, `credentials = "${this.users}"\n${text}`);
  }

  setUsers(names: readonly string[], isSample = false): void {
    writeFileSync(
      this.users,
      `${isSample ? SAMPLE_MARK : "#"}\n${names.map((name) => `${name} ${PASSWORD}\n`).join("")}`,
    );
  }

  /** Returns the errors. */
  reload(): Promise<string[]> {
    this.lines.length = 0;
    return this.#reloader.reload();
  }
}

afterEach(async () => {
  for (const { server, folder } of started.splice(0)) {
    server.cut();
    await server.stop();
    rmSync(folder, { recursive: true });
  }
});

test("a reload changes users, limits, block time and log level, and logs the options that changed", async () => {
  const running = new Running("rate-limit = 100\n");
  const { server } = running;
  const alice = await server.login("alice");
  await alice.expectReply("x".repeat(100), "err unknown_command");
  server.logged.length = 0;
  running.setUsers(["alice", "carol"]);
  running.configure('buffer-size = 64\nblock-time = 2.5\nlog-level = "warn"\n');
  expect(await running.reload()).toEqual([]);
  expect(running.lines).toEqual(
    ["block-time is 2.5", "log-level is warn", "rate-limit is 5000", "buffer-size is 64"].map(
      (each) => `${each} from now on`,
    ),
  );
  expect(server.logged).toEqual([]); // The line about the users is below the new level.
  await alice.expectReply("x".repeat(100), "err line_too_long");
  const other = await server.connect();
  await other.expectReply("login bob secret", "err unknown_user");
  await other.expectReply("login carol a", "err wrong_password 2");
  await other.expectReply("login carol b", "err wrong_password 1");
  await other.expectReply("login carol c", "err locked_out 3");
  expect(await running.reload()).toEqual([]);
  expect(running.lines).toEqual([]);
});

test("the command line has precedence over the file at a reload, too", async () => {
  const running = new Running("buffer-size = 100\n", false, "--buffer-size", "200");
  running.configure("buffer-size = 64\n");
  expect(await running.reload()).toEqual([]);
  const alice = await running.server.login("alice");
  await alice.expectReply("x".repeat(150), "err unknown_command");
});

describe("an error in one file changes nothing, is returned and is logged:", () => {
  test("in the configuration, the credentials or the certificate", async () => {
    const [good, other] = await Promise.all([makeCertificate(), makeCertificate()]);
    const folder = mkdtempSync(join(tmpdir(), "heartline-"));
    const { chain, key } = writeCertificate(folder, good);
    const tls = `tls-cert = "${chain}"\ntls-key = "${key}"\ntls-port = 0\n`;
    const running = new Running(tls);
    const { server, file, users } = running;
    const alice = await server.login("alice");
    const failures: [() => void, string][] = [
      [() => running.configure(`${tls}buffer-size = 1\n`), `${file}:5: buffer-size takes a whole number from 64`],
      [() => running.configure(`${tls}buffer-size = \n`), `${file}:5:15: invalid value`],
      [() => rmSync(file), `cannot read the configuration ${file}: there is no such file`],
      [() => writeFileSync(users, "alice secret\ncarol\n"), `${users}:2: a line is a user`],
      [() => writeFileSync(chain, other.cert), `${key} is not the key of the certificate in ${chain}`],
    ];
    for (const [act, error] of failures) {
      running.setUsers(["alice", "carol"]);
      running.configure(`${tls}buffer-size = 64\n`);
      writeCertificate(folder, good);
      act();
      const errors = await running.reload();
      expect(errors).toEqual([expect.stringContaining(error)]);
      expect(running.lines).toEqual([`${errors[0]}; nothing has changed`]);
    }
    await alice.expectReply("x".repeat(100), "err unknown_command");
    await server.login("bob", good.cert);
    const unknown = await server.connect(good.cert);
    await unknown.expectReply("login carol secret", "err unknown_user");
    rmSync(folder, { recursive: true });
  });

  test("all errors of the configuration, or else of the other files, are reported", async () => {
    const running = new Running();
    running.configure("prot = 1\nrate-limit = -1\n");
    expect(await running.reload()).toHaveLength(2);
  });

  test("a certificate that has not changed may have expired", async () => {
    const expired = await makeCertificate(["localhost"], { notBefore: new Date(0), notAfter: new Date(1e12) });
    const folder = mkdtempSync(join(tmpdir(), "heartline-"));
    const { chain, key } = writeCertificate(folder, expired);
    const running = new Running(`tls-cert = "${chain}"\ntls-key = "${key}"\ntls-port = 0\n`);
    running.setUsers(["carol"]);
    expect(await running.reload()).toEqual([]);
    const again = await makeCertificate(["localhost"], { notBefore: new Date(0), notAfter: new Date(1e12) });
    writeCertificate(folder, again);
    expect(await running.reload()).toEqual([`${chain} expired on 2001-09-09T01:46:40.000Z`]);
    rmSync(folder, { recursive: true });
  });
});

test("an option that needs a restart is logged at each reload until it has its old value again", async () => {
  const running = new Running('port = 6001\ndata = "/var/lib/a"\n');
  running.configure('port = 6002\ndata = "/var/lib/b"\nsalvage = true\nhost = "127.0.0.2"\n');
  const restarts = [
    "port needs a restart: until then it is 6001",
    "data needs a restart: until then it is /var/lib/a",
    "salvage needs a restart: until then it is false",
    "host needs a restart: until then the server listens on 0.0.0.0",
  ];
  for (let i = 0; i < 2; i++) {
    expect(await running.reload()).toEqual([]);
    expect(running.lines).toEqual(restarts);
  }
  running.configure('port = 6001\ndata = "/var/lib/a"\n');
  expect(await running.reload()).toEqual([]);
  expect(running.lines).toEqual([]);
});

test("other certificate files apply at once, and TLS that is turned on needs a restart", async () => {
  const [first, second] = await Promise.all([makeCertificate(), makeCertificate()]);
  const folder = mkdtempSync(join(tmpdir(), "heartline-"));
  const files = writeCertificate(folder, first);
  const text = ({ chain, key }: typeof files): string => `tls-cert = "${chain}"\ntls-key = "${key}"\n`;
  const plain = new Running();
  plain.configure(text(files));
  expect(await plain.reload()).toEqual([]);
  expect(plain.lines).toContain("tls-cert needs a restart: until then TLS is off");
  const running = new Running(`${text(files)}tls-port = 0\n`);
  const moved = mkdtempSync(join(tmpdir(), "heartline-"));
  running.configure(`${text(writeCertificate(moved, second))}tls-port = 0\n`);
  expect(await running.reload()).toEqual([]);
  await running.server.login("alice", second.cert);
  for (const each of [folder, moved]) rmSync(each, { recursive: true });
});

describe("the sample credentials", () => {
  test("are refused at a reload while others can reach the server only by default", async () => {
    const running = new Running();
    running.setUsers(["alice"], true);
    const where = "others can reach the server, which listens on 0.0.0.0";
    expect(await running.reload()).toEqual([`the passwords in ${running.users} are public, and ${where}`]);
    const given = new Running('host = "0.0.0.0"\n');
    given.setUsers(["alice"], true);
    expect(await given.reload()).toEqual([]);
  });

  test("keep the server on 127.0.0.1 until a restart, also when they are replaced", async () => {
    const sample = new Running("", true);
    expect(await sample.reload()).toEqual([]);
    expect(sample.lines).toEqual([]);
    sample.setUsers(["alice"]);
    expect(await sample.reload()).toEqual([]);
    expect(sample.lines).toEqual(["host needs a restart: until then the server listens on 127.0.0.1"]);
  });
});

test("a URL that changed needs a restart, and the log has no part of it", async () => {
  const listen = 'cluster-listen = "127.0.0.1:0"\n';
  const running = new Running(`cluster = "postgres://heartline:first-secret@db1/chat"\n${listen}`);
  running.configure(`cluster = "postgres://heartline:second-secret@db2/chat"\n${listen}`);
  expect(await running.reload()).toEqual([]);
  expect(running.lines).toEqual(["cluster needs a restart: until then it is the present one"]);
});

test("users are replaced in steps, and clients are served between these", async () => {
  const { server } = new Running();
  const [alice, bob] = await server.online("alice", "bob");
  let steps = 0;
  for (const _ of server.reloading({}, ["alice", "carol"])) {
    steps++;
    alice!.sendLines("alive");
    while (!(await alice!.line()).startsWith("ok")); // Some step ends the session of bob, which alice sees.
  }
  expect(steps).toBe(2 + 3); // Each user of the file, and each account.
  expect(await bob!.rest()).toContain("goodbye removed");
});

test("a reload begins when the one before has ended, so the users of the last one stay", async () => {
  const running = new Running();
  let nowMs = 0;
  const clock = spyOn(performance, "now").mockImplementation(() => (nowMs += 1000)); // Each step is a slice.
  running.setUsers(["alice", "bob", "carol", "david", "SEAS"]);
  const first = running.reload();
  await new Promise(setImmediate);
  running.setUsers(["alice"]);
  expect(await Promise.all([first, running.reload()])).toEqual([[], []]);
  clock.mockRestore();
  const client = await running.server.connect();
  await client.expectReply("login carol secret", "err unknown_user");
});
