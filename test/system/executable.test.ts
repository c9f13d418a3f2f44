/** The executable of `npm run build`: what it contains, and how it behaves without this project's files. */
import { afterAll, afterEach, beforeAll, expect, test } from "bun:test";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { linesOf } from "../../bench/program.ts";
import { version } from "../../package.json";
import { freePort } from "../support/free-port.ts";
import { Folders, StartedServer, bareEnvironment, root, runCommand } from "../support/command.ts";

const LIMIT_MS = 60_000;
const folders = new Folders();
const folder = folders.make();
const executable = join(folder, "heartline");
const env = bareEnvironment(folder);

async function build(...options: string[]): Promise<{ out: string; err: string; code: number }> {
  return runCommand([process.execPath, "run", "build", ...options], { cwd: root, env: { ...process.env } as never });
}

/** Runs the executable in a folder that has nothing else. */
const heartline = (args: string[], input = "", more = {}) =>
  runCommand([executable, ...args], { cwd: folders.make(), env: { ...env, ...more }, input });

beforeAll(async () => {
  const built = await build("--outfile", executable);
  if (built.code !== 0) throw new Error(`${built.out}${built.err}`);
}, LIMIT_MS);
afterEach(async () => {
  for (const server of StartedServer.running) await server.stop();
});
afterAll(() => folders.remove());

test(
  "the executable logs in a user with a hashed password and stores messages with --durability power",
  async () => {
    const cwd = folders.make();
    const password = "hunter22";
    const added = await runCommand([executable, "passwd", "users.txt", "alice"], { cwd, env, input: `${password}\n` });
    expect(added).toMatchObject({ out: expect.stringContaining("added alice to users.txt"), err: "", code: 0 });
    expect(readFileSync(join(cwd, "users.txt"), "latin1")).toMatch(/^alice \$argon2id\$/);
    const options = "--host 127.0.0.1 --port 0 --credentials users.txt --durability power".split(" ");
    const server = new StartedServer([executable, "serve", ...options], { cwd, env });
    const chat = ["chat", "127.0.0.1", String(await server.port), "--user", "alice"];
    const { out, err, code } = await heartline(chat, "message alice hello\nlogout\n", { HEARTLINE_PASSWORD: password });
    expect({ err, code }).toEqual({ err: "", code: 0 });
    expect(out).toContain("alice: hello");
    const wrong = await heartline(chat, "", { HEARTLINE_PASSWORD: "wrong" });
    expect(wrong.code).toBe(1);
    expect(await server.stop()).toBe(0);
  },
  LIMIT_MS,
);

test(
  "an executable without its worker threads does not serve, and says so in one line",
  async () => {
    const lame = join(folder, "lame");
    const args = ["build", "--compile", "--root", "src", "--outfile", lame, "src/main.ts"];
    await runCommand([process.execPath, ...args], { cwd: root, env: { ...process.env } as never });
    const cwd = folders.make();
    writeFileSync(join(cwd, "credentials.txt"), "alice secret\n");
    const { out, err, code } = await runCommand([lame, "serve", "--port", "0"], { cwd, env });
    expect(err).toMatch(/^heartline: cannot load [\w-]+-worker\.ts: [^\n]*; install or build heartline again\n$/);
    expect({ out, code }).toEqual({ out: "", code: 1 });
  },
  LIMIT_MS,
);

test(
  "the executable has the page for browsers, with its files",
  async () => {
    const cwd = folders.make();
    writeFileSync(join(cwd, "credentials.txt"), "alice secret\n");
    const port = freePort();
    const options = `--port 0 --data :memory: --web ${port}`.split(" ");
    const server = new StartedServer([executable, "serve", ...options], { cwd, env });
    await server.port;
    const html = await (await fetch(`http://127.0.0.1:${port}/`)).text();
    const paths = [...html.matchAll(/(?:src|href)="\.(\/assets\/[^"]+)"/g)].map(([, path]) => path!);
    expect(paths.length).toBe(3);
    for (const path of paths) expect((await fetch(`http://127.0.0.1:${port}${path}`)).status).toBe(200);
    await server.stop();
  },
  LIMIT_MS,
);

