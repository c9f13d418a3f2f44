import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { LineReader } from "../../src/protocol/line-reader.ts";
import { Random, seedFor } from "../support/random.ts";

/** The bytes of a line as latin1, or null when it was too long; and the position after it. */
interface Line {
  text: string | null;
  position: number;
}

const LIMIT = 16;

/** Each kind of line, and the beginning of another line. */
const EVERYTHING = [
  "alive\n",
  "\n",
  "\r\n",
  "crlf\r\n",
  "two\r\r\n",
  "a\rb\n",
  "just fits in it\n",
  "it fits by CR.\r\n",
  "too long by one.\n",
  "long by its CR.\r\n",
  "far too long, by more than twice the limit\r\n",
  "\xff\x00\xfe\n",
  "rest",
].join("");

function bytesOf(text: string): Uint8Array {
  return Buffer.from(text, "latin1");
}

/** The position after the last line of each reader. */
const positions = new WeakMap<LineReader, number>();

/** All complete lines that the reader has now. */
function pull(reader: LineReader, most = Infinity): Line[] {
  const lines: Line[] = [];
  while (lines.length < most && reader.next()) {
    const text = Buffer.from(reader.bytes.subarray(reader.start, reader.end)).toString("latin1");
    if (reader.tooLong) expect(text).toBe("");
    const position = (positions.get(reader) ?? 0) + reader.lineBytes;
    positions.set(reader, position);
    lines.push({ text: reader.tooLong ? null : text, position });
  }
  return lines;
}

function read(chunks: readonly Uint8Array[], limit = LIMIT): Line[] {
  const reader = new LineReader(limit);
  return chunks.flatMap((chunk) => {
    reader.feed(chunk);
    return pull(reader);
  });
}

/** The reference: all bytes together, cut at each LF. */
function plainly(bytes: Uint8Array, limit = LIMIT): Line[] {
  const whole = Buffer.from(bytes).toString("latin1").split("\n").slice(0, -1);
  let position = 0;
  return whole.map((line) => {
    position += line.length + 1;
    return { text: line.length + 1 > limit ? null : line.replace(/\r$/, ""), position };
  });
}

describe("bytes become the same lines", () => {
  const bytes = bytesOf(EVERYTHING);
  const lines = read([bytes]);

  test("chunks become the lines of a hand-written example", () => {
    expect(lines.map(({ text }) => text)).toEqual([
      "alive",
      "",
      "",
      "crlf",
      "two\r",
      "a\rb",
      "just fits in it",
      "it fits by CR.",
      null,
      null,
      null,
      "\xff\x00\xfe",
    ]);
    expect(lines).toEqual(plainly(bytes));
  });

  test("chunks become the same lines at every cut", () => {
    for (let cut = 0; cut <= bytes.length; cut++) {
      expect(read([bytes.subarray(0, cut), bytes.subarray(cut)])).toEqual(lines);
    }
  });

  test("chunks become the same lines at every two cuts", () => {
    for (let first = 0; first <= bytes.length; first++) {
      for (let second = first; second <= bytes.length; second++) {
        const chunks = [bytes.subarray(0, first), bytes.subarray(first, second), bytes.subarray(second)];
        if (!Bun.deepEquals(read(chunks), lines)) expect(read(chunks)).toEqual(lines);
      }
    }
  });

  test("single bytes with empty chunks between them become the same lines", () => {
    const chunks = [...bytes].flatMap((byte) => [Uint8Array.of(byte), new Uint8Array(0)]);
    expect(read(chunks)).toEqual(lines);
  });

  test("any bytes become the same lines for any cuts and any limit", () => {
    const seed = seedFor("lines of any bytes");
    const someBytes = fc.array(fc.constantFrom(10, 10, 13, 32, 97, 255), { maxLength: 120 });
    const cuts = fc.array(fc.nat({ max: 30 }), { maxLength: 20 });
    fc.assert(
      fc.property(someBytes, cuts, fc.integer({ min: 1, max: 40 }), (values, sizes, limit) => {
        const all = Uint8Array.from(values);
        const chunks: Uint8Array[] = [];
        let at = 0;
        for (const size of sizes) chunks.push(all.subarray(at, (at += size)));
        chunks.push(all.subarray(at));
        expect(read(chunks, limit)).toEqual(plainly(all, limit));
      }),
      { seed, numRuns: 1000 },
    );
  });
});

