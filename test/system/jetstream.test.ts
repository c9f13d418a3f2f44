import { jetstreamManager } from "@nats-io/jetstream";
import { connect } from "@nats-io/transport-node";
import { afterAll, afterEach, beforeAll, describe, expect, spyOn, test } from "bun:test";
import { checkVersion, connectionError } from "../../src/cluster/jetstream-errors.ts";
import { Chain } from "../../src/cluster/jetstream-chain.ts";
import { initJetStream, type JetStreamOptions, openJetStream } from "../../src/cluster/jetstream-log.ts";
import { ShardNames } from "../../src/cluster/jetstream-names.ts";
import { ShardRecords } from "../../src/cluster/jetstream-state.ts";
import { Streams } from "../../src/cluster/jetstream-streams.ts";
import { parseNatsUrl } from "../../src/cluster/nats-url.ts";
import { ClusterError, type OwnerInfo, type SharedLog } from "../../src/cluster/shared-log.ts";
import { testSharedLog } from "../cluster/conformance.ts";
import { hasNats, NatsEngine } from "../support/nats-engine.ts";

const TIMEOUT_MS = 240_000;

afterAll(NatsEngine.closeAll, TIMEOUT_MS);

/** Tests change what is stored. */
const UNPROTECTED = { isProtected: false };
/** A new stream after each few records. */
const TINY = { isProtected: false, streamBytesMax: 200 };

/** The record before the first one of a stream. */
const baseOf = (stream: string) => Number(stream.split("-").at(-2));

if (hasNats)
  for (const [name, options] of [
    ["NATS JetStream", UNPROTECTED],
    ["NATS JetStream with tiny streams", TINY],
  ] as const)
    testSharedLog(name, { server: true, damage: true, exactTrim: false }, async (shards) => {
      const server = await NatsEngine.start();
      const url = `nats://${server.address}`;
      await initJetStream(url, shards, options);
      const connection = await connect({ servers: [server.address], maxReconnectAttempts: -1 });
      const streams = (await jetstreamManager(connection)).streams;
      const names = async (subject: string) => (await streams.names(subject).next()) as string[];
      const current = async (shard: number): Promise<string> => {
        const state = await streams.getMessage(`heartline-${shard}-state`, {
          last_by_subj: `heartline.${shard}.state`,
        });
        return state!.json<{ snapshot: { stream: string } }>().snapshot.stream;
      };
      return {
        open: () => openJetStream(url, options),
        server,
        damage: {
          loseRecord: async (shard, sequence) => {
            const found = await names(`heartline.${shard}.log.*.*`);
            const name = found.filter((each) => baseOf(each) < sequence).sort((a, b) => baseOf(b) - baseOf(a))[0]!;
            await streams.deleteMessage(name, sequence - baseOf(name));
          },
          losePart: async (shard, part) => void (await streams.deleteMessage(await current(shard), part + 1)),
          changePart: async (shard, part) => {
            const name = await current(shard);
            const { config, state } = await streams.info(name);
            const parts = [];
            for (let i = 1; i <= state.last_seq; i++) parts.push((await streams.getMessage(name, { seq: i }))!.data);
            await streams.delete(name);
            await streams.add(config);
            parts[part]![0]! ^= 1;
            for (const data of parts) await connection.request(config.subjects[0]!, data);
          },
          countParts: async (shard) => {
            const infos = (await names(`heartline.${shard}.snapshot.*`)).map((name) => streams.info(name));
            return (await Promise.all(infos)).reduce((sum, { state }) => sum + state.messages, 0);
          },
        },
        close: () => connection.close(),
      };
    });

const OWNER: OwnerInfo = { address: "10.0.0.1:6010", version: "1.2.3", credentials: "c1" };
const OTHER: OwnerInfo = { address: "10.0.0.2:6010", version: "1.2.4", credentials: "c2" };
const CALLS: ((url: string) => Promise<unknown>)[] = [(url) => initJetStream(url, 1), openJetStream];

const logs: { close(): Promise<void> }[] = [];

afterEach(async () => {
  for (const log of logs.splice(0)) await log.close();
}, TIMEOUT_MS);

async function open(url: string, options?: JetStreamOptions): Promise<SharedLog> {
  const log = await openJetStream(url, options);
  logs.push(log);
  return log;
}

