/** The package that `npm pack` makes: its files, and the command `heartline` after an installation by npm. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from "bun:test";
import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { dependencies, version } from "../../package.json";
import { WORKERS } from "../../src/workers.ts";
import { Folders, StartedServer, bareEnvironment, root, runCommand } from "../support/command.ts";

const LIMIT_MS = 120_000;
const folders = new Folders();
const folder = folders.make();
/** Files of the package that no program imports. Those in dist are built from src/client and src/page. */
const OTHERS = new RegExp(
  String.raw`^(package\.json|README\.md|LICENSE|CHANGELOG\.md|credentials\.txt|bin/heartline|contrib/.+` +
    String.raw`|dist/(client|page)/.+|bench/load/native-\w+\.[ch])$`,
);
const OFFLINE = /E(NOTFOUND|AI_AGAIN|CONNREFUSED|TIMEDOUT)|ENOTCACHED|SELF_SIGNED/;

afterEach(async () => {
  for (const server of StartedServer.running) await server.stop();
});
afterAll(() => folders.remove());

async function pack(...options: string[]): Promise<{ filename: string; files: { path: string; mode: number }[] }> {
  const { out, err, code } = await runCommand(["npm", "pack", "--json", "--silent", ...options], {
    cwd: root,
    env: { ...process.env } as never,
  });
  if (code !== 0) throw new Error(err);
  return JSON.parse(out)[0];
}