test("the executable has every command, and names itself in their usage", async () => {
  expect(await heartline(["version"])).toEqual({ out: `heartline ${version}\n`, err: "", code: 0 });
  const { out } = await heartline(["help"]);
  expect(out).toStartWith(`Usage: ${executable} <command>`);
  const commands = [...out.matchAll(/^ {2}(\w+) {2}/gm)].map(([, name]) => name!);
  expect(commands).toContain("serve");
  for (const command of commands.filter((name) => !["version", "help"].includes(name))) {
    const page = await heartline(["help", command]);
    expect(page).toMatchObject({ err: "", code: 0 });
    expect(page.out).toStartWith(`Usage: ${executable} ${command}`);
  }
});

test(
  "bench of the executable starts its own server and load generator",
  async () => {
    const { out, code } = await heartline("bench --clients 10 --seconds 0.3 --warmup 0 --rate 200".split(" "));
    expect(out).toMatch(/lost 0, twice 0, out of order 0 of \d+ messages/);
    expect(code).toBe(0);
  },
  LIMIT_MS,
);

test(
  "two clients of the executable agree on a private chat",
  async () => {
    const cwd = folders.make();
    writeFileSync(join(cwd, "credentials.txt"), "alice secret\nbob secret\n");
    const options = "--host 127.0.0.1 --port 0 --data :memory:".split(" ");
    const server = new StartedServer([executable, "serve", ...options], { cwd, env });
    const port = String(await server.port);
    const start = (user: string) => {
      const args = [executable, "chat", "127.0.0.1", port, "--user", user];
      const pipes = { stdin: "pipe", stdout: "pipe", stderr: "inherit" } as const;
      const child = Bun.spawn(args, { cwd, env: { ...env, HEARTLINE_PASSWORD: "secret" }, ...pipes });
      const lines = linesOf(child.stdout);
      const type = (line: string): void => {
        child.stdin.write(`${line}\n`);
        child.stdin.flush();
      };
      /** Reads lines up to one with the text. */
      const sees = async (text: string): Promise<void> => {
        for (let line = ""; !line.includes(text);) {
          const { value, done } = await lines.next();
          if (done === true) throw new Error(`${user} does not see ${text}`);
          line = value;
        }
      };
      return { type, sees };
    };
    const [alice, bob] = [start("alice"), start("bob")];
    alice.type("message bob are you there");
    await bob.sees("are you there"); // Stored, if bob logged in later.
    alice.type("getaddress bob");
    await bob.sees("alice asks for a private chat");
    bob.type("yes alice");
    await alice.sees("bob agrees to a private chat");
    alice.type("private bob hello");
    await bob.sees("[private] alice: hello");
    for (const { type } of [alice, bob]) type("logout");
  },
  LIMIT_MS,
);

test("the executable reads no .env and no bunfig.toml of the present folder", async () => {
  const cwd = folders.make();
  writeFileSync(join(cwd, "bunfig.toml"), 'preload = ["./preloaded.ts"]\n');
  writeFileSync(join(cwd, "preloaded.ts"), 'console.log("preloaded");\n');
  writeFileSync(join(cwd, ".env"), "HEARTLINE_PASSWORD=secret\n");
  expect((await runCommand([executable, "version"], { cwd, env })).out).toBe(`heartline ${version}\n`);
  const chat = await runCommand([executable, "chat", "127.0.0.1", "1", "--user", "alice"], { cwd, env });
  expect(chat.err).toContain("HEARTLINE_PASSWORD");
});

test(
  "npm run build -- --target makes an executable for another machine",
  async () => {
    const outfile = join(folder, "heartline-arm64");
    const { err, code } = await build("--target", "bun-linux-arm64", "--outfile", outfile);
    if (err.includes("Failed to download"))
      return console.warn("SKIPPED: a build for another machine (its runtime cannot be downloaded here)");
    expect(code).toBe(0);
    const AARCH64 = 0xb7; // e_machine of the ELF header
    expect(readFileSync(outfile).readUInt16LE(18)).toBe(AARCH64);
  },
  LIMIT_MS,
);
