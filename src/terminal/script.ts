import { LINE_BYTES_MAX } from "../limits.ts";
import { LineReader } from "../protocol/line-reader.ts";
import { decode } from "../client/event.ts";

/** Longer than any server takes, and than any private line. */
export const SCRIPT_LINE_BYTES_MAX = LINE_BYTES_MAX;
const LINE_FEED = Buffer.from("\n");

/**
 * The lines of a script, until its end or that of the session. A line ends at LF only, and one CR before it is dropped;
 * all other bytes are the script's. What follows the last LF is a line as well. A line that is too long is null.
 */
export async function* scriptLines(
  input: AsyncIterable<Buffer>,
  ended: Promise<unknown>,
): AsyncGenerator<string | null, void> {
  const reader = new LineReader(SCRIPT_LINE_BYTES_MAX);
  const chunks = input[Symbol.asyncIterator]();
  const over = ended.then(() => null);
  let isFirst = true;
  for (let isOpen = true; isOpen;) {
    const next = await Promise.race([chunks.next(), over]);
    if (next === null) return;
    isOpen = next.done !== true;
    reader.feed(isOpen ? next.value : LINE_FEED);
    while (reader.next()) {
      const line = reader.tooLong ? null : decode(reader.bytes, reader.start, reader.end);
      // Some editors begin a file with a byte order mark.
      yield isFirst ? (line?.replace(/^\ufeff/, "") ?? null) : line;
      isFirst = false;
    }
  }
}
