import { describe, expect, test } from "bun:test";
import type { StreamCopy } from "../../src/stream/unacked-index.ts";
import { Outbox } from "../../src/stream/outbox.ts";
import { JournalEntry, EntryWriter, EntryReader, NOTHING, MappedRegion } from "../../src/storage/journal-entry.ts";

function bytes(text: string): Buffer {
  return Buffer.from(text, "latin1");
}

function read(writer: EntryWriter): EntryReader {
  return new EntryReader(writer.bytes, writer.start, writer.start + writer.length);
}

/** A stream of bob in that session. `copyNew` adds its new messages to the writer. */
function stream(writer: EntryWriter, session: number): { outbox: Outbox; copyNew: () => void } {
  const outbox = new Outbox({ markDirty: () => {} }, false);
  const copy: StreamCopy = {
    accepted: (...run) => writer.addMessages(JournalEntry.Sent, bytes("bob"), session, ...run),
    delivered: (...run) => writer.addMessages(JournalEntry.Delivered, bytes("bob"), session, ...run, NOTHING, 0, 0),
  };
  return { outbox, copyNew: () => outbox.copyNew(copy) };
}

/** The number, position and line of each message of a Sent. */
function lines(entry: EntryReader): [number, number, string][] {
  return Array.from({ length: entry.messageCount }, (_, i) => {
    const { number, position } = entry.message(i);
    const { start, end } = entry.line(position);
    return [number, position, entry.bytes.toString("latin1", start, end)];
  });
}

test("entries are read in the order in which they were added, whatever their lengths", () => {
  const writer = new EntryWriter();
  const name = "n".repeat(32);
  const text = Buffer.alloc(512 << 10, "\x00\xff\n long");
  writer.add(JournalEntry.Stored, 0, bytes(name), bytes("a"), text, 2 ** 52, 1_700_000_000_000);
  writer.add(JournalEntry.Received, 0, NOTHING, NOTHING, NOTHING, 7, 99);
  writer.add(JournalEntry.Began, 1, bytes("bob"), bytes("\xff\x00hash"), NOTHING, 8);
  writer.add(JournalEntry.Blocked, 0, bytes("a"), bytes(name), NOTHING);
  const entry = read(writer);
  expect(entry.next()).toBe(true);
  expect([entry.kind, entry.user, entry.other, entry.numbers.slice(0, 2)]).toEqual([
    JournalEntry.Stored,
    name,
    "a",
    [2 ** 52, 1_700_000_000_000],
  ]);
  expect(entry.bytes.subarray(entry.textStart, entry.textEnd).equals(text)).toBe(true);
  expect(entry.next()).toBe(true);
  expect([entry.kind, entry.user, entry.other, entry.numbers.slice(0, 2)]).toEqual([
    JournalEntry.Received,
    "",
    "",
    [7, 99],
  ]);
  expect(entry.next()).toBe(true);
  expect([entry.kind, entry.flag, entry.user, entry.other, entry.numbers[0]]).toEqual([
    JournalEntry.Began,
    1,
    "bob",
    "\xff\x00hash",
    8,
  ]);
  expect(entry.next()).toBe(true);
  expect([entry.kind, entry.user, entry.other]).toEqual([JournalEntry.Blocked, "a", name]);
  expect(entry.next()).toBe(false);
});

