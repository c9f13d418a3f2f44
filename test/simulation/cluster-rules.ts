import { Appender } from "../../src/cluster/appender.ts";
import { RecordKind, decodeRecord, encodeRecord } from "../../src/cluster/log-record.ts";
import { Watch } from "../../src/cluster/ownership.ts";
import { SharedJournal } from "../../src/cluster/shared-journal.ts";
import { ClusterError } from "../../src/cluster/shared-log.ts";
import { type Break, without } from "./broken-rule.ts";
import type { WatchedEngine } from "./cluster-log.ts";
import { type ClusterRules, ClusterSimulation } from "./cluster.ts";

type Shard = WatchedEngine["shards"][number];

/** Replaces a method of the engine. */
function engineWithout<K extends "append" | "claim" | "publish" | "trim">(
  name: K,
  make: (shard: Shard, original: Shard[K], engine: WatchedEngine) => Shard[K],
): ClusterRules {
  return {
    engine: (engine) => {
      const shard = engine.shards[0]!;
      shard[name] = make(shard, shard[name].bind(shard) as Shard[K], engine);
    },
  };
}

const alwaysProven: Break = {
  apply: () => {
    const own = Object.getOwnPropertyDescriptor(Appender.prototype, "isProven")!;
    Object.defineProperty(Appender.prototype, "isProven", { ...own, get: () => true });
    return () => Object.defineProperty(Appender.prototype, "isProven", own);
  },
};

/** By the rule that is broken. */
export type BrokenRules = Record<string, Pick<Break, "apply"> & ClusterRules>;

/** These show within a few seeds. */
export const RULES: BrokenRules = {
  "a record whose outcome is unknown is appended again": {
    log: (log) => {
      const append = log.append.bind(log);
      log.append = (...values) =>
        append(...values).catch((error: unknown) => {
          if (error instanceof ClusterError) throw error;
          return { stored: true };
        });
    },
  },
  "after a refusal the record decides, and not the head": {
    log: (log) => {
      const append = log.append.bind(log);
      log.append = async (shard, expected, record) => {
        const result = await append(shard, expected, record);
        return !result.stored && result.head > expected ? { stored: true } : result;
      };
    },
  },
  "a turn is answered after its last record": without(Appender.prototype, "append", (append) => {
    return function (this: Appender, records) {
      const first = append.call(this, records.slice(0, 1));
      if (records.length > 1) void append.call(this, records.slice(1));
      return first;
    };
  }),
  "a reply waits for the record of its own turn": without(SharedJournal.prototype, "sync", (sync) => {
    const before = new WeakMap<SharedJournal, Promise<void>>();
    return function (this: SharedJournal) {
      const last = before.get(this) ?? Promise.resolve();
      before.set(this, sync.call(this));
      return last;
    };
  }),
  "an owner that has no recent proof of that replies to nothing": alwaysProven,
  "a claim is compared with the head": engineWithout("claim", (shard, claim) => {
    return (_expected, record, info) => claim(shard.head, record, info);
  }),
  "no record after the snapshot is trimmed": engineWithout("trim", (shard) => () => {
    for (const sequence of shard.records.keys()) if (sequence <= shard.head) shard.records.delete(sequence);
  }),
  "a spare claims the shard after three seconds of silence": without(Watch.prototype, "read", (read) => {
    return function (this: Watch, ...args) {
      read.apply(this, args);
      return "claim";
    };
  }),
};

/** These show within some hundred seeds. */
export const RARE_RULES: BrokenRules = {
  "an append is compared with the head, and not only with the epoch": engineWithout(
    "append",
    (shard, append, engine) => (expected, record) => {
      const { kind, owner } = decodeRecord(record);
      if (kind === RecordKind.Opened) return append(expected, record);
      return owner.equals(engine.owners[0]!) ? append(shard.head, record) : { stored: false, head: shard.head };
    },
  ),
  "an append is compared with the head, and not with the numbers that are taken: trimmed ones are free": {
    harsh: true,
    ...engineWithout("append", (shard, append) => (expected, record) => {
      const { head } = shard;
      if (expected >= head || shard.records.has(expected + 1)) return append(expected, record);
      shard.head = expected;
      const result = append(expected, record);
      shard.head = head;
      return result;
    }),
  },
  "a turn that is cut by an `Opened` is not replayed": {
    harsh: true,
    log: (log) => {
      const read = log.read.bind(log);
      log.read = async function* (...values) {
        let last: { sequence: number; record: Uint8Array } | null = null;
        for await (const next of read(...values)) {
          if (last !== null && decodeRecord(next.record).kind === RecordKind.Opened) last.record = ended(last.record);
          if (last !== null) yield last;
          last = next;
        }
        if (last !== null) yield last;
      };
    },
  },
  "a snapshot does not replace a newer one": {
    harsh: true,
    ...engineWithout("publish", (shard) => (snapshot) => {
      shard.snapshot = snapshot;
      return true;
    }),
  },
};

/** A part of a turn becomes its last one. */
function ended(record: Uint8Array): Uint8Array {
  const { kind, owner, counter, part, body } = decodeRecord(record);
  return kind === RecordKind.Turn ? encodeRecord({ kind, owner, counter, part, parts: part, body }) : record;
}

/** Whether one of these seeds fails while the rule is broken. */
export async function isFound({ apply, ...rules }: BrokenRules[string], seeds: readonly number[]): Promise<boolean> {
  const restore = apply?.();
  try {
    for (const seed of seeds) {
      try {
        await new ClusterSimulation(seed, null, rules).run();
      } catch (error) {
        if (process.env.SEEDS !== undefined) console.log(`SEED=${seed}: ${String(error)}`);
        return true;
      }
    }
    return false;
  } finally {
    restore?.();
  }
}
