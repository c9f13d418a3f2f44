import { afterEach, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { BlockList } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PASSWORD, type WireClient, WireServer, proxyHeader } from "../support/wire.ts";

const running: WireServer[] = [];
const folders: string[] = [];

afterEach(async () => {
  for (const server of running.splice(0)) {
    server.cut();
    await server.stop();
  }
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true });
});

function start(names: readonly string[], data = ":memory:"): WireServer {
  const server = new WireServer({ data }, names);
  running.push(server);
  return server;
}

test("a reload admits new users and ends sessions of removed users, and other sessions continue", async () => {
  const server = start(["alice", "bob", "carol"]);
  const [alice, bob, carol] = (await server.online("alice", "bob", "carol")) as [WireClient, WireClient, WireClient];
  server.reload({}, ["alice", "bob", "dave"]);
  await carol.expectLines("goodbye removed");
  await carol.expectEnd();
  await alice.expectLines("left carol removed");
  await bob.expectLines("left carol removed");
  await bob.expectReply("message carol hello", "err unknown_user");
  await server.login("dave");
  await alice.expectLines("joined dave");
  await bob.expectLines("joined dave");
  await bob.expectReply("message alice hello", "ok sent");
  await alice.expectLines("message bob hello");
  expect(server.logged.map((line) => JSON.parse(line))).toContainEqual(
    expect.objectContaining({ users: 3, added: 1, changed: 0, removed: 1 }),
  );
});

test("a changed password applies to the next login and ends no session", async () => {
  const server = start(["alice", "bob"]);
  const alice = await server.login("alice");
  server.reload({}, ["alice", "bob"], "new");
  await alice.expectReply("alive", "ok");
  const another = await server.connect();
  await another.expectReply(`login alice ${PASSWORD}`, "err wrong_password 2");
  await another.expectReply("login alice new", "ok <token> 35");
  await alice.expectLines("goodbye replaced");
});

test("a reload changes the number of connections, and logs again when the open-file limit allows fewer", async () => {
  const server = start(["alice"]);
  await server.login("alice");
  server.reload({ limits: { connectionsMax: 1 } });
  const refused = await server.connect();
  await refused.expectLines("err busy too many connections");
  server.reload({ limits: { connectionsMax: 1_000_000 } });
  const another = await server.connect();
  await another.expectReply("alive", "err not_logged_in");
  expect(server.logged.join("")).toMatch(/\d+ connections at most, not 1000000: the limit on open files is low/);
});

test("proxies that a reload adds send a PROXY header from then on", async () => {
  const server = start(["alice"]);
  const proxyFrom = new BlockList();
  proxyFrom.addAddress("127.0.0.1");
  server.reload({ proxyFrom });
  const proxied = await server.connect();
  proxied.send(proxyHeader("192.0.2.1"));
  await proxied.expectReply(`login alice ${PASSWORD}`, "ok <token> 35");
});

test("a removed user who is added again has the mailbox and blocks of before, also after a restart in between", async () => {
  const data = mkdtempSync(join(tmpdir(), "heartline-"));
  folders.push(data);
  const first = start(["alice", "bob", "carol"], data);
  const [alice, bob] = (await first.online("alice", "bob")) as [WireClient, WireClient];
  await bob.expectReply("block carol", "ok");
  await bob.expectReply("logout", "ok");
  await alice.expectLines("left bob logout");
  await alice.expectReply("message bob one", "ok stored");
  await first.stop();
  const second = start(["alice", "carol"], data);
  const carol = await second.login("carol");
  await carol.expectReply("message bob hello", "err unknown_user");
  second.reload({}, ["alice", "bob", "carol"]);
  await carol.expectReply("message bob hello", "err blocked");
  const back = await second.login("bob");
  await back.expectLines("stored alice <ms> one");
});
