import { afterAll, describe, expect, test } from "bun:test";
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { SAMPLE_MARK } from "../../src/auth/credentials.ts";
import { makeCertificate, writeCertificate } from "../support/certificate.ts";
import { run, runWith } from "../support/process.ts";
import { WireServer } from "../support/wire.ts";

const folder = mkdtempSync(join(tmpdir(), "heartline-"));
afterAll(() => rmSync(folder, { recursive: true }));

const HASH = "$2b$04$Oj0AIXo6Og6b/z9S/lV3GuC1ijec.GHDT.nL1aQjsQBsl6zNuJdPW";
const hashed = join(folder, "hashed.txt");
const plain = join(folder, "plain.txt");
const sample = join(folder, "sample.txt");
writeFileSync(hashed, `alice ${HASH}\n`);
writeFileSync(plain, `alice secret\nbob ${HASH}\n`);
writeFileSync(sample, `${SAMPLE_MARK}\nalice secret\n`);

const DAY_MS = 24 * 3_600_000;

/** The findings of a check with hashed credentials and no data folder on disk, unless `args` say otherwise. */
async function check(...args: string[]): Promise<{ findings: string[]; code: number }> {
  const base = [...without(args, "--credentials", hashed), ...without(args, "--data", ":memory:")];
  const { out, err, code } = await run("src/main.ts", "check", ...base, ...args);
  expect(err).toBe("");
  return { findings: out.trimEnd().split("\n"), code };
}

function without(args: readonly string[], name: string, value: string): string[] {
  return args.includes(name) ? [] : [name, value];
}

/** Names, lengths and times of everything in a folder. */
function snapshot(path: string): string[] {
  const names = ["", ...(readdirSync(path, { recursive: true }) as string[])].sort();
  return names.map((name) => {
    const { size, mtimeMs, ctimeMs, ino } = statSync(join(path, name));
    return [name, size, mtimeMs, ctimeMs, ino].join(" ");
  });
}

/** Changes the version of the schema in the header of a database (`user_version`). */
function setVersion(file: string, version: number): void {
  const bytes = readFileSync(file);
  bytes.writeUInt32BE(version, 60);
  writeFileSync(file, bytes);
}

test("a valid configuration has one ok line per part, and exit code 0", async () => {
  const { findings, code } = await check();
  expect(code).toBe(0);
  expect(findings).toEqual([
    "ok: configuration: without a file; 2 options are given",
    `ok: credentials: ${hashed} has 1 users`,
    "ok: certificate: TLS is off",
    "ok: data folder: :memory: stores nothing on disk",
    expect.stringMatching(/^ok: open-file limit: \d+, for \d+ connections$/),
  ]);
});

test("the page of --web is looked for", async () => {
  const { findings, code } = await check("--web", "0");
  expect(code).toBe(0);
  const [, severity] = /^(ok|warning): web: /.exec(findings.find((each) => each.includes(": web: "))!) ?? [];
  expect(severity).toBe(existsSync("dist/page/index.html") ? "ok" : "warning");
});

test("each error in the configuration file is a line, and the exit code is 1", async () => {
  const file = join(folder, "bad.toml");
  writeFileSync(file, "prot = 1\nport = 99999\n");
  expect(await check("--config", file)).toEqual({
    findings: [
      `error: configuration: ${file}:1: prot is not an option`,
      `error: configuration: ${file}:2: port takes a whole number from 0 to 65535, not "99999"`,
    ],
    code: 1,
  });
});

test("an invalid command line exits with 2 and one line on stderr", async () => {
  const { out, err, code } = await run("src/main.ts", "check", "--prot", "1");
  expect({ out, code }).toEqual({ out: "", code: 2 });
  expect(err).toMatch(/^heartline: unknown option '--prot' \(\S+ src\/main\.ts help serve lists the options\)\n$/);
});

