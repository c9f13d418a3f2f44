import fc from "fast-check";
import { Account } from "../../src/chat/session.ts";
import { Outbox } from "../../src/stream/outbox.ts";
import { StoreError, openDatabase } from "../../src/storage/database.ts";
import { segmentName, segmentsOf } from "../../src/storage/journal.ts";
import { RecordReader } from "../../src/storage/record.ts";
import { Recovery, newStore, seedOf } from "../../src/storage/recovery.ts";
import type { Preallocation, Segment, SegmentFolder } from "../../src/storage/segment.ts";
import type { Store } from "../../src/storage/store.ts";
import { segmentIn } from "../support/segment.ts";
import { expectAlike, expectThat, target } from "./target.ts";

/** A few records fill a segment. */
const SEGMENT_BYTES = 512;
const UNIX_MS = 1_700_000_000_000;
const USERS = [new Account("alice"), new Account("bob")] as const;

const user = fc.nat({ max: USERS.length - 1 });
const text = fc.oneof(
  { weight: 4, arbitrary: fc.uint8Array({ minLength: 1, maxLength: 40 }) },
  { weight: 1, arbitrary: fc.integer({ min: 300, max: 700 }).map((count) => new Uint8Array(count).fill(0x78)) },
);

/** An event in a turn of the server. */
const act = fc.oneof(
  { weight: 4, arbitrary: fc.record({ stores: user, text }) },
  { weight: 6, arbitrary: fc.record({ sends: user, text }) },
  { weight: 2, arbitrary: fc.record({ acks: user, part: fc.nat({ max: 100 }) }) },
  { weight: 1, arbitrary: fc.record({ blocks: user }) },
  { weight: 1, arbitrary: fc.record({ unblocks: user }) },
);

const at = fc.nat({ max: 5000 });
const file = fc.nat({ max: 9 });
/** A damage to the files. Indexes and positions are taken modulo the number of files and bytes. */
const damage = fc.oneof(
  { weight: 4, arbitrary: fc.record({ flips: file, at, bit: fc.nat({ max: 7 }) }) },
  { weight: 3, arbitrary: fc.record({ truncates: file, at }) },
  { weight: 3, arbitrary: fc.record({ fills: file, at, count: fc.nat({ max: 600 }), byte: fc.constantFrom(0, 255) }) },
  { weight: 3, arbitrary: fc.record({ garbles: file, at, bytes: fc.uint8Array({ minLength: 1, maxLength: 40 }) }) },
  { weight: 2, arbitrary: fc.record({ copies: file, at, to: file, toAt: at, count: fc.nat({ max: 600 }) }) },
  { weight: 2, arbitrary: fc.record({ swaps: file, with: file }) },
  { weight: 2, arbitrary: fc.record({ removes: file }) },
  {
    weight: 1,
    arbitrary: fc.record({
      renames: file,
      to: fc.constantFrom("0000000000000000", "0000000000000009", "9999999999999999"),
    }),
  },
);

/** Segments in memory. */
class Folder implements SegmentFolder {
  readonly path = "journal";
  readonly files = new Map<string, Buffer>();

  names(): string[] {
    return [...this.files.keys()];
  }

  open(name: string): Segment {
    return segmentIn(this.files, name);
  }

  fill(name: string, bytes: number): Preallocation {
    return {
      step: () => {
        this.files.set(name, Buffer.alloc(bytes));
        return this.open(name);
      },
    };
  }

  sync(): Promise<void> {
    return Promise.resolve();
  }

  syncNow(): void {}

