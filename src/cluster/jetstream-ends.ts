/**
 * The numbers of the last messages of streams, and when a lower one than before is believed. A leader that has lost its
 * followers does not know at once that it is none, and one of an old version answers before it has applied what its
 * predecessor acknowledged: both name a number that is too low, for a while.
 */

/**
 * A leader steps down when it looks for its followers and has heard of too few of them for 10 s. It looks every 10 s,
 * so it may lead for 20 s without them (raft.go: lostQuorumIntervalDefault, lostQuorumCheckIntervalDefault).
 */
export const STALE_MS = 22_000;
/** After so long without an answer a lower number is a new finding: another leader may have named the one before. */
export const STALE_GAP_MS = 5_000;

interface KnownEnd {
  /** The highest number so far. */
  last: number;
  /** When the first and the last answer came with a lower one, since the last answer without; null without any. */
  lower: { sinceMs: number; untilMs: number } | null;
}

export class StreamEnds {
  readonly #known = new Map<string, KnownEnd>();
  /** Monotonic. */
  readonly #nowMs: () => number;

  constructor(nowMs: () => number = () => performance.now()) {
    this.#nowMs = nowMs;
  }

  /** The highest number that was noted for this stream; 0 without one. */
  of(stream: string): number {
    return this.#known.get(stream)?.last ?? 0;
  }

  /** The stream is deleted. */
  forget(stream: string): void {
    this.#known.delete(stream);
  }

  /**
   * The answer to a call names `last`; `before` is what `of` returned when the call began. Throws when it is lower and
   * not to be believed yet: then the call has to be repeated. A stream with one copy has one server, which is always
   * right.
   */
  note(stream: string, last: number, before: number, copies: number): void {
    const known = this.#known.get(stream) ?? { last: 0, lower: null };
    this.#known.set(stream, known);
    if (last >= before || copies === 1) {
      known.last = copies === 1 ? last : Math.max(known.last, last);
      known.lower = null;
      return;
    }
    const nowMs = this.#nowMs();
    const { lower } = known;
    const sinceMs = lower === null || nowMs - lower.untilMs > STALE_GAP_MS ? nowMs : lower.sinceMs;
    known.lower = { sinceMs, untilMs: nowMs };
    if (nowMs - sinceMs < STALE_MS)
      throw new Error(`stream ${stream} ends at ${last}, after it ended at ${before}: the server has not caught up`);
  }
}
