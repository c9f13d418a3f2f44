import { LF } from "../protocol/ascii.ts";
import { copy } from "../byte-queue.ts";
import { MARK } from "../stream/unacked-index.ts";

/**
 * The format of journal entries: a record of the journal (record.ts) has the entries of one turn, one after another.
 * Entries are idempotent: each one states a fact, and reading it twice has the effect of reading it once.
 */

/**
 * - Stored: a message is in a user's mailbox.
 * - Sent: messages were appended to a user's stream, each up to a position. The entry has their lines.
 * - Delivered: the same for messages that are in the mailbox too. The entry has no lines.
 * - Acked: a user has every message up to a number.
 * - Began: a known session began, with the proof of its password. Received: it was acted on up to a position. Ended.
 * - Blocked, Unblocked: a user and another user.
 * - WrongPasswords: how many of a user from an address, and until when they count.
 * - Banned: a user is banned until a time; 0 ends the ban. LoggedIn: a login of a user, from an address.
 * - Purged: the messages of a mailbox with numbers above the first number and up to the second one were deleted.
 * - Heard: a request of another shard was acted on, with the reply in the text. The numbers are the shard, the number
 *   of the request, and the number up to which that shard has answered replies.
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
  Banned: 11,
  LoggedIn: 12,
  Purged: 13,
  Heard: 14,
} as const;

export type EntryKind = (typeof JournalEntry)[keyof typeof JournalEntry];

/**
 * How many numbers an entry of each kind has. Those of Sent and Delivered are the session (0 for a plain one), the Unix
 * time, the position at which the text begins, and the count of messages: a number and a position for each follow.
 */
const NUMBERS = [0, 2, 4, 4, 1, 1, 2, 3, 0, 0, 2, 1, 1, 2, 3];
const COUNT = 3;
const NUMBERS_PER_MESSAGE = 2;
/**
 * Kind, flag, bytes of `user` and of `other`, bytes of text. The numbers, `user`, `other` and the text follow. `other`
 * is a sender, a blocked user, the address of a login, or the hash of a token.
 */
const HEAD = 8;
/** Entries begin at its multiples, so numbers are stored into a Float64Array: a DataView costs four times as much. */
const ALIGNMENT = 8;
const BUFFER_BYTES = 64 << 10;
/** More than an entry without a text has: its names are at most a user and an address. */
const HELD_BYTES = 256;

export const NOTHING = new Uint8Array(0);

/** Memory as bytes, words and numbers. */
export class MappedRegion {
  readonly bytes: Buffer;
  readonly words: Uint32Array;
  readonly numbers: Float64Array;

  /** `bytes` begin at a multiple of 8 in their buffer. */
  constructor(bytes: Buffer) {
    this.bytes = bytes;
    this.words = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length >> 2);
    this.numbers = new Float64Array(bytes.buffer, bytes.byteOffset, bytes.length >> 3);
  }
}

/**
 * The entries of a turn, as bytes[start..start + length). While they fit, they are written to their final place in the
 * mapped segment: a second copy costs as much as the first.
 */
export class EntryWriter {
  start = 0;
  length = 0;
  /** For entries that do not fit into the segment. */
  readonly #own = new MappedRegion(Buffer.alloc(BUFFER_BYTES));
  #region = this.#own;
  /** Where the caller of `#reserve` writes the text of the entry. */
  #textStart = 0;

  get bytes(): Buffer {
    return this.#region.bytes;
  }

  /** Forgets all entries. The next ones are written to `region` from `start` on, or to memory of its own. */
  restart(region: MappedRegion | null = null, start = 0): void {
    this.#region = region ?? this.#own;
    this.start = region === null ? 0 : start;
    this.length = 0;
  }