  damage(how: typeof damage extends fc.Arbitrary<infer Damage> ? Damage : never): void {
    const names = this.names().sort();
    if (names.length === 0) return;
    const named = (index: number): string => names[index % names.length]!;
    const bytesOf = (index: number): Buffer => this.files.get(named(index)) ?? Buffer.alloc(0);
    const within = (bytes: Buffer, at: number): number => (bytes.length === 0 ? 0 : at % bytes.length);
    if ("flips" in how) {
      const bytes = bytesOf(how.flips);
      if (bytes.length > 0) bytes[within(bytes, how.at)]! ^= 1 << how.bit;
    } else if ("truncates" in how) {
      const bytes = bytesOf(how.truncates);
      this.files.set(named(how.truncates), Buffer.from(bytes.subarray(0, within(bytes, how.at))));
    } else if ("fills" in how) {
      const bytes = bytesOf(how.fills);
      const from = within(bytes, how.at);
      bytes.fill(how.byte, from, Math.min(bytes.length, from + how.count));
    } else if ("garbles" in how) {
      const bytes = bytesOf(how.garbles);
      Buffer.from(how.bytes).copy(bytes, within(bytes, how.at));
    } else if ("copies" in how) {
      const [from, to] = [bytesOf(how.copies), bytesOf(how.to)];
      // Records begin at multiples of 8: a copy to another place may look like a record.
      from.copy(to, within(to, how.toAt) & -8, within(from, how.at) & -8, within(from, how.at) + how.count);
    } else if ("swaps" in how) {
      const [one, other] = [bytesOf(how.swaps), bytesOf(how.with)];
      this.files.set(named(how.swaps), other);
      this.files.set(named(how.with), Buffer.from(one));
    } else if ("renames" in how) {
      const bytes = bytesOf(how.renames);
      this.files.delete(named(how.renames));
      this.files.set(how.to, bytes);
    } else this.files.delete(named(how.removes));
  }
}

/** A message that was written, and its fate. */
interface Written {
  user: string;
  number: number;
  unixMs: number;
  text: string;
  /** The number of the record that has it. */
  record: number;
  /** The database has it too. */
  committed: boolean;
  /** Only an outbox has it, and not the mailbox. */
  inStream: boolean;
  acked: boolean;
  /** Where its line ends in the stream. */
  position: number;
}

/** What the test expects of a recovery. */
interface Expected {
  /** The server started without an error: all messages of intact records are there. */
  isSilent: boolean;
  /** Nothing was damaged. */
  isUndamaged: boolean;
  /** The numbers of the records whose bytes are unchanged. */
  intact: Set<number>;
  /** The file `last` is unchanged: then a silent start may miss no record. */
  isAnnounced: boolean;
}

/** The disk of a server that wrote its journal and was killed, and a model of what it wrote. */
class Run {
  readonly folder = new Folder();
  readonly database = openDatabase(":memory:", "process");
  readonly written: Written[] = [];
  readonly blocks = new Set<string>();
  readonly everBlocked = new Set<string>();
  /** File, position and bytes of each record; the first one is number 1. */
  readonly #records: { file: string; start: number; bytes: Buffer }[] = [];
  readonly #store: Store;
  readonly #streams = USERS.map(() => new Outbox({ markDirty: () => {} }, false));
  /** For each user: messages up to that number moved from the outbox to the mailbox. */
  readonly #movedUpTo = USERS.map(() => 0);
  #commits = 0;

  constructor() {
    this.#store = this.start(false);
    const { run } = this.database;
    this.database.run = (sql, ...values) => {
      if (sql === "COMMIT") this.#commits++;
      return run.call(this.database, sql, ...(values as []));
    };
  }

  /** A server starts, after the one before was killed. Throws its StoreError. */
  start(salvage: boolean): Store {
    if (this.database.inTransaction) this.database.run("ROLLBACK");
    const options = { salvage, unixMs: UNIX_MS, progress: () => {} };
    new Recovery(this.database, this.folder, options, SEGMENT_BYTES).run();
    return newStore(this.database, this.folder, "process", SEGMENT_BYTES);
  }

