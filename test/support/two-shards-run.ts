/** Users of two shards who send messages in both directions, while anything that can fail does so at any moment. */
import { expect } from "bun:test";
import { OUTCOMES } from "./modelled-log.ts";
import { Random } from "./random.ts";
import { ShardClient, UNKNOWN } from "./shard-client.ts";
import { ShardCluster, type ShardNode } from "./shard-node.ts";

const ACTIONS = 250;
/** Users, by shard. */
const NAMES = [
  ["bob", "carol"],
  ["alice", "dave"],
] as const;
const BLOCKS: readonly [by: string, blocked: string][] = [
  ["carol", "alice"],
  ["dave", "bob"],
];

class Run {
  readonly random: Random;
  readonly cluster: ShardCluster;
  readonly clients: ShardClient[];
  /** Servers that are paused; another one owns their shard. */
  readonly paused: ShardNode[] = [];
  #texts = 0;

  private constructor(random: Random, cluster: ShardCluster) {
    this.random = random;
    this.cluster = cluster;
    this.clients = NAMES.flatMap((names, shard) => names.map((name) => new ShardClient(cluster, shard, name)));
  }

  static async begin(seed: number): Promise<Run> {
    const run = new Run(new Random(seed), await ShardCluster.start());
    for (const client of run.clients) await client.connect();
    for (const [by, blocked] of BLOCKS) run.client(by).send(`block ${blocked}`);
    await run.cluster.settle();
    return run;
  }

  client(name: string): ShardClient {
    return this.clients.find((client) => client.name === name)!;
  }

  /** One of many small steps, or a fault. */
  async act(): Promise<void> {
    const { random, cluster } = this;
    const client = random.pick(this.clients);
    const node = random.pick(cluster.nodes);
    switch (random.below(16)) {
      case 0:
      case 1:
      case 2:
      case 3: {
        const lines = Array.from({ length: random.between(1, 4) }, () => {
          const to = random.pick(this.clients);
          return random.oneIn(8) ? `broadcast ${++this.#texts}` : `message ${to.name} ${++this.#texts}`;
        });
        return client.send(...lines);
      }
      case 4:
      case 5:
      case 6:
        return this.#carryOne();
      case 7:
        return cluster.later();
      case 8:
        client.read();
        return client.send(`alive ${client.received}`);
      case 9:
        return cluster.carry();
      case 10:
        for (const each of cluster.nodes) each.world.pass(random.between(50, 700));
        return cluster.later();
      case 11:
        return random.oneIn(2) ? client.connect() : client.read();
      default:
        if (random.oneIn(3)) return this.#fail(node);
    }
  }

  #carryOne(): void {
    const { pipes } = this.cluster;
    const open = pipes.filter(({ isCut }) => !isCut);
    if (open.length === 0) return;
    const pipe = this.random.pick(open);
    for (let i = this.random.between(1, 5); i > 0; i--)
      if (this.random.oneIn(2)) pipe.stepP();
      else pipe.stepQ();
  }

  async #fail(node: ShardNode): Promise<void> {
    const { random, cluster } = this;
    const { log } = node.process;
    const { shard } = node.owner;
    switch (random.below(7)) {
      case 0:
        for (const pipe of cluster.pipes) if (random.oneIn(2)) pipe.cut();
        return;
      case 6:
        for (const pipe of cluster.pipes) if (random.oneIn(2)) pipe.loseForward();
        return;
      case 1:
        log.stop();
        return;
      case 2:
        log.resume();
        return log.executeLate();
      case 3: {
        let left = random.between(1, 4);
        log.outcome = () => (left-- > 0 ? random.pick(OUTCOMES) : "done");
        return;
      }
      case 4:
        node.kill();
        break;
      case 5:
        node.isStopped = true;
        log.stop();
        this.paused.push(node);
    }
    await cluster.claim(shard);
    if (random.oneIn(2)) await cluster.carry();
    cluster.publish();
    for (const client of this.clients) if (NAMES[shard]!.some((name) => name === client.name)) await client.connect();
  }

  /** Servers that were paused run again, and nothing of them leaves. Then nothing fails any more. */
  async heal(): Promise<void> {
    const { cluster } = this;
    for (const node of this.paused) await node.wake();
    // Only a later request shows that one is missing, so each link begins anew.
    for (const pipe of cluster.pipes) pipe.cut();
    for (const { process } of cluster.nodes) {
      process.log.outcome = () => "done";
      process.log.resume();
      process.log.executeLate();
    }
    await cluster.settle();
    for (const client of this.clients) await client.connect();
    await cluster.settle();
    for (const client of this.clients) client.read();
  }

  /** What a user has received from another one: the texts of messages or of broadcasts. */
  received(by: ShardClient, from: ShardClient, event = "message"): number[] {
    const prefix = `${event} ${from.name} `;
    return by.events.filter((event) => event.startsWith(prefix)).map((event) => Number(event.slice(prefix.length)));
  }

  /** Requests of a user that were to another one: the texts, and what the replies were. */
  sent(by: ShardClient, to: ShardClient): { text: number; reply: string | null }[] {
    const prefix = `message ${to.name} `;
    const requests = by.requests.filter(({ line }) => line.startsWith(prefix));
    return requests.map(({ line, reply }) => ({ text: Number(line.slice(prefix.length)), reply }));
  }
}