/** What the log consists of, for tests of interrupted calls. */
async function openParts(url: string): Promise<{ streams: Streams; names: ShardNames; chain: Chain }> {
  const address = parseNatsUrl(url);
  const streams = await Streams.connect(address);
  logs.push(streams);
  const names = new ShardNames(address.cluster, 0);
  return { streams, names, chain: new Chain(streams, names, new ShardRecords(streams, names), TINY.streamBytesMax) };
}

async function fill(log: SharedLog, head: number, records: number): Promise<void> {
  for (let i = head; i < head + records; i++) expect(await log.append(0, i, record(i + 1))).toEqual({ stored: true });
}

async function numbers(log: SharedLog, from: number, upTo: number): Promise<number[]> {
  const found: number[] = [];
  for await (const { sequence, record } of log.read(0, from, upTo)) {
    expect(Number(Buffer.from(record).toString())).toBe(sequence);
    found.push(sequence);
  }
  return found;
}

const record = (sequence: number): Uint8Array => Buffer.from(`${sequence}`.padEnd(60));
const range = (from: number, upTo: number): number[] => Array.from({ length: upTo - from + 1 }, (_, i) => from + i);

async function* parts(...contents: string[]): AsyncGenerator<Uint8Array> {
  for (const content of contents) yield Buffer.from(content);
}

/** The message of a ClusterError: one line without a password. */
async function refused(call: Promise<unknown>): Promise<string> {
  const error = await call.then(
    () => null,
    (error) => error,
  );
  expect(error).toBeInstanceOf(ClusterError);
  expect(error.message).not.toContain("secret");
  expect(error.message).not.toContain("\n");
  return error.message;
}

