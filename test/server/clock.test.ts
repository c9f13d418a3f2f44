import { Database } from "bun:sqlite";
import { afterEach, describe, expect, setSystemTime, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PASSWORD, WireServer } from "../support/wire.ts";

const YEAR_MS = 365 * 24 * 3600 * 1000;
const folders: string[] = [];
const servers: WireServer[] = [];
const now = Date.now();

afterEach(async () => {
  setSystemTime();
  for (const server of servers.splice(0)) await server.stop();
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true });
});

function newFolder(): string {
  folders.push(mkdtempSync(join(tmpdir(), "heartline-")));
  return folders.at(-1)!;
}

function start(data = ":memory:"): WireServer {
  servers.push(new WireServer({ data }));
  return servers.at(-1)!;
}

/** Logs in, sends one request and logs out; returns the token and the words after it in the reply. */
async function session(server: WireServer, options = ""): Promise<string[]> {
  const client = await server.connect();
  client.sendLines(`login alice ${PASSWORD} resumable${options}`);
  const [ok, ...words] = (await client.line()).split(" ");
  expect(ok).toBe("ok");
  await client.expectReply("alive", "ok 6");
  await client.expectReply("logout", "ok");
  return words;
}

describe("login with after= finds a session that ended", () => {
  test.each([
    ["30 years ago", -30 * YEAR_MS],
    ["8 days ago", -8 * 24 * 3600 * 1000],
    ["in 8 days", 8 * 24 * 3600 * 1000],
    ["in 1970", -now],
  ])("%s by a wall clock that was set since", async (_when, offsetMs) => {
    const server = start();
    setSystemTime(now + offsetMs);
    const [token] = await session(server);
    setSystemTime(now);
    for (let i = 0; i < 6; i++) await session(server);
    const words = await session(server, ` after=${token}:0`);
    expect(words.slice(2)).toEqual(["received=13"]);
  });

  test("as one of the last eight, and not an older one", async () => {
    const server = start();
    const [token] = await session(server);
    for (let i = 0; i < 8; i++) await session(server);
    expect(await session(server, ` after=${token}:0`)).toHaveLength(2);
  });
});

test("a message that is accepted while the wall clock is 0 is delivered to the next session", async () => {
  const server = start();
  const alice = await server.login("alice");
  const bob = await server.connect();
  await bob.expectReply(`login bob ${PASSWORD} resumable`, "ok <token> 35");
  await alice.expectLines("joined bob");
  setSystemTime(0);
  await alice.expectReply("message bob one", "ok sent");
  setSystemTime(now);
  const again = await server.login("bob");
  expect(await again.line()).toBe("stored alice 1 one");
});

describe("a lockout survives a restart", () => {
  test.each([
    ["30 years slow", -30 * YEAR_MS],
    ["30 years fast", 30 * YEAR_MS],
  ])("with its remaining time when the wall clock was %s at its begin and was set since", async (_how, offsetMs) => {
    const data = newFolder();
    setSystemTime(now + offsetMs);
    const first = start(data);
    const guesser = await first.connect();
    guesser.sendLines("login alice a", "login alice b", "login alice c");
    await guesser.expectLines("err wrong_password 2", "err wrong_password 1", "err locked_out 60");
    setSystemTime(now);
    await first.stop();
    const before = new Database(join(data, "heartline.sqlite"), { readonly: true });
    const { leftMs } = before.query<{ leftMs: number }, []>(`SELECT until_ms - ${now} AS leftMs FROM lockouts`).get()!;
    before.close();
    expect(leftMs).toBeGreaterThan(0);
    expect(leftMs).toBeLessThanOrEqual(60_000);
    const alice = await start(data).connect();
    alice.sendLines(`login alice ${PASSWORD}`);
    expect(await alice.line()).toMatch(/^err locked_out ([1-5]?\d|60)$/);
  });
});
