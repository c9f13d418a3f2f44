/** The clients of a row of test/system/crash-points.test.ts: alice sends, bob receives, and carol has blocked alice. */
import { expect } from "bun:test";
import { ShardClient } from "../support/shard-client.ts";
import { type Gate, type StoppableCluster, type StoppableServer, until } from "./stoppable-cluster.ts";

/** The shard of alice. */
export const P = 1;
/** The shard of bob and carol. */
export const Q = 0;
export const ACCEPTED = /^ok (sent|stored)$/;

export type Client = ShardClient<StoppableServer>;

/** A row of the table: a cluster with its clients. */
export class Row {
  readonly cluster: StoppableCluster;
  readonly alice: Client;
  readonly bob: Client;
  readonly carol: Client;
  /** Which fault happens at present. */
  fault = "nothing";

  constructor(cluster: StoppableCluster) {
    this.cluster = cluster;
    this.alice = new ShardClient(cluster, P, "alice");
    this.bob = new ShardClient(cluster, Q, "bob");
    this.carol = new ShardClient(cluster, Q, "carol");
  }

  get clients(): Client[] {
    return [this.alice, this.bob, this.carol];
  }

  get p(): StoppableServer {
    return this.cluster.nodes[P]!;
  }

  get q(): StoppableServer {
    return this.cluster.nodes[Q]!;
  }

  /** The link of Q to P: forwards come down, outcomes go up. */
  get link(): Gate {
    return this.p.links;
  }

  /** Each fault has its own texts. */
  text(word: string): string {
    return `${word}, and then ${this.fault}`;
  }

  /** The requests whose way is interrupted. The first one shows how far they are. */
  get requests(): string[] {
    const lines = ["message bob one", "message carol no", "message bob two", "message nobody no"];
    return lines.map((line) => this.text(line));
  }

  send(): void {
    this.alice.send(...this.requests);
  }

  /** The first request is in the log of that shard. */
  async recorded(shard: number): Promise<void> {
    await until(`a record of shard ${shard}`, () => this.has(shard, "one"));
  }

  async has(shard: number, word: string): Promise<boolean> {
    return (await this.cluster.records(shard)).some((record) => record.includes(this.text(word)));
  }

  /** Something is in the log of that shard after the first request. */
  async hasMore(shard: number): Promise<boolean> {
    const records = await this.cluster.records(shard);
    const first = records.findIndex((record) => record.includes(this.text("one")));
    return first >= 0 && first < records.length - 1;
  }

  async connect(client: Client): Promise<void> {
    await client.connect();
    await until(`${client.name} has a session`, () => {
      client.read();
      return client.isConnected;
    });
  }

  /** Waits for the reply to the last request of that client. */
  async reply(client: Client): Promise<string> {
    const { line } = client.requests.at(-1)!;
    await until(`the reply to ${line}`, () => {
      client.read();
      return client.requests.at(-1)!.reply !== null;
    });
    return client.requests.at(-1)!.reply!;
  }

  /** Sends a request, and again while there is no link: then the reply is `busy`, and nothing of it is stored. */
  async ask(client: Client, line: string): Promise<string> {
    let reply = "err busy";
    while (reply.startsWith("err busy")) {
      client.send(line);
      reply = await this.reply(client);
    }
    return reply;
  }

  async message(word: string): Promise<void> {
    expect(await this.ask(this.alice, this.text(`message bob ${word}`))).toMatch(ACCEPTED);
  }

  async received(...words: string[]): Promise<void> {
    const last = `message alice ${this.text(words.at(-1)!)}`;
    await until(`bob has ${last}`, () => {
      this.bob.read();
      return this.bob.events.at(-1) === last;
    });
    expect(this.bob.events).toEqual(words.map((word) => `message alice ${this.text(word)}`));
  }

  /** The sessions go on, and nothing of the last fault is unacknowledged. */
  async prepare(fault: string): Promise<void> {
    for (const client of this.clients) {
      expect(await this.ask(client, `alive ${client.received}`)).toMatch(/^ok \d+$/);
      client.events.length = 0;
    }
    this.fault = fault;
    await this.cluster.ready();
    for (const { engine, links } of this.cluster.nodes) for (const gate of [engine, links]) gate.watch();
  }

  /** The faults have been dealt with. */
  async settle(): Promise<void> {
    const { server: p } = this.p;
    const { server: q } = this.q;
    for (const [server, shard] of [[p, Q] as const, [q, P] as const])
      await until("no outcome is missing", async () => {
        return (await server.metric(`heartline_forwards\\{shard="${shard}"\\}`)) === 0;
      });
    expect(this.cluster.errors).toEqual([]);
  }
}