describe.skipIf(!hasNats)("a chain of streams", () => {
  let server: NatsEngine;
  let clusters = 0;

  beforeAll(async () => {
    server = await NatsEngine.start();
  });

  /** The URL of a new cluster, and a log with the records 1 (`Opened`) to `records`. */
  async function start(records: number): Promise<{ url: string; log: SharedLog; logNames: () => Promise<string[]> }> {
    const url = `nats://${server.address}/c${++clusters}`;
    await initJetStream(url, 1);
    const log = await open(url, TINY);
    expect(await log.claim(0, 0, record(1), OWNER)).toEqual({ stored: true });
    await fill(log, 1, records - 1);
    const { streams, names } = await openParts(url);
    return { url, log, logNames: () => streams.names(names.logSubjects) };
  }

  test("has one sequence of records, also for a process that knows only its beginning", async () => {
    const { url, log, logNames } = await start(30);
    expect((await logNames()).length).toBeGreaterThan(5);
    const watcher = await open(url, TINY);
    expect(await watcher.state(0)).toMatchObject({ head: 30, epoch: 1 });
    await fill(log, 30, 20);
    expect(await watcher.state(0)).toMatchObject({ head: 50, epoch: 1 });
    expect(await numbers(watcher, 1, 50)).toEqual(range(1, 50));
    expect(await numbers(watcher, 17, 42)).toEqual(range(17, 42));
  });

  test("shows a state of one moment when a claim comes between the reads of its end and of the owner", async () => {
    const { url, log } = await start(2);
    const watcher = await open(url);
    expect(await watcher.state(0)).toMatchObject({ head: 2, epoch: 1, owner: OWNER });
    const latest = Streams.prototype.latest;
    const reading = spyOn(Streams.prototype, "latest").mockImplementation(async function (this: Streams, ...args) {
      reading.mockRestore();
      expect(await log.claim(0, 2, record(3), OTHER)).toEqual({ stored: true });
      return latest.apply(this, args);
    });
    expect(await watcher.state(0)).toMatchObject({ head: 3, epoch: 3, owner: OTHER });
  });

  test("is trimmed by whole streams that the snapshot covers", async () => {
    const { url, log, logNames } = await start(30);
    const before = (await logNames()).length;
    expect(await log.publishSnapshot(0, { epoch: 1, sequence: 20 }, parts("up to 20"))).toBe(true);
    await log.trim(0);
    const after = await logNames();
    expect(after.length).toBeLessThan(before);
    expect(Math.min(...after.map(baseOf))).toBeLessThanOrEqual(20);
    const other = await open(url, TINY);
    expect(await numbers(other, 21, 30)).toEqual(range(21, 30));
    expect(await refused(numbers(other, 1, 30))).toMatch(/^record 1 is missing: the log begins after record \d+$/);
    await fill(log, 30, 5);
    expect(await log.publishSnapshot(0, { epoch: 1, sequence: 35 }, parts("up to 35"))).toBe(true);
    await log.trim(0);
    expect(await logNames()).toHaveLength(1);
    expect(await other.state(0)).toMatchObject({ head: 35, epoch: 1, snapshot: 35 });
  });

  test("goes on after a process ended between the new stream and its link, and trim deletes that stream", async () => {
    const { url, log, logNames } = await start(10);
    const { chain } = await openParts(url);
    const orphan = await chain.create(10);
    await fill(log, 10, 10);
    expect(await numbers(await open(url), 1, 20)).toEqual(range(1, 20));
    expect(await logNames()).toContain(orphan);
    expect(await log.publishSnapshot(0, { epoch: 1, sequence: 20 }, parts("up to 20"))).toBe(true);
    await log.trim(0);
    expect(await logNames()).not.toContain(orphan);
    expect(await log.state(0)).toMatchObject({ head: 20 });
  });

  test("has no record in a stream that nobody links to, and none after the link", async () => {
    const { url, log } = await start(10);
    const { streams, names, chain } = await openParts(url);
    const closed = (await chain.tail()).stream;
    const next = await chain.create(10);
    // The owner's own link, with the answer lost: it creates a second stream, whose link is refused.
    const link = Buffer.from(next);
    const expected = 10 - baseOf(closed);
    expect(await streams.publish(closed, names.logSubject(closed, "next"), expected, link)).toEqual({ stored: true });
    expect(await log.append(0, 10, record(11))).toEqual({ stored: true });
    expect(await chain.tail()).toMatchObject({ stream: next, head: 11 });
    const late = await streams.publish(closed, names.logSubject(closed, "turn"), expected, record(11));
    expect(late.stored).toBe(false);
    expect(await numbers(log, 1, 11)).toEqual(range(1, 11));
  });

  test("takes no late record of a deposed owner whose stream was deleted", async () => {
    const { url, log } = await start(10);
    const other = await open(url, TINY);
    expect(await other.claim(0, 10, record(11), OTHER)).toEqual({ stored: true });
    await fill(other, 11, 30);
    expect(await other.publishSnapshot(0, { epoch: 11, sequence: 41 }, parts("all"))).toBe(true);
    await other.trim(0);
    for (const expected of [9, 10, 11])
      expect(await log.append(0, expected, record(0))).toEqual({ stored: false, head: 41 });
    expect(await log.publishSnapshot(0, { epoch: 1, sequence: 10 }, parts("late"))).toBe(false);
    await log.trim(0);
    expect(await numbers(other, 41, 41)).toEqual([41]);
  });

  test("shows the epoch of a claimer that ended before it wrote it to the state", async () => {
    const { url, log } = await start(10);
    const { chain } = await openParts(url);
    // What a claim does first.
    expect(await chain.append("opened", 10, record(11), JSON.stringify(OTHER))).toEqual({ stored: true });
    expect(await log.state(0)).toMatchObject({ head: 11, epoch: 11, owner: OTHER });
    expect(await log.append(0, 10, record(11))).toEqual({ stored: false, head: 11 });
    // The claimer repeats its call, or a third process claims.
    const claimer = await open(url, TINY);
    expect(await claimer.claim(0, 10, record(11), OTHER)).toEqual({ stored: false, head: 11 });
    expect(await claimer.beat(0, 11, OTHER)).toBe(true);
    expect(await log.beat(0, 1, OWNER)).toBe(false);
    expect(await log.state(0)).toMatchObject({ head: 11, epoch: 11, owner: OTHER });
  });

  test("keeps the newest of two claims when the earlier one is finished late", async () => {
    const { url, log } = await start(10);
    const { chain } = await openParts(url);
    expect(await chain.append("opened", 10, record(11), JSON.stringify(OTHER))).toEqual({ stored: true });
    const third = await open(url, TINY);
    expect(await third.claim(0, 11, record(12), OWNER)).toEqual({ stored: true });
    const late = await open(url, TINY);
    expect(await late.claim(0, 10, record(11), OTHER)).toEqual({ stored: false, head: 12 });
    expect(await late.beat(0, 11, OTHER)).toBe(false);
    expect(await log.beat(0, 1, OWNER)).toBe(false);
    expect(await third.beat(0, 12, OWNER)).toBe(true);
    expect(await log.state(0)).toMatchObject({ head: 12, epoch: 12, owner: OWNER });
  });
});