/** The specifiers of all imports of a file, types included. */
function specifiers(file: string): string[] {
  const text = readFileSync(join(root, file), "utf8");
  return [...text.matchAll(/(?:^|\s)(?:from|import)\s*\(?\s*"([^"\s]+)"/g)].map(([, specifier]) => specifier!);
}

/** The files that the programs consist of. */
function programFiles(): Set<string> {
  const found = new Set<string>();
  const visit = (file: string): void => {
    if (found.has(file)) return;
    found.add(file);
    if (!file.endsWith(".ts")) return;
    for (const to of specifiers(file)) if (to.startsWith(".")) visit(relative(root, join(root, dirname(file), to)));
  };
  const workers = Object.values(WORKERS).map(({ pathname }) => relative(root, pathname));
  for (const file of ["src/main.ts", "src/client/client.ts", "src/client/web-client.ts", ...workers]) visit(file);
  return found;
}

describe("npm pack", () => {
  test("the package contains the files of the programs, and besides them only documents and samples", async () => {
    const { files } = await pack("--dry-run");
    const packed = new Set(files.map(({ path }) => path));
    const needed = programFiles();
    expect(needed.size).toBeGreaterThan(100);
    expect([...needed].filter((file) => !packed.has(file))).toEqual([]);
    expect([...packed].filter((file) => !needed.has(file) && !OTHERS.test(file))).toEqual([]);
    for (const file of [
      "bench/load/native-swarm.c",
      "bin/heartline",
      "credentials.txt",
      "LICENSE",
      "README.md",
      "dist/client/client.js",
      "dist/page/index.html",
    ])
      expect(packed).toContain(file);
    expect(files.find(({ path }) => path === "bin/heartline")!.mode & 0o111).toBe(0o111);
  });

  test("the dependencies are the packages that the package imports, and bun", () => {
    const names = [...programFiles()].filter((file) => file.endsWith(".ts")).flatMap(specifiers);
    const isPackage = (name: string): boolean => !/^(\.|node:|bun:|bun$)/.test(name);
    const imported = new Set(names.filter(isPackage).map((name) => /^(@[^/]+\/)?[^/]+/.exec(name)![0]));
    expect([...imported, "bun"].toSorted()).toEqual(Object.keys(dependencies).toSorted());
  });
});

describe("the command heartline, installed by npm", () => {
  const prefix = join(folder, "prefix");
  const env = bareEnvironment(folder, join(prefix, "bin"));
  let tarball = "";
  let isOnline = false;

  /** Installs the package without what is not needed at run time. Returns false when the registry is unreachable. */
  async function install(cwd: string, ...options: string[]): Promise<boolean> {
    const quick = ["--prefer-offline", "--no-audit", "--no-fund", "--fetch-retries=0"];
    const { err, code } = await runCommand(["npm", "install", ...quick, ...options, tarball], { cwd, env });
    if (code === 0) return true;
    if (process.env.CI !== undefined || !OFFLINE.test(err)) throw new Error(err);
    return false;
  }

  beforeAll(async () => {
    const { filename } = await pack("--pack-destination", folder);
    tarball = join(folder, filename);
    isOnline = await install(folder, "--global", "--prefix", prefix);
    if (!isOnline) console.warn("SKIPPED: the tests of the installed package (the npm registry cannot be reached)");
  }, LIMIT_MS);

  const heartline = (args: string[], cwd: string, input = "", more = {}) =>
    runCommand(["heartline", ...args], { cwd, env: { ...env, ...more }, input });

  test(
    "serve, chat and passwd work, and the hints of the log can be pasted",
    async () => {
      if (!isOnline) return;
      const cwd = folders.make();
      expect(Bun.which("bun", env)).toBeNull();
      expect((await heartline(["serve"], cwd)).err).toContain("heartline passwd credentials.txt <user> makes one");
      const added = await heartline(["passwd", "credentials.txt", "alice"], cwd, "hunter22\n");
      expect(added).toMatchObject({ err: "", code: 0 });
      writeFileSync(join(cwd, "credentials.txt"), "bob secret\n", { flag: "a" });
      const options = "--host 127.0.0.1 --port 0 --durability power".split(" ");
      const server = new StartedServer(["heartline", "serve", ...options], { cwd, env });
      const hint = await server.joinHint;
      expect(hint).toBe(`heartline chat 127.0.0.1 ${await server.port}`);
      const { out, err, code } = await runCommand(["sh", "-c", `${hint} --user alice`], {
        cwd,
        env: { ...env, HEARTLINE_PASSWORD: "hunter22" },
        input: "message alice hello\nlogout\n",
      });
      expect({ err, code }).toEqual({ err: "", code: 0 });
      expect(out).toContain("alice: hello");
      const migrate = /hash them with (heartline passwd [^"]+)"/.exec(server.log.join("\n"))![1]!;
      const migrated = await runCommand(["sh", "-c", migrate], { cwd, env });
      expect(migrated).toMatchObject({ out: expect.stringContaining("hashed 1 password in credentials.txt"), code: 0 });
      // The script of the command has become the server: signals reach it, and systemd's LISTEN_PID is right.
      expect(readFileSync(`/proc/${server.pid}/cmdline`, "latin1")).toContain("src/main.ts\0serve\0");
      expect(await server.stop()).toBe(0);
    },
    LIMIT_MS,
  );

  test(
    "version, help and bench work in an empty folder",
    async () => {
      if (!isOnline) return;
      const cwd = folders.make();
      expect(await heartline(["version"], cwd)).toEqual({ out: `heartline ${version}\n`, err: "", code: 0 });
      expect((await heartline(["help"], cwd)).out).toStartWith("Usage: heartline <command>");
      const quick = "bench --clients 10 --seconds 0.3 --warmup 0 --rate 200".split(" ");
      const { out, code } = await heartline(quick, cwd);
      expect(out).toMatch(/lost 0, twice 0, out of order 0 of \d+ messages/);
      expect(code).toBe(0);
    },
    LIMIT_MS,
  );

  test("it reads no .env and no bunfig.toml of the present folder", async () => {
    if (!isOnline) return;
    const cwd = folders.make();
    writeFileSync(join(cwd, "bunfig.toml"), 'preload = ["./preloaded.ts"]\n');
    writeFileSync(join(cwd, "preloaded.ts"), 'console.log("preloaded");\n');
    writeFileSync(join(cwd, ".env"), "HEARTLINE_PASSWORD=secret\n");
    expect((await heartline(["version"], cwd)).out).toBe(`heartline ${version}\n`);
    const { err } = await heartline(["chat", "127.0.0.1", "1", "--user", "alice"], cwd);
    expect(err).toContain("HEARTLINE_PASSWORD");
  });

  test(
    "it works without install scripts, and as a dependency of another package",
    async () => {
      if (!isOnline) return;
      const cwd = folders.make();
      writeFileSync(join(cwd, "package.json"), '{ "name": "website", "version": "1.0.0", "private": true }\n');
      await install(cwd, "--ignore-scripts");
      const command = join(cwd, "node_modules/.bin/heartline");
      const { out, code } = await runCommand([command, "help"], { cwd, env });
      expect(out).toStartWith(`Usage: ${command} <command>`);
      expect(code).toBe(0);
      const npx = await runCommand(["npm", "exec", "--no", "heartline", "version"], { cwd, env });
      expect(npx.out).toBe(`heartline ${version}\n`);
    },
    LIMIT_MS,
  );

  test("the command resolves links, and says in one line that there is no bun", async () => {
    const cwd = folders.make();
    const links = join(cwd, "links");
    for (const each of [links, join(cwd, "package/bin"), join(cwd, "package/src")])
      mkdirSync(each, { recursive: true });
    writeFileSync(join(cwd, "package/bin/heartline"), readFileSync(join(root, "bin/heartline")), { mode: 0o755 });
    symlinkSync("../package/bin/heartline", join(links, "first"));
    symlinkSync(join(links, "first"), join(links, "second"));
    const { out, err, code } = await runCommand(["second", "help"], {
      cwd,
      env: { ...env, PATH: `${links}:/usr/bin:/bin`, CDPATH: "/" },
    });
    expect(err).toBe(
      `heartline: cannot find bun: there is none in ${cwd}/package/node_modules; install the package again with npm\n`,
    );
    expect({ out, code }).toEqual({ out: "", code: 1 });
  });
});

describe("in a clone of the project", () => {
  const bun = process.execPath;

  test.each<[string, string[], RegExp]>([
    ["npm start", ["npm", "start", "--"], /^npm run client -- /],
    ["bun start", [bun, "run", "start"], /^\S+ run client /],
    ["bun src/main.ts", [bun, "src/main.ts", "serve"], /^\S+ src\/main\.ts chat /],
    ["bin/heartline", ["bin/heartline", "serve"], /^bin\/heartline chat /],
  ])(
    "the hint of a server that %s started logs a user in when it is pasted",
    async (_name, command, form) => {
      const env = { ...bareEnvironment(folders.make()), HEARTLINE_PASSWORD: "116bway" };
      const options = "--host 127.0.0.1 --port 0 --data :memory: --credentials credentials.txt".split(" ");
      const server = new StartedServer([...command, ...options], { cwd: root, env });
      const hint = await server.joinHint;
      expect(hint).toMatch(form);
      const chat = ["sh", "-c", `${hint} --user columbia`];
      const { out, code } = await runCommand(chat, { cwd: root, env, input: "message columbia hello\nlogout\n" });
      expect(out).toContain("columbia: hello");
      expect(code).toBe(0);
      await server.stop();
    },
    LIMIT_MS,
  );
});
