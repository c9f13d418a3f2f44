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
import { UNKNOWN } from "../support/shard-client.ts";
import { ACCEPTED, type Client, P, Q, Row } from "./crash-row.ts";
import { type SocketWire, StoppableCluster, type StoppableServer, limited, until } from "./stoppable-cluster.ts";

const LIMIT_MS = 240_000;
const SHARDS = 2;
const SPARES = 2;
/** So many rows run at a time: each has four processes. */
const ROWS_MAX = 5;
const FORWARD = /^(message|stored) alice /gm;
const OUTCOME = /^outcome /gm;
/** An `ok` after lines about spares answers the line of a spare. */
const ANSWER = /(?<!^spare .*\n)^ok$/gm;

interface Step {
  /** The shard that has the next step: its owner is the one that is paused. */
  next: number;
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
    next: P,
    isLost: true,
    reach: async (row) => {
      row.p.engine.holdAt(row.text("one"), "up", "up");
      row.send();
      await until("P appends", () => row.p.engine.count("up", new RegExp(row.text("one"))) > 0);
      expect(await row.has(P, "one")).toBe(false);
    },
  },
  "recorded by P, and not sent": {
    next: P,
    reach: async (row) => {
      row.p.engine.holdAt(row.text("one"), "up", "down");
      row.send();
      await row.recorded(P);
      expect(row.link.count("down", FORWARD)).toBe(0);
    },
  },
  "sent to Q, and not read": {
    next: Q,
    reach: async (row) => {
      row.link.holdAt(row.text("one"), "down", "down");
      row.send();
      await until("P has sent it all", () => row.link.count("down", FORWARD) === 3);
      expect(await row.has(Q, "one")).toBe(false);
    },
  },
  "acted on in the memory of Q": {
    next: Q,
    reach: async (row) => {
      row.q.engine.holdAt(row.text("one"), "up", "up");
      row.send();
      await until("Q appends", () => row.q.engine.count("up", new RegExp(row.text("one"))) > 0);
      expect(await row.has(Q, "one")).toBe(false);
      expect(row.link.count("up", OUTCOME)).toBe(0);
    },
  },
  "recorded by Q, and nothing has left Q": {
    next: Q,
    reach: async (row) => {
      row.q.engine.holdAt(row.text("one"), "up", "down");
      row.send();
      await row.recorded(Q);
      row.bob.read();
      expect([row.link.count("up", OUTCOME), row.bob.events]).toEqual([0, []]);
    },
  },
  "delivered, with the outcome on its way to P": {
    next: P,
    reach: async (row) => {
      row.link.holdAt("outcome ", "up", "up");
      row.send();
      await until("Q has sent the outcomes", () => row.link.count("up", OUTCOME) === 3);
      await row.received("one", "two");
    },
  },
  "replied to, and the reply is not read": {
    next: P,
    isReplied: true,
    reach: async (row) => {
      row.link.holdAt("outcome ", "up", "down");
      row.send();
      await until("P has answered the outcomes", () => row.link.count("down", ANSWER) >= 3);
      await row.received("one", "two");
    },
  },
  "replied to and recorded by P, and the reply is not read": {
    next: P,
    isReplied: true,
    reach: async (row) => {
      row.send();
      await row.received("one", "two");
      await until("P has recorded it", () => row.hasMore(P));
    },
  },
  "read by both, and not acknowledged by bob": {
    next: Q,
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
  isPause?: boolean;
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
  return { replaced: shards, happen, isPause: true };
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

async function runRow(row: Row, step: Step): Promise<void> {
  for (const client of row.clients) await row.connect(client);
  expect(await row.ask(row.carol, "block alice")).toBe("ok");
  await row.message("first");
  await row.received("first");
  for (const [name, fault] of Object.entries(FAULTS)) {
    if (fault.isPause === true && !fault.replaced.includes(step.next)) continue;
    await row.prepare(name);
    await check(row, step, fault);
  }
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

    /** A row takes half a minute, most of which is silence. */
    const inTurn = limited(ROWS_MAX);

    test.concurrent.each(Object.entries(STEPS))(
      "they are %s",
      (_step, step) =>
        inTurn(async () => {
          const cluster = await StoppableCluster.start(await engine.newUrl(), SHARDS, SPARES, choices);
          try {
            await runRow(new Row(cluster), step);
          } finally {
            await cluster.stop();
          }
        }),
      LIMIT_MS,
    );
  },
);
