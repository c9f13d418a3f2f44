/**
 * What every implementation of SharedLog does: one suite for all engines, and for the modelled log of the simulation.
 * It looks only at the port. Each test has a shard of its own, in one cluster.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { ClusterError, type OwnerInfo, type SharedLog, type ShardState } from "../../src/cluster/shared-log.ts";

/** An engine with an empty cluster. */
export interface TestedEngine {
  /** Opens the log as one more process of the cluster; `close` of the suite closes it. */
  open(): Promise<SharedLog>;
  /** The engine's server, which tests kill and pause; null when there is none. */
  server: TestedServer | null;
  /** Changes what is stored, unnoticed by the engine; null when that is impossible. */
  damage: TestedDamage | null;
  close(): Promise<void>;
}

export interface TestedServer {
  /** Ends it as kill -9 of all its processes does; resolves when they are gone. */
  kill(): Promise<void>;
  /** Starts it again after `kill`; resolves when it accepts calls, or earlier. */
  restart(): Promise<void>;
  /** SIGSTOP to all its processes. */
  pause(): void;
  /** SIGCONT. */
  resume(): void;
}

export interface TestedDamage {
  loseRecord(shard: number, sequence: number): Promise<void>;
  /** Parts of the current snapshot, counted from 0. */
  losePart(shard: number, part: number): Promise<void>;
  changePart(shard: number, part: number): Promise<void>;
  /** Number of stored parts, of all snapshots. */
  countParts(shard: number): Promise<number>;
}

/** Number of shards of the tested cluster. */
const SHARDS = 48;
/** A call to a paused engine settles within this time. */
const SETTLE_MS = 15_000;
const TIMEOUT_MS = 60_000;

const OWNER: OwnerInfo = { address: "10.0.0.1:6010", version: "1.2.3", credentials: "c1" };
const OTHER: OwnerInfo = { address: "10.0.0.2:6010", version: "1.2.4", credentials: "c2" };

/**
 * Defines the tests. `start` starts an engine with a cluster of that many shards. `has` says what it will provide,
 * because tests are defined before it starts. Without `exactTrim` trimming may leave records for a while.
 */
