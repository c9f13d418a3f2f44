import { BROADCAST_LOG_BYTES_MAX } from "../limits.ts";
import { BLOCK_BYTES, BroadcastLog } from "./broadcast-log.ts";
import type { Outbox, StreamGroup } from "./outbox.ts";
import type { Sink, Stream, Turn } from "./turn.ts";

/**
 * The streams that follow the broadcast log. Those that are *in step*, with nothing to send but what everybody gets,
 * are written as one: a loop over their sinks that reads and moves nothing else of theirs, which takes a sixth off what
 * a send costs. Their positions follow when somebody asks, or when they step out, since they have a line of their own
 * or did not take everything.
 */
export class BroadcastGroup implements StreamGroup, Stream, Sink {
  readonly log = new BroadcastLog();
  readonly sink = this;
  dirty = false;
  /** Positions of the log: how far those in step were sent, and may be. */
  sent = 0;
  durable = 0;
  committing = 0;
  readonly #turn: Turn;
  /** Those in step come first. */
  readonly #outboxes: Outbox[] = [];
  /** Of those in step alone: the loop need not look at their outboxes. */
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

  #put(outbox: Outbox, place: number): void {
    this.#outboxes[place] = outbox;
    outbox.groupIndex = place;
  }

  /** Everybody's stream takes in what the log holds. */
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
    const { log, durable: safe } = this;
    const sinks = this.#sinks;
    while (this.sent < safe) {
      // What was broadcast together arrives together: in one send, also where two blocks of the log meet.
      const count = Math.min(safe - this.sent, BLOCK_BYTES);
      const { bytes, start } = log.piece(this.sent, this.sent + count);
      // From the last to the first, since whoever steps out changes places with the last.
      for (let i = sinks.length - 1; i >= 0; i--) {
        const taken = written(sinks[i]!, bytes, start, count);
        if (taken < count) this.#outboxes[i]!.fallBehind(taken);
      }
      log.move(this.sent, this.sent + count);
      this.sent += count;
    }
  }
}

/** A fault at one sink must not cost the others theirs: it is flushed by itself, and fails there or not. */
function written(sink: Sink, bytes: Buffer, start: number, count: number): number {
  try {
    return sink.write!(bytes, start, count);
  } catch {
    return 0;
  }
}
