import { describe, expect, test } from "bun:test";
import { Lookout, SILENCE_MS, WATCH_MS, Watch, isBeatDue, isEngineAway } from "../../src/cluster/ownership.ts";
import { ClusterError, LostRecordsError, type OwnerInfo, type ShardState } from "../../src/cluster/shared-log.ts";
import { ModelledEngine, ModelledLog } from "../support/modelled-log.ts";

const INFO: OwnerInfo = { address: "10.0.0.1:6010", version: "1.0.0", credentials: "aa" };
const OPENED = Buffer.from("opened");

/** A spare under a hand-moved clock: each sleep moves it on, and then `happens` may change the engine. */
class World {
  readonly log: ModelledLog;
  readonly happened: string[] = [];
  nowMs = 1_000;
  claimedMs: number | null = null;
  claimed: number | null = null;
  /** Called after each read with the time since the beginning. */
  happens: (ms: number) => void = () => {};
  onOwner: (info: OwnerInfo) => void = ({ credentials }) => void this.happened.push(`owner ${credentials}`);
  /** Where it begins with its claims, from 0 to 1. */
  chance = 0;
  lookout: Lookout | null = null;

  constructor(shards = 1) {
    this.log = new ModelledLog(new ModelledEngine(shards));
  }

  get engine(): ModelledLog["data"]["shards"][number] {
    return this.log.data.shards[0]!;
  }

  /** Another process owns the shards. */
  owned(info = INFO): this {
    for (const shard of this.log.data.shards) shard.claim(0, OPENED, info);
    return this;
  }

  async standBy(untilMs = 60_000): Promise<void> {
    const signal = { aborted: false };
    const claim = async (shard: number, { head }: ShardState): Promise<number | null> => {
      const { stored } = await this.log.claim(shard, head, OPENED, { ...INFO, address: "10.0.0.2:6010" });
      if (!stored) this.happened.push("refused");
      return stored ? shard : null;
    };
    const clock = {
      nowMs: () => this.nowMs,
      sleep: async (ms: number) => {
        this.nowMs += ms;
        if (this.nowMs >= 1_000 + untilMs) signal.aborted = true;
        this.happens(this.nowMs - 1_000);
      },
    };
    const events = {
      engineAway: () => void this.happened.push("away"),
      engineBack: () => void this.happened.push("back"),
      owner: (info: OwnerInfo) => this.onOwner(info),
    };
    this.lookout = new Lookout(this.log, events, clock, this.chance);
    this.claimed = await this.lookout.standBy(claim, signal);
    this.claimedMs = this.claimed === null ? null : this.nowMs - 1_000;
  }
}

test("a shard that never had an owner is claimed at once", async () => {
  const world = new World();
  await world.standBy();
  expect(world.claimedMs).toBe(0);
  expect(world.engine.state).toMatchObject({ head: 1, epoch: 1, owner: { address: "10.0.0.2:6010" } });
});

test("an owner that beats each second keeps the shard", async () => {
  const world = new World().owned();
  world.happens = (ms) => {
    if (ms % 1_000 === 0) world.engine.signOfLife(1, INFO);
  };
  await world.standBy(30_000);
  expect(world.claimedMs).toBeNull();
});

test("an owner that appends and does not beat keeps the shard", async () => {
  const world = new World().owned();
  world.happens = (ms) => {
    if (ms % 1_000 === 0) world.engine.append(world.engine.head, OPENED);
  };
  await world.standBy(30_000);
  expect(world.claimedMs).toBeNull();
});

test("a shard whose owner is silent for 3 seconds is claimed", async () => {
  const world = new World().owned();
  world.happens = (ms) => {
    if (ms === 2_000) world.engine.signOfLife(1, INFO);
  };
  await world.standBy();
  expect(world.claimedMs).toBe(2_000 + SILENCE_MS);
  expect(world.engine.epoch).toBe(2);
});

test("a shard that its owner has released is claimed at the next read", async () => {
  const world = new World().owned();
  world.happens = (ms) => {
    if (ms === 1_000) world.engine.signOfLife(1, { ...INFO, address: "" });
  };
  await world.standBy();
  expect(world.claimedMs).toBe(1_000);
});

test("the 3 seconds begin anew after an outage of the engine, which is reported once", async () => {
  const world = new World().owned();
  world.happens = (ms) => void (world.log.isAway = ms >= 2_000 && ms < 10_000);
  await world.standBy();
  expect(world.claimedMs).toBe(10_000 + SILENCE_MS);
  expect(world.happened).toEqual(["away", "back"]);
});

