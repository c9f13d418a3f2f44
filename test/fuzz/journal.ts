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

/** So small that a few records fill one. */
const SEGMENT_BYTES = 512;
const UNIX_MS = 1_700_000_000_000;
const USERS = [new Account("alice"), new Account("bob")] as const;

const user = fc.nat({ max: USERS.length - 1 });
const text = fc.oneof(
  { weight: 4, arbitrary: fc.uint8Array({ minLength: 1, maxLength: 40 }) },
  { weight: 1, arbitrary: fc.integer({ min: 300, max: 700 }).map((count) => new Uint8Array(count).fill(0x78)) },
);

/** What happens in a turn of a server. */
const act = fc.oneof(
  { weight: 4, arbitrary: fc.record({ stores: user, text }) },
  { weight: 6, arbitrary: fc.record({ sends: user, text }) },
  { weight: 2, arbitrary: fc.record({ confirms: user, part: fc.nat({ max: 100 }) }) },
  { weight: 1, arbitrary: fc.record({ blocks: user }) },
  { weight: 1, arbitrary: fc.record({ unblocks: user }) },
);

const at = fc.nat({ max: 5000 });
const file = fc.nat({ max: 9 });
/** What becomes of the files; each number is taken within what there is. */
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
      // Records begin at multiples of 8: there a copy may look like one.
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

/** A message as it was written, and what became of it. */
interface Written {
  user: string;
  number: number;
  unixMs: number;
  text: string;
  /** The record that has it. */
  record: number;
  /** It is committed: SQLite has it too. */
  rests: boolean;
  inStream: boolean;
  confirmed: boolean;
  /** The position of the stream behind it. */
  position: number;
}

/** What is known of the damage. */
interface Judged {
  /** The server started, and said nothing of it. */
  untold: boolean;
  /** There is none. */
  whole: boolean;
  intact: Set<number>;
  /** The file that announces the last record was left alone: then nothing may be missing untold. */
  isAnnounced: boolean;
}

/** A server that wrote its journal and was killed. */
class Run {
  readonly folder = new Folder();
  readonly database = openDatabase(":memory:", "process");
  readonly written: Written[] = [];
  readonly blocks = new Set<string>();
  everBlocked = new Set<string>();
  /** Where each record was written, and what; the first one is number 1. */
  readonly #places: { file: string; start: number; bytes: Buffer }[] = [];
  readonly #store: Store;
  readonly #streams = USERS.map(() => new Outbox({ markDirty: () => {} }, false));
  readonly #rested = USERS.map(() => 0);
  #commits = 0;

  constructor() {
    this.#store = this.start(false);
    const { run } = this.database;
    this.database.run = (sql, ...values) => {
      if (sql === "COMMIT") this.#commits++;
      return run.call(this.database, sql, ...(values as []));
    };
  }

