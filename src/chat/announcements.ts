/**
 * Lines for everybody: broadcasts, and the events `joined` and `left`. It decides who receives them; the broadcast
 * group has the bytes.
 */
import { encode } from "../protocol/ascii.ts";
import { BroadcastGroup } from "../stream/broadcast-group.ts";
import type { Turn } from "../stream/turn.ts";
import type { Presence } from "./presence.ts";
import type { Account } from "./session.ts";

export class Announcements {
  readonly group: BroadcastGroup;
  /** Receives every line that begins at this server; the other shards of a cluster get it there. */
  toNeighbours: (head: Uint8Array, bytes: Uint8Array, start: number, end: number) => void = () => {};
  /** Broadcasts of this turn are in the log but not yet in the outboxes. */
  #isDue = false;
  readonly #presence: Presence;

  constructor(turn: Turn, presence: Presence) {
    this.group = new BroadcastGroup(turn);
    this.#presence = presence;
  }

  /**
   * Broadcasts to all online users except the sender, who is a user of this shard, and users who blocked the sender.
   * Returns their number.
   */
  broadcast(from: Account, bytes: Uint8Array, start: number, end: number): number {
    const skipped = this.relayBroadcast(from, bytes, start, end);
    this.toNeighbours(from.broadcastHead, bytes, start, end);
    return this.#presence.count - skipped;
  }

  /** A broadcast to the users of this shard. Returns how many online users of the cluster do not receive it. */
  relayBroadcast(from: Account, bytes: Uint8Array, start: number, end: number): number {
    this.#isDue = true;
    return this.#toAll(from, from.blockedBy, from.broadcastHead, bytes, start, end);
  }

  /** `joined` and `left` of a user of this shard go to all except users whom that user has blocked, with a delay. */
  presence(about: Account, line: string): void {
    const bytes = encode(line);
    this.#toAll(about, about.blocks, bytes, bytes, 0, 0);
    this.toNeighbours(bytes, bytes, 0, 0);
  }

  /** The same to the users of this shard, about a user of another one. */
  relayPresence(about: Account, line: string): void {
    const bytes = encode(line);
    this.#toAll(about, about.blocks, bytes, bytes, 0, 0);
  }

  /** Appends a line to the log, which some users do not receive; returns how many of those are online. */
  #toAll(
    by: Account,
    others: ReadonlySet<Account>,
    head: Uint8Array,
    bytes: Uint8Array,
    start: number,
    end: number,
  ): number {
    let skipped = 0;
    by.session?.outbox.follow();
    for (const { session } of others) session?.outbox.follow();
    this.group.log.append(head, bytes, start, end);
    for (const { session, isElsewhere } of others) {
      if (session !== null) session.outbox.skip();
      else if (!isElsewhere) continue;
      skipped++;
    }
    if (by.session === null) return skipped;
    by.session.outbox.skip();
    return skipped + 1;
  }

  /** At the end of a turn: broadcasts enter the outboxes, and delayed presence with them; presence alone waits. */
  turnEnds(): void {
    if (this.#isDue) this.flush();
  }

  /** Broadcasts and presence enter the outboxes. */
  flush(): void {
    this.#isDue = false;
    this.group.announce();
  }
}
