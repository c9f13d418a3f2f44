import { ForeignRequests } from "../../src/chat/foreign-requests.ts";
import { NeighbourPresence } from "../../src/chat/neighbour-presence.ts";
import { ReplySlots } from "../../src/chat/reply-slots.ts";
import { Account } from "../../src/chat/session.ts";
import { NeighbourLink } from "../../src/net/neighbour-link.ts";
import { Store } from "../../src/storage/store.ts";
import { without } from "./broken-rule.ts";
import type { BrokenRules } from "./cluster-rules.ts";
import { SHARDS } from "./cluster.ts";

const shards = SHARDS;

/** Rules of requests between shards. These show within a few seeds. */
export const SHARD_RULES: BrokenRules = {
  "a request that was heard is not acted on again": {
    shards,
    ...without(ForeignRequests.prototype, "receive", (receive) => {
      return function (this: ForeignRequests, shard, from, number, previous, ...line) {
        const heard = this.heard(shard);
        if (number > heard) return receive.call(this, shard, from, number, previous, ...line);
        return receive.call(this, shard, from, heard + 1, heard, ...line);
      };
    }),
  },
  "what was heard is durable together with its effect": {
    shards,
    ...without(Store.prototype, "heard", () => {
      return function (this: Store, shard, number, reply) {
        this.outcomes(shard).add(number, reply);
      };
    }),
  },
  "the numbers of forwarded requests are a chain, also after a crash": {
    shards,
    ...without(Store.prototype, "lastStored", () => () => 0),
  },
  "an outcome is kept until the neighbour has answered it": {
    shards,
    ...without(ForeignRequests.prototype, "receive", (receive) => {
      return function (this: ForeignRequests, shard, from, number, ...line) {
        const outcome = receive.call(this, shard, from, number, ...line);
        if (typeof outcome !== "string") this.answered(shard, number);
        return outcome;
      };
    }),
  },
  "the replies of a session leave in the order of its requests": {
    shards,
    ...without(ReplySlots.prototype, "append", () => {
      return function (this: ReplySlots, line) {
        this.out.append(line);
      };
    }),
  },
  "a link on which nothing arrives is closed": {
    shards,
    ...without(NeighbourLink.prototype, "beat", () => () => {}),
  },
  "users who are not in the list of a new link are gone": {
    shards,
    ...without(NeighbourPresence.prototype, "listed", (listed) => {
      return function (this: NeighbourPresence, accounts) {
        if (accounts.length > 0) listed.call(this, accounts);
      };
    }),
  },
  "a block is known at the shard of the blocked user too": {
    shards,
    ...without(Account.prototype, "block", (block) => {
      return function (this: Account, other) {
        if (this.neighbour === null) block.call(this, other);
      };
    }),
  },
  "only messages are acted on while a reply is missing": {
    shards,
    ...without(ReplySlots.prototype, "mustWait", () => () => false),
  },
};