export function testSharedLog(
  engine: string,
  has: { server: boolean; damage: boolean; exactTrim: boolean },
  start: (shards: number) => Promise<TestedEngine>,
): void {
  describe(`the shared log on ${engine}`, () => {
    let tested: TestedEngine;
    const logs: SharedLog[] = [];
    let shards = 0;

    beforeAll(async () => {
      tested = await start(SHARDS);
    }, TIMEOUT_MS);

    afterAll(async () => {
      await Promise.all(logs.map((log) => log.close()));
      await tested.close();
    }, TIMEOUT_MS);

    async function open(): Promise<SharedLog> {
      const log = await tested.open();
      logs.push(log);
      return log;
    }

    /** A log, and a shard that no other test uses. */
    async function openShard(): Promise<[log: SharedLog, shard: number]> {
      return [await open(), shards++];
    }

    /** A log, and a shard whose owner has appended `records` records after its claim. */
    async function openOwned(records: number): Promise<[log: SharedLog, shard: number]> {
      const [log, shard] = await openShard();
      await claim(log, shard, 0);
      await fill(log, shard, 1, records);
      return [log, shard];
    }

    const each = (name: string, run: () => Promise<void>): void => test(name, run, TIMEOUT_MS);
    // What an engine does not have is no test, rather than a skipped one.
    const withServer = (name: string, run: (server: TestedServer) => Promise<void>): void => {
      if (has.server) test(name, () => run(tested.server!), TIMEOUT_MS);
    };
    const withDamage = (name: string, run: (damage: TestedDamage) => Promise<void>): void => {
      if (has.damage) test(name, () => run(tested.damage!), TIMEOUT_MS);
    };
    const withExactTrim = (name: string, run: () => Promise<void>): void => {
      if (has.exactTrim) test(name, run, TIMEOUT_MS);
    };

    each("every process of the cluster has the same secret", async () => {
      const [first, second] = [await open(), await open()];
      expect(first.secret.length).toBe(32);
      expect(Buffer.from(first.secret).equals(second.secret)).toBe(true);
      expect(Buffer.from(first.secret).equals(new Uint8Array(32))).toBe(false);
    });

    describe("append", () => {
      each("an empty log has head 0, no owner and no snapshot", async () => {
        const [log, shard] = await openShard();
        expect(log.shards).toBe(SHARDS);
        expect(await log.state(shard)).toEqual({ head: 0, epoch: 0, owner: null, beat: 0, snapshot: 0 });
        expect(await log.snapshot(shard)).toBeNull();
        expect(await all(log.read(shard, 1, 0))).toEqual([]);
      });

      each("a record is appended after the expected one, and every other process sees it at once", async () => {
        const [log, shard] = await openShard();
        const other = await open();
        for (let head = 0; head < 20; head++) {
          expect(await log.append(shard, head, bytes(`record ${head + 1}`))).toEqual({ stored: true });
          expect(await other.state(shard)).toMatchObject({ head: head + 1, epoch: 0 });
        }
        expect(await texts(other, shard, 1, 20)).toEqual(Array.from({ length: 20 }, (_, i) => `record ${i + 1}`));
      });

      each("the states of all shards are those of each of them, in one call", async () => {
        const [log, shard] = await openOwned(3);
        const states = await (await open()).states();
        expect(states).toHaveLength(SHARDS);
        expect(states[shard]).toEqual(await log.state(shard));
        expect(states[shard]).toMatchObject({ head: 4, epoch: 1, owner: OWNER });
        expect(states[SHARDS - 1]).toEqual({ head: 0, epoch: 0, owner: null, beat: 0, snapshot: 0 });
      });

      each(
        "a record whose expected number is too low or too high is refused with the head, and not stored",
        async () => {
          const [log, shard] = await openShard();
          await fill(log, shard, 0, 3);
          for (const expected of [0, 1, 2, 4, 1000])
            expect(await log.append(shard, expected, bytes("refused"))).toEqual({ stored: false, head: 3 });
          expect(await texts(log, shard, 1, 3)).toEqual(["1", "2", "3"]);
          expect(await log.append(shard, 3, bytes("4"))).toEqual({ stored: true });
        },
      );

      each(
        "an append that is repeated after it was stored is refused with the head, and is in the log once",
        async () => {
          const [log, shard] = await openShard();
          await fill(log, shard, 0, 2);
          for (let i = 0; i < 3; i++)
            expect(await log.append(shard, 1, bytes("2"))).toEqual({ stored: false, head: 2 });
          await fill(log, shard, 2, 1);
          expect(await log.append(shard, 1, bytes("2"))).toEqual({ stored: false, head: 3 });
          expect(await texts(log, shard, 1, 3)).toEqual(["1", "2", "3"]);
        },
      );

      each("of equal appends at the same time, by one process and by two, one is stored", async () => {
        const [log, shard] = await openShard();
        const other = await open();
        for (let head = 0; head < 20; head++) {
          const append = (by: SharedLog) => by.append(shard, head, bytes(`${head + 1}`));
          const results = await Promise.all([append(log), append(other), append(log), append(other)]);
          expect(results.filter(({ stored }) => stored)).toHaveLength(1);
          for (const result of results) if (!result.stored) expect(result.head).toBe(head + 1);
        }
        expect(await log.state(shard)).toMatchObject({ head: 20 });
      });

      each("of two racing writers each finds its acknowledged records at their numbers, and no others", async () => {
        const [log, shard] = await openShard();
        const records: string[] = [];
        const write = async (writer: SharedLog, name: string): Promise<void> => {
          for (let head = 0; head < 100;) {
            const text = `${name} ${head + 1}`;
            const result = await writer.append(shard, head, bytes(text));
            if (result.stored) {
              expect(records[head]).toBeUndefined();
              records[head] = text;
              head++;
            } else {
              expect(result.head).toBeGreaterThan(head);
              head = result.head;
            }
          }
        };
        await Promise.all([write(log, "first"), write(await open(), "second")]);
        const { head } = await log.state(shard);
        expect(records).toHaveLength(head);
        expect(await texts(log, shard, 1, head)).toEqual(records);
      });

      each("records of every size up to recordBytesMax are stored as they are", async () => {
        const [log, shard] = await openShard();
        const sizes = [1, 100, 2_000, 8_192, 65_536, log.recordBytesMax - 1, log.recordBytesMax];
        const records = sizes.map((size) => noise(size));
        for (const [head, record] of records.entries())
          expect(await log.append(shard, head, record)).toEqual({ stored: true });
        const read = await all(log.read(shard, 1, records.length));
        for (const [i, { sequence, record }] of read.entries()) {
          expect(sequence).toBe(i + 1);
          expect(Buffer.compare(record, records[i]!)).toBe(0);
        }
        expect(read).toHaveLength(records.length);
      });

      each(
        "a record or a part of a snapshot above recordBytesMax is a ClusterError, and nothing is stored",
        async () => {
          const [log, shard] = await openOwned(2);
          const before = await log.state(shard);
          const long = noise(log.recordBytesMax + 1);
          expect(await failure(log.append(shard, 3, long))).toBeInstanceOf(ClusterError);
          expect(await failure(log.claim(shard, 3, long, OTHER))).toBeInstanceOf(ClusterError);
          const published = log.publishSnapshot(shard, { epoch: 1, sequence: 2 }, parts("a", long));
          expect(await failure(published)).toBeInstanceOf(ClusterError);
          expect(await log.state(shard)).toEqual(before);
          expect(await log.snapshot(shard)).toBeNull();
        },
      );

      each("shards do not affect each other", async () => {
        const [log, shard] = await openOwned(2);
        const neighbour = shards++;
        expect(await log.state(neighbour)).toMatchObject({ head: 0, epoch: 0, owner: null });
        expect(await log.append(neighbour, 0, bytes("other"))).toEqual({ stored: true });
        expect(await publish(log, shard, 1, 2, "a")).toBe(true);
        await log.trim(shard);
        expect(await texts(log, neighbour, 1, 1)).toEqual(["other"]);
        expect(await log.snapshot(neighbour)).toBeNull();
      });
    });

    describe("owners", () => {
      each(
        "claim stores its record, and its number is the epoch and its information the owner's, in one step",
        async () => {
          const [log, shard] = await openShard();
          const watcher = await open();
          await fill(log, shard, 0, 2);
          let isClaimed = false;
          const states: ShardState[] = [];
          const watch = (async () => {
            while (!isClaimed) states.push(await watcher.state(shard));
          })();
          expect(await log.claim(shard, 2, bytes("opened"), OWNER)).toEqual({ stored: true });
          expect(await watcher.state(shard)).toMatchObject({ head: 3, epoch: 3, owner: OWNER });
          isClaimed = true;
          await watch;
          for (const { head, epoch, owner } of states)
            expect([head, epoch, owner]).toEqual(head === 2 ? [2, 0, null] : [3, 3, OWNER]);
          expect(await texts(log, shard, 3, 3)).toEqual(["opened"]);
        },
      );

      each("a refused claim names the head and leaves the owner and the epoch", async () => {
        const [log, shard] = await openOwned(2);
        const before = await log.state(shard);
        for (const expected of [0, 1, 2, 4])
          expect(await log.claim(shard, expected, bytes("opened"), OTHER)).toEqual({ stored: false, head: 3 });
        expect(await log.state(shard)).toEqual(before);
      });

      each("of two claims at the same time one is stored, and its owner has the shard", async () => {
        const [log, shard] = await openOwned(1);
        const other = await open();
        const results = await Promise.all([
          log.claim(shard, 2, bytes("first"), OWNER),
          other.claim(shard, 2, bytes("second"), OTHER),
        ]);
        const winner = results.findIndex(({ stored }) => stored);
        expect(results[1 - winner]).toEqual({ stored: false, head: 3 });
        expect(await log.state(shard)).toMatchObject({ head: 3, epoch: 3, owner: [OWNER, OTHER][winner] });
        expect(await texts(log, shard, 3, 3)).toEqual([["first", "second"][winner]!]);
      });

      each("after a claim every append of the earlier owner is refused", async () => {
        const [log, shard] = await openOwned(2);
        expect(await (await open()).claim(shard, 3, bytes("opened"), OTHER)).toEqual({ stored: true });
        expect(await log.append(shard, 3, bytes("late"))).toEqual({ stored: false, head: 4 });
        expect(await texts(log, shard, 4, 4)).toEqual(["opened"]);
      });

      each("a beat of the newest epoch changes the beat and the owner's information, and not the head", async () => {
        const [log, shard] = await openOwned(1);
        const beats = new Set([(await log.state(shard)).beat]);
        for (const address of ["10.0.0.1:6010", "", "10.0.0.1:6011"]) {
          expect(await log.beat(shard, 1, { ...OWNER, address })).toBe(true);
          const state = await (await open()).state(shard);
          expect(state).toMatchObject({ head: 2, epoch: 1, owner: { ...OWNER, address } });
          beats.add(state.beat);
        }
        expect(beats.size).toBe(4);
      });

      each("a beat of a deposed owner, or without an owner, is false and changes nothing", async () => {
        const [log, shard] = await openOwned(1);
        expect(await (await open()).claim(shard, 2, bytes("opened"), OTHER)).toEqual({ stored: true });
        const before = await log.state(shard);
        for (const epoch of [0, 1, 2]) expect(await log.beat(shard, epoch, OWNER)).toBe(false);
        expect(await log.state(shard)).toEqual(before);
        const empty = shards++;
        for (const epoch of [0, 1]) expect(await log.beat(empty, epoch, OWNER)).toBe(false);
        expect(await log.state(empty)).toMatchObject({ epoch: 0, owner: null });
      });
    });

    describe("read", () => {
      each("many records are read in order, from and up to the given numbers", async () => {
        const [log, shard] = await openShard();
        const sizes = [10, 3_000, 200_000];
        const records = Array.from({ length: 300 }, (_, i) => noise(sizes[i % sizes.length]!));
        for (const [head, record] of records.entries()) await log.append(shard, head, record);
        for (const [from, upTo] of [
          [1, 300],
          [299, 300],
          [300, 300],
          [17, 230],
        ] as const) {
          let next: number = from;
          for await (const { sequence, record } of log.read(shard, from, upTo)) {
            expect(sequence).toBe(next);
            if (Buffer.compare(record, records[next - 1]!) !== 0) throw new Error(`record ${next} was changed`);
            next++;
          }
          expect(next).toBe(upTo + 1);
        }
      });

      each("a reader may stop early", async () => {
        const [log, shard] = await openShard();
        await fill(log, shard, 0, 50);
        for await (const { sequence } of log.read(shard, 1, 50)) if (sequence === 3) break;
        expect(await log.append(shard, 50, bytes("51"))).toEqual({ stored: true });
      });

      each("a record that was never written is a ClusterError", async () => {
        const [log, shard] = await openShard();
        await fill(log, shard, 0, 3);
        expect(await failure(all(log.read(shard, 1, 4)))).toBeInstanceOf(ClusterError);
        expect(await failure(all(log.read(shard, 4, 4)))).toBeInstanceOf(ClusterError);
        expect(await failure(all(log.read(shard, 0, 3)))).toBeInstanceOf(ClusterError);
      });

      withDamage("a hole is a ClusterError, at the beginning, in the middle and at the end", async (damage) => {
        const [log, shard] = await openShard();
        await fill(log, shard, 0, 10);
        for (const lost of [10, 5, 1]) {
          await damage.loseRecord(shard, lost);
          expect(await failure(all(log.read(shard, lost, 10)))).toBeInstanceOf(ClusterError);
          expect(await failure(all(log.read(shard, Math.max(1, lost - 1), lost)))).toBeInstanceOf(ClusterError);
        }
        expect(await texts(log, shard, 6, 9)).toEqual(["6", "7", "8", "9"]);
      });
    });

    describe("snapshots", () => {
      each("a published snapshot is the current one, with its parts in order", async () => {
        const [log, shard] = await openOwned(5);
        const contents = [noise(10), noise(log.recordBytesMax), noise(1), noise(100_000)];
        expect(await log.publishSnapshot(shard, { epoch: 1, sequence: 4 }, parts(...contents))).toBe(true);
        const reader = await open();
        expect(await reader.state(shard)).toMatchObject({ head: 6, epoch: 1, snapshot: 4 });
        const snapshot = (await reader.snapshot(shard))!;
        expect(snapshot.label).toEqual({ epoch: 1, sequence: 4 });
        const read = await all(snapshot.parts);
        expect(read).toHaveLength(contents.length);
        for (const [i, part] of read.entries()) expect(Buffer.compare(part, contents[i]!)).toBe(0);
      });

      each("a newer snapshot replaces it, and an older one does not", async () => {
        const [log, shard] = await openOwned(5);
        expect(await publish(log, shard, 1, 3, "third")).toBe(true);
        expect(await publish(log, shard, 1, 2, "second")).toBe(false);
        expect(await current(log, shard)).toEqual([1, 3, "third"]);
        expect(await publish(log, shard, 1, 5, "fifth")).toBe(true);
        expect(await current(log, shard)).toEqual([1, 5, "fifth"]);
      });

      each("publishing the current snapshot again is true, and it stays as it was", async () => {
        const [log, shard] = await openOwned(5);
        expect(await publish(log, shard, 1, 3, "first", "time")).toBe(true);
        expect(await publish(log, shard, 1, 3, "second time")).toBe(true);
        expect(await current(log, shard)).toEqual([1, 3, "first", "time"]);
      });

      each("a snapshot of a deposed owner is not taken, also when it began before the claim", async () => {
        const [log, shard] = await openOwned(5);
        expect(await publish(log, shard, 1, 2, "old")).toBe(true);
        const other = await open();
        const late = async function* () {
          yield bytes("late");
          expect(await other.claim(shard, 6, bytes("opened"), OTHER)).toEqual({ stored: true });
          yield bytes("part");
        };
        expect(await log.publishSnapshot(shard, { epoch: 1, sequence: 4 }, late())).toBe(false);
        expect(await publish(log, shard, 1, 5, "later")).toBe(false);
        expect(await current(log, shard)).toEqual([1, 2, "old"]);
        expect(await publish(other, shard, 7, 7, "new")).toBe(true);
        expect(await current(log, shard)).toEqual([7, 7, "new"]);
      });

      each("a snapshot whose parts fail is not taken, and the next one is", async () => {
        const [log, shard] = await openOwned(3);
        const failing = async function* () {
          yield bytes("part");
          throw new Error("disk full");
        };
        const published = log.publishSnapshot(shard, { epoch: 1, sequence: 2 }, failing());
        expect(await failure(published)).toEqual(new Error("disk full"));
        expect(await log.snapshot(shard)).toBeNull();
        expect(await publish(log, shard, 1, 2, "second", "time")).toBe(true);
        expect(await current(log, shard)).toEqual([1, 2, "second", "time"]);
      });

      withDamage("a snapshot with a missing or changed part is a ClusterError", async (damage) => {
        const log = await open();
        for (const part of [0, 1, 2]) {
          for (const change of [damage.losePart, damage.changePart]) {
            const shard = shards++;
            await claim(log, shard, 0);
            expect(await publish(log, shard, 1, 1, "zero", "one", "two")).toBe(true);
            await change.call(damage, shard, part);
            expect(await failure(current(log, shard))).toBeInstanceOf(ClusterError);
          }
        }
      });
    });

    describe("trim", () => {
      each("without a snapshot nothing is deleted", async () => {
        const [log, shard] = await openOwned(5);
        await log.trim(shard);
        expect(await texts(log, shard, 2, 6)).toEqual(["2", "3", "4", "5", "6"]);
      });

      each("the records that the snapshot contains are deleted, and no others", async () => {
        const [log, shard] = await openOwned(9);
        expect(await publish(log, shard, 1, 4, "four")).toBe(true);
        for (let i = 0; i < 2; i++) {
          await log.trim(shard);
          expect(await texts(log, shard, 5, 10)).toEqual(["5", "6", "7", "8", "9", "10"]);
          expect(await current(log, shard)).toEqual([1, 4, "four"]);
        }
        expect(await log.state(shard)).toMatchObject({ head: 10, epoch: 1, snapshot: 4, owner: OWNER });
      });

      withExactTrim("reading trimmed records is a ClusterError", async () => {
        const [log, shard] = await openOwned(9);
        expect(await publish(log, shard, 1, 10, "all")).toBe(true);
        await log.trim(shard);
        for (const [from, upTo] of [
          [1, 10],
          [4, 10],
          [10, 10],
        ] as const)
          expect(await failure(all(log.read(shard, from, upTo)))).toBeInstanceOf(ClusterError);
      });

      each("the numbers of trimmed records are not free again for a deposed owner", async () => {
        const [log, shard] = await openOwned(3);
        const other = await open();
        expect(await other.claim(shard, 4, bytes("opened"), OTHER)).toEqual({ stored: true });
        expect(await publish(other, shard, 5, 5, "all")).toBe(true);
        await other.trim(shard);
        for (const expected of [0, 3, 4])
          expect(await log.append(shard, expected, bytes("late"))).toEqual({ stored: false, head: 5 });
        expect(await log.claim(shard, 4, bytes("late"), OWNER)).toEqual({ stored: false, head: 5 });
        expect(await log.state(shard)).toMatchObject({ head: 5, epoch: 5, owner: OTHER, snapshot: 5 });
        expect(await other.append(shard, 5, bytes("6"))).toEqual({ stored: true });
        expect(await texts(log, shard, 6, 6)).toEqual(["6"]);
      });

      each("trim during appends loses none of them", async () => {
        const [log, shard] = await openOwned(50);
        const other = await open();
        const trims = (async () => {
          for (let sequence = 10; sequence <= 50; sequence += 10) {
            expect(await publish(other, shard, 1, sequence, `up to ${sequence}`)).toBe(true);
            await other.trim(shard);
          }
        })();
        await Promise.all([trims, fill(log, shard, 51, 100)]);
        expect(await texts(log, shard, 51, 151)).toEqual(Array.from({ length: 101 }, (_, i) => `${i + 51}`));
        expect(await current(log, shard)).toEqual([1, 50, "up to 50"]);
      });

      withDamage("parts of older snapshots, and of those that were not taken, are deleted", async (damage) => {
        const [log, shard] = await openOwned(5);
        expect(await publish(log, shard, 1, 2, "a", "b", "c")).toBe(true);
        expect(await publish(log, shard, 1, 4, "d", "e")).toBe(true);
        expect(await publish(log, shard, 1, 3, "f")).toBe(false);
        await log.trim(shard);
        expect(await damage.countParts(shard)).toBe(2);
        expect(await current(log, shard)).toEqual([1, 4, "d", "e"]);
      });

      each("trim by a deposed owner leaves the parts that the next owner is uploading", async () => {
        const [log, shard] = await openOwned(3);
        const other = await open();
        expect(await publish(log, shard, 1, 3, "old")).toBe(true);
        expect(await other.claim(shard, 4, bytes("opened"), OTHER)).toEqual({ stored: true });
        const uploaded = async function* () {
          yield bytes("new");
          await log.trim(shard);
          yield bytes("snapshot");
        };
        expect(await other.publishSnapshot(shard, { epoch: 5, sequence: 5 }, uploaded())).toBe(true);
        await log.trim(shard);
        expect(await current(other, shard)).toEqual([5, 5, "new", "snapshot"]);
      });
    });

    describe("the engine's server", () => {
      withServer(
        "after kill -9 in the middle of appends every acknowledged record is at its number, once",
        async (server) => {
          const [log, shard] = await openShard();
          const written: string[] = [];
          let isEnding = false;
          const write = (async () => {
            for (let head = 0; !isEnding; head++) {
              const text = `${head + 1} ${"x".repeat(head % 5000)}`;
              await appendSurely(log, shard, head, bytes(text));
              written.push(text);
            }
          })();
          for (let round = 0; round < 3; round++) {
            await grows(written);
            await server.kill();
            await server.restart();
            await grows(written);
          }
          isEnding = true;
          await write;
          const { head } = await log.state(shard);
          expect(head).toBe(written.length);
          const reader = await open();
          expect(await texts(reader, shard, 1, head)).toEqual(written);
        },
      );

      withServer(
        "while it is killed every call rejects soon with an error that is not a ClusterError",
        async (server) => {
          const [log, shard] = await openOwned(3);
          await server.kill();
          for (const call of calls(log, shard)) await expectUnknown(call());
          await server.restart();
          expect(await (await eventually(() => log.state(shard))).head).toBeGreaterThanOrEqual(4);
        },
      );

      withServer(
        "while it is paused every call settles soon, and what was cut off is stored once or not at all",
        async (server) => {
          const [log, shard] = await openOwned(3);
          server.pause();
          try {
            const settled = calls(log, shard).map((call) => expectSettled(call()));
            await Promise.all([...settled, expectSettled(log.append(shard, 4, bytes("5")))]);
          } finally {
            server.resume();
          }
          await eventually(() => log.state(shard));
          await appendSurely(log, shard, 4, bytes("5"));
          await appendSurely(log, shard, 5, bytes("6"));
          expect(await texts(log, shard, 2, 6)).toEqual(["2", "3", "4", "5", "6"]);
          expect((await log.state(shard)).head).toBe(6);
        },
      );

      withServer(
        "a snapshot whose upload is cut off by kill -9 is current with all its parts or not at all",
        async (server) => {
          const [log, shard] = await openOwned(5);
          expect(await publish(log, shard, 1, 2, "old")).toBe(true);
          const cut = async function* () {
            yield bytes("first");
            await server.kill();
            await server.restart();
            yield bytes("second");
          };
          const isPublished = await log.publishSnapshot(shard, { epoch: 1, sequence: 4 }, cut()).catch(() => null);
          const complete = [1, 4, "first", "second"];
          const found = await eventually(() => current(log, shard));
          const possible: unknown[][] = isPublished === null ? [[1, 2, "old"], complete] : [complete];
          expect(possible).toContainEqual(found);
          expect(await eventually(() => publish(log, shard, 1, 5, "third", "fourth"))).toBe(true);
          await eventually(() => log.trim(shard));
          expect(await current(log, shard)).toEqual([1, 5, "third", "fourth"]);
          await appendSurely(log, shard, 6, bytes("7"));
        },
      );

      withServer("calls begun in a short pause finish after it", async (server) => {
        const [log, shard] = await openOwned(3);
        server.pause();
        const append = appendSurely(log, shard, 4, bytes("5"));
        setTimeout(() => server.resume(), 1000);
        await append;
        expect(await texts(log, shard, 5, 5)).toEqual(["5"]);
      });
    });

    each("after close every call rejects", async () => {
      const log = await tested.open();
      await log.state(shards++);
      await log.close();
      await log.close();
      for (const call of calls(log, 0)) expect(await failure(call())).toBeInstanceOf(Error);
    });
  });
}

