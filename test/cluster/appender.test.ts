import { describe, expect, test } from "bun:test";
import { RECORD_HEAD_BYTES, RecordKind, decodeRecord, openedInfo } from "../../src/cluster/log-record.ts";
import { ClusterError } from "../../src/cluster/shared-log.ts";
import { APPEND_PAUSE_MAX_MS, APPEND_PAUSE_MIN_MS, OWNERSHIP_PROVEN_MS } from "../../src/limits.ts";
import { type ModelledEngine, OUTCOMES, type Outcome } from "../support/modelled-log.ts";
import { Random, seedsFor } from "../support/random.ts";
import { INFO, OTHER, ShardOwner, later, resolves } from "../support/shard-owner.ts";

const UNKNOWN = ["answer lost", "lost", "late"] as const;

/** The bodies of the turns in the log, by number. */
function turns(data: ModelledEngine): [number, string][] {
  return [...data.records()]
    .map(([sequence, bytes]) => ({ sequence, ...decodeRecord(bytes) }))
    .filter(({ kind }) => kind === RecordKind.Turn)
    .map(({ sequence, body }) => [sequence, body.toString()]);
}

/** The next writes of that owner have these outcomes; later ones are done. */
function plan(owner: ShardOwner, ...outcomes: Outcome[]): void {
  owner.log.outcome = () => outcomes.shift() ?? "done";
}

describe("a claim", () => {
  test("appends the record that makes the process the owner", async () => {
    const owner = await ShardOwner.claimed();
    const { head, epoch, owner: info } = await owner.log.state(0);
    expect([head, epoch, info, owner.appender.head, owner.appender.epoch]).toEqual([1, 1, INFO, 1, 1]);
    expect(openedInfo(decodeRecord(owner.log.data.records().get(1)!))).toEqual(INFO);
  });

  test("of two processes at one record succeeds once, and the other one may try again", async () => {
    const first = new ShardOwner();
    const second = new ShardOwner(first.log.data);
    expect(await Promise.all([first.appender.claim(0, INFO), second.appender.claim(0, OTHER)])).toEqual([true, false]);
    expect(second.ends).toEqual([]);
  });

  test.each(UNKNOWN)("succeeds once when its outcome is %p", async (outcome) => {
    const owner = new ShardOwner();
    plan(owner, outcome);
    expect(await owner.claim()).toBe(true);
    owner.log.executeLate();
    expect(await owner.log.state(0)).toMatchObject({ head: 1, epoch: 1 });
  });

  test("after the engine has gone back to an earlier record is refused", async () => {
    const owner = await ShardOwner.claimed();
    const spare = new ShardOwner(owner.log.data);
    expect(await spare.appender.claim(7, OTHER)).toBe(false);
    expect(spare.ends).toEqual([]);
  });

  test("that was executed late, before another process has claimed the shard, is refused", async () => {
    const owner = new ShardOwner();
    owner.log.outcome = () => "late";
    const claimed = owner.claim();
    while (owner.log.late === 0) await later();
    owner.log.stop();
    owner.log.executeLate();
    await new ShardOwner(owner.log.data).claim(OTHER);
    plan(owner);
    owner.log.resume();
    expect(await claimed).toBe(false);
  });

  test("rejects when the engine says that repeating cannot help", async () => {
    const owner = new ShardOwner();
    owner.log.outcome = () => {
      throw new ClusterError("no permission");
    };
    await expect(owner.claim()).rejects.toThrow("no permission");
  });
});

