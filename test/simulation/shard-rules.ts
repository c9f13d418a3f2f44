import { Chat } from "../../src/chat/chat.ts";
import { DistantQuestions } from "../../src/chat/distant-questions.ts";
import { ForeignRequests } from "../../src/chat/foreign-requests.ts";
import { NeighbourPresence } from "../../src/chat/neighbour-presence.ts";
import { ReplySlots } from "../../src/chat/reply-slots.ts";
import { Account } from "../../src/chat/session.ts";
import { Connection } from "../../src/net/connection.ts";
import { NeighbourLink } from "../../src/net/neighbour-link.ts";
import { Ending } from "../../src/server/ending.ts";
import { Store } from "../../src/storage/store.ts";
import { without } from "./broken-rule.ts";
import type { BrokenRules } from "./cluster-rules.ts";
import { SHARDS } from "./cluster.ts";

const shards = SHARDS;
/** So few that a link, if it were a user, would have more. */
const UNACKED_BYTES_MAX = 100;
const REQUESTS_PER_SECOND_MAX = 3;
/** Private chats are allowed and end all the time. */
const CALLS = { shards, verbs: ["getaddress", "private_answer", "private_answer", "alive"] } as const;

/**
 * Rules of requests between shards. These show within a few seeds. What only shows with far more requests than a seed
 * has is in test/chat/neighbours.test.ts and forwards.test.ts: the window of requests without an outcome, the share of a
 * turn, and the length of a line. That requests are read while outcomes wait is in test/net/neighbour-links.test.ts: here
 * the next link ends the wait.
 */
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
  "a link is read at any rate": {
    shards,
    requestsPerSecondMax: REQUESTS_PER_SECOND_MAX,
    ...without(Connection.prototype, "refund", (refund) => {
      return function (this: Connection) {
        if (this.session?.kind !== "link") refund.call(this);
      };
    }),
  },
  "a link is not slow": {
    shards,
    ...without(Chat.prototype, "flushed", (flushed) => {
      return function (this: Chat, session) {
        if (session.kind === "link" && session.outbox.unacked > UNACKED_BYTES_MAX) this.end(session, "slow");
        else flushed.call(this, session);
      };
    }),
  },
  "a private chat between two shards ends with their link at the shard of the asker": {
    ...CALLS,
    ...without(DistantQuestions.prototype, "linkEnded", () => () => {}),
  },
  "a private chat between two shards ends with their link at the shard of the asked user": {
    ...CALLS,
    ...without(DistantQuestions.prototype, "gone", () => () => {}),
  },
  "another session of the asker has no part in a private chat": {
    ...CALLS,
    ...without(DistantQuestions.prototype, "ended", () => () => {}),
  },
  "an owner that ends takes no further request": {
    shards,
    ...without(Connection.prototype, "suspend", () => () => {}),
  },
  "an owner that ends waits for replies of other shards": {
    shards,
    ...without(Ending.prototype, "repliesArrive", () => async () => {}),
  },
  "an owner that ends releases its shard after the last record": {
    shards,
    ...without(Ending.prototype, "lastRecord", () => async () => {}),
  },
};
