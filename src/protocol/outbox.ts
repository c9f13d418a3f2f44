import { type BroadcastLog, copy } from "./broadcast-log.ts";
import { LF, wordEnd } from "./ascii.ts";
import { MARK, Marks } from "./marks.ts";

/** Hears that something was appended; writes it when the turn ends. */
export interface Turn {
  touch(outbox: Outbox): void;
}

/** What a stream is attached to right now. */
export interface Sink {
  /** Writes what is safe and not sent yet. */
  flush(): void;
}

/** Keeps a copy of new messages: fields[first..last) of their marks, whose lines lie in bytes[start..end). */
export interface StreamCopy {
  take(fields: readonly number[], first: number, last: number, bytes: Uint8Array, start: number, end: number): void;
}

/** A message inside a stream that its reader has not confirmed. */
export interface Unconfirmed {
  number: number;
  /** The stream's position behind it. */
  position: number;
  /** It rests in the mailbox too: nothing but its number and position is known here. */
  resting: boolean;
  unixMs: number;
  from: string;
  text: Uint8Array;
}

const EMPTY = Buffer.alloc(0);
const BUFFER_BYTES_MIN = 512;
/** A piece of the log up to this size joins the outbox's own bytes, to leave in the same send. */
const JOIN_BYTES_MAX = 4096;

/**
 * One byte stream to one reader, with positions: confirmed <= sent <= safe <= end. Whole lines are appended at `end`;
 * the end of the turn moves `safe`; a socket takes from `sent`, never beyond `safe`; the reader moves `confirmed`. It
 * may follow the broadcast log: then its last part is a range of the log and its own bytes come before it.
 *
 * It knows which messages (marks) lie in it unconfirmed, so that they can go back to the mailbox. An idle outbox holds
 * no buffer.
 */
export class Outbox {
  confirmed = 0;
  sent = 0;
  safe = 0;
  /** How far it will be safe when what the turn has saved is. */
  saving = 0;
  /** Set and cleared by the turn. */
  touched = false;
  sink: Sink | null = null;
  /** Confirmed follows what the kernel took: a plain session, or lines outside any session. */
  readonly plain: boolean;

  /** The piece that `peek` found: bytes[start..end). */
  piece: Buffer = EMPTY;
  pieceStart = 0;
  pieceEnd = 0;

  readonly #turn: Turn;
  /** How far it was ever sent: behind a `rewind` that is further than `sent`. */
  #furthest = 0;
  #log: BroadcastLog | null = null;
  /** The range of the log that is this stream's last part, and up to where the log was followed. */
  #from = 0;
  #to = 0;
  #followed = 0;
  /** Own bytes: #bytes[#head..#tail), the first of them at position #base. */
  #bytes = EMPTY;
  #head = 0;
  #tail = 0;
  #base = 0;
  readonly #marks = new Marks();

  constructor(turn: Turn, plain: boolean) {
    this.#turn = turn;
    this.plain = plain;
  }

  /** Position behind the last byte that was appended or followed. */
  get end(): number {
    return this.#base + this.#tail - this.#head + this.#to - this.#from;
  }