  /** Adds an entry, with as many of the numbers as its kind has. */
  add(
    kind: EntryKind,
    flag: number,
    user: Uint8Array,
    other: Uint8Array,
    text: Uint8Array,
    n0 = 0,
    n1 = 0,
    n2 = 0,
  ): void {
    const count = NUMBERS[kind]!;
    const at = this.#reserve(kind, flag, count, user, other, text.length);
    const { numbers } = this.#region;
    if (count > 0) numbers[at] = n0;
    if (count > 1) numbers[at + 1] = n1;
    if (count > 2) numbers[at + 2] = n2;
    copy(text, this.bytes, this.#textStart, 0, text.length);
  }

  /**
   * Adds one entry for a run of messages in a user's stream: fields[first..last) of the index, with their lines in
   * bytes[start..end). One copy for the run: a copy for each message costs more than all else here.
   */
  addMessages(
    kind: typeof JournalEntry.Sent | typeof JournalEntry.Delivered,
    user: Uint8Array,
    session: number,
    fields: readonly number[],
    first: number,
    last: number,
    bytes: Uint8Array,
    start: number,
    end: number,
  ): void {
    const count = (last - first) / MARK.fields;
    let at = this.#reserve(kind, 0, NUMBERS[kind]! + NUMBERS_PER_MESSAGE * count, user, NOTHING, end - start);
    const { numbers } = this.#region;
    numbers[at++] = session;
    numbers[at++] = fields[first + MARK.unixMs]!;
    numbers[at++] = fields[first + MARK.start]!;
    numbers[at++] = count;
    for (let i = first; i < last; i += MARK.fields) {
      numbers[at++] = fields[i + MARK.number]!;
      numbers[at++] = fields[i + MARK.end]!;
    }
    if (end > start) copy(bytes, this.bytes, this.#textStart, start, end);
  }

  /** Writes the head and the names of an entry. Returns the index of its numbers, which the caller writes. */
  #reserve(
    kind: EntryKind,
    flag: number,
    numbers: number,
    user: Uint8Array,
    other: Uint8Array,
    textBytes: number,
  ): number {
    const head = this.start + this.length;
    const names = head + HEAD + ALIGNMENT * numbers;
    const text = names + user.length + other.length;
    const end = aligned(text + textBytes);
    if (end > this.bytes.length) {
      this.#move(end - this.start);
      return this.#reserve(kind, flag, numbers, user, other, textBytes);
    }
    const { bytes, words } = this.#region;
    words[head / 4] = kind | (flag << 8) | (user.length << 16) | (other.length << 24);
    words[head / 4 + 1] = textBytes;
    for (let i = 0; i < user.length; i++) bytes[names + i] = user[i]!;
    for (let i = 0; i < other.length; i++) bytes[names + user.length + i] = other[i]!;
    this.#textStart = text;
    this.length = end - this.start;
    return (head + HEAD) / ALIGNMENT;
  }

  /** Moves all entries to memory of its own with room for at least `bytesMin`. */
  #move(bytesMin: number): void {
    const { bytes, start } = this;
    let count = BUFFER_BYTES;
    while (count < bytesMin) count *= 2;
    const fits = count === BUFFER_BYTES && this.#region !== this.#own;
    this.#region = fits ? this.#own : new MappedRegion(Buffer.alloc(count));
    this.start = 0;
    if (this.length > 0) bytes.copy(this.bytes, 0, start, start + this.length);
  }
}

/**
 * Entries that wait for room in the journal: the newest one of each kind and subject. Only for kinds of which a newer
 * entry replaces an older one, and whose loss in a crash breaks no promise.
 */
export class HeldEntries {
  readonly #entries = new Map<
    string,
    { kind: EntryKind; flag: number; user: Uint8Array; other: Uint8Array; numbers: number[] }
  >();

  get size(): number {
    return this.#entries.size;
  }

  hold(kind: EntryKind, flag: number, user: Uint8Array, other: Uint8Array, ...numbers: number[]): void {
    // Of the logins of a user only the last one counts, from any address.
    const names = kind === JournalEntry.LoggedIn ? [user] : [user, other];
    const subject = user.length > 0 ? names.map((name) => Buffer.from(name).toString("latin1")).join(" ") : numbers[0];
    const key = `${kind} ${subject}`;
    const before = this.#entries.get(key);
    if (kind === JournalEntry.Acked && before !== undefined) numbers[0] = Math.max(numbers[0]!, before.numbers[0]!);
    this.#entries.set(key, { kind, flag, user, other, numbers });
  }

