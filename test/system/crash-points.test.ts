/**
 * The table of test/cluster/crash-table.test.ts with real processes, a real engine and real sockets: each test is a
 * row, which stops the owners at one point of the way of a message and lets each fault happen there.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { ClusterServerChoices } from "../support/cluster-server.ts";
import { POSTGRES, type RunningEngine } from "../support/engines.ts";
import { newFolder, removeFolders } from "../support/folders.ts";
import { ServerProcess } from "../support/process.ts";
import { ShardClient, UNKNOWN } from "../support/shard-client.ts";
import { type Gate, type SocketWire, StoppableCluster, type StoppableServer, until } from "./stoppable-cluster.ts";

const LIMIT_MS = 240_000;
const SHARDS = 2;
/** The shard of alice, who sends; that of bob and carol, who receive. Carol has blocked alice. */
const P = 1;
const Q = 0;
const SPARES = 2;
const ACCEPTED = /^ok (sent|stored)$/;
const FORWARD = /^(message|stored) alice /gm;
const OUTCOME = /^outcome /gm;
const ANSWER = /^ok$/gm;

type Client = ShardClient<StoppableServer>;

/** A row of the table: a cluster with its clients. */
class Row {
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

interface Step {
  /** Resolves when the requests are there. Nothing goes on by itself from then on. */
  reach: (row: Row) => Promise<void>;
  /** At this point alice's requests can be lost with P, so that she repeats them. */
  isLost?: boolean;
  /** Alice has the replies. */
  isRead?: boolean;
  /** Alice may have replies that she has not read. */
  isReplied?: boolean;
}

const STEPS: Record<string, Step> = {
  "accepted in the memory of P": {
    isLost: true,
    reach: async (row) => {
      row.p.engine.holdAt(row.text("one"), "up", "up");
      row.send();
      await until("P appends", () => row.p.engine.count("up", new RegExp(row.text("one"))) > 0);
      expect(await row.has(P, "one")).toBe(false);
    },
  },
  "recorded by P, and not sent": {
    reach: async (row) => {
      row.p.engine.holdAt(row.text("one"), "up", "down");
      row.send();
      await row.recorded(P);
      expect(row.link.count("down", FORWARD)).toBe(0);
    },
  },
  "sent to Q, and not read": {
    reach: async (row) => {
      row.link.holdAt(row.text("one"), "down", "down");
      row.send();
      await until("P has sent it all", () => row.link.count("down", FORWARD) === 3);
      expect(await row.has(Q, "one")).toBe(false);
    },
  },
  "acted on in the memory of Q": {
    reach: async (row) => {
      row.q.engine.holdAt(row.text("one"), "up", "up");
      row.send();
      await until("Q appends", () => row.q.engine.count("up", new RegExp(row.text("one"))) > 0);
      expect(await row.has(Q, "one")).toBe(false);
      expect(row.link.count("up", OUTCOME)).toBe(0);
    },
  },
  "recorded by Q, and nothing has left Q": {
    reach: async (row) => {
      row.q.engine.holdAt(row.text("one"), "up", "down");
      row.send();
      await row.recorded(Q);
      row.bob.read();
      expect([row.link.count("up", OUTCOME), row.bob.events]).toEqual([0, []]);
    },
  },
  "delivered, with the outcome on its way to P": {
    reach: async (row) => {
      row.link.holdAt("outcome ", "up", "up");
      row.send();
      await until("Q has sent the outcomes", () => row.link.count("up", OUTCOME) === 3);
      await row.received("one", "two");
    },
  },
  "replied to, and the reply is not read": {
    isReplied: true,
    reach: async (row) => {
      row.link.holdAt("outcome ", "up", "down");
      row.send();
      await until("P has answered the outcomes", () => row.link.count("down", ANSWER) === 3);
      await row.received("one", "two");
    },
  },
  "replied to and recorded by P, and the reply is not read": {
    isReplied: true,
    reach: async (row) => {
      row.send();
      await row.received("one", "two");
      await until("P has recorded it", () => row.hasMore(P));
    },
  },
  "read by both, and not acknowledged by bob": {
    isReplied: true,
    isRead: true,
    reach: async (row) => {
      row.send();
      await row.reply(row.alice);
      await row.received("one", "two");
    },
  },
};

interface Fault {
  happen: (row: Row) => Promise<void>;
  /** The shards that get another owner. */
  replaced: number[];
}

function end(...shards: number[]): Fault {
  const happen = async ({ cluster }: Row): Promise<void> => {
    cluster.kill(...shards.map((shard) => cluster.nodes[shard]!));
    await cluster.claimed();
  };
  return { replaced: shards, happen };
}

/** Stopped until another server owns the shard. */
function pause(...shards: number[]): Fault {
  const happen = async (row: Row): Promise<void> => {
    const { cluster } = row;
    const stopped = shards.map((shard) => cluster.nodes[shard]!);
    cluster.pause(...stopped);
    await cluster.claimed();
    for (const [i, node] of stopped.entries()) await wake(node, shards[i] === P ? row.alice : row.bob);
  };
  return { replaced: shards, happen };
}

/** It finds that another one owns the shard, and nothing of it leaves. An append of it that was on its way is late. */
async function wake(node: StoppableServer, client: Client): Promise<void> {
  const wire = client.wire as SocketWire;
  node.engine.release();
  wire.take();
  wire.feed("online\nmessage bob twice\nalive\n");
  node.kill("SIGCONT");
  expect(await wire.rest()).toEqual([]);
  expect(await node.process.exits()).toBe(1);
  expect(node.process.stderr).toContain('"event":"deposed"');
}

const FAULTS: Record<string, Fault> = {
  "a cut of the links": {
    replaced: [],
    happen: async ({ cluster }) => {
      cluster.cutLinks();
      cluster.release();
    },
  },
  "an outage of the engine": {
    replaced: [],
    happen: async ({ cluster }) => {
      cluster.engineAway();
      for (const { process } of cluster.nodes) await process.logs(/"event":"engine_away"/);
      cluster.engineBack();
      cluster.release();
    },
  },
  "the end of P": end(P),
  "the end of Q": end(Q),
  "the end of both": end(P, Q),
  "a pause of P": pause(P),
  "a pause of Q": pause(Q),
};

/** What the row says about one fault. */
async function check(row: Row, step: Step, { happen, replaced }: Fault): Promise<void> {
  const { alice, bob, carol } = row;
  const { isLost = false, isRead = false, isReplied = false } = step;
  await step.reach(row);
  if (!isReplied || isRead) alice.read();
  if (!isReplied) expect(row.requests.map((each) => alice.reply(each))).toEqual(Array<null>(4).fill(null));
  bob.read();
  await happen(row);
  for (const client of row.clients) if (replaced.includes(client === alice ? P : Q)) await row.connect(client);
  await row.message("last");
  await row.received("one", "two", "last");

  expect(carol.events).toEqual([]);
  const replies = row.requests.map((each) => alice.reply(each));
  const isUnknown = replaced.includes(P) && !isLost && !isRead;
  if (isUnknown) expect(replies).toEqual(Array<string>(4).fill(UNKNOWN));
  else {
    const accepted = expect.stringMatching(ACCEPTED);
    expect(replies).toEqual([accepted, "err blocked", accepted, "err unknown_user"]);
  }
  for (const shard of [P, Q]) for (const word of ["one", "two", "last"]) expect(await row.has(shard, word)).toBe(true);
  await row.settle();
}

describe.skipIf(!POSTGRES.isInstalled)(
  "messages to another shard arrive once and in order whatever happens when",
  () => {
    let engine: RunningEngine;
    let choices: ClusterServerChoices;

    beforeAll(async () => {
      const folder = newFolder();
      choices = { credentials: join(folder, "users.txt"), copies: join(folder, "copies") };
      mkdirSync(choices.copies);
      writeFileSync(choices.credentials, "alice secret\nbob secret\ncarol secret\n");
      engine = await POSTGRES.start("fsync=off", "max_connections=400");
    }, LIMIT_MS);

    afterAll(async () => {
      await ServerProcess.killAll();
      await POSTGRES.closeAll();
      removeFolders();
    }, LIMIT_MS);

    test.concurrent.each(Object.entries(STEPS))(
      "they are %s",
      async (_step, step) => {
        const cluster = await StoppableCluster.start(await engine.newUrl(), SHARDS, SPARES, choices);
        try {
          const row = new Row(cluster);
          for (const client of row.clients) await row.connect(client);
          expect(await row.ask(row.carol, "block alice")).toBe("ok");
          await row.message("first");
          await row.received("first");
          for (const [name, fault] of Object.entries(FAULTS)) {
            await row.prepare(name);
            await check(row, step, fault);
          }
        } finally {
          await cluster.stop();
        }
      },
      LIMIT_MS,
    );
  },
);