/** All calls of the port that change nothing when the engine has four records and epoch 1. */
function calls(log: SharedLog, shard: number): (() => Promise<unknown>)[] {
  return [
    () => log.state(shard),
    () => log.append(shard, 1, bytes("refused")),
    () => log.claim(shard, 1, bytes("refused"), OTHER),
    () => log.beat(shard, 0, OTHER),
    () => all(log.read(shard, 1, 1)),
    () => log.snapshot(shard),
    () => log.publishSnapshot(shard, { epoch: 0, sequence: 1 }, parts("refused")),
    () => log.trim(shard),
  ];
}

/** It rejects within SETTLE_MS with an error that is not a ClusterError. */
async function expectUnknown(call: Promise<unknown>): Promise<void> {
  expect(await expectSettled(call)).toBeInstanceOf(Error);
}

/** The same, or it resolves: a server that was sent SIGSTOP may still answer for a moment. Returns the error. */
async function expectSettled(call: Promise<unknown>): Promise<unknown> {
  const hangs = Bun.sleep(SETTLE_MS).then(() => new Error("it hangs"));
  const error = await Promise.race([failure(call), hangs]);
  expect(error).not.toBeInstanceOf(ClusterError);
  expect(error).not.toEqual(new Error("it hangs"));
  return error;
}