describe("an entry with the new messages of a stream", () => {
  test("has their numbers, positions and lines, and not the other lines between them", () => {
    const writer = new EntryWriter();
    const { outbox, copyNew } = stream(writer, 3);
    const head = bytes("message alice ");
    outbox.append(bytes("ok\n"));
    outbox.appendMessage(11, 500, head, bytes("one"), 0, 3);
    outbox.append(bytes("ok sent\n"));
    outbox.appendMessage(14, 500, head, bytes("\r two "), 0, 6);
    copyNew();
    const entry = read(writer);
    expect(entry.next()).toBe(true);
    expect([entry.kind, entry.user, entry.numbers.slice(0, 2)]).toEqual([JournalEntry.Sent, "bob", [3, 500]]);
    expect(lines(entry)).toEqual([
      [11, 21, "message alice one"],
      [14, 50, "message alice \r two "],
    ]);
    expect(entry.next()).toBe(false);
  });

  test("has each message once, and messages from the mailbox without their text", () => {
    const writer = new EntryWriter();
    const { outbox, copyNew } = stream(writer, 3);
    outbox.appendFromMailbox(1, bytes("stored alice 17 "), bytes("rests"));
    outbox.appendMessage(2, 500, bytes("message alice "), bytes("new"), 0, 3);
    copyNew();
    copyNew();
    const entry = read(writer);
    expect(entry.next()).toBe(true);
    expect([entry.kind, entry.message(0)]).toEqual([JournalEntry.Delivered, { number: 1, position: 22 }]);
    expect(entry.next()).toBe(true);
    expect(lines(entry)).toEqual([[2, 40, "message alice new"]]);
    expect(entry.next()).toBe(false);
  });

  test("has none of the bytes between messages that are far apart or were accepted at different times", () => {
    const writer = new EntryWriter();
    const { outbox, copyNew } = stream(writer, 3);
    const head = bytes("message alice ");
    outbox.appendMessage(1, 500, head, bytes("a"), 0, 1);
    outbox.append(Buffer.alloc(10_000, "x"));
    outbox.appendMessage(2, 500, head, bytes("b"), 0, 1);
    outbox.appendMessage(3, 600, head, bytes("c"), 0, 1);
    copyNew();
    expect(writer.length).toBeLessThan(1000);
    const found: [number, number, string][] = [];
    for (const entry = read(writer); entry.next();) found.push(...lines(entry));
    expect(found).toEqual([
      [1, 16, "message alice a"],
      [2, 10_032, "message alice b"],
      [3, 10_048, "message alice c"],
    ]);
  });

  test("has no message that was acknowledged before the copy", () => {
    const writer = new EntryWriter();
    const { outbox, copyNew } = stream(writer, 3);
    outbox.appendMessage(1, 500, bytes("message alice "), bytes("a"), 0, 1);
    outbox.durable = outbox.end;
    outbox.ack(outbox.end);
    outbox.appendMessage(2, 500, bytes("message alice "), bytes("b"), 0, 1);
    copyNew();
    const entry = read(writer);
    expect(entry.next()).toBe(true);
    expect(lines(entry)).toEqual([[2, 32, "message alice b"]]);
  });
});

test("after a long turn the writer frees its extra memory", () => {
  const writer = new EntryWriter();
  const before = writer.bytes.length;
  writer.add(JournalEntry.Stored, 0, bytes("bob"), bytes("a"), Buffer.alloc(8 << 20), 1, 2);
  expect(writer.bytes.length).toBeGreaterThan(8 << 20);
  writer.restart();
  expect([writer.length, writer.bytes.length]).toEqual([0, before]);
});

test("entries are written to the given memory, and to other memory when they do not fit there", () => {
  const writer = new EntryWriter();
  const region = new MappedRegion(Buffer.alloc(256, 0xee));
  writer.restart(region, 64);
  writer.add(JournalEntry.Received, 0, NOTHING, NOTHING, NOTHING, 1, 2);
  writer.add(JournalEntry.Blocked, 0, bytes("a"), bytes("b"), NOTHING);
  expect([writer.bytes, writer.start]).toEqual([region.bytes, 64]);
  expect(region.bytes.subarray(0, 64).every((byte) => byte === 0xee)).toBe(true);
  writer.add(JournalEntry.Stored, 0, bytes("bob"), bytes("a"), Buffer.alloc(200, "x"), 3, 4);
  writer.add(JournalEntry.Stored, 0, bytes("bob"), bytes("a"), Buffer.alloc(200_000, "y"), 5, 6);
  expect(writer.bytes).not.toBe(region.bytes);
  const kinds: number[] = [];
  for (const entry = read(writer); entry.next();) kinds.push(entry.kind);
  expect(kinds).toEqual([JournalEntry.Received, JournalEntry.Blocked, JournalEntry.Stored, JournalEntry.Stored]);
  expect(region.bytes.length).toBe(256);
});

test("an invalid count or position in an entry is an error, and never a long loop or another line", () => {
  const sent = (count: number, end: number): EntryReader => {
    const writer = new EntryWriter();
    writer.addMessages(JournalEntry.Sent, bytes("bob"), 3, [9, 500, 40, end], 0, 4, bytes("message a b\n"), 0, 12);
    writer.bytes.writeDoubleLE(count, writer.start + 8 + 3 * 8);
    return read(writer);
  };
  const good = sent(1, 52);
  expect([good.next(), lines(good), good.next()]).toEqual([true, [[9, 52, "message a b"]], false]);
  for (const count of [-1, -8, 0.5, 2 ** 28, 2 ** 53, Number.NaN, Number.POSITIVE_INFINITY]) {
    expect(() => sent(count, 52).next()).toThrow(/^an entry (that|with)/);
  }
  for (const end of [40, 53, 51.5, 1e300, -1, Number.NaN]) {
    const entry = sent(1, end);
    entry.next();
    expect(() => lines(entry)).toThrow("a line outside its entry");
  }
});

test("bytes that are not entries are an error", () => {
  const writer = new EntryWriter();
  writer.add(JournalEntry.Stored, 0, bytes("bob"), bytes("alice"), bytes("hello"), 1, 2);
  for (let end = 1; end < writer.length; end++) {
    expect(() => new EntryReader(writer.bytes, 0, end).next()).toThrow();
  }
  writer.bytes[writer.start] = 99;
  expect(() => read(writer).next()).toThrow("unknown kind 99");
});
