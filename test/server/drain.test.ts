import { afterEach, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PASSWORD, WireServer } from "../support/wire.ts";

const BUSY = "err busy the server is shutting down; try again in a moment";
const SECONDS = 0.3;

const servers: WireServer[] = [];
const folders: string[] = [];

afterEach(async () => {
  for (const server of servers.splice(0)) {
    server.cut();
    await server.stop();
  }
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true });
});

function start(data = ":memory:"): WireServer {
  const server = new WireServer({ data });
  servers.push(server);
  return server;
}

test("a drain ends each session with goodbye shutdown, then the server stops with 0; a second drain is refused", async () => {
  const server = start();
  const [alice, bob] = await server.online("alice", "bob");
  const carol = await server.connect();
  await carol.expectReply(`login carol ${PASSWORD} resumable`, "ok <token> 35");
  for (const client of [alice!, bob!]) await client.expectLines("joined carol");
  expect(server.server.drain(SECONDS)).toBe(true);
  expect(server.server.drain(SECONDS)).toBe(false);
  const dave = await server.connect();
  await dave.expectReply(`login dave ${PASSWORD}`, BUSY);
  await dave.expectEnd();
  for (const client of [alice!, bob!, carol]) {
    await client.expectLines("goodbye shutdown");
    await client.expectEnd();
  }
  expect(await server.exited).toBe(0);
  expect(server.server.drain(SECONDS)).toBe(false);
});

test("a drain with 0 seconds stops at once", async () => {
  const server = start();
  const alice = await server.login("alice");
  server.server.drain(0);
  await alice.expectLines("goodbye shutdown");
  await alice.expectEnd();
  expect(await server.exited).toBe(0);
});

test("while messages flow, a drain loses none that was acknowledged, and no one arrives twice", async () => {
  const data = mkdtempSync(join(tmpdir(), "heartline-"));
  folders.push(data);
  const first = start(data);
  const [bob, alice, dave] = await first.online("bob", "alice", "dave");
  let acknowledged = 0;
  const send = async (from: typeof alice, name: string): Promise<void> => {
    for (let i = 0; ; i++) {
      from!.sendLines(`message bob ${name} ${i}`);
      const line = await from!.line();
      if (line === "goodbye shutdown") return;
      expect(line).toMatch(/^ok (sent|stored)$/);
      acknowledged++;
      if (acknowledged === 20) first.server.drain(SECONDS);
    }
  };
  await Promise.all([send(alice, "alice"), send(dave, "dave")]);
  expect(await first.exited).toBe(0);
  const received = (await bob!.rest()).filter((line) => line.startsWith("message "));
  const second = start(data);
  const again = await second.login("bob");
  again.sendLines("message bob end");
  const stored = (await again.until("message bob end")).map((line) => line.replace(/^stored (\S+) \d+/, "message $1"));
  const all = [...received, ...stored];
  expect(new Set(all).size).toBe(all.length);
  expect(all.length).toBeGreaterThanOrEqual(acknowledged);
  expect(all.length).toBeLessThanOrEqual(acknowledged + 2);
});
