/** A server moves into a cluster of three shards and back, and its clients only notice that it is away for a while. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ChatClient, type ChatError, type ChatEvent } from "../../src/client/client.ts";
import { POSTGRES, type RunningEngine } from "../support/engines.ts";
import { freePort } from "../support/free-port.ts";
import { ServerProcess, runWith } from "../support/process.ts";
import { WireClient } from "../support/wire.ts";

const LIMIT_MS = 60_000;
/** Two users of each of three shards: ivan and judy, dave and grace, alice and bob. */
const USERS = ["ivan", "judy", "dave", "grace", "alice", "bob"];
/** They wait for judy all the way, who logs in at the end. */
const WAITING = 300;

const folder = mkdtempSync(join(tmpdir(), "heartline-"));
const CREDENTIALS = join(folder, "users.txt");
writeFileSync(CREDENTIALS, USERS.map((user) => `${user} secret\n`).join(""));

afterEach(() => ServerProcess.killAll());
afterAll(() => rmSync(folder, { recursive: true }));

describe.skipIf(!POSTGRES.isInstalled)("into a cluster of three shards over PostgreSQL and back", () => {
  let engine: RunningEngine;
  beforeAll(async () => void (engine = await POSTGRES.start()), LIMIT_MS);
  afterAll(POSTGRES.closeAll);

  test(
    "each message arrives once: at a client that stays, at one with after=, and at one that was away",
    async () => {
      const port = freePort();
      const url = await engine.newUrl();
      const temporary = join(folder, "tmp");
      mkdirSync(temporary);
      const environment = { HEARTLINE_CLUSTER: url, TMPDIR: temporary };
      const common = ["--host", "127.0.0.1", "--port", String(port), "--credentials", CREDENTIALS];
      const serve = (service: Record<string, string>, ...options: string[]): ServerProcess =>
        new ServerProcess({ sockets: [], environment: service }, ...common, ...options);
      const command = async (...words: string[]): Promise<string> => {
        const { out, err, code } = await runWith({ env: environment }, "src/main.ts", "cluster", ...words);
        expect(err.replace(/^heartline: warning: .*\n/gm, "")).toBe("");
        expect(code).toBe(0);
        return out;
      };

      const data = join(folder, "data");
      let server = serve({}, "--data", data);
      await server.port();
      const received: string[] = [];
      const onEvent = (event: ChatEvent): void => {
        if (event.kind === "message" || event.kind === "stored") received.push(event.text);
      };
      const alice = new ChatClient({ host: "127.0.0.1", port, onEvent });
      const ivan = new ChatClient({ host: "127.0.0.1", port, onEvent: () => {} });
      await Promise.all([alice.login("alice", "secret"), ivan.login("ivan", "secret")]);
      const sent: string[] = [];
      const say = async (text: string): Promise<void> => {
        sent.push(text);
        await Promise.all([accepted(ivan, "alice", text), accepted(ivan, "dave", text)]);
      };
      const reader = new Reader("dave", port);
      for (let i = 0; i < WAITING; i++) await ivan.message("judy", `waits ${i}`);
      await alice.block("grace");
      for (let i = 0; i < 5; i++) await say(`before ${i}`);
      await reader.login();
      await reader.read(3);

      server.kill("SIGTERM");
      expect(await server.exits()).toBe(0);
      await command("init", "--shards", "3");
      expect(await command("import", data)).toMatch(
        /^imported 3\d\d waiting messages, 1 blocks, 0 bans and 3 ended sessions into 3 shards on .*; start its servers/,
      );
      const listen = ["--cluster-listen", `127.0.0.1:${freePort()}`, "--data", join(folder, "nodes")];
      server = serve(environment, "--workers", "3", ...listen);
      await server.logs(/("event":"claimed"[^]*){3}/);
      for (let i = 0; i < 5; i++) await say(`in the cluster ${i}`);
      await reader.login();
      await reader.read(4);
      const grace = new ChatClient({ host: "127.0.0.1", port, onEvent: () => {} });
      await grace.login("grace", "secret");
      await expect(grace.message("alice", "blocked")).rejects.toMatchObject({ code: "blocked" });
      await grace.logout();

      const refused = await runWith({ env: environment }, "src/main.ts", "cluster", "export", join(folder, "x"));
      expect(refused.err).toMatch(/^heartline: cannot export to .*: the server .* uses shard \d; stop all servers/m);
      expect(refused.code).toBe(1);
      server.kill("SIGTERM");
      expect(await server.exits()).toBe(0);
      const back = join(folder, "back");
      expect(await command("export", back)).toMatch(/^exported 3\d\d waiting messages, 1 blocks, 0 bans and \d ended/);
      server = serve({}, "--data", back);
      await server.port();
      for (let i = 0; i < 5; i++) await say(`back ${i}`);
      await reader.login();
      await reader.read(sent.length - reader.texts.length);
      expect(reader.texts).toEqual(sent);
      const judy = new Reader("judy", port);
      await judy.login();
      await judy.read(WAITING);
      expect(judy.texts).toEqual(Array.from({ length: WAITING }, (_, i) => `waits ${i}`));
      while (received.at(-1) !== sent.at(-1)) await Bun.sleep(10);
      expect(received).toEqual(sent);
      await Promise.all([alice.logout(), ivan.logout()]);
      reader.end();
      judy.end();
      expect(readdirSync(temporary)).toEqual([]);
    },
    LIMIT_MS,
  );
});

/** Sends a message again while the owner of the recipient's shard is not connected: then nothing was stored. */
async function accepted(client: ChatClient, to: string, text: string): Promise<void> {
  for (;;) {
    const code = await client.message(to, text).then(
      () => null,
      (error: ChatError) => error.code,
    );
    if (code === null) return;
    expect(code).toBe("busy");
    await Bun.sleep(50);
  }
}

/** A client with no more than the protocol: it logs in with `after=`, and never acknowledges. */
class Reader {
  readonly name: string;
  readonly texts: string[] = [];
  readonly #port: number;
  #after = "";
  #token = "";
  #received = 0;
  #client: WireClient | null = null;

  constructor(name: string, port: number) {
    this.name = name;
    this.#port = port;
  }

  /** What the last connection had not read is lost with it. */
  async login(): Promise<void> {
    if (this.#token !== "") this.#after = ` after=${this.#token}:${this.#received}`;
    let reply = "";
    while (!reply.startsWith("ok ")) {
      this.#client?.cut();
      this.#client = await WireClient.connect(this.#port);
      this.#client.sendLines(`login ${this.name} secret resumable${this.#after}`);
      reply = await this.#client.line();
    }
    this.#token = reply.split(" ")[1]!;
    this.#received = 0;
  }

  /** Reads until it has that many further messages. */
  async read(count: number): Promise<void> {
    for (let left = count; left > 0;) {
      const line = await this.#client!.line();
      this.#received += line.length + 1;
      const [verb, , ...words] = line.split(" ");
      if (verb !== "message" && verb !== "stored") continue;
      this.texts.push(words.slice(verb === "stored" ? 1 : 0).join(" "));
      left--;
    }
  }

  end(): void {
    this.#client?.cut();
  }
}