  /** Moves held entries to the entries of a turn while these have at most `bytesMax`. */
  release(entries: EntryWriter, bytesMax: number): void {
    for (const [key, { kind, flag, user, other, numbers }] of this.#entries) {
      if (entries.length + HELD_BYTES > bytesMax) return;
      entries.add(kind, flag, user, other, NOTHING, ...numbers);
      this.#entries.delete(key);
    }
  }
}

/** Reads the entries of a record, one after another. Nothing in them is trusted. */
export class EntryReader {
  kind = 0;
  flag = 0;
  user = "";
  other = "";
  readonly numbers = [0, 0, 0, 0];
  /** The text is bytes[textStart..textEnd). */
  readonly bytes: Buffer;
  textStart = 0;
  textEnd = 0;
  /** How many messages a Sent or Delivered has. */
  messageCount = 0;
  /** Where the numbers and positions of the messages begin. */
  #messagesStart = 0;
  #at: number;
  readonly #end: number;

  constructor(bytes: Buffer, start: number, end: number) {
    this.bytes = bytes;
    this.#at = start;
    this.#end = end;
  }

  /** Reads the next entry into the fields; false at the end. Throws when the bytes are not entries. */
  next(): boolean {
    const { bytes } = this;
    const at = this.#at;
    if (at === this.#end) return false;
    this.kind = bytes[at]!;
    this.flag = bytes[at + 1]!;
    const count = NUMBERS[this.kind];
    if (count === undefined || at + HEAD > this.#end) throw new Error(`an entry of the unknown kind ${this.kind}`);
    this.#messagesStart = at + HEAD + ALIGNMENT * count;
    if (this.#messagesStart > this.#end) throw new Error("an entry that ends after its record");
    for (let i = 0; i < count; i++) this.numbers[i] = bytes.readDoubleLE(at + HEAD + ALIGNMENT * i);
    const hasMessages = this.kind === JournalEntry.Sent || this.kind === JournalEntry.Delivered;
    this.messageCount = hasMessages ? this.numbers[COUNT]! : 0;
    if (!Number.isInteger(this.messageCount) || this.messageCount < 0)
      throw new Error("an entry with an invalid count of messages");
    const user = this.#messagesStart + ALIGNMENT * NUMBERS_PER_MESSAGE * this.messageCount;
    const other = user + bytes[at + 2]!;
    this.textStart = other + bytes[at + 3]!;
    this.textEnd = this.textStart + bytes.readUInt32LE(at + 4);
    this.#at = aligned(this.textEnd);
    // Both are checked: `aligned` has 32 bits, and a large `textEnd` makes it small.
    if (this.textEnd > this.#end || this.#at > this.#end) throw new Error("an entry that ends after its record");
    this.user = bytes.toString("latin1", user, other);
    this.other = bytes.toString("latin1", other, this.textStart);
    return true;
  }

  /** The number of a message of a Sent or Delivered, and the position at which its line ends. */
  message(index: number): { number: number; position: number } {
    const at = this.#messagesStart + ALIGNMENT * NUMBERS_PER_MESSAGE * index;
    return { number: this.bytes.readDoubleLE(at), position: this.bytes.readDoubleLE(at + ALIGNMENT) };
  }

  /** The line of a Sent that ends at `position`, as bytes[start..end) without its LF. Throws when it is not there. */
  line(position: number): { start: number; end: number } {
    const end = this.textStart + position - this.numbers[2]! - 1;
    const isInside = Number.isInteger(end) && end >= this.textStart && end < this.textEnd;
    if (!isInside) throw new Error("a line outside its entry");
    const start = Math.max(this.textStart, this.bytes.lastIndexOf(LF, end - 1) + 1);
    return { start, end };
  }
}

function aligned(position: number): number {
  return (position + ALIGNMENT - 1) & -ALIGNMENT;
}
