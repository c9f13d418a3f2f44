/**
 * What becomes of messages from a user of shard P to users of shard Q when something fails at any step of their way:
 * each step with each fault. See docs/architecture.md, Several shards.
 */
import { afterEach, describe, expect, test } from "bun:test";
import { removeFolders } from "../support/folders.ts";
import type { Outcome } from "../support/modelled-log.ts";
import { ShardClient, UNKNOWN } from "../support/shard-client.ts";
import { type Pipe, ShardCluster, type ShardNode } from "../support/shard-node.ts";

const P = 1;
const Q = 0;

afterEach(removeFolders);

/** Alice is a user of P; bob and carol are users of Q, and carol has blocked alice. */
class Table {
  readonly cluster: ShardCluster;
  readonly alice: ShardClient;
  readonly bob: ShardClient;
  readonly carol: ShardClient;

  private constructor(cluster: ShardCluster) {
    this.cluster = cluster;
    this.alice = new ShardClient(cluster, P, "alice");
    this.bob = new ShardClient(cluster, Q, "bob");
    this.carol = new ShardClient(cluster, Q, "carol");
  }

  static async begin(): Promise<Table> {
    const table = new Table(await ShardCluster.start());
    const { alice, carol, cluster } = table;
    for (const client of table.clients) await client.connect();
    carol.send("block alice");
    await cluster.settle();
    alice.send("message bob first");
    await cluster.settle();
    table.read();
    expect(alice.reply("message bob first")).toBe("ok sent");
    return table;
  }

  get clients(): ShardClient[] {
    return [this.alice, this.bob, this.carol];
  }

  read(): void {
    for (const client of this.clients) client.read();
  }

  get p(): ShardNode {
    return this.cluster.nodes[P]!;
  }

  get q(): ShardNode {
    return this.cluster.nodes[Q]!;
  }

  /** The link of Q to P. */
  get link(): Pipe {
    return this.cluster.pipe(Q, P);
  }

  /** The requests whose way is interrupted. */
  async send(): Promise<void> {
    this.alice.send("message bob one", "message carol no", "message bob two", "message nobody no");
    await this.cluster.later();
  }

  get forwards(): number {
    return this.link.toQ.filter((line) => line.startsWith("message ")).length;
  }

  get outcomes(): number {
    return this.link.toP.filter((line) => line.startsWith("outcome ")).length;
  }

  async readAtQ(): Promise<void> {
    while (this.link.stepQ());
    await this.cluster.later();
  }
}

/** How far the requests come. */
const STEPS: Record<string, (table: Table) => Promise<void>> = {
  "accepted in the memory of P": async (table) => {
    table.p.process.log.stop();
    await table.send();
    expect(table.forwards).toBe(0);
  },
  "recorded by P, and not sent": async (table) => {
    table.link.isFull = true;
    await table.send();
    expect(table.forwards).toBe(0);
  },
  "sent to Q, and not read": async (table) => {
    await table.send();
    expect(table.forwards).toBe(3);
  },
  "acted on in the memory of Q": async (table) => {
    await table.send();
    table.q.process.log.stop();
    await table.readAtQ();
    expect(table.bob.wire!.take()).toBe("");
  },
  "recorded by Q, and nothing has left Q": async (table) => {
    const { q, bob } = table;
    await table.send();
    q.holdsPauses = true;
    q.process.log.outcome = () => "answer lost";
    const before = q.process.log.calls.append;
    await table.readAtQ();
    expect(q.process.log.calls.append).toBe(before + 1);
    expect([table.outcomes, bob.wire!.take()]).toEqual([0, ""]);
  },
  "delivered, with the outcome on its way to P": async (table) => {
    await table.send();
    await table.readAtQ();
    expect(table.outcomes).toBe(3);
  },
  "replied to, and the reply is not read": async (table) => {
    await table.send();
    await table.readAtQ();
    while (table.link.stepP());
    await table.cluster.later();
    expect(table.link.toQ.filter((line) => line === "ok")).toHaveLength(3);
  },
  "replied to and recorded by P, and the reply is not read": async (table) => {
    await table.send();
    await table.cluster.carry();
    const before = table.p.process.log.calls.append;
    table.p.world.pass(200);
    await table.cluster.later();
    expect(table.p.process.log.calls.append).toBeGreaterThan(before);
  },
};

interface Fault {
  /** Returns the servers that run again later. */
  happen: (table: Table) => Promise<ShardNode[]>;
  /** The shards that get another owner. */
  replaced: number[];
}