describe("a record of unknown outcome", () => {
  test.each(UNKNOWN)("is stored once when it is %p", async (outcome) => {
    const owner = await ShardOwner.claimed();
    plan(owner, outcome);
    await owner.append("one");
    await owner.append("two");
    owner.log.executeLate();
    expect(turns(owner.log.data)).toEqual([
      [2, "one"],
      [3, "two"],
    ]);
    expect(owner.ends).toEqual([]);
  });

  test("is appended again with the same bytes and the same expectation", async () => {
    const owner = await ShardOwner.claimed();
    const calls: string[] = [];
    const { append } = owner.log;
    owner.log.append = (shard, expected, record) => {
      calls.push(`${expected} ${Buffer.from(record).toString("hex")}`);
      return append.call(owner.log, shard, expected, record);
    };
    plan(owner, "lost", "late", "lost");
    await owner.append("one");
    expect(calls).toHaveLength(4);
    expect(new Set(calls).size).toBe(1);
  });

  test("that is refused with the expected head, as a stale read would show, is appended again", async () => {
    const owner = await ShardOwner.claimed();
    const { append } = owner.log;
    owner.log.append = async (_shard, expected) => {
      owner.log.append = append;
      return { stored: false, head: expected };
    };
    await owner.append("one");
    expect(turns(owner.log.data)).toEqual([[2, "one"]]);
  });

  test("that is found in the log is not acknowledged before another write is", async () => {
    const owner = await ShardOwner.claimed();
    plan(owner, "answer lost", "done", "lost", "lost");
    let isBeaten = false;
    const { beat } = owner.log;
    owner.log.beat = async (...values) => {
      const is = await beat.call(owner.log, ...values);
      isBeaten = true;
      return is;
    };
    await owner.append("one").then(() => expect(isBeaten).toBe(true));
    expect(owner.log.calls).toEqual({ append: 2, claim: 1, beat: 3, publish: 0, trim: 0 });
  });

  test("that was executed late, before another process has claimed the shard, is not acknowledged", async () => {
    const owner = await ShardOwner.claimed();
    const spare = new ShardOwner(owner.log.data);
    owner.log.outcome = () => "late";
    const appended = owner.append("one");
    while (owner.log.late === 0) await later();
    owner.log.stop();
    owner.log.executeLate();
    await spare.claim(OTHER);
    plan(owner);
    owner.log.resume();
    expect(await resolves(appended)).toBe(false);
    expect(owner.ends).toMatchObject([{ kind: "deposed" }]);
  });
});

test("the engine is asked again after small growing pauses, as long as it is away", async () => {
  const owner = await ShardOwner.claimed();
  owner.log.isAway = true;
  const appended = owner.append("one");
  while (owner.pauses.length < 200) await later();
  expect(owner.appender.waitingSinceMs).toBe(10_000);
  expect(String(owner.appender.error)).toContain("the engine is away");
  owner.log.isAway = false;
  await appended;
  expect([owner.appender.waitingSinceMs, owner.appender.error]).toEqual([null, null]);
  expect(owner.pauses[0]).toBe(APPEND_PAUSE_MIN_MS);
  expect(owner.pauses.slice(1).every((ms, i) => ms === Math.min(2 * owner.pauses[i]!, APPEND_PAUSE_MAX_MS))).toBe(true);
  expect(turns(owner.log.data)).toEqual([[2, "one"]]);
});

test("only one write is under way at a time, in the order in which they were asked for", async () => {
  const owner = await ShardOwner.claimed();
  owner.log.stop();
  const all = Promise.all([owner.append("one"), owner.appender.beat(), owner.append("two")]);
  await later();
  expect(owner.log.waiting).toBe(1);
  owner.log.resume();
  await all;
  expect(turns(owner.log.data)).toEqual([
    [2, "one"],
    [3, "two"],
  ]);
});

/** So short that a turn has several records. */
const RECORD_BYTES_MAX = RECORD_HEAD_BYTES + 80;
const PARTS = ["1".repeat(80), "2".repeat(80), "3"] as const;

describe("a turn above the length of a record", () => {
  test("is several records, and is not acknowledged before the last one is stored", async () => {
    const owner = await ShardOwner.claimed(RECORD_BYTES_MAX);
    plan(owner, "done", "done", "lost");
    const appended = owner.append(PARTS.join(""));
    while (turns(owner.log.data).length < 2) await later();
    owner.log.isAway = true;
    expect(await resolves(appended)).toBe(false);
    owner.log.isAway = false;
    await appended;
    const records = [...owner.log.data.records().values()].slice(1).map((bytes) => decodeRecord(bytes));
    expect(records.map(({ part, parts, body }) => [part, parts, body.toString()])).toEqual([
      [1, 3, PARTS[0]],
      [2, 3, PARTS[1]],
      [3, 3, PARTS[2]],
    ]);
  });

  test("is not acknowledged when another process claims the shard between its parts", async () => {
    const owner = await ShardOwner.claimed(RECORD_BYTES_MAX);
    const spare = new ShardOwner(owner.log.data);
    owner.log.outcome = () => (turns(owner.log.data).length < 2 ? "done" : "lost");
    const appended = owner.append(PARTS.join(""));
    while (turns(owner.log.data).length < 2) await later();
    await spare.claim(OTHER);
    plan(owner);
    expect(await resolves(appended)).toBe(false);
    expect(owner.ends).toMatchObject([{ kind: "deposed" }]);
  });
});