/** Appends with the rule for unknown outcomes: the same call again until it is stored or refused, then the comparison. */
async function appendSurely(log: SharedLog, shard: number, expected: number, record: Uint8Array): Promise<void> {
  const result = await eventually(() => log.append(shard, expected, record));
  if (result.stored) return;
  expect(result.head).toBe(expected + 1);
  const [own] = await eventually(() => all(log.read(shard, expected + 1, expected + 1)));
  expect(Buffer.compare(own!.record, record)).toBe(0);
}

/** The call again after an error, until it succeeds. */
async function eventually<T>(call: () => Promise<T>): Promise<T> {
  for (const end = performance.now() + TIMEOUT_MS / 2; ;) {
    try {
      return await call();
    } catch (error) {
      if (error instanceof ClusterError || performance.now() > end) throw error;
      await Bun.sleep(50);
    }
  }
}

/** Waits for twenty more entries. */
async function grows(entries: unknown[]): Promise<void> {
  const before = entries.length;
  while (entries.length < before + 20) await Bun.sleep(5);
}

async function claim(log: SharedLog, shard: number, expected: number): Promise<void> {
  expect(await log.claim(shard, expected, bytes(`${expected + 1}`), OWNER)).toEqual({ stored: true });
}

/** Appends records after number `head`; the text of each is its number. */
async function fill(log: SharedLog, shard: number, head: number, records: number): Promise<void> {
  for (let i = head; i < head + records; i++)
    expect(await log.append(shard, i, bytes(`${i + 1}`))).toEqual({ stored: true });
}