  turn(acts: readonly (typeof act extends fc.Arbitrary<infer Act> ? Act : never)[]): void {
    const commits = this.#commits;
    for (const one of acts) {
      if ("stores" in one) this.#write(one.stores, one.text, false);
      else if ("sends" in one) this.#write(one.sends, one.text, true);
      else if ("acks" in one) this.#ack(one.acks, one.part);
      else if ("blocks" in one) this.#block(one.blocks, true);
      else this.#block(one.unblocks, false);
    }
    this.#store.compact(this.#moveOld);
    this.#store.save();
    this.#noteRecord();
    if (this.#commits === commits) return;
    for (const message of this.written) message.committed ||= !message.inStream;
  }

  /** Notes the record of the turn, if it has one: the last record of the newest segment. */
  #noteRecord(): void {
    const first = segmentsOf(this.folder).at(-1);
    if (first === undefined) return;
    const file = segmentName(first);
    const reader = new RecordReader(this.folder.files.get(file)!, first, seedOf(this.database));
    let start = 0;
    for (let at = reader.at; reader.next(); at = reader.at) start = at;
    if (reader.sequence !== this.#records.length + 1) return;
    this.#records.push({ file, start, bytes: Buffer.from(reader.bytes.subarray(start, reader.end)) });
  }

  /** Numbers of the records whose bytes are unchanged and in place. */
  intact(): Set<number> {
    const isIntact = ({ file, start, bytes }: { file: string; start: number; bytes: Buffer }): boolean =>
      this.folder.files
        .get(file)
        ?.subarray(start, start + bytes.length)
        .equals(bytes) === true;
    return new Set(this.#records.flatMap((record, i) => (isIntact(record) ? [i + 1] : [])));
  }

  #write(index: number, bytes: Uint8Array, inStream: boolean): void {
    const [store, outbox, account] = [this.#store, this.#streams[index]!, USERS[index]!];
    const number = store.newNumber();
    const unixMs = UNIX_MS + number;
    // A line of a stream has no LF in it.
    const text = Buffer.from(bytes.map((byte) => (byte === 10 ? 13 : byte)));
    if (inStream) {
      outbox.appendMessage(number, unixMs, Buffer.from("message carol "), text, 0, text.length);
      store.appended(account, 0, outbox);
    } else store.stored(account.name, { number, unixMs, from: "carol", text });
    this.written.push({
      user: account.name,
      number,
      unixMs,
      text: text.toString("latin1"),
      record: this.#records.length + 1,
      committed: false,
      inStream,
      acked: false,
      position: outbox.end,
    });
  }

  /** The user acknowledges the oldest messages, `part` percent of them. */
  #ack(index: number, part: number): void {
    const account = USERS[index]!;
    const waiting = this.written.filter(({ user, acked }) => user === account.name && !acked);
    const last = waiting[Math.floor((waiting.length * part) / 100)];
    if (last === undefined) return;
    const outbox = this.#streams[index]!;
    outbox.durable = outbox.sent = outbox.end;
    outbox.ack(Math.max(outbox.acked, last.position));
    this.#store.acked(account, last.number);
    this.#store.drop(account.name, last.number, 1e9);
    for (const message of waiting) message.acked ||= message.number <= last.number;
  }

  #block(index: number, on: boolean): void {
    const [user, other] = index === 0 ? (["alice", "bob"] as const) : (["bob", "alice"] as const);
    if (on) this.#store.block(user, other);
    else this.#store.unblock(user, other);
    this.everBlocked.add(user);
    this.blocks[on ? "add" : "delete"](user);
  }

  /** Messages in old segments move to the mailbox, as in a server. */
  readonly #moveOld = (upTo: number): boolean => {
    for (const [index, { name }] of USERS.entries()) {
      const stream = this.#streams[index]!;
      const messages = stream.messages(this.#movedUpTo[index]!, upTo, 1e9);
      this.#store.requeued(name, 0, 0, messages);
      this.#movedUpTo[index] = messages.at(-1)?.number ?? this.#movedUpTo[index]!;
    }
    for (const message of this.written) if (message.number <= upTo) message.inStream = false;
    return true;
  };