describe("the ownership ends, nothing more is written and no promise resolves", () => {
  test("when another process has claimed the shard", async () => {
    const owner = await ShardOwner.claimed();
    await new ShardOwner(owner.log.data).claim(OTHER);
    const writes = [owner.append("one"), owner.append("two"), owner.appender.beat()];
    expect(await Promise.all(writes.map(resolves))).toEqual([false, false, false]);
    expect(turns(owner.log.data)).toEqual([]);
    expect(owner.ends).toHaveLength(1);
    expect(owner.ends[0]).toMatchObject({ kind: "deposed" });
    expect(owner.ends[0]!.message).toStartWith("another process (10.0.0.2:6010) owns shard 0 now: ");
  });

  test("when a beat is refused", async () => {
    const owner = await ShardOwner.claimed();
    await new ShardOwner(owner.log.data).claim(OTHER);
    expect(await resolves(owner.appender.beat())).toBe(false);
    expect(owner.ends).toMatchObject([{ kind: "deposed" }]);
  });

  test("when a beat is refused some records after an append whose answer was lost", async () => {
    const owner = await ShardOwner.claimed();
    plan(owner, "answer lost");
    for (const text of ["one", "two", "three"]) await owner.append(text);
    await new ShardOwner(owner.log.data).claim(OTHER);
    expect(await resolves(owner.appender.beat())).toBe(false);
    expect(owner.ends).toMatchObject([{ kind: "deposed" }]);
  });

  test("when another owner has trimmed the record that decides", async () => {
    const owner = await ShardOwner.claimed();
    const spare = new ShardOwner(owner.log.data);
    await spare.claim(OTHER);
    const label = { epoch: 2, sequence: 2 };
    await spare.log.publishSnapshot(0, label, (async function* () {})());
    await spare.log.trim(0);
    expect(await resolves(owner.append("one"))).toBe(false);
    expect(owner.ends).toMatchObject([{ kind: "deposed" }]);
  });

  test("when the engine has lost records, found by an append", async () => {
    const owner = await ShardOwner.claimed();
    await owner.append("one");
    owner.log.data.lose(1);
    expect(await resolves(owner.append("two"))).toBe(false);
    expect(turns(owner.log.data)).toEqual([]);
    expect(owner.ends).toMatchObject([{ kind: "behind" }]);
    expect(owner.ends[0]!.message).toStartWith(
      "the engine has lost records of shard 0: its last one is 1, and 2 was acknowledged; ",
    );
  });

  test("when the engine has lost records, found by a check although beats succeed", async () => {
    const owner = await ShardOwner.claimed();
    await owner.append("one");
    await owner.appender.check();
    owner.log.data.lose(1);
    await owner.appender.beat();
    expect(await resolves(owner.appender.check())).toBe(false);
    expect(owner.ends).toMatchObject([{ kind: "behind" }]);
  });

  test("when the engine has lost records, and does not say more than its refusal", async () => {
    const owner = await ShardOwner.claimed();
    await owner.append("one");
    owner.log.data.lose(1);
    owner.log.state = () => Promise.reject(new Error("the engine is away"));
    expect(await resolves(owner.append("two"))).toBe(false);
    expect(owner.ends).toMatchObject([{ kind: "behind" }]);
  });

  test("when the engine has lost the claim, found by a beat", async () => {
    const owner = await ShardOwner.claimed();
    owner.log.data.lose(0);
    owner.log.data.shards[0]!.epoch = 0;
    expect(await resolves(owner.appender.beat())).toBe(false);
    expect(owner.ends).toMatchObject([{ kind: "behind" }]);
  });

  test("when the engine says that repeating cannot help", async () => {
    const owner = await ShardOwner.claimed();
    owner.log.outcome = () => {
      throw new ClusterError("no permission");
    };
    expect(await resolves(owner.append("one"))).toBe(false);
    expect(owner.ends).toEqual([{ kind: "refused", message: "no permission" }]);
  });
});

