import { afterEach, describe, test } from "bun:test";
import { ForeignRequests } from "../../src/chat/foreign-requests.ts";
import { Account } from "../../src/chat/session.ts";
import { SharedJournal } from "../../src/cluster/shared-journal.ts";
import { Store } from "../../src/storage/store.ts";
import { type Break, without } from "../simulation/broken-rule.ts";
import { removeFolders } from "../support/folders.ts";
import { seedsFor } from "../support/random.ts";
import { runTwoShards } from "../support/two-shards-run.ts";

afterEach(removeFolders);

describe("accepted messages arrive once and in order, and refused ones never, whatever fails", () => {
  test.each(seedsFor("two shards", 6))("seed %d", (seed) => runTwoShards(seed), 60_000);
});

/** Each rule of docs/architecture.md, Several shards, without the code that keeps it. */
const RULES: Record<string, Break> = {
  "nothing leaves a shard before it is recorded": without(
    SharedJournal.prototype,
    "sync",
    (sync) =>
      function (this: SharedJournal) {
        void sync.call(this);
        return Promise.resolve();
      },
  ),
  "the position of a client is recorded together with what it has requested": without(
    Store.prototype,
    "received",
    () => () => 0,
  ),
  "an outcome is recorded together with the effect": without(
    Store.prototype,
    "heard",
    () =>
      function (this: Store, shard, number, reply) {
        this.outcomes(shard).add(number, reply);
      },
  ),
  "a request that was acted on is not acted on again": without(
    ForeignRequests.prototype,
    "receive",
    (receive) =>
      function (this: ForeignRequests, shard, from, number, previous, bytes, start, end) {
        const repeated = number <= this.heard(shard);
        return receive.call(
          this,
          shard,
          from,
          repeated ? this.heard(shard) + 1 : number,
          repeated ? this.heard(shard) : previous,
          bytes,
          start,
          end,
        );
      },
  ),
  "an outcome is kept until it is answered": without(
    Store.prototype,
    "heard",
    (heard) =>
      function (this: Store, shard, number, reply) {
        heard.call(this, shard, number, reply);
        this.outcomes(shard).forget(number);
      },
  ),
  "the shard of the recipient decides whether a message is blocked": without(
    Account.prototype,
    "block",
    (block) =>
      function (this: Account, other) {
        if (this.neighbour === null && other.neighbour !== null) return;
        block.call(this, other);
      },
  ),
};

describe("a run fails when this rule is broken:", () => {
  const seeds = seedsFor("rules of two shards", 200);
  test.each(Object.entries(RULES))(
    "%s",
    async (_, { apply }) => {
      const restore = apply!();
      try {
        for (const seed of seeds) {
          const isFound = await runTwoShards(seed).then(
            () => false,
            () => true,
          );
          if (isFound) return;
        }
      } finally {
        restore();
      }
      throw new Error(`none of ${seeds.length} seeds finds it`);
    },
    120_000,
  );
});