  /** The mailboxes have what was written, byte by byte; after a silent start at most the end is missing. */
  check(store: Store, { isSilent, isUndamaged, intact, isAnnounced }: Expected): void {
    const found = new Set<number>();
    for (const { name } of USERS) {
      for (const { number, unixMs, from, text } of store.read(name, 0, Number.POSITIVE_INFINITY)) {
        const message = this.written.find((one) => one.number === number && one.user === name);
        const as = { number, unixMs, from, text: Buffer.from(text).toString("latin1") };
        if (message === undefined) throw new Error(`${name} has a message that was never written: ${fc.stringify(as)}`);
        expectAlike(as, { number, unixMs: message.unixMs, from: "carol", text: message.text }, `a message to ${name}`);
        found.add(number);
      }
    }
    const blocking = store.blocks().map(({ user }) => user);
    expectThat(
      blocking.every((user) => this.everBlocked.has(user)),
      () => `blocks of ${blocking}`,
    );
    const missing = this.written.filter(({ number, acked }) => !acked && !found.has(number));
    if (isUndamaged) {
      expectAlike(missing, [], "messages that are missing although nothing was damaged");
      expectAlike(blocking.sort(), [...this.blocks].sort(), "blocks");
      const twice = this.written.filter(({ number, acked }) => acked && found.has(number));
      expectAlike(twice, [], "messages that are there although they were acknowledged");
    }
    if (!isSilent) return;
    expectAlike(
      missing.filter(({ record }) => isAnnounced || intact.has(record)),
      [],
      "messages that are missing without an error",
    );
    const lost = Math.min(...missing.map(({ record }) => record));
    const later = this.written.filter(
      ({ number, record, committed }) => record > lost && !committed && found.has(number),
    );
    expectAlike(later, [], `messages that are there although record ${lost} is missing`);
    expectAlike(
      missing.filter(({ committed }) => committed),
      [],
      "messages that are missing although the database had them",
    );
  }

  close(): void {
    this.database.close();
  }
}

export const journal = target(
  {
    name: "journal",
    holds: "a journal with any damage is read up to some record or refused, and --salvage opens it",
    batch: 50,
  },
  fc.record({
    turns: fc.array(fc.array(act, { minLength: 1, maxLength: 4 }), { minLength: 1, maxLength: 30, size: "max" }),
    damages: fc.array(damage, { maxLength: 3 }),
  }),
  ({ turns, damages }) => {
    const run = new Run();
    try {
      for (const acts of turns) run.turn(acts);
      const announcement = run.folder.files.get("last")?.toString("latin1");
      for (const one of damages) run.folder.damage(one);
      const isAnnounced = run.folder.files.get("last")?.toString("latin1") === announcement;
      const intact = run.intact();
      let store: Store;
      try {
        store = run.start(false);
        run.check(store, { isSilent: true, isUndamaged: damages.length === 0, intact, isAnnounced });
      } catch (error) {
        const isExpected = error instanceof StoreError && /damaged: records \d+ /.test(error.message);
        if (!isExpected) throw error;
        expectThat(damages.length > 0, () => error.message);
        store = run.start(true);
        run.check(store, { isSilent: false, isUndamaged: false, intact, isAnnounced });
      }
      // The journal is undamaged now: a new message is there after the next start.
      const number = store.newNumber();
      store.stored("alice", { number, unixMs: 5, from: "carol", text: Buffer.from("continues") });
      store.save();
      const again = run.start(false).read("alice", number - 1, 1000);
      expectAlike(
        again.map(({ text }) => Buffer.from(text).toString()),
        ["continues"],
        "messages after the recovery",
      );
      expectThat(segmentsOf(run.folder).length <= 1, () => "old segments are left");
    } finally {
      run.close();
    }
  },
);