test("the environment counts, and a variable that belongs to no option is a warning", async () => {
  const env = { HEARTLINE_CREDENTIALS: hashed, HEARTLINE_DATA: ":memory:", HEARTLINE_PROT: "1" };
  const { out, code } = await runWith({ env }, "src/main.ts", "check");
  expect(code).toBe(0);
  expect(out).toContain("ok: configuration: without a file; 2 options are given\n");
  expect(out).toContain("warning: configuration: HEARTLINE_PROT belongs to no option: it has no effect\n");
});

test("an invalid credentials file is an error, and plain or public passwords are warnings", async () => {
  const bad = join(folder, "bad.txt");
  writeFileSync(bad, "alice secret\n\nbob\n");
  const invalid = await check("--credentials", bad);
  expect(invalid.code).toBe(1);
  expect(invalid.findings).toContainEqual(expect.stringContaining(`error: credentials: ${bad}:3: `));
  const some = await check("--credentials", plain);
  expect(some.code).toBe(0);
  expect(some.findings).toContainEqual(
    expect.stringMatching(/^warning: credentials: 1 of 2 passwords are plain text; /),
  );
  const known = await check("--credentials", sample);
  expect(known.code).toBe(0);
  expect(known.findings).toContainEqual(
    expect.stringMatching(/^warning: credentials: .* public, .* 127\.0\.0\.1 only/),
  );
});

describe("a certificate", () => {
  const dates: [string, number, number, RegExp, number][] = [
    ["that is valid for 31 days is ok", -1, 31.5, /^ok: certificate: .* expires on .*, in 31 days$/, 0],
    ["that expires within 30 days is a warning", -1, 29.5, /^warning: certificate: .*, in 29 days; renew it$/, 0],
    ["that has expired is an error", -9, -1, /^error: certificate: .* expired on /, 1],
    ["that is not valid yet is an error", 1, 90, /^error: certificate: .* is not valid before /, 1],
  ];
  test.each(dates)("%s", async (_what, from, to, line, code) => {
    const [notBefore, notAfter] = [from, to].map((days) => new Date(Date.now() + days * DAY_MS)) as [Date, Date];
    const own = mkdtempSync(join(folder, "tls"));
    const { chain, key } = writeCertificate(own, await makeCertificate(["localhost"], { notBefore, notAfter }));
    const checked = await check("--tls-cert", chain, "--tls-key", key);
    expect(checked.findings).toContainEqual(expect.stringMatching(line));
    expect(checked.code).toBe(code);
  });

  test("with another key is an error", async () => {
    const { chain, key } = writeCertificate(mkdtempSync(join(folder, "tls")), await makeCertificate());
    writeFileSync(key, (await makeCertificate()).key);
    const { findings, code } = await check("--tls-cert", chain, "--tls-key", key);
    expect(findings).toContain(`error: certificate: ${key} is not the key of the certificate in ${chain}`);
    expect(code).toBe(1);
  });
});

test("a low open-file limit is a warning", async () => {
  const command = `ulimit -n 300; exec "$0" src/main.ts check --data :memory: --credentials "$1" --connections "$2"`;
  const limited = (connections: string): string =>
    Bun.spawnSync(["sh", "-c", command, process.execPath, hashed, connections]).stdout.toString();
  expect(limited("0")).toContain("warning: open-file limit: 300, for 150 connections and not 1000; raise it");
  expect(limited("160")).toContain("warning: open-file limit: 300, for 150 connections and not 160; raise it");
  expect(limited("100")).toContain("ok: open-file limit: 300, for 100 connections\n");
});

