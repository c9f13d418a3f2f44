import fc from "fast-check";
import { JournalEntry, EntryWriter, EntryReader } from "../../src/storage/journal-entry.ts";
import { expectThat, latin1, target } from "./target.ts";

/** Numbers that are valid in an entry, and numbers that are not. */
const number = fc.oneof(
  fc.nat({ max: 40 }),
  fc.constantFrom(0.5, -1, -8, 1e9, 2 ** 31, 2 ** 32, 2 ** 53, 1e300, Number.NaN, Number.POSITIVE_INFINITY),
  fc.integer({ min: -100, max: 100 }),
  fc.double(),
);

const fact = fc.record({
  kind: fc.constantFrom(...Object.values(JournalEntry)),
  a: fc.string({ unit: "binary-ascii", maxLength: 6 }),
  text: fc.string({ unit: fc.constantFrom("a", " ", "\n"), maxLength: 20 }),
  numbers: fc.array(number, { minLength: 4, maxLength: 4 }),
  flag: fc.nat({ max: 255 }),
});

/** Numbers of an entry, by kind. */
const COUNTS: Record<number, number> = {
  1: 2,
  2: 4,
  3: 4,
  4: 1,
  5: 1,
  6: 2,
  7: 3,
  8: 0,
  9: 0,
  10: 2,
  11: 1,
  12: 1,
  13: 2,
  14: 3,
};

function written(list: readonly (typeof fact extends fc.Arbitrary<infer One> ? One : never)[]): Buffer {
  const buffer = new EntryWriter();
  for (const { kind, flag, a, text, numbers } of list) {
    buffer.add(kind, flag, latin1(a), latin1(a), latin1(text), ...numbers.slice(0, COUNTS[kind]));
  }
  return Buffer.from(buffer.bytes.subarray(buffer.start, buffer.start + buffer.length));
}

const bytes = fc.oneof(
  { weight: 3, arbitrary: fc.array(fact, { minLength: 1, maxLength: 4 }).map(written) },
  { weight: 1, arbitrary: fc.uint8Array({ maxLength: 64 }).map((list) => Buffer.from(list)) },
);

export const facts = target(
  { name: "facts", holds: "any bytes are read as journal entries within their bounds, or give an error" },
  fc.record({
    bytes,
    changes: fc.array(fc.tuple(fc.nat({ max: 200 }), fc.nat({ max: 255 })), { maxLength: 4 }),
    before: fc.nat({ max: 3 }),
  }),
  ({ bytes, changes, before }) => {
    const start = before * 8;
    const end = start + bytes.length;
    const all = Buffer.alloc(end + 64, 0x0a);
    bytes.copy(all, start);
    for (const [at, value] of changes) if (at < bytes.length) all[start + at] = value;
    const reader = new EntryReader(all, start, end);
    let facts = 0;
    try {
      while (reader.next()) {
        expectThat(++facts <= bytes.length / 8, () => "more entries than the bytes can contain");
        const { textStart, textEnd, messageCount } = reader;
        expectThat(
          start <= textStart && textStart <= textEnd && textEnd <= end,
          () => `a text ${textStart}..${textEnd}`,
        );
        for (let i = 0; i < messageCount; i++) {
          const { position } = reader.message(i);
          if (reader.kind !== JournalEntry.Sent) continue;
          const line = reader.line(position);
          expectThat(
            textStart <= line.start && line.start <= line.end && line.end <= textEnd,
            () => `a line ${line.start}..${line.end} of the text ${textStart}..${textEnd}`,
          );
        }
      }
    } catch (error) {
      expectThat(/^(an entry (of the unknown|that|with)|a line outside)/.test((error as Error).message), () =>
        String(error),
      );
    }
  },
);
