import { describe, expect, test } from "bun:test";
import type { StreamCopy } from "../../src/stream/unacked-index.ts";
import { Outbox } from "../../src/stream/outbox.ts";
import { JournalEntry, EntryWriter, EntryReader, NOTHING, MappedRegion } from "../../src/storage/journal-entry.ts";

function bytes(text: string): Buffer {
  return Buffer.from(text, "latin1");
}

function read(facts: EntryWriter): EntryReader {
  return new EntryReader(facts.bytes, facts.start, facts.start + facts.length);
}

/** A stream of one user, whose new messages go into `facts`. */
function stream(facts: EntryWriter, session: number): { outbox: Outbox; copyNew: () => void } {
  const outbox = new Outbox({ markDirty: () => {} }, false);
  const copy: StreamCopy = {
    accepted: (...run) => facts.addMessages(JournalEntry.Sent, bytes("bob"), session, ...run),
    delivered: (...run) => facts.addMessages(JournalEntry.Delivered, bytes("bob"), session, ...run, NOTHING, 0, 0),
  };
  return { outbox, copyNew: () => outbox.copyNew(copy) };
}

/** What a Sent says: each message's number, position and line. */
function lines(fact: EntryReader): [number, number, string][] {
  return Array.from({ length: fact.entries }, (_, i) => {
    const { number, position } = fact.entry(i);
    const { start, end } = fact.line(position);
    return [number, position, fact.bytes.toString("latin1", start, end)];
  });
}

test("facts come back in order as they were added, whatever their lengths", () => {
  const facts = new EntryWriter();
  const name = "n".repeat(32);
  const text = Buffer.alloc(512 << 10, "\x00\xff\n long");
  facts.add(JournalEntry.Stored, 0, bytes(name), bytes("a"), text, 2 ** 52, 1_700_000_000_000);
  facts.add(JournalEntry.Received, 0, NOTHING, NOTHING, NOTHING, 7, 99);
  facts.add(JournalEntry.Began, 1, bytes("bob"), bytes("\xff\x00hash"), NOTHING, 8);
  facts.add(JournalEntry.Blocked, 0, bytes("a"), bytes(name), NOTHING);
  const fact = read(facts);
  expect(fact.next()).toBe(true);
  expect([fact.kind, fact.a, fact.b, fact.numbers.slice(0, 2)]).toEqual([
    JournalEntry.Stored,
    name,
    "a",
    [2 ** 52, 1_700_000_000_000],
  ]);
  expect(fact.bytes.subarray(fact.textStart, fact.textEnd).equals(text)).toBe(true);
  expect(fact.next()).toBe(true);
  expect([fact.kind, fact.a, fact.b, fact.numbers.slice(0, 2)]).toEqual([JournalEntry.Received, "", "", [7, 99]]);
  expect(fact.next()).toBe(true);
  expect([fact.kind, fact.flag, fact.a, fact.b, fact.numbers[0]]).toEqual([
    JournalEntry.Began,
    1,
    "bob",
    "\xff\x00hash",
    8,
  ]);
  expect(fact.next()).toBe(true);
  expect([fact.kind, fact.a, fact.b]).toEqual([JournalEntry.Blocked, "a", name]);
  expect(fact.next()).toBe(false);
});

describe("new messages of a stream", () => {
  test("come back with their numbers, positions and lines, whatever lies between them", () => {
    const facts = new EntryWriter();
    const { outbox, copyNew } = stream(facts, 3);
    const head = bytes("message alice ");
    outbox.append(bytes("ok\n"));
    outbox.appendMessage(11, 500, head, bytes("one"), 0, 3);
    outbox.append(bytes("ok sent\n"));
    outbox.appendMessage(14, 500, head, bytes("\r two "), 0, 6);
    copyNew();
    const fact = read(facts);
    expect(fact.next()).toBe(true);
    expect([fact.kind, fact.a, fact.numbers.slice(0, 2)]).toEqual([JournalEntry.Sent, "bob", [3, 500]]);
    expect(lines(fact)).toEqual([
      [11, 21, "message alice one"],
      [14, 50, "message alice \r two "],
    ]);
    expect(fact.next()).toBe(false);
  });

  test("are copied once, and mailbox entries without their text", () => {
    const facts = new EntryWriter();
    const { outbox, copyNew } = stream(facts, 3);
    outbox.appendFromMailbox(1, bytes("stored alice 17 "), bytes("rests"));
    outbox.appendMessage(2, 500, bytes("message alice "), bytes("new"), 0, 3);
    copyNew();
    copyNew();
    const fact = read(facts);
    expect(fact.next()).toBe(true);
    expect([fact.kind, fact.entry(0)]).toEqual([JournalEntry.Delivered, { number: 1, position: 22 }]);
    expect(fact.next()).toBe(true);
    expect(lines(fact)).toEqual([[2, 40, "message alice new"]]);
    expect(fact.next()).toBe(false);
  });

  test("that lie far apart, or were sent at other times, do not take along what is between them", () => {
    const facts = new EntryWriter();
    const { outbox, copyNew } = stream(facts, 3);
    const head = bytes("message alice ");
    outbox.appendMessage(1, 500, head, bytes("a"), 0, 1);
    outbox.append(Buffer.alloc(10_000, "x"));
    outbox.appendMessage(2, 500, head, bytes("b"), 0, 1);
    outbox.appendMessage(3, 600, head, bytes("c"), 0, 1);
    copyNew();
    expect(facts.length).toBeLessThan(1000);
    const found: [number, number, string][] = [];
    for (const fact = read(facts); fact.next();) found.push(...lines(fact));
    expect(found).toEqual([
      [1, 16, "message alice a"],
      [2, 10_032, "message alice b"],
      [3, 10_048, "message alice c"],
    ]);
  });

  test("that were confirmed by then are not copied", () => {
    const facts = new EntryWriter();
    const { outbox, copyNew } = stream(facts, 3);
    outbox.appendMessage(1, 500, bytes("message alice "), bytes("a"), 0, 1);
    outbox.durable = outbox.end;
    outbox.ack(outbox.end);
    outbox.appendMessage(2, 500, bytes("message alice "), bytes("b"), 0, 1);
    copyNew();
    const fact = read(facts);
    expect(fact.next()).toBe(true);
    expect(lines(fact)).toEqual([[2, 32, "message alice b"]]);
  });
});

