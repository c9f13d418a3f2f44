/**
 * A run of consecutive messages in the stream of a known session, as one row of the database keeps it: rows for single
 * messages cost more than the messages themselves. The last message has its own columns, the earlier ones are pairs of
 * 64-bit floats: position, number.
 */

/** Messages in one run at most, so that a look-up reads little. */
const RUN_MESSAGES_MAX = 1000;

export interface Delivered {
  number: number;
  /** Position in the stream after the line of the message. */
  position: number;
}

/** Splits messages, in the order of their positions, into runs. */
export function* runsOf(messages: readonly Delivered[]): Generator<Delivered & { earlier: Uint8Array | null }> {
  for (let i = 0; i < messages.length; i += RUN_MESSAGES_MAX) {
    const run = messages.slice(i, i + RUN_MESSAGES_MAX);
    const { number, position } = run.pop()!;
    const pairs = Float64Array.from(run.flatMap((message) => [message.position, message.number]));
    yield { number, position, earlier: run.length > 0 ? new Uint8Array(pairs.buffer) : null };
  }
}

/** The number of the last of the earlier messages whose position is at most `position`; 0 without one. */
export function lastDelivered(earlier: Uint8Array | null, position: number): number {
  if (earlier === null) return 0;
  const pairs = new Float64Array(earlier.slice().buffer); // Aligned.
  let [low, high] = [0, pairs.length / 2];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (pairs[2 * middle]! <= position) low = middle + 1;
    else high = middle;
  }
  return low === 0 ? 0 : pairs[2 * low - 1]!;
}