describe("a line that is too long", () => {
  test("a line is too long from one byte above the limit, LF included", () => {
    expect(read([bytesOf(`${"x".repeat(LIMIT - 1)}\n`)])).toEqual([{ text: "x".repeat(LIMIT - 1), position: LIMIT }]);
    expect(read([bytesOf(`${"x".repeat(LIMIT)}\n`)])).toEqual([{ text: null, position: LIMIT + 1 }]);
  });

  test("the CR counts towards the limit", () => {
    expect(read([bytesOf(`${"x".repeat(LIMIT - 2)}\r\n`)])).toEqual([{ text: "x".repeat(LIMIT - 2), position: LIMIT }]);
    expect(read([bytesOf(`${"x".repeat(LIMIT - 1)}\r\n`)])).toEqual([{ text: null, position: LIMIT + 1 }]);
  });

  test("the excerpt of a long line has its first and last 128 bytes, wherever it was cut", () => {
    const middle = "-".repeat(300);
    for (const [line, shown] of [
      ["short, but too long", "short, but too long"],
      [`${"a".repeat(128)}${middle}${"z".repeat(128)}`, `${"a".repeat(128)}${"z".repeat(128)}`],
    ] as const) {
      const bytes = bytesOf(`fits\n${line}\n`);
      for (let cut = 0; cut <= bytes.length; cut++) {
        const reader = new LineReader(LIMIT);
        for (const chunk of [bytes.subarray(0, cut), bytes.subarray(cut)]) {
          reader.feed(chunk);
          while (reader.next());
        }
        expect(Buffer.from(reader.excerpt).toString("latin1")).toBe(shown);
      }
    }
  });

  test("a line that is too long is reported once, after its LF", () => {
    const reader = new LineReader(LIMIT);
    for (let chunk = 0; chunk < 1000; chunk++) {
      reader.feed(bytesOf("y".repeat(50)));
      expect(reader.next()).toBe(false);
    }
    reader.feed(bytesOf("\n"));
    expect(pull(reader)).toEqual([{ text: null, position: 50_001 }]);
    expect(reader.next()).toBe(false);
  });

  test("the line after one that is too long is read as usual", () => {
    const long = "z".repeat(3 * LIMIT);
    expect(read([bytesOf(`${long}\nonline\n${long}`), bytesOf(`${long}\nalive\n`)])).toEqual([
      { text: null, position: 49 },
      { text: "online", position: 56 },
      { text: null, position: 56 + 97 },
      { text: "alive", position: 56 + 97 + 6 },
    ]);
  });
});

test("lineBytes counts every byte of every line, CR, LF and refused lines included", () => {
  const bytes = bytesOf(EVERYTHING);
  const reader = new LineReader(LIMIT);
  reader.feed(bytes);
  pull(reader);
  expect(positions.get(reader)).toBe(bytes.length - "rest".length);
  reader.feed(bytesOf("\r\n"));
  expect(pull(reader)).toEqual([{ text: "rest", position: bytes.length + 2 }]);
});

test("takeSkipped counts each byte of lines that are too long once, also before they end", () => {
  const skipped = plainly(bytesOf(EVERYTHING)).reduce(
    ({ sum, from }, { text, position }) => ({ sum: sum + (text === null ? position - from : 0), from: position }),
    { sum: 0, from: 0 },
  ).sum;
  for (let length = 1; length <= EVERYTHING.length; length++) {
    const reader = new LineReader(LIMIT);
    let sum = 0;
    for (let at = 0; at < EVERYTHING.length; at += length) {
      reader.feed(bytesOf(EVERYTHING.slice(at, at + length)));
      pull(reader);
      sum += reader.takeSkipped();
    }
    expect(sum).toBe(skipped);
    reader.feed(bytesOf("x".repeat(2 * LIMIT)));
    pull(reader);
    expect(reader.takeSkipped()).toBe("rest".length + 2 * LIMIT);
  }
});