describe.skipIf(!hasNats)("a server of NATS", () => {
  test("without JetStream is refused in one line", async () => {
    const server = await NatsEngine.start("", false);
    for (const call of CALLS)
      expect(await refused(call(`nats://${server.address}`))).toContain("has no JetStream for this user");
  });

  test("refuses wrong logins and users without permissions, and nothing is written", async () => {
    const server = await NatsEngine.start(`
      authorization { users: [
        { user: admin, password: secret },
        { user: reader, password: secret, permissions: { publish: ["$JS.>"] } },
        { user: nobody, password: secret, permissions: { publish: ["nothing"] } } ] }`);
    const at = `127.0.0.1:${server.port}`;
    const wrong = `NATS at ${at} refused the login: wrong user or password; correct the URL`;
    expect(await refused(openJetStream(`nats://${at}`))).toBe(wrong);
    expect(await refused(initJetStream(`nats://admin:secrets@${at}`, 1))).toBe(wrong);
    for (const [user, subject] of [
      ["reader", "heartline.cluster"],
      ["nobody", "$JS.API.INFO"],
    ])
      expect(await refused(initJetStream(`nats://${user}:secret@${at}`, 1))).toStartWith(
        `NATS refused "publish" on ${subject}: the user has no permission`,
      );
    const { streams } = await openParts(`nats://admin:secret@${at}`);
    expect(await streams.names(">")).toEqual([]);
    await initJetStream(`nats://admin:secret@${at}`, 1);
    expect((await open(`nats://admin:secret@${at}`)).shards).toBe(1);
  });

  test("whose certificate cannot be verified is reported with the variable that names its authority", () => {
    const { message } = connectionError(new Error("unable to verify the first certificate"), ["n1.example.org:4222"]);
    expect(message).toEndWith("correct the URL, or write its authority to the file of NODE_EXTRA_CA_CERTS");
  });

  test("is reached at the addresses of the URL only: one that it tells hides no wrong password", async () => {
    const info = {
      server_id: "n1",
      version: "2.10.27",
      headers: true,
      max_payload: 1e6,
      connect_urls: ["127.0.0.1:1"],
    };
    using server = Bun.listen({
      hostname: "127.0.0.1",
      port: 0,
      socket: {
        open: (socket) => void socket.write(`INFO ${JSON.stringify(info)}\r\n`),
        data: (socket) => void socket.end("-ERR 'Authorization Violation'\r\n"),
      },
    });
    expect(await refused(openJetStream(`nats://admin:wrong@127.0.0.1:${server.port}`))).toContain("refused the login");
  });

  test("has several clusters, each created once, and no foreign streams are taken for one", async () => {
    const server = await NatsEngine.start();
    const url = (name: string) => `nats://${server.address}/${name}`;
    expect(await refused(openJetStream(url("one")))).toMatch(
      /^cannot open the cluster: NATS has none with the name one;/,
    );
    const results = await Promise.allSettled([initJetStream(url("one"), 1), initJetStream(url("one"), 2)]);
    expect(results.filter(({ status }) => status === "fulfilled")).toHaveLength(1);
    await initJetStream(url("two"), 3);
    expect((await open(url("two"))).shards).toBe(3);
    expect(await refused(initJetStream(url("two"), 4))).toStartWith(
      "cannot create the cluster: NATS has one named two already (shards: 3);",
    );
    const { streams } = await openParts(url("one"));
    await streams.create("other-cluster", "other.cluster");
    await streams.publish("other-cluster", "other.cluster", 0, Buffer.from("no JSON"));
    for (const call of CALLS)
      expect(await refused(call(url("other")))).toStartWith(
        "cannot use the stream other-cluster of NATS: another program wrote to it;",
      );
    await streams.create("newer-cluster", "newer.cluster");
    const newer = Buffer.from(JSON.stringify({ format: 2, shards: 1 }));
    await streams.publish("newer-cluster", "newer.cluster", 0, newer);
    for (const call of CALLS)
      expect(await refused(call(url("newer")))).toBe(
        "cannot open the cluster: its streams have format 2, and this version reads 1; use the version that wrote them",
      );
    await streams.create("taken", "taken.>");
    expect(await refused(initJetStream(url("taken"), 1))).toStartWith(
      "cannot create the stream taken-cluster: another stream of this account takes its subjects;",
    );
  });

  test("that does not exist, or is none, is refused in one line", async () => {
    expect(await refused(openJetStream("nats://127.0.0.1:1,127.0.0.1:2/x"))).toBe(
      "NATS cannot be reached at 127.0.0.1:1, 127.0.0.1:2: connection refused; start it or correct the URL",
    );
    const greeting = (text: string) =>
      Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { open: (socket) => void socket.write(text), data() {} } });
    const web = greeting("HTTP/1.1 400 Bad Request\r\n\r\n");
    expect(await refused(openJetStream(`nats://127.0.0.1:${web.port}`))).toContain("cannot be reached");
    web.stop(true);
  });

  test("with a version that loses streams is refused, and an old one is used with a warning", () => {
    for (const version of ["2.8.4", "2.10.20", "2.10.22", "2.10.21-RC.1", "1.4.1"])
      expect(() => checkVersion(version)).toThrow(ClusterError);
    for (const version of ["2.9.10", "2.9.25"]) expect(checkVersion(version)).toHaveLength(1);
    for (const version of ["2.10.19", "2.10.23", "2.11.0", "2.12.0-dev", "3.0.0"])
      expect(checkVersion(version)).toEqual([]);
  });
});

