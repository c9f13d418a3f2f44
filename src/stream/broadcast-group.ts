import { BROADCAST_LOG_BYTES_MAX } from "../limits.ts";
import { BLOCK_BYTES, BroadcastLog } from "./broadcast-log.ts";
import type { Outbox, StreamGroup } from "./outbox.ts";
import type { Sink, Stream, Turn } from "./turn.ts";

/**
 * The streams that follow the broadcast log. A stream that has nothing else to send is a *member*: all members are
 * written together, in a loop over their sinks that neither reads nor changes their outboxes. That makes a send a sixth
 * cheaper (`npm run bench:micro -- --filter broadcast`). The positions of a member are brought up to date when they are
 * read, and when it leaves: because it has a line of its own, or because its socket did not accept everything.
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
  /** The members come first, in the order of `#sinks`. */
  readonly #outboxes: Outbox[] = [];
  /** The sinks of the members, so that the loop does not read their outboxes. */
  readonly #sinks: Sink[] = [];

  constructor(turn: Turn) {
    this.#turn = turn;
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

  leave(outbox: Outbox): void {
    const sink = this.#sinks.pop()!;
    const last = this.#sinks.length;
    if (outbox.groupIndex === last) return;
    this.#sinks[outbox.groupIndex] = sink;
    this.#put(this.#outboxes[last]!, outbox.groupIndex);
    this.#put(outbox, last);
  }

  #put(outbox: Outbox, index: number): void {
    this.#outboxes[index] = outbox;
    outbox.groupIndex = index;
  }

  /** What was appended to the log becomes part of all streams. Streams with nothing else to send become members. */
  announce(): void {
    const { log, sent } = this;
    if (log.followed === log.end) return;
    const outboxes = this.#outboxes;
    for (let i = this.#sinks.length; i < outboxes.length; i++) {
      const outbox = outboxes[i]!;
      if (outbox.join(sent)) {
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
    while (this.sent < durable) {
      // Broadcasts of one turn leave in one send, also where two blocks of the log meet.
      const count = Math.min(durable - this.sent, BLOCK_BYTES);
      const { bytes, start } = log.piece(this.sent, this.sent + count);
      // From the last to the first: a member that leaves changes places with the last one.
      for (let i = sinks.length - 1; i >= 0; i--) {
        const taken = written(sinks[i]!, bytes, start, count);
        if (taken < count) this.#outboxes[i]!.fallBehind(taken);
      }
      log.move(this.sent, this.sent + count);
      this.sent += count;
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