test("one failed read makes the 3 seconds begin anew", async () => {
  const world = new World().owned();
  world.happens = (ms) => void (world.log.isAway = ms === 2_000);
  await world.standBy();
  expect(world.claimedMs).toBe(2_000 + WATCH_MS + SILENCE_MS);
});

test("after an outage the owner that comes back with the engine keeps the shard", async () => {
  const world = new World().owned();
  world.happens = (ms) => {
    world.log.isAway = ms >= 1_000 && ms < 10_000;
    if (ms % 2_500 === 0 && !world.log.isAway) world.engine.signOfLife(1, INFO);
  };
  await world.standBy(40_000);
  expect(world.claimedMs).toBeNull();
});

test("a spare that was paused judges only by what it reads afterwards", async () => {
  const world = new World().owned();
  let isPaused = false;
  world.happens = (ms) => {
    if (ms === 500 && !isPaused) {
      isPaused = true;
      world.nowMs += 8_000; // SIGSTOP; the owner is well, and its next beat is about to come.
    } else if (ms % 1_000 === 0) world.engine.signOfLife(1, INFO);
  };
  await world.standBy(30_000);
  expect(isPaused).toBe(true);
  expect(world.claimedMs).toBeNull();
});

test("a read that takes long proves no silence", () => {
  const watch = new Watch(0);
  const state: ShardState = { head: 1, epoch: 1, owner: INFO, beat: 1, snapshot: 0 };
  expect(watch.read(state, 0, 10)).toBe("unknown");
  expect(watch.read(state, 20, 4_000)).toBe("unknown");
  for (let ms = 4_250; ms < 7_000; ms += WATCH_MS) expect(watch.read(state, ms, ms)).toBe("unknown");
  expect(watch.read(state, 7_000, 7_000)).toBe("claim");
});

test("a refused claim goes on watching, and the other claimer keeps the shard while it is alive", async () => {
  const world = new World().owned();
  world.happens = (ms) => {
    if (ms === SILENCE_MS - WATCH_MS) world.log.readStale();
    if (ms === SILENCE_MS) world.engine.claim(1, OPENED, { ...INFO, credentials: "bb" });
    if (ms === SILENCE_MS + WATCH_MS) world.log.readFresh();
    if (ms % 1_000 === 0 && ms > SILENCE_MS) world.engine.signOfLife(2, { ...INFO, credentials: "bb" });
  };
  await world.standBy(30_000);
  expect(world.claimedMs).toBeNull();
  expect(world.happened).toEqual(["refused", "owner bb"]);
  expect(world.engine.epoch).toBe(2);
});