describe.skipIf(!hasNats)("three servers", () => {
  test(
    "keep every acknowledged record when leaders are killed",
    async () => {
      const servers = await NatsEngine.startCluster();
      const url = `nats://${servers.map(({ address }) => address).join(",")}`;
      await eventually(() => initJetStream(url, 1));
      const log = await open(url);
      expect(log.warnings).toHaveLength(1); // About the version: there are three copies.
      expect(await eventually(() => log.claim(0, 0, record(1), OWNER))).toEqual({ stored: true });
      const admin = await connect({ servers: servers.map(({ address }) => address), maxReconnectAttempts: -1 });
      logs.push(admin);
      const { streams } = await jetstreamManager(admin, { checkAPI: false });
      let head = 1;
      let isEnding = false;
      const write = (async () => {
        for (; !isEnding; head++) await appendSurely(log, head, record(head + 1));
      })();
      for (let round = 0; round < 3; round++) {
        const before = head;
        while (head < before + 100) await Bun.sleep(5);
        const [name] = await eventually(() => streams.names("heartline.0.log.*.*").next());
        const { config, cluster } = await eventually(async () => {
          const info = await streams.info(name!);
          // Two servers are needed: the one that was killed last must have caught up.
          if (info.cluster!.replicas!.every(({ current }) => current)) return info;
          throw new Error("a server has not caught up");
        });
        expect(config.num_replicas).toBe(3);
        const leader = servers[Number(cluster!.leader!.slice(1)) - 1]!;
        await leader.kill();
        const killed = head;
        while (head < killed + 100) await Bun.sleep(5);
        await leader.restart();
      }
      isEnding = true;
      await write;
      const reader = await open(url);
      expect(await eventually(() => reader.state(0))).toMatchObject({ head, epoch: 1 });
      expect(await eventually(() => numbers(reader, 1, head))).toEqual(range(1, head));
      expect(await eventually(() => log.beat(0, 1, OWNER))).toBe(true);
    },
    TIMEOUT_MS,
  );
});

/** Appends with the rule for unknown outcomes: the same call again, and what is stored is compared. */
async function appendSurely(log: SharedLog, expected: number, bytes: Uint8Array): Promise<void> {
  const result = await eventually(() => log.append(0, expected, bytes));
  if (result.stored) return;
  expect(result.head).toBe(expected + 1);
  expect(await eventually(() => numbers(log, expected + 1, expected + 1))).toEqual([expected + 1]);
}

/** The call again after an error, until it succeeds. */
async function eventually<T>(call: () => Promise<T>): Promise<T> {
  for (const end = performance.now() + TIMEOUT_MS / 2; ;) {
    try {
      return await call();
    } catch (error) {
      if (performance.now() > end) throw error;
      await Bun.sleep(50);
    }
  }
}
