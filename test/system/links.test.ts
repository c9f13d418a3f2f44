/** Requests that concern users of other shards, over real processes and a real engine. */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { initLog } from "../../src/cluster/open-log.ts";
import { ClusterServer } from "../support/cluster-server.ts";
import { POSTGRES, type RunningEngine } from "../support/engines.ts";
import { ServerProcess } from "../support/process.ts";
import { WireClient } from "../support/wire.ts";

const LIMIT_MS = 60_000;
const SHARDS = 3;
/** Two users of each shard, in the order of shards. */
const USERS = ["ivan", "judy", "dave", "grace", "alice", "bob"];

const folder = mkdtempSync(join(tmpdir(), "heartline-"));
const CREDENTIALS = join(folder, "users.txt");
const COPIES = join(folder, "copies");
mkdirSync(COPIES);
writeFileSync(CREDENTIALS, USERS.map((user) => `${user} secret\n`).join(""));

const clients: WireClient[] = [];

afterEach(async () => {
  for (const client of clients.splice(0)) client.cut();
  await ServerProcess.killAll();
});
afterAll(() => rmSync(folder, { recursive: true }));

/** A session of that user; `options` are those of the login. */
async function login(
  { port }: ClusterServer,
  user: string,
  options = "",
): Promise<[client: WireClient, token: string]> {
  const client = await WireClient.connect(port);
  clients.push(client);
  client.sendLines(`login ${user} secret${options}`);
  const reply = await client.line();
  expect(reply).toMatch(/^ok \S{24} 35/);
  return [client, reply.split(" ")[1]!];
}

/** Lines without presence. */
async function line(client: WireClient): Promise<string> {
  for (;;) {
    const next = await client.line();
    if (!/^(joined|left|waiting)/.test(next)) return next;
  }
}

async function ask(client: WireClient, request: string): Promise<string> {
  client.sendLines(request);
  return line(client);
}

describe.skipIf(!POSTGRES.isInstalled)("three shards over PostgreSQL", () => {
  let engine: RunningEngine;
  let url = "";

  beforeAll(async () => void (engine = await POSTGRES.start()), LIMIT_MS);
  beforeEach(async () => {
    url = await engine.newUrl();
    await initLog(url, SHARDS);
  });
  afterAll(POSTGRES.closeAll);

  /** The owners by shard, each with links to the others, and a spare. */
  async function start(): Promise<[owners: ClusterServer[], spare: ClusterServer]> {
    const newServer = (): Promise<ClusterServer> =>
      new ClusterServer(url, { credentials: CREDENTIALS, copies: COPIES }).start();
    const owners: ClusterServer[] = [];
    for (const server of await Promise.all(Array.from({ length: SHARDS }, newServer))) {
      while ((await server.shard()) === null) await Bun.sleep(20);
      owners[(await server.shard())!] = server;
    }
    for (const server of owners) await linked(server);
    const spare = await newServer();
    await spare.is("spare");
    return [owners, spare];
  }

  /** The server has links to the owners of all other shards. */
  async function linked(server: ClusterServer): Promise<void> {
    while ((await server.metric("heartline_links")) < SHARDS - 1) await Bun.sleep(20);
  }

  test(
    "users of different shards send messages to each other, and block each other, at any server",
    async () => {
      const [owners, spare] = await start();
      const [alice] = await login(owners[0]!, "alice");
      const [ivan] = await login(owners[1]!, "ivan", " resumable");
      const [dave] = await login(spare, "dave");
      expect(await ask(alice, "message ivan hello  you")).toBe("ok sent");
      expect(await line(ivan)).toBe("message alice hello  you");
      expect(await ask(ivan, "message alice hi")).toBe("ok sent");
      expect(await line(alice)).toBe("message ivan hi");
      expect(await ask(dave, "message judy later")).toBe("ok stored");
      expect(await ask(dave, "message nobody hi")).toBe("err unknown_user");
      expect(await ask(ivan, "block dave")).toBe("ok");
      expect(await ask(dave, "message ivan hi")).toBe("err blocked");
      expect(await ask(ivan, "unblock dave")).toBe("ok");
      expect(await ask(dave, "message ivan hi")).toBe("ok sent");
      expect(await line(ivan)).toBe("message dave hi");
      const [judy] = await login(owners[2]!, "judy");
      expect(await line(judy)).toMatch(/^stored dave \d+ later$/);
    },
    LIMIT_MS,
  );
});
