import { BROADCAST_LOG_BYTES_MAX, BROADCAST_SENDS_PER_TURN } from "../limits.ts";
import { BLOCK_BYTES, BroadcastLog } from "./broadcast-log.ts";
import type { Outbox, StreamGroup } from "./outbox.ts";
import type { Sink, Stream, Turn } from "./turn.ts";

/**
 * The streams that follow the broadcast log. A stream that has nothing else to send is a *member*: all members are
 * written together, in a loop over their sinks that neither reads nor changes their outboxes. That makes a send a sixth
 * cheaper (`npm run bench:micro -- --filter broadcast`). The positions of a member are brought up to date when they are
 * read, and when it leaves: because it has a line of its own, or because its socket did not accept everything.
 *
 * Many members are written in several turns. Until all have a piece, those that do not have it come first.
 */
export class BroadcastGroup implements StreamGroup, Stream, Sink {
  readonly log = new BroadcastLog();
  readonly sink = this;
  dirty = false;
  /** Positions in the log: how far the members were sent, and may be sent. */
  sent = 0;
  durable = 0;
  committing = 0;
  readonly #turn: Turn;
  readonly #sendsPerTurn: number;
  /** The piece that is being sent: its bytes, 0 without one, and the number of members that do not have it. */
  #pieceBytes = 0;
  #left = 0;
  /** The members come first, in the order of `#sinks`. */
  readonly #outboxes: Outbox[] = [];
  /** The sinks of the members, so that the loop does not read their outboxes. */
  readonly #sinks: Sink[] = [];

  constructor(turn: Turn, sendsPerTurn = BROADCAST_SENDS_PER_TURN) {
    this.#turn = turn;
    this.#sendsPerTurn = sendsPerTurn;
    this.log.hold(this.sent);
  }

  get end(): number {
    return this.log.followed;
  }

  add(outbox: Outbox): number {
    return this.#outboxes.push(outbox) - 1;
  }

  remove(outbox: Outbox): void {
    const last = this.#outboxes.pop()!;
    if (last !== outbox) this.#put(last, outbox.groupIndex);
  }

  /** Position in the log up to which a member was sent. */
  sentTo({ groupIndex }: Outbox): number {
    return groupIndex < this.#left ? this.sent : this.sent + this.#pieceBytes;
  }

  leave(outbox: Outbox): void {
    if (outbox.groupIndex < this.#left) this.#exchange(outbox, --this.#left);
    this.#exchange(outbox, this.#sinks.length - 1);
    this.#sinks.pop();
  }

  /** A member changes places with the one at `index`. */
  #exchange(outbox: Outbox, index: number): void {
    const { groupIndex } = outbox;
    if (groupIndex === index) return;
    const sinks = this.#sinks;
    const sink = sinks[index]!;
    sinks[index] = sinks[groupIndex]!;
    sinks[groupIndex] = sink;
    this.#put(this.#outboxes[index]!, groupIndex);
    this.#put(outbox, index);
  }

  #put(outbox: Outbox, index: number): void {
    this.#outboxes[index] = outbox;
    outbox.groupIndex = index;
  }

  /**
   * What was appended to the log becomes part of all streams. Streams with nothing else to send become members, but not
   * while a piece is being sent.
   */
  announce(): void {
    const { log, sent } = this;
    if (log.followed === log.end) return;
    const outboxes = this.#outboxes;
    for (let i = this.#sinks.length; i < outboxes.length; i++) {
      const outbox = outboxes[i]!;
      if (this.#pieceBytes === 0 && outbox.join(sent)) {
        this.#put(outboxes[this.#sinks.length]!, i);
        this.#put(outbox, this.#sinks.push(outbox.sink!) - 1);
      } else outbox.follow();
    }
    log.followed = log.end;
    if (!this.dirty) this.#turn.markDirty(this);
    log.trim();
    if (log.bytes <= BROADCAST_LOG_BYTES_MAX) return;
    const before = log.end - BROADCAST_LOG_BYTES_MAX;
    for (const outbox of outboxes) outbox.materialize(before);
  }

  flush(): void {
    const { log, durable } = this;
    const sinks = this.#sinks;
    // When broadcasts come faster than they are sent, no turn ends before they are, or the log would grow.
    let sends = durable - this.sent > BLOCK_BYTES ? Number.POSITIVE_INFINITY : this.#sendsPerTurn;
    while (this.sent < durable) {
      if (this.#pieceBytes === 0) {
        // Broadcasts of one turn leave in one send, also where two blocks of the log meet.
        this.#pieceBytes = Math.min(durable - this.sent, BLOCK_BYTES);
        this.#left = sinks.length;
      }
      const count = this.#pieceBytes;
      const { bytes, start } = log.piece(this.sent, this.sent + count);
      // From the last to the first: a member that leaves changes places with the last one that does not have the piece.
      let left = this.#left;
      for (; left > 0 && sends > 0; left--, sends--) {
        const taken = written(sinks[left - 1]!, bytes, start, count);
        if (taken === count) continue;
        this.#left = left;
        this.#outboxes[left - 1]!.fallBehind(taken);
      }
      this.#left = left;
      if (left > 0) {
        if (!this.dirty) this.#turn.markDirty(this);
        return;
      }
      log.move(this.sent, this.sent + count);
      this.sent += count;
      this.#pieceBytes = 0;
    }
  }
}

/** A fault at one sink must not affect the others: that sink is flushed afterwards, where a fault is reported. */
function written(sink: Sink, bytes: Buffer, start: number, count: number): number {
  try {
    return sink.write!(bytes, start, count);
  } catch {
    return 0;
  }
}
