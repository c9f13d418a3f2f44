import { LF } from "../protocol/ascii.ts";
import { copy } from "../byte-queue.ts";
import { MARK } from "../stream/unacked-index.ts";

/**
 * What a record of the journal says, one after another. Each may be read again and again: it says what is so since
 * then, not what changed.
 *
 * - Stored: a message waits in a user's mailbox.
 * - Sent, Fed: messages, or mailbox entries, lie in a user's stream up to certain positions.
 * - Confirmed: a user has every message up to that number.
 * - Began, Received, Ended: a session that can be asked for later, and the proof it left; how far its client's stream
 *   was acted on; its end.
 * - WrongPasswords: so many of a user from an address, until then.
 */
export const JournalEntry = {
  Stored: 1,
  Sent: 2,
  Delivered: 3,
  Acked: 4,
  Began: 5,
  Received: 6,
  Ended: 7,
  Blocked: 8,
  Unblocked: 9,
  WrongPasswords: 10,
} as const;

export type EntryKind = (typeof JournalEntry)[keyof typeof JournalEntry];

/**
 * How many numbers each kind carries. Those of Sent and Fed are the session (0 for one that nobody asks for), Unix
 * time, the position at which the text begins, and a count of entries, of a number and a position each, that follow.
 */
const NUMBERS = [0, 2, 4, 4, 1, 1, 2, 3, 0, 0, 2];
const COUNT = 3;
const ENTRY = 2;
/** Kind, flag, bytes of two names (or a token's hash), bytes of text; the numbers, the names and the text follow. */
const HEAD = 8;
/** Facts begin at multiples of it, so that their numbers can be stored as such: a DataView costs four times as much. */
const ALIGNMENT = 8;
const BUFFER_BYTES = 64 << 10;
/** A fact without a text has fewer: its names are a user's and an address, or nothing. */
const HELD_BYTES = 256;

export const NOTHING = new Uint8Array(0);

/** Memory that bytes and numbers can be stored into. */
export class MappedRegion {
  readonly bytes: Buffer;
  readonly words: Uint32Array;
  readonly numbers: Float64Array;

  /** `bytes` begin at a multiple of 8 in what they are a view of. */
  constructor(bytes: Buffer) {
    this.bytes = bytes;
    this.words = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length >> 2);
    this.numbers = new Float64Array(bytes.buffer, bytes.byteOffset, bytes.length >> 3);
  }
}

/**
 * The facts of a turn, as bytes[start..start + length). They are stored where they are to be in the end, in a mapped
 * segment, while they fit there: a second copy would cost as much as the first.
 */
export class EntryWriter {
  start = 0;
  length = 0;
  readonly #own = new MappedRegion(Buffer.alloc(BUFFER_BYTES));
  #region = this.#own;
  #text = 0;

  get bytes(): Buffer {
    return this.#region.bytes;
  }

  /** Forgets all facts. The next ones are stored into `place` from `start` on, or into memory of its own. */
  restart(place: MappedRegion | null = null, start = 0): void {
    this.#region = place ?? this.#own;
    this.start = place === null ? 0 : start;
    this.length = 0;
  }

  /** Adds a fact about `a` and `b`, with a text and as many of these numbers as its kind has. */
  add(kind: EntryKind, flag: number, a: Uint8Array, b: Uint8Array, text: Uint8Array, n0 = 0, n1 = 0, n2 = 0): void {
    const count = NUMBERS[kind]!;
    const at = this.#reserve(kind, flag, count, a, b, text.length);
    const { numbers } = this.#region;
    if (count > 0) numbers[at] = n0;
    if (count > 1) numbers[at + 1] = n1;
    if (count > 2) numbers[at + 2] = n2;
    copy(text, this.bytes, this.#text, 0, text.length);
  }

  /**
   * Adds marks[first..last) of a user's stream, whose lines lie in bytes[start..end): a turn's messages are copied at
   * once, since a copy of each costs more than everything else that is done here.
   */
  addMessages(
    kind: typeof JournalEntry.Sent | typeof JournalEntry.Delivered,
    user: Uint8Array,
    session: number,
    marks: readonly number[],
    first: number,
    last: number,
    bytes: Uint8Array,
    start: number,
    end: number,
  ): void {
    const count = (last - first) / MARK.fields;
    let at = this.#reserve(kind, 0, NUMBERS[kind]! + ENTRY * count, user, NOTHING, end - start);
    const { numbers } = this.#region;
    numbers[at++] = session;
    numbers[at++] = marks[first + MARK.unixMs]!;
    numbers[at++] = marks[first + MARK.start]!;
    numbers[at++] = count;
    for (let i = first; i < last; i += MARK.fields) {
      numbers[at++] = marks[i + MARK.number]!;
      numbers[at++] = marks[i + MARK.end]!;
    }
    if (end > start) copy(bytes, this.bytes, this.#text, start, end);
  }

  /** Makes room for a fact, and returns where its numbers are; those and the text are still to be stored. */
  #reserve(kind: EntryKind, flag: number, numbers: number, a: Uint8Array, b: Uint8Array, textBytes: number): number {
    const head = this.start + this.length;
    const names = head + HEAD + ALIGNMENT * numbers;
    const text = names + a.length + b.length;
    const to = aligned(text + textBytes);
    if (to > this.bytes.length) {
      this.#move(to - this.start);
      return this.#reserve(kind, flag, numbers, a, b, textBytes);
    }
    const { bytes, words } = this.#region;
    words[head / 4] = kind | (flag << 8) | (a.length << 16) | (b.length << 24);
    words[head / 4 + 1] = textBytes;
    for (let i = 0; i < a.length; i++) bytes[names + i] = a[i]!;
    for (let i = 0; i < b.length; i++) bytes[names + a.length + i] = b[i]!;
    this.#text = text;
    this.length = to - this.start;
    return (head + HEAD) / ALIGNMENT;
  }

  /** To a place of its own for at least so many bytes. */
  #move(least: number): void {
    const { bytes, start } = this;
    let count = BUFFER_BYTES;
    while (count < least) count *= 2;
    const fits = count === BUFFER_BYTES && this.#region !== this.#own;
    this.#region = fits ? this.#own : new MappedRegion(Buffer.alloc(count));
    this.start = 0;
    if (this.length > 0) bytes.copy(this.bytes, 0, start, start + this.length);
  }
}

