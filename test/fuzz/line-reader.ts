import fc from "fast-check";
import { LineReader } from "../../src/protocol/line-reader.ts";
import { cut, cuts, expectAlike, expectThat, latin1, target } from "./target.ts";

interface Line {
  /** As latin1; null for a line that is too long. */
  text: string | null;
  /** Length with the LF. */
  bytes: number;
}

/** The expected lines, from all bytes at once. */
function splitLines(bytes: Buffer, bytesMax: number): Line[] {
  const lines = bytes.toString("latin1").split("\n").slice(0, -1);
  return lines.map((line) => ({
    text: line.length + 1 > bytesMax ? null : line.replace(/\r$/, ""),
    bytes: line.length + 1,
  }));
}

/** Calls `LineReader.next` and checks that it never concatenates more bytes than a line may have. */
function next(reader: LineReader, bytesMax: number): boolean {
  const { concat } = Buffer;
  Buffer.concat = (...list) => {
    const made = concat(...list);
    expectThat(made.length <= bytesMax, () => `it keeps ${made.length} bytes, with a limit of ${bytesMax}`);
    return made;
  };
  try {
    return reader.next();
  } finally {
    Buffer.concat = concat;
  }
}

function pull(reader: LineReader, bytesMax: number, most: number): Line[] {
  const lines: Line[] = [];
  while (lines.length < most && next(reader, bytesMax)) {
    const { bytes, start, end, tooLong, lineBytes } = reader;
    const text = Buffer.from(bytes.subarray(start, end)).toString("latin1");
    expectThat(!tooLong || text === "", () => `a line that is too long has text: ${text}`);
    lines.push({ text: tooLong ? null : text, bytes: lineBytes });
  }
  return lines;
}

const pieces = fc.oneof(
  { weight: 3, arbitrary: fc.constantFrom("\n", "\r\n", "\r", "\n\n", "online\n", " ") },
  { weight: 2, arbitrary: fc.nat({ max: 70 }).map((count) => "x".repeat(count)) },
  { weight: 1, arbitrary: fc.uint8Array({ maxLength: 8 }).map((bytes) => Buffer.from(bytes).toString("latin1")) },
);

export const lineReader = target(
  {
    name: "line-reader",
    holds: "chunks of any size give the same lines as a split at LF, and at most one line is buffered",
  },
  fc.record({
    text: fc.array(pieces, { maxLength: 30 }).map((list) => list.join("")),
    cuts,
    bytesMax: fc.integer({ min: 1, max: 64 }),
    /** How many lines are read after each chunk. After the last chunk all lines are read. */
    pulls: fc.array(fc.oneof(fc.nat({ max: 3 }), fc.constant(99)), { maxLength: 12 }),
  }),
  ({ text, cuts, bytesMax, pulls }) => {
    const reader = new LineReader(bytesMax);
    const lines: Line[] = [];
    for (const [index, chunk] of cut(latin1(text), cuts).entries()) {
      reader.feed(chunk);
      const most = pulls[index] ?? 99;
      const pulled = pull(reader, bytesMax, most);
      lines.push(...pulled);
      // After `next` has returned false, the reader must not use the chunk any more.
      if (pulled.length < most) chunk.fill(0x21);
    }
    lines.push(...pull(reader, bytesMax, Number.POSITIVE_INFINITY));
    expectAlike(lines, splitLines(latin1(text), bytesMax), "lines");
  },
);