  /** A server starts, after the one before was killed. Throws as it does. */
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
      else if ("confirms" in one) this.#confirm(one.confirms, one.part);
      else if ("blocks" in one) this.#block(one.blocks, true);
      else this.#block(one.unblocks, false);
    }
    this.#store.compact(this.#moveOld);
    this.#store.save();
    this.#recorded();
    if (this.#commits === commits) return;
    for (const message of this.written) message.rests ||= !message.inStream;
  }

  /** If the turn has left a record, it is the last one of the newest segment. */
  #recorded(): void {
    const first = segmentsOf(this.folder).at(-1);
    if (first === undefined) return;
    const file = segmentName(first);
    const reader = new RecordReader(this.folder.files.get(file)!, first, seedOf(this.database));
    let start = 0;
    for (let at = reader.at; reader.next(); at = reader.at) start = at;
    if (reader.sequence !== this.#places.length + 1) return;
    this.#places.push({ file, start, bytes: Buffer.from(reader.bytes.subarray(start, reader.end)) });
  }

  /** Records that are where they were written, behind a damage or not. */
  intact(): Set<number> {
    const isIntact = ({ file, start, bytes }: { file: string; start: number; bytes: Buffer }): boolean =>
      this.folder.files
        .get(file)
        ?.subarray(start, start + bytes.length)
        .equals(bytes) === true;
    return new Set(this.#places.flatMap((place, i) => (isIntact(place) ? [i + 1] : [])));
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
      record: this.#places.length + 1,
      rests: false,
      inStream,
      confirmed: false,
      position: outbox.end,
    });
  }

  /** The user has the oldest of what waits, a part in 100 of it. */
  #confirm(index: number, part: number): void {
    const account = USERS[index]!;
    const waiting = this.written.filter(({ user, confirmed }) => user === account.name && !confirmed);
    const last = waiting[Math.floor((waiting.length * part) / 100)];
    if (last === undefined) return;
    const outbox = this.#streams[index]!;
    outbox.durable = outbox.sent = outbox.end;
    outbox.ack(Math.max(outbox.acked, last.position));
    this.#store.acked(account, last.number);
    this.#store.drop(account.name, last.number, 1e9);
    for (const message of waiting) message.confirmed ||= message.number <= last.number;
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
      const carried = stream.messages(this.#rested[index]!, upTo, 1e9);
      this.#store.requeued(name, 0, 0, carried);
      this.#rested[index] = carried.at(-1)?.number ?? this.#rested[index]!;
      stream.spill(0, this.#rested[index]!);
    }
    for (const message of this.written) if (message.number <= upTo) message.inStream = false;
    return true;
  };

  /** What waits is what was written, byte by byte; without damage that was told, nothing but the end is missing. */
  judge(store: Store, { untold, whole, intact, isAnnounced }: Judged): void {
    const found = new Set<number>();
    for (const { name } of USERS) {
      for (const { number, unixMs, from, text } of store.read(name, 0, Number.POSITIVE_INFINITY)) {
        const message = this.written.find((one) => one.number === number && one.user === name);
        const as = { number, unixMs, from, text: Buffer.from(text).toString("latin1") };
        if (message === undefined) throw new Error(`${name} gets a message that nobody wrote: ${fc.stringify(as)}`);
        expectAlike(as, { number, unixMs: message.unixMs, from: "carol", text: message.text }, `a message to ${name}`);
        found.add(number);
      }
    }
    const blocking = store.blocks().map(({ user }) => user);
    expectThat(
      blocking.every((user) => this.everBlocked.has(user)),
      () => `blocks of ${blocking}`,
    );
    const missing = this.written.filter(({ number, confirmed }) => !confirmed && !found.has(number));
    if (whole) {
      expectAlike(missing, [], "messages that are missing though nothing was damaged");
      expectAlike(blocking.sort(), [...this.blocks].sort(), "blocks");
      const twice = this.written.filter(({ number, confirmed }) => confirmed && found.has(number));
      expectAlike(twice, [], "messages that come again though they were confirmed");
    }
    if (!untold) return;
    expectAlike(
      missing.filter(({ record }) => isAnnounced || intact.has(record)),
      [],
      "messages that are missing, and nobody is told",
    );
    const lost = Math.min(...missing.map(({ record }) => record));
    const later = this.written.filter(({ number, record, rests }) => record > lost && !rests && found.has(number));
    expectAlike(later, [], `messages that are there though record ${lost} is missing`);
    expectAlike(
      missing.filter(({ rests }) => rests),
      [],
      "messages that are missing though SQLite had them",
    );
  }

  close(): void {
    this.database.close();
  }
}

export const journal = target(
  {
    name: "journal",
    holds:
      "a journal that was damaged anywhere gives what was written up to some record, or is refused; salvage opens it",
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
        run.judge(store, { untold: true, whole: damages.length === 0, intact, isAnnounced });
      } catch (error) {
        const isToldWell = error instanceof StoreError && /damaged: records \d+ /.test(error.message);
        if (!isToldWell) throw error;
        expectThat(damages.length > 0, () => error.message);
        store = run.start(true);
        run.judge(store, { untold: false, whole: false, intact, isAnnounced });
      }
      // It goes on from there, and is well: what is said now is there the next time.
      const number = store.newNumber();
      store.stored("alice", { number, unixMs: 5, from: "carol", text: Buffer.from("goes on") });
      store.save();
      const again = run.start(false).read("alice", number - 1, 1000);
      expectAlike(
        again.map(({ text }) => Buffer.from(text).toString()),
        ["goes on"],
        "what was said afterwards",
      );
      expectThat(segmentsOf(run.folder).length <= 1, () => "old segments are still there");
    } finally {
      run.close();
    }
  },
);
