import fc from "fast-check";
import { LineReader } from "../../src/protocol/line-reader.ts";
import { cut, cuts, expectAlike, expectThat, latin1, target } from "./target.ts";

/** A line as latin1, null when it was too long; and its bytes with its end mark. */
interface Line {
  text: string | null;
  bytes: number;
}

/** All bytes at hand, cut at each LF. */
function plainly(bytes: Buffer, bytesMax: number): Line[] {
  const lines = bytes.toString("latin1").split("\n").slice(0, -1);
  return lines.map((line) => ({
    text: line.length + 1 > bytesMax ? null : line.replace(/\r$/, ""),
    bytes: line.length + 1,
  }));
}

/** `next`, which joins no buffers to more than a line may have: all it keeps, but for the excerpt of a long one. */
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
    holds: "bytes at any cuts give the lines that a plain split gives, and no more than a line is kept of them",
  },
  fc.record({
    text: fc.array(pieces, { maxLength: 30 }).map((list) => list.join("")),
    cuts,
    bytesMax: fc.integer({ min: 1, max: 64 }),
    /** How many lines are pulled behind each chunk; behind the last one all are. */
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
      // Once it says that there is no more, the chunk belongs to whoever fed it.
      if (pulled.length < most) chunk.fill(0x21);
    }
    lines.push(...pull(reader, bytesMax, Number.POSITIVE_INFINITY));
    expectAlike(lines, plainly(latin1(text), bytesMax), "lines");
  },
);