describe("the ownership is proven", () => {
  test("for OWNERSHIP_PROVEN_MS after the begin of an acknowledged write", async () => {
    const owner = await ShardOwner.claimed();
    const check = (): void => {
      owner.clockMs += OWNERSHIP_PROVEN_MS;
      expect(owner.appender.isProven).toBe(true);
      owner.clockMs++;
      expect(owner.appender.isProven).toBe(false);
    };
    check();
    await owner.append("one");
    check();
    await owner.appender.beat();
    check();
  });

  test("not by a write that took longer than that", async () => {
    const owner = await ShardOwner.claimed();
    owner.log.stop();
    const appended = owner.append("one");
    await later();
    owner.clockMs += OWNERSHIP_PROVEN_MS + 1;
    owner.log.resume();
    await appended;
    expect(owner.appender.isProven).toBe(false);
  });

  test("not by a repetition that only finds the record", async () => {
    const owner = await ShardOwner.claimed();
    owner.clockMs += OWNERSHIP_PROVEN_MS + 1;
    plan(owner, "answer lost", "done", "lost");
    const appended = owner.append("one");
    while (owner.log.calls.beat === 0) await later();
    expect(owner.appender.isProven).toBe(false);
    await appended;
    expect(owner.appender.isProven).toBe(true);
  });
});

test("a release empties the address after the last record", async () => {
  const owner = await ShardOwner.claimed();
  void owner.append("one");
  await owner.appender.beat({ ...INFO, address: "" });
  expect(await owner.log.state(0)).toMatchObject({ head: 2, owner: { address: "" } });
});

test.each(seedsFor("what owners acknowledge is in the log, and nothing follows the record that deposed them", 60))(
  "what owners acknowledge is in the log, and nothing follows the record that deposed them; seed %i",
  async (seed) => {
    const random = new Random(seed);
    const first = new ShardOwner(undefined, RECORD_BYTES_MAX);
    const { data } = first.log;
    const owners: ShardOwner[] = [];
    const acknowledged: string[] = [];
    for (let round = 0; round < 6; round++) {
      const owner = round === 0 ? first : new ShardOwner(data, RECORD_BYTES_MAX);
      owner.log.outcome = () => {
        if (random.oneIn(3)) random.pick([owner, ...owners]).log.executeLate();
        return random.oneIn(2) ? "done" : random.pick(OUTCOMES);
      };
      if (!(await owner.claim())) continue;
      owners.push(owner);
      for (const each of owners) {
        for (let i = random.below(6); i > 0; i--) {
          const text = `${round} ${i} ${"x".repeat(random.below(250))}`;
          void each.append(text).then(() => acknowledged.push(text));
        }
      }
      for (let i = random.below(40); i > 0; i--) await later();
    }
    for (let i = 0; i < 400; i++) await later();
    for (const { log } of owners) log.executeLate();

    let epochOwner = "";
    let body = "";
    const stored: string[] = [];
    for (let sequence = 1; sequence <= data.shards[0]!.head; sequence++) {
      const record = decodeRecord(data.records().get(sequence)!);
      const by = record.owner.toString("hex");
      if (record.kind === RecordKind.Opened) epochOwner = by;
      expect(by).toBe(epochOwner);
      if (record.kind === RecordKind.Opened || record.part === 1) body = "";
      if (record.kind === RecordKind.Turn) body += record.body.toString();
      if (record.kind === RecordKind.Turn && record.part === record.parts) stored.push(body);
    }
    expect(acknowledged.length).toBeGreaterThan(0);
    expect(new Set(stored).size).toBe(stored.length);
    expect(stored.filter((text) => acknowledged.includes(text))).toEqual(acknowledged);
    expect(owners.slice(0, -1).every(({ ends }) => ends.every(({ kind }) => kind === "deposed"))).toBe(true);
    expect(owners.at(-1)!.ends).toEqual([]);
  },
);
