import { FORWARDS_MAX, FORWARD_BYTES_MAX, NEIGHBOUR_AWAY_MS } from "../limits.ts";
import { shardOf } from "../protocol/shard.ts";
import type { TimerWheel } from "../timer-wheel.ts";
import type { Accounts } from "./accounts.ts";
import type { ReplySlots } from "./reply-slots.ts";
import { type Account, Neighbour, type Peer, type Session } from "./session.ts";
import type { ChatStore } from "./store.ts";

/** The part of the users that a server has, and how many parts there are; see docs/architecture.md. */
export interface Shards {
  home: number;
  count: number;
}

/** What it needs of the chat. */
interface Host {
  readonly accounts: Accounts;
  readonly wheel: TimerWheel;
  readonly store: ChatStore;
}

/**
 * The other shards of a cluster, as users of this one. A request of a local user that concerns a user of another shard
 * is a message to that shard (`forward`); the reply comes back with the request `outcome` on its link.
 */
export class Neighbours {
  /** By shard; undefined for this one. */
  readonly all: readonly (Neighbour | undefined)[];
  readonly #host: Host;

  /** From now on each new account belongs to a shard. */
  constructor(host: Host, { home, count }: Shards) {
    this.#host = host;
    const { accounts } = host;
    this.all = Array.from({ length: count }, (_, shard) =>
      shard === home ? undefined : new Neighbour(shard, accounts.recall(`#${shard}`)),
    );
    accounts.neighbourOf = (name) => this.all[shardOf(name, 0, name.length, count)] ?? null;
  }

  /** The shard takes requests: it has a link, and was heard of within NEIGHBOUR_AWAY_MS. */
  isReachable({ session }: Neighbour): boolean {
    return session !== null && this.#host.wheel.nowMs - session.lastActivityMs <= NEIGHBOUR_AWAY_MS;
  }

  /** It is reachable, and takes a further request. */
  accepts(neighbour: Neighbour): boolean {
    const { account, slots, slotBytes } = neighbour;
    if (!this.isReachable(neighbour)) return false;
    return slots.size + account.waiting < FORWARDS_MAX && slotBytes + account.waitingBytes < FORWARD_BYTES_MAX;
  }

  /**
   * A link was opened, and the handshake is done: the peer becomes the session of that shard, whose owner has that
   * epoch and has heard the requests up to number `heard`. The peer gets `ok <number>`, the highest number that is known
   * to be acknowledged; or `refused <words>`, and is closed.
   */
  connected(peer: Peer, shard: number, epoch: number, heard: number): void {
    throw new Error(`not implemented: ${peer.address} ${shard} ${epoch} ${heard}`);
  }

  /** Forwards the request bytes[start..end). `accepts` was true, and the store has room. */
  forward(from: Account, to: Neighbour, slots: ReplySlots, bytes: Uint8Array, start: number, end: number): void {
    throw new Error(`not implemented: ${from.name} ${to.shard} ${slots.size} ${end - start + bytes.length}`);
  }

  /** The session of a link has ended. */
  ended(session: Session): void {
    session.account.session = null;
  }
}