describe("a line that comes byte by byte", () => {
  const limit = 64 << 10;

  test("a line that arrives byte by byte takes at most twice the limit in memory, and none after its end", () => {
    const reader = new LineReader(limit);
    const sizes = new Set<number>();
    for (let bytes = 1; bytes < limit; bytes++) {
      reader.feed(bytesOf("x"));
      expect(reader.next()).toBe(false);
      sizes.add(reader.heldBytes);
    }
    expect(sizes.size).toBeLessThan(10);
    expect(Math.max(...sizes)).toBeLessThanOrEqual(2 * limit);
    reader.feed(bytesOf("\n"));
    expect(pull(reader)).toEqual([{ text: "x".repeat(limit - 1), position: limit }]);
    expect(reader.heldBytes).toBe(0);
  });

  test("an unfinished line that is too long takes no memory", () => {
    const reader = new LineReader(limit);
    for (let i = 0; i < 65; i++) {
      reader.feed(bytesOf("x".repeat(1024)));
      expect(reader.next()).toBe(false);
    }
    expect(reader.heldBytes).toBe(0);
  });
});

describe("pulling", () => {
  test("reading may stop after any line while more chunks are fed, and continue later", () => {
    const reader = new LineReader(LIMIT);
    reader.feed(bytesOf("one\ntwo\nthr"));
    expect(pull(reader, 1)).toEqual([{ text: "one", position: 4 }]);
    reader.feed(bytesOf("ee\nfo"));
    reader.feed(bytesOf("ur\n"));
    expect(pull(reader, 1)).toEqual([{ text: "two", position: 8 }]);
    expect(pull(reader)).toEqual([
      { text: "three", position: 14 },
      { text: "four", position: 19 },
    ]);
  });

  test("reading may stop after the beginning of an earlier line", () => {
    const reader = new LineReader(LIMIT);
    reader.feed(bytesOf("begin"));
    expect(pull(reader)).toEqual([]);
    reader.feed(bytesOf("ning\nsecond\n"));
    reader.feed(bytesOf("third\n"));
    expect(pull(reader).map(({ text }) => text)).toEqual(["beginning", "second", "third"]);
  });

  test("reading at random moments gives the same lines as reading at once", () => {
    const seed = seedFor("pulling at random moments");
    for (let round = 0; round < 300; round++) {
      const random = new Random(seed + round);
      const alphabet = bytesOf("\n\n\r ab\xff");
      const bytes = Uint8Array.from({ length: random.below(300) }, () => random.pick([...alphabet]));
      const reader = new LineReader(8);
      const lines: Line[] = [];
      for (let at = 0; at < bytes.length;) {
        const to = Math.min(bytes.length, at + random.below(20));
        reader.feed(bytes.subarray(at, to));
        at = to;
        lines.push(...pull(reader, random.oneIn(3) ? Infinity : random.below(4)));
      }
      lines.push(...pull(reader));
      expect(lines).toEqual(plainly(bytes, 8));
    }
  });

  test("a line that is held is given again, and its chunk is released after it", () => {
    const released: Uint8Array[] = [];
    const reader = new LineReader(LIMIT, { release: (chunk) => void released.push(chunk) });
    const [first, second] = [Buffer.from("one\ntwo\n"), Buffer.from("three\n")];
    const line = (): string => Buffer.from(reader.bytes.subarray(reader.start, reader.end)).toString();
    reader.feed(first);
    expect([reader.next(), reader.next(), line()]).toEqual([true, true, "two"]);
    reader.hold();
    expect([reader.isHeld, reader.holdsMore, reader.holdsLine]).toEqual([true, true, true]);
    reader.feed(second);
    expect([reader.next(), line(), reader.isHeld, released]).toEqual([true, "two", false, []]);
    expect([reader.next(), line(), released]).toEqual([true, "three", [first]]);
    expect([reader.next(), released]).toEqual([false, [first, second]]);
  });

  test("reading to the end releases the chunk to its source, once", () => {
    const released: Uint8Array[] = [];
    const reader = new LineReader(LIMIT, { release: (chunk) => void released.push(chunk) });
    const chunk = bytesOf("whole\nbegun");
    reader.feed(chunk);
    pull(reader, 1);
    expect(released).toEqual([]);
    pull(reader);
    pull(reader);
    expect(released).toEqual([chunk]);
    expect(released[0]).toBe(chunk);
  });

  test("reading to the end leaves the memory of a small chunk to the caller", () => {
    const reader = new LineReader(LIMIT);
    const chunk = bytesOf("whole\nbegun");
    reader.feed(chunk);
    expect(pull(reader).map(({ text }) => text)).toEqual(["whole"]);
    chunk.fill(0x21);
    reader.feed(bytesOf(" line\n"));
    expect(pull(reader).map(({ text }) => text)).toEqual(["begun line"]);
  });
});