describe("a data folder", () => {
  test("that does not exist yet is a warning, and is not created", async () => {
    const data = join(folder, "a", "b");
    const { findings, code } = await check("--data", data);
    expect(findings).toContain(`warning: data folder: ${data} does not exist yet; serve creates it`);
    expect({ code, exists: existsSync(join(folder, "a")) }).toEqual({ code: 0, exists: false });
  });

  test("that is a file, or in a file, is an error", async () => {
    expect(await check("--data", hashed)).toMatchObject({ code: 1 });
    expect((await check("--data", hashed)).findings).toContain(`error: data folder: ${hashed}: it is not a folder`);
    expect(await check("--data", join(hashed, "data"))).toMatchObject({ code: 1 });
  });

  test("is examined without a change, while a server uses it and as a killed server left it", async () => {
    const data = join(folder, "used");
    const server = new WireServer({ data, durability: "process" });
    const alice = await server.login("alice");
    await alice.expectReply("message bob hello", "ok stored");
    const line = `ok: data folder: ${data}; examined: the header of heartline.sqlite, the length`;
    expect((await check("--data", data)).findings).toContainEqual(expect.stringContaining(line));
    await alice.expectReply("message bob again", "ok stored");
    const killed = join(folder, "killed");
    cpSync(data, killed, { recursive: true });
    await server.stop();
    for (const path of [killed, data]) {
      const before = snapshot(path);
      expect(await check("--data", path)).toMatchObject({ code: 0 });
      expect(snapshot(path)).toEqual(before);
    }
  });

  test("with a file that is damaged or from a newer version is an error that names the file", async () => {
    const data = join(folder, "damaged");
    const server = new WireServer({ data, durability: "process" });
    const alice = await server.login("alice");
    await alice.expectReply("message bob hello", "ok stored");
    const crashed = join(folder, "crashed");
    cpSync(data, crashed, { recursive: true });
    await server.stop();
    const database = "heartline.sqlite";
    const segment = `journal/${readdirSync(join(crashed, "journal")).find((name) => /^\d{16}$/.test(name))}`;
    expect(await check("--data", crashed)).toMatchObject({ code: 0 });
    const cases: [from: string, damage: (path: string) => void, error: string][] = [
      [data, (path) => truncateSync(join(path, database), 8192), `${database}: it is cut off: it has 8192 of `],
      [
        data,
        (path) => writeFileSync(join(path, database), "x".repeat(4096)),
        `${database}: it is not an SQLite database`,
      ],
      [data, (path) => setVersion(join(path, database), 99), `${database}: it was written by a newer Heartline`],
      [crashed, (path) => truncateSync(join(path, segment), 4096), `${segment}: it has 4096 bytes and not 16777216`],
      [crashed, (path) => writeFileSync(join(path, "journal/last"), "x".repeat(24)), "journal: last holds no record"],
    ];
    for (const [i, [from, damage, error]] of cases.entries()) {
      const copy = join(folder, `damaged${i}`);
      cpSync(from, copy, { recursive: true });
      damage(copy);
      const { findings, code } = await check("--data", copy);
      expect(findings).toContainEqual(expect.stringContaining(`error: data folder: ${copy}: ${error}`));
      expect(code).toBe(1);
    }
    // With a write-ahead log, the missing pages may be in it.
    writeFileSync(join(folder, "damaged0", `${database}-wal`), "");
    expect(await check("--data", join(folder, "damaged0"))).toMatchObject({ code: 0 });
  });

  test("with a pipe in place of a file is an error, and the check does not wait for the pipe", async () => {
    const names = ["heartline.sqlite", "journal/last", "journal/0000000000000001"];
    for (const [i, name] of names.entries()) {
      const data = join(folder, `pipes${i}`);
      mkdirSync(join(data, "journal"), { recursive: true });
      Bun.spawnSync(["mkfifo", join(data, name)]);
      const { findings, code } = await check("--data", data);
      expect(findings).toContainEqual(expect.stringMatching(/^error: data folder: .* is not a regular file$/));
      expect(code).toBe(1);
    }
  });

  test.skipIf(process.getuid?.() === 0)("that cannot be written is an error", async () => {
    const data = join(folder, "locked");
    mkdirSync(data);
    chmodSync(data, 0o500);
    expect((await check("--data", data)).findings).toContain(`error: data folder: ${data}: permission denied`);
  });
});