test("a turn that was long leaves no memory behind", () => {
  const facts = new EntryWriter();
  const before = facts.bytes.length;
  facts.add(JournalEntry.Stored, 0, bytes("bob"), bytes("a"), Buffer.alloc(8 << 20), 1, 2);
  expect(facts.bytes.length).toBeGreaterThan(8 << 20);
  facts.restart();
  expect([facts.length, facts.bytes.length]).toEqual([0, before]);
});

test("facts are stored where they are to be, and elsewhere when they do not fit there", () => {
  const facts = new EntryWriter();
  const place = new MappedRegion(Buffer.alloc(256, 0xee));
  facts.restart(place, 64);
  facts.add(JournalEntry.Received, 0, NOTHING, NOTHING, NOTHING, 1, 2);
  facts.add(JournalEntry.Blocked, 0, bytes("a"), bytes("b"), NOTHING);
  expect([facts.bytes, facts.start]).toEqual([place.bytes, 64]);
  expect(place.bytes.subarray(0, 64).every((byte) => byte === 0xee)).toBe(true);
  facts.add(JournalEntry.Stored, 0, bytes("bob"), bytes("a"), Buffer.alloc(200, "x"), 3, 4);
  facts.add(JournalEntry.Stored, 0, bytes("bob"), bytes("a"), Buffer.alloc(200_000, "y"), 5, 6);
  expect(facts.bytes).not.toBe(place.bytes);
  const kinds: number[] = [];
  for (const fact = read(facts); fact.next();) kinds.push(fact.kind);
  expect(kinds).toEqual([JournalEntry.Received, JournalEntry.Blocked, JournalEntry.Stored, JournalEntry.Stored]);
  expect(place.bytes.length).toBe(256);
});

test("counts and positions that cannot be are an error, not a loop or another line", () => {
  const sent = (count: number, end: number): EntryReader => {
    const facts = new EntryWriter();
    facts.addMessages(JournalEntry.Sent, bytes("bob"), 3, [9, 500, 40, end], 0, 4, bytes("message a b\n"), 0, 12);
    facts.bytes.writeDoubleLE(count, facts.start + 8 + 3 * 8);
    return read(facts);
  };
  const good = sent(1, 52);
  expect([good.next(), lines(good), good.next()]).toEqual([true, [[9, 52, "message a b"]], false]);
  for (const count of [-1, -8, 0.5, 2 ** 28, 2 ** 53, Number.NaN, Number.POSITIVE_INFINITY]) {
    expect(() => sent(count, 52).next()).toThrow(/^a fact that/);
  }
  for (const end of [40, 53, 51.5, 1e300, -1, Number.NaN]) {
    const fact = sent(1, end);
    fact.next();
    expect(() => lines(fact)).toThrow("a line that lies outside its fact");
  }
});

test("bytes that are no facts are an error, not something else", () => {
  const facts = new EntryWriter();
  facts.add(JournalEntry.Stored, 0, bytes("bob"), bytes("alice"), bytes("hello"), 1, 2);
  for (let end = 1; end < facts.length; end++) {
    expect(() => new EntryReader(facts.bytes, 0, end).next()).toThrow();
  }
  facts.bytes[facts.start] = 99;
  expect(() => read(facts).next()).toThrow("unknown kind 99");
});