/** Whether the user `name` is not in the list that `by` requests. */
function isHidden(name: string, by: string): boolean {
  return name === by || BLOCKS.some(([blocker, blocked]) => blocker === name && blocked === by);
}

/** Rejects when a rule of docs/architecture.md, Several shards, does not hold with that seed. */
export async function runTwoShards(seed: number): Promise<void> {
  const run = await Run.begin(seed);
  for (let i = 0; i < ACTIONS; i++) await run.act();
  await run.heal();
  const replies = run.clients.flatMap(({ requests }) => requests.map(({ reply }) => reply));
  expect(replies.filter((reply) => reply === null || reply.startsWith("err internal"))).toEqual([]);
  for (const from of run.clients) {
    for (const to of run.clients) {
      const isBlocked = BLOCKS.some(([by, blocked]) => by === to.name && blocked === from.name);
      const sent = run.sent(from, to);
      const received = run.received(to, from);
      const pair = `${from.name} to ${to.name}`;
      const accepted = sent.filter(({ reply }) => reply!.startsWith("ok ")).map(({ text }) => text);
      const possible = sent.filter(({ reply }) => reply!.startsWith("ok ") || reply === UNKNOWN);
      expect([pair, received]).toEqual([pair, received.toSorted((a, b) => a - b)]);
      expect([pair, new Set(received).size]).toEqual([pair, received.length]);
      expect([pair, accepted.filter((text) => !received.includes(text))]).toEqual([pair, []]);
      expect([pair, received.filter((text) => !possible.some((each) => each.text === text))]).toEqual([pair, []]);
      const broadcasts = run.received(to, from, "broadcast");
      expect([pair, broadcasts]).toEqual([pair, [...new Set(broadcasts)].toSorted((a, b) => a - b)]);
      if (!isBlocked) continue;
      expect([pair, broadcasts]).toEqual([pair, []]);
      expect([pair, received]).toEqual([pair, []]);
      expect([pair, accepted]).toEqual([pair, []]);
    }
  }
  for (const client of run.clients) {
    const visible = run.clients.map(({ name }) => name).filter((name) => !isHidden(name, client.name));
    client.send("online");
    await run.cluster.settle();
    client.read();
    expect([client.name, client.reply("online")]).toEqual([client.name, ["ok", ...visible.toSorted()].join(" ")]);
  }
  for (const { world, links, owner } of run.cluster.nodes) {
    expect([world.faults, world.warnings]).toEqual([[], []]);
    expect(links.up).toBe(1);
    expect(world.neighbour.slots.size).toBe(0);
    expect([...world.foreignRequests.kept(1 - owner.shard)]).toEqual([]);
  }
}