function publish(
  log: SharedLog,
  shard: number,
  epoch: number,
  sequence: number,
  ...contents: string[]
): Promise<boolean> {
  return log.publishSnapshot(shard, { epoch, sequence }, parts(...contents));
}

/** Epoch, sequence and the texts of all parts of the current snapshot. */
async function current(log: SharedLog, shard: number): Promise<unknown[]> {
  const { label, parts } = (await log.snapshot(shard))!;
  return [label.epoch, label.sequence, ...(await all(parts)).map((part) => Buffer.from(part).toString())];
}

async function texts(log: SharedLog, shard: number, from: number, upTo: number): Promise<string[]> {
  return (await all(log.read(shard, from, upTo))).map(({ record }) => Buffer.from(record).toString());
}

async function* parts(...contents: (string | Uint8Array)[]): AsyncGenerator<Uint8Array> {
  for (const content of contents) yield typeof content === "string" ? bytes(content) : content;
}

async function all<T>(iterable: AsyncIterable<T>): Promise<T[]> {
  const found: T[] = [];
  for await (const each of iterable) found.push(each);
  return found;
}

/** The error of a promise that must reject. */
async function failure(promise: Promise<unknown>): Promise<unknown> {
  return promise.then(
    (value) => `it resolved with ${JSON.stringify(value)}`,
    (error) => error,
  );
}

function bytes(text: string): Uint8Array {
  return Buffer.from(text);
}

function noise(length: number): Uint8Array {
  return Buffer.alloc(length, crypto.getRandomValues(Buffer.alloc(65_521)));
}