  /** How far a reader may have it: on an earlier connection that may be further than on this one. */
  get furthest(): number {
    return Math.max(this.#furthest, this.sent);
  }

  /** The highest number among the messages that were confirmed. */
  get confirmedNumber(): number {
    return this.#marks.confirmedNumber;
  }

  /** Bytes of memory that are this stream's own. */
  get heldBytes(): number {
    return this.#bytes.length;
  }

  /** Bytes that the reader has not confirmed. */
  get unconfirmed(): number {
    return this.end - this.confirmed;
  }

  /** Bytes that the kernel has not taken. */
  get unsent(): number {
    return this.end - this.sent;
  }

  /** The sink is flushed when the turn ends, as it is after everything that is appended. */
  touch(): void {
    if (!this.touched) this.#turn.touch(this);
  }

  /** From now on what is appended to `log` is part of this stream. */
  join(log: BroadcastLog): void {
    this.#log = log;
    this.#followed = log.end;
  }

  /** What the log holds by now still belongs to the stream; what comes later does not. */
  leave(): void {
    this.follow();
    this.#fold();
    this.#log = null;
  }

  /** Takes in what was appended to the log since. */
  follow(): void {
    const log = this.#log;
    if (log === null || this.#followed === log.end) return;
    if (this.#from === this.#to) this.#hold(this.#followed);
    else if (this.#to !== this.#followed) {
      this.#fold();
      this.#hold(this.#followed);
    }
    this.#to = this.#followed = log.end;
    this.touch();
  }

  /** The log goes on without this stream: what was appended since the last `follow` is not for it. */
  skip(): void {
    if (this.#log !== null) this.#followed = this.#log.end;
  }

  /** Copies what it holds of the log to its own bytes, so that the log may forget it. */
  letGo(before: number): void {
    if (this.#from < this.#to && this.#from < before) this.#fold();
  }

  append(line: Uint8Array): void {
    const at = this.#reserve(line.length);
    copy(line, this.#bytes, at, 0, line.length);
  }

  /** Appends the line head + bytes[start..end) + LF. */
  appendLine(head: Uint8Array, bytes: Uint8Array, start: number, end: number): void {
    const count = head.length + end - start + 1;
    const at = this.#reserve(count);
    copy(head, this.#bytes, at, 0, head.length);
    copy(bytes, this.#bytes, at + head.length, start, end);
    this.#bytes[at + count - 1] = LF;
  }

  /**
   * Appends a message's line, which stays marked until it is confirmed. With `unixMs` it exists only here: its head is
   * `message <from> `. With 0 it rests in the mailbox too.
   */
  appendMessage(number: number, unixMs: number, head: Uint8Array, bytes: Uint8Array, start: number, end: number): void {
    this.appendLine(head, bytes, start, end);
    const to = this.end;
    this.#marks.add(number, unixMs, to - (head.length + end - start + 1), to);
  }

  /** Copies the messages that were appended since the last time, in runs of what was appended together. */
  copyNew(copy: StreamCopy): void {
    const { fields } = this.#marks;
    const offset = this.#head - this.#base;
    this.#marks.takeNew((first, last) => {
      const start = offset + fields[first + MARK.start]!;
      copy.take(fields, first, last, this.#bytes, start, offset + fields[last - MARK.fields + MARK.end]!);
    });
  }

  /** The next bytes to write, into `piece`; false when nothing is safe to write. The socket's answer goes to `took`. */
  peek(): boolean {
    if (this.sent >= this.safe) return false;
    let ownEnd = this.#base + this.#tail - this.#head;
    if (this.sent < ownEnd && this.#from < this.#to && this.#to - this.#from <= JOIN_BYTES_MAX) {
      this.#fold();
      ownEnd = this.#base + this.#tail - this.#head;
    }
    if (this.sent < ownEnd) {
      this.piece = this.#bytes;
      this.pieceStart = this.#head + this.sent - this.#base;
      this.pieceEnd = this.pieceStart + Math.min(ownEnd, this.safe) - this.sent;
    } else {
      const position = this.#from + this.sent - ownEnd;
      this.piece = this.#log!.block(position);
      this.pieceStart = this.#log!.offset(position);
      this.pieceEnd = Math.min(this.piece.length, this.pieceStart + this.safe - this.sent);
    }
    return true;
  }

  /** The socket took so many bytes of `piece`. */
  took(count: number): void {
    this.sent += count;
    this.piece = EMPTY;
    if (this.plain) this.confirm(this.sent);
  }

  /** The reader is there again, on another connection: it has everything before `position`, and wants the rest. */
  rewind(position: number): void {
    this.#furthest = this.furthest;
    if (position > this.confirmed) this.confirm(position);
    this.sent = this.confirmed;
  }

  /** The reader has everything before `position`. */
  confirm(position: number): void {
    this.confirmed = position;
    if (position > this.sent) this.sent = position;
    this.#forget(this.#marks.confirm(position));
  }

  /**
   * Takes back the messages that are not confirmed, oldest first, since the session has ended. Of a plain stream what
   * was not begun to be sent leaves it; the rest of a line begun stays, so that no line is torn. The reader of any
   * other stream may still get it all, and say at its next login how far it came.
   */
  withdraw(): Unconfirmed[] {
    this.follow();
    this.#fold();
    const messages = this.#unconfirmed(0, Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY);
    if (messages.length > 0) {
      if (this.plain) this.#cutUnsent();
      else this.#bytes = Buffer.from(this.#bytes); // The texts lie in the old one.
    }
    this.#marks.clear();
    this.#forget(this.confirmed);
    return messages;
  }

  /**
   * The unconfirmed messages with numbers above `after` and up to `upTo`, at most so many. They rest in the mailbox
   * from now on.
   */
  rest(after: number, upTo: number, most: number): Unconfirmed[] {
    const messages = this.#unconfirmed(after, upTo, most);
    const { fields, first } = this.#marks;
    for (
      let i = first;
      i < fields.length && fields[i + MARK.number]! <= (messages.at(-1)?.number ?? 0);
      i += MARK.fields
    )
      fields[i + MARK.unixMs] = 0;
    return messages;
  }

  #unconfirmed(after: number, upTo: number, most: number): Unconfirmed[] {
    const messages: Unconfirmed[] = [];
    const { fields, first } = this.#marks;
    for (let i = first; i < fields.length && messages.length < most; i += MARK.fields) {
      const number = fields[i + MARK.number]!;
      if (number > upTo) break;
      if (number > after) messages.push(this.#message(i));
    }
    return messages;
  }

  #message(mark: number): Unconfirmed {
    const [number = 0, unixMs = 0, from = 0, position = 0] = this.#marks.fields.slice(mark, mark + MARK.fields);
    const start = this.#head + from - this.#base;
    const end = this.#head + position - this.#base - 1;
    const name = wordEnd(this.#bytes, start, end) + 1;
    const nameEnd = wordEnd(this.#bytes, name, end);
    return {
      number,
      position,
      resting: unixMs === 0,
      unixMs,
      from: this.#bytes.toString("latin1", name, nameEnd),
      text: this.#bytes.subarray(nameEnd + 1, end),
    };
  }

  /**
   * Takes out the marked lines that were not begun to be sent, in one pass: there may be tens of thousands. What stays
   * moves to a new buffer, since the texts that `withdraw` returns lie in the old one.
   */
  #cutUnsent(): void {
    const { fields, first } = this.#marks;
    const old = this.#bytes;
    const offset = this.#head - this.#base;
    const kept = Buffer.allocUnsafeSlow(this.#tail - this.#head);
    let count = 0;
    let from = this.#head;
    let { safe, saving } = this;
    for (let i = first; i < fields.length; i += MARK.fields) {
      const start = fields[i + MARK.start]!;
      const end = fields[i + MARK.end]!;
      if (start < this.sent) continue;
      count += old.copy(kept, count, from, offset + start);
      from = offset + end;
      safe -= Math.max(0, Math.min(end, this.safe) - start);
      saving -= Math.max(0, Math.min(end, this.saving) - start);
    }
    count += old.copy(kept, count, from, this.#tail);
    this.#bytes = kept;
    this.#head = 0;
    this.#tail = count;
    this.safe = safe;
    this.saving = saving;
  }

  #hold(position: number): void {
    this.#from = this.#to = position;
    this.#log!.hold(position);
  }

  /** The range of the log becomes own bytes. */
  #fold(): void {
    const count = this.#to - this.#from;
    if (count === 0) return;
    const at = this.#room(count);
    this.#log!.copy(this.#from, this.#to, this.#bytes, at);
    this.#log!.release(this.#from);
    this.#from = this.#to;
  }

  /** Room for a line of its own, behind everything that came before it. */
  #reserve(count: number): number {
    this.follow();
    this.#fold();
    this.touch();
    return this.#room(count);
  }

  #room(count: number): number {
    const used = this.#tail - this.#head;
    if (this.#tail + count > this.#bytes.length) {
      const old = this.#bytes;
      // Moving down costs a copy of what is left: only when at least as much was freed.
      if (used + count > old.length || this.#head < used) {
        let bytes = Math.max(BUFFER_BYTES_MIN, old.length);
        while (bytes < used + count) bytes *= 2;
        this.#bytes = Buffer.allocUnsafeSlow(bytes);
      }
      old.copy(this.#bytes, 0, this.#head, this.#tail);
      this.#head = 0;
      this.#tail = used;
    }
    const at = this.#tail;
    this.#tail += count;
    return at;
  }

  /** Gives up what lies before `position`. */
  #forget(position: number): void {
    const ownEnd = this.#base + this.#tail - this.#head;
    if (position < ownEnd) {
      this.#head += position - this.#base;
      this.#base = position;
      return;
    }
    if (this.#tail > this.#head || this.#bytes.length > 0) {
      this.#bytes = EMPTY;
      this.#head = this.#tail = 0;
    }
    const count = position - ownEnd;
    if (count > 0) {
      const from = this.#from;
      this.#from += count;
      if (this.#from === this.#to) this.#log!.release(from);
      else this.#log!.move(from, this.#from);
    }
    this.#base = position;
  }
}