/**
 * Facts that wait for room in the journal: the newest of each kind and subject. Only for kinds of which a newer fact
 * replaces an older one, and whose loss in a crash breaks no promise.
 */
export class HeldEntries {
  readonly #entries = new Map<
    string,
    { kind: EntryKind; flag: number; a: Uint8Array; b: Uint8Array; numbers: number[] }
  >();

  get size(): number {
    return this.#entries.size;
  }

  hold(kind: EntryKind, flag: number, a: Uint8Array, b: Uint8Array, ...numbers: number[]): void {
    const subject =
      a.length > 0 ? `${Buffer.from(a).toString("latin1")} ${Buffer.from(b).toString("latin1")}` : numbers[0];
    const key = `${kind} ${subject}`;
    const before = this.#entries.get(key);
    if (kind === JournalEntry.Acked && before !== undefined) numbers[0] = Math.max(numbers[0]!, before.numbers[0]!);
    this.#entries.set(key, { kind, flag, a, b, numbers });
  }

  /** Moves held facts to a turn's facts while these have at most `bytes`. */
  release(facts: EntryWriter, bytes: number): void {
    for (const [key, { kind, flag, a, b, numbers }] of this.#entries) {
      if (facts.length + HELD_BYTES > bytes) return;
      facts.add(kind, flag, a, b, NOTHING, ...numbers);
      this.#entries.delete(key);
    }
  }
}

/** The facts of a record, one after another. */
export class EntryReader {
  kind = 0;
  flag = 0;
  a = "";
  b = "";
  readonly numbers = [0, 0, 0, 0];
  /** The text is bytes[textStart..textEnd). */
  readonly bytes: Buffer;
  textStart = 0;
  textEnd = 0;
  /** How many entries a Sent or Fed has. */
  entries = 0;
  #entries = 0;
  #at: number;
  readonly #end: number;

  constructor(bytes: Buffer, start: number, end: number) {
    this.bytes = bytes;
    this.#at = start;
    this.#end = end;
  }

  /** The next fact into the fields; false when there is none. Throws when these are no facts. */
  next(): boolean {
    const { bytes } = this;
    const at = this.#at;
    if (at === this.#end) return false;
    this.kind = bytes[at]!;
    this.flag = bytes[at + 1]!;
    const count = NUMBERS[this.kind];
    if (count === undefined || at + HEAD > this.#end) throw new Error(`a fact of the unknown kind ${this.kind}`);
    this.#entries = at + HEAD + ALIGNMENT * count;
    if (this.#entries > this.#end) throw new Error("a fact that reaches beyond its record");
    for (let i = 0; i < count; i++) this.numbers[i] = bytes.readDoubleLE(at + HEAD + ALIGNMENT * i);
    this.entries = this.kind === JournalEntry.Sent || this.kind === JournalEntry.Delivered ? this.numbers[COUNT]! : 0;
    if (!Number.isInteger(this.entries) || this.entries < 0) throw new Error("a fact that has no count of entries");
    const a = this.#entries + ALIGNMENT * ENTRY * this.entries;
    const b = a + bytes[at + 2]!;
    this.textStart = b + bytes[at + 3]!;
    this.textEnd = this.textStart + bytes.readUInt32LE(at + 4);
    this.#at = aligned(this.textEnd);
    // Both, since it is rounded with 32 bits.
    if (this.textEnd > this.#end || this.#at > this.#end) throw new Error("a fact that reaches beyond its record");
    this.a = bytes.toString("latin1", a, b);
    this.b = bytes.toString("latin1", b, this.textStart);
    return true;
  }

  /** An entry's number, and the position behind it. */
  entry(index: number): { number: number; position: number } {
    const at = this.#entries + ALIGNMENT * ENTRY * index;
    return { number: this.bytes.readDoubleLE(at), position: this.bytes.readDoubleLE(at + ALIGNMENT) };
  }

  /** Of Sent: the line that ends at a position of the stream, as bytes[start..end) without its LF. Throws too. */
  line(position: number): { start: number; end: number } {
    const end = this.textStart + position - this.numbers[2]! - 1;
    const isInside = Number.isInteger(end) && end >= this.textStart && end < this.textEnd;
    if (!isInside) throw new Error("a line that lies outside its fact");
    const start = Math.max(this.textStart, this.bytes.lastIndexOf(LF, end - 1) + 1);
    return { start, end };
  }
}

function aligned(position: number): number {
  return (position + ALIGNMENT - 1) & -ALIGNMENT;
}
