import { afterEach, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { AdminListener } from "../../src/admin/listener.ts";
import { ShardAdmin } from "../../src/admin/shard-admin.ts";
import { Directory } from "../../src/net/directory.ts";
import { dialOwner } from "../../src/net/owner-link.ts";
import { socketHandlers } from "../../src/net/socket-handlers.ts";
import { shardOf } from "../../src/protocol/shard.ts";
import { ClusterPort } from "../../src/server/cluster-port.ts";
import { AdminClient } from "../support/admin.ts";
import { SECRET } from "../support/gateway.ts";
import { WireServer } from "../support/wire.ts";

const SHARDS = 2;
const running: { stop(): unknown }[] = [];

afterEach(async () => {
  for (const each of running.splice(0).reverse()) await each.stop();
});

interface Node {
  admin: AdminClient;
  wire: WireServer;
  directory: Directory;
  /** Verbs of commands that have changed something here. */
  done: string[];
  port: ClusterPort;
}

/** A server that owns that shard, or a spare; nobody knows the owners of the others yet. */
async function start(shard: number | null, secret = SECRET): Promise<Node> {
  const wire = new WireServer();
  running.push(wire, { stop: () => wire.cut() });
  const folder = mkdtempSync(join(tmpdir(), "heartline-"));
  running.push({ stop: () => rmSync(folder, { recursive: true }) });
  const directory = new Directory(SHARDS);
  directory.home = shard;
  const dial = dialOwner(null, () => {});
  const done: string[] = [];
  const listener = new AdminListener(join(folder, "admin.sock"), {
    obstacle: () => (shard === null ? "spare; nothing was done" : null),
    report: (error) => {
      throw error;
    },
    done: ({ verb }) => void done.push(verb),
    cluster: { lines: () => [], shards: new ShardAdmin(directory, secret, dial) },
  });
  await listener.listen();
  running.push(listener);
  const { core, admission } = wire.server.measured;
  const port = new ClusterPort({ listen: { host: "127.0.0.1", port: 0 }, tls: null });
  running.push(port);
  const report = (error: unknown): never => {
    throw error;
  };
  const handlers = socketHandlers(() => core.turn.begin(), admission, report);
  if (shard !== null)
    port.serve({ secret: SECRET, shard, epoch: 1 }, admission, handlers, (_purpose, socket) => listener.accept(socket));
  listener.serve({
    ...wire.server.administered,
    stats: async () => [],
    reload: async () => [],
    restarts: () => [],
  });
  const admin = await AdminClient.connect(join(folder, "admin.sock"));
  running.push({ stop: () => admin.cut() });
  return { admin, wire, directory, done, port };
}

function introduce({ directory }: Node, owners: readonly Node[]): void {
  for (const { directory: of, port } of owners) {
    const shard = of.home!;
    directory.set(shard, { shard, epoch: 1, host: "127.0.0.1", port: Number(port.address.split(":").at(-1)) }, 1);
  }
}

async function startBoth(): Promise<[Node, Node]> {
  const nodes: [Node, Node] = [await start(0), await start(1)];
  for (const node of nodes) introduce(node, nodes);
  return nodes;
}

/** The one of these users who belongs to that shard. */
function userOf(shard: number): string {
  const names = ["alice", "bob", "carol", "dave"];
  return names.find((name) => shardOf(Buffer.from(name), 0, name.length, SHARDS) === shard)!;
}

test("a command about a user is done by the owner of the user's shard, whichever server is asked", async () => {
  const [first, second] = await startBoth();
  const user = userOf(1);
  const client = await second.wire.login(user);
  expect((await first.admin.ask(`user ${user}`))[1]).toStartWith(`session ${user} plain`);
  expect(await first.admin.ask(`kick ${user} bye now`)).toEqual(["ok"]);
  expect(await client.rest()).toEqual(["goodbye kicked bye now"]);
  expect([first.done, second.done]).toEqual([[], ["kick"]]);
  expect(await first.admin.ask(`ban ${user} 60`)).toEqual(["ok"]);
  expect(await second.admin.ask(`unban ${user}`)).toEqual(["ok"]);
  expect(await first.admin.ask(`unban ${user}`)).toEqual(["err not_banned"]);
  expect(await first.admin.ask("kick nobody")).toEqual(["err unknown_user"]);
});

test("who and announce are for all shards, and reply with the sum", async () => {
  const nodes = await startBoth();
  const clients = await Promise.all(nodes.map(({ wire }, shard) => wire.login(userOf(shard))));
  for (const { admin } of nodes) {
    const lines = await admin.ask("who");
    expect(lines.at(-1)).toBe("ok 2");
    const names = lines.slice(0, -1).map((line) => line.split(" ")[1]!);
    expect(names.toSorted()).toEqual([userOf(0), userOf(1)].toSorted());
  }
  expect(await nodes[0].admin.ask("announce tea at five")).toEqual(["ok 2"]);
  for (const client of clients) await client.expectLines("notice tea at five");
});

test("a spare passes all commands on, but refuses those about itself", async () => {
  const owners = await startBoth();
  const spare = await start(null);
  introduce(spare, owners);
  await owners[0].wire.login(userOf(0));
  expect((await spare.admin.ask("who")).at(-1)).toBe("ok 1");
  expect(await spare.admin.ask(`kick ${userOf(0)}`)).toEqual(["ok"]);
  expect(await spare.admin.ask("drain")).toEqual(["err busy spare; nothing was done"]);
});

test("a shard without an owner, or one that cannot be reached, is named", async () => {
  const node = await start(0);
  expect(await node.admin.ask("who")).toEqual(["err busy no server owns shard 1 at the moment; try again"]);
  const other = await start(1);
  introduce(node, [other]);
  other.port.stop();
  expect(await node.admin.ask(`purge ${userOf(1)}`)).toEqual([expect.stringMatching(/^err failed shard 1: .+/)]);
  expect((await node.admin.ask(`user ${userOf(0)}`)).at(-1)).toBe("ok");
});

test("a server of another cluster gets no reply", async () => {
  const [first] = await startBoth();
  const stranger = await start(1, Buffer.alloc(32, 8));
  introduce(stranger, [first]);
  expect(await stranger.admin.ask(`kick ${userOf(0)}`)).toEqual([
    expect.stringMatching(/^err failed shard 0: .*secret/),
  ]);
});

test("a long list arrives whole through a reader that pauses", async () => {
  const [first, second] = await startBoth();
  const user = userOf(1);
  const { chat } = second.wire.server.administered;
  const account = chat.accounts.named(user)!;
  for (let i = 0; i < 20_000; i++) account.block(chat.accounts.recall(`user${i}`));
  first.admin.send(`user ${user}\n`);
  first.admin.pause();
  await first.wire.login(userOf(0)); // Meanwhile the server goes on.
  first.admin.resume();
  const lines = await first.admin.reply();
  expect(lines.filter((line) => line.startsWith("blocks "))).toHaveLength(20_000);
});