describe("of several shards", () => {
  /** The owners of these shards beat. */
  function beating(world: World, ...shards: number[]): (ms: number) => void {
    return (ms) => {
      if (ms % 1_000 !== 0) return;
      for (const shard of shards) world.log.data.shards[shard]!.signOfLife(1, INFO);
    };
  }

  test("the one whose owner is silent is claimed, and only that one", async () => {
    const world = new World(3).owned();
    world.happens = beating(world, 0, 2);
    await world.standBy();
    expect([world.claimed, world.claimedMs]).toEqual([1, SILENCE_MS]);
    expect(world.log.data.shards.map(({ epoch }) => epoch)).toEqual([1, 2, 1]);
  });

  test("a free one is claimed at once, whatever the others do", async () => {
    const world = new World(3).owned();
    world.log.data.shards[2]!.signOfLife(1, { ...INFO, address: "" });
    await world.standBy();
    expect([world.claimed, world.claimedMs]).toEqual([2, 0]);
  });

  test("one is claimed, although all are free; where it begins is left to chance", async () => {
    for (const [chance, shard] of [
      [0, 0],
      [0.4, 1],
      [0.99, 2],
    ]) {
      const world = new World(3);
      world.chance = chance!;
      await world.standBy();
      expect(world.claimed).toBe(shard!);
      expect(world.log.data.shards.filter(({ epoch }) => epoch > 0)).toHaveLength(1);
    }
  });

  test("who loses the compare of one claims the next one", async () => {
    const world = new World(3);
    world.log.readStale();
    world.log.data.shards[0]!.claim(0, OPENED, INFO);
    await world.standBy();
    expect([world.claimed, world.claimedMs]).toEqual([1, 0]);
    expect(world.happened).toEqual(["refused"]);
  });

  test("who loses all of them goes on watching, and claims the first that becomes free", async () => {
    const world = new World(3);
    world.log.readStale();
    for (const shard of world.log.data.shards) shard.claim(0, OPENED, INFO);
    const beat = beating(world, 0, 1, 2);
    world.happens = (ms) => {
      if (ms === WATCH_MS) world.log.readFresh();
      if (ms < 10_000) beat(ms);
      else world.log.data.shards[1]!.signOfLife(1, { ...INFO, address: "" });
    };
    await world.standBy();
    expect([world.claimed, world.claimedMs]).toEqual([1, 10_000]);
    expect(world.happened.filter((each) => each === "refused")).toHaveLength(3);
  });

  test("after a claim that took long the others are read again first", async () => {
    const world = new World(2);
    world.log.readStale();
    world.log.data.shards[0]!.claim(0, OPENED, INFO);
    world.log.outcome = () => {
      world.nowMs += WATCH_MS;
      return "done";
    };
    world.happens = () => world.log.readFresh();
    await world.standBy();
    expect([world.claimed, world.happened]).toEqual([1, ["refused", "owner aa"]]);
    expect(world.claimedMs).toBeGreaterThan(0);
  });

  test("the owners are compared one by one", async () => {
    const world = new World(2).owned();
    world.onOwner = ({ address }) => void world.happened.push(address);
    world.happens = (ms) => {
      if (ms % 1_000 !== 0) return;
      world.log.data.shards[0]!.signOfLife(1, INFO);
      world.log.data.shards[1]!.signOfLife(1, { ...INFO, address: "10.0.0.3:6010" });
    };
    await world.standBy(5_000);
    expect(world.happened).toEqual(["10.0.0.1:6010", "10.0.0.3:6010"]);
  });

  test("an owner goes on reading them, and an outage of the engine does not end that", async () => {
    const world = new World(2).owned();
    const signal = { aborted: false };
    const heads: (number | undefined)[] = [];
    const clock = {
      nowMs: () => world.nowMs,
      sleep: async (ms: number) => {
        world.nowMs += ms;
        world.log.isAway = heads.length === 2 && world.nowMs < 20_000;
        world.log.data.shards[1]!.append(heads.length, OPENED);
        signal.aborted = heads.length === 4;
      },
    };
    const read = (): void => void heads.push(lookout.watches[1]!.state?.head);
    const lookout = new Lookout(world.log, { read }, clock);
    await lookout.follow(signal);
    expect(heads).toEqual([1, 2, 3, 4]);
  });
});

test("only an owner that gives a sign of life is compared, and again when its information changes", async () => {
  const world = new World().owned();
  world.happens = (ms) => {
    if (ms === 1_000 || ms === 2_000) world.engine.signOfLife(1, INFO);
    if (ms === 3_000) world.engine.signOfLife(1, { ...INFO, credentials: "bb" });
  };
  await world.standBy(5_000);
  expect(world.happened).toEqual(["owner aa", "owner bb"]);
});

test("a spare does not take over a log that has lost records", async () => {
  const world = new World().owned();
  world.engine.append(1, OPENED);
  world.happens = (ms) => {
    if (ms === 1_000) world.log.data.lose(1);
  };
  const refused = world.standBy();
  await expect(refused).rejects.toThrow("its last one is 1, and 2 was acknowledged");
  await expect(refused).rejects.toBeInstanceOf(LostRecordsError);
  expect(world.nowMs).toBeGreaterThanOrEqual(1_000 + SILENCE_MS);
  expect(world.engine.head).toBe(1);
});

test("an error that an operator must solve ends the watch", async () => {
  const world = new World().owned();
  world.onOwner = () => {
    throw new ClusterError("other credentials");
  };
  world.happens = () => void world.engine.signOfLife(1, INFO);
  await expect(world.standBy()).rejects.toThrow("other credentials");
});

test("a beat is due after a second without a write, and not while one is on its way", () => {
  const beat = async (): Promise<void> => {};
  expect(isBeatDue({ waitingSinceMs: null, provenMs: 1_000, beat }, 1_999)).toBe(false);
  expect(isBeatDue({ waitingSinceMs: null, provenMs: 1_000, beat }, 2_000)).toBe(true);
  expect(isBeatDue({ waitingSinceMs: 1_500, provenMs: 1_000, beat }, 9_000)).toBe(false);
});

test("the engine is away when a write has no answer for 2 seconds", () => {
  const beat = async (): Promise<void> => {};
  expect(isEngineAway({ waitingSinceMs: null, provenMs: 0, beat }, 9_000)).toBe(false);
  expect(isEngineAway({ waitingSinceMs: 1_000, provenMs: 0, beat }, 2_999)).toBe(false);
  expect(isEngineAway({ waitingSinceMs: 1_000, provenMs: 0, beat }, 3_000)).toBe(true);
});