async function killed(table: Table, shards: number[]): Promise<ShardNode[]> {
  for (const shard of shards) table.cluster.nodes[shard]!.kill();
  for (const shard of shards) await table.cluster.claim(shard);
  table.cluster.publish();
  return [];
}

/** Stopped for longer than it takes another server to claim the shard. What it has sent still arrives. */
async function paused(table: Table, shards: number[]): Promise<ShardNode[]> {
  const stopped = shards.map((shard) => table.cluster.nodes[shard]!);
  for (const node of stopped) {
    node.isStopped = true;
    node.process.log.stop();
  }
  for (const shard of shards) await table.cluster.claim(shard);
  await table.cluster.carry();
  table.cluster.publish();
  return stopped;
}

const FAULTS: Record<string, Fault> = {
  nothing: { replaced: [], happen: async () => [] },
  "a cut of the link": {
    replaced: [],
    happen: async ({ link }) => {
      link.cut();
      return [];
    },
  },
  "the end of P": { replaced: [P], happen: (table) => killed(table, [P]) },
  "the end of Q": { replaced: [Q], happen: (table) => killed(table, [Q]) },
  "the end of both": { replaced: [P, Q], happen: (table) => killed(table, [Q, P]) },
  "an outage of the engine, with unknown outcomes": {
    replaced: [],
    happen: async ({ p, q }) => {
      for (const { process } of [p, q]) {
        const outcomes: Outcome[] = ["lost", "late", "answer lost"];
        process.log.outcome = () => outcomes.shift() ?? "done";
      }
      return [];
    },
  },
  "a pause of P": { replaced: [P], happen: (table) => paused(table, [P]) },
  "a pause of Q": { replaced: [Q], happen: (table) => paused(table, [Q]) },
  "a pause of both": { replaced: [P, Q], happen: (table) => paused(table, [P, Q]) },
};

/** A server that was paused runs again: it finds that another one owns the shard, and nothing of it leaves. */
async function wake(table: Table, node: ShardNode, client: ShardClient): Promise<void> {
  const { wire } = client;
  const pipes = table.cluster.pipesOf(node);
  wire!.take();
  for (const pipe of pipes) [pipe.toP, pipe.toQ].forEach((lines) => lines.splice(0));
  wire!.feed("online\nmessage bob twice\nalive\n");
  await node.wake();
  expect(wire!.take()).toBe("");
  expect(pipes.flatMap(({ q, toP, toQ }) => (q === node ? toP : toQ))).toEqual([]);
}

/** What the test has stopped goes on. */
function release({ nodes, pipes }: ShardCluster): void {
  for (const node of nodes) {
    node.process.log.resume();
    node.releasePauses();
  }
  for (const pipe of pipes) pipe.isFull = false;
}

describe.each(Object.entries(FAULTS))("after %s, messages that were", (_fault, { happen, replaced }) => {
  test.each(Object.entries(STEPS))("%s arrive once and in order", async (step, reach) => {
    const table = await Table.begin();
    const { cluster, alice, bob, carol } = table;
    await reach(table);
    if (!step.includes("the reply is not read")) alice.read();
    bob.read();
    for (const { process } of cluster.nodes) process.log.outcome = () => "done";
    const stopped = await happen(table);
    release(cluster);
    for (const node of stopped) await wake(table, node, node.owner.shard === P ? alice : bob);
    await cluster.settle();
    for (const client of table.clients) if (replaced.includes(client === alice ? P : Q)) await client.connect();
    await cluster.settle();
    alice.send("message bob last");
    await cluster.settle();
    table.read();

    expect(bob.events).toEqual(["first", "one", "two", "last"].map((text) => `message alice ${text}`));
    expect(carol.events).toEqual([]);
    const replies = ["bob one", "carol no", "bob two", "nobody no"].map((each) => alice.reply(`message ${each}`));
    const isAccepted = step !== "accepted in the memory of P";
    const isUnknown = replaced.includes(P) && isAccepted;
    if (isUnknown) expect(replies).toEqual(Array<string>(4).fill(UNKNOWN));
    else
      expect(replies).toEqual([
        expect.stringMatching(/^ok (sent|stored)$/),
        "err blocked",
        expect.stringMatching(/^ok (sent|stored)$/),
        "err unknown_user",
      ]);
    expect(alice.reply("message bob last")).toMatch(/^ok (sent|stored)$/);
    const { p, q } = table;
    expect(p.world.neighbour.slots.size).toBe(0);
    expect([...q.world.foreignRequests.kept(P)]).toEqual([]);
    expect(cluster.nodes.map(({ links }) => links.up)).toEqual([1, 1]);
    for (const { world } of cluster.nodes) expect([world.faults, world.warnings]).toEqual([[], []]);
  });
});
