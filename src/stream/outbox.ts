import { LF } from "../protocol/ascii.ts";
import type { BroadcastLog } from "./broadcast-log.ts";
import { ByteQueue, copy } from "../byte-queue.ts";
import { MARK, UnackedIndex, type StreamCopy, type UnackedMessage } from "./unacked-index.ts";
import type { Sink, Stream, Turn } from "./turn.ts";

/** The streams that follow one log; see `Multicast`. */
export interface StreamGroup {
  readonly log: BroadcastLog;
  /** How far those in step were sent. */
  readonly sent: number;
  /** Returns its place in the group, which is the group's. */
  add(outbox: Outbox): number;
  /** It has stepped out before. */
  remove(outbox: Outbox): void;
  leave(outbox: Outbox): void;
}

const EMPTY = Buffer.alloc(0);
/** A piece of the log up to this size joins the outbox's own bytes, to leave in the same send. */
const JOIN_BYTES_MAX = 4096;

/**
 * One byte stream to one reader, with positions: confirmed, sent <= safe <= end. Whole lines are appended at `end`;
 * the end of the turn moves `safe`; a socket takes from `sent`, never beyond `safe`; the reader moves `confirmed`. It
 * may follow the broadcast log: then its last part is a range of the log and its own bytes come before it.
 *
 * It knows which messages (marks) lie in it unconfirmed, so that they can go back to the mailbox. An idle outbox holds
 * no buffer.
 */
export class Outbox implements Stream {
  acked = 0;
  sent = 0;
  durable = 0;
  /** How far it will be safe when what the turn has saved is. */
  committing = 0;
  /** Set and cleared by the turn. */
  dirty = false;
  /** Its place in the group; the group keeps it. */
  groupIndex = -1;
  /** Confirmed follows what the kernel took: a plain session, or lines outside any session. */
  readonly plain: boolean;

  /** The piece that `peek` found: bytes[start..end). */
  piece: Buffer = EMPTY;
  pieceStart = 0;
  pieceEnd = 0;

  readonly #turn: Turn;
  /** How far it was ever sent: behind a `rewind` that is further than `sent`. */
  #furthest = 0;
  #finished = false;
  #sink: Sink | null = null;
  #group: StreamGroup | null = null;
  #log: BroadcastLog | null = null;
  /** Written with the others of the group: positions are those of when it stepped in, until `#catchUp`. */
  #inSync = false;
  /** The range of the log that is this stream's last part, and up to where the log was followed. */
  #from = 0;
  #to = 0;
  #followed = 0;
  /** Bytes of its own, and the position of the first of them. */
  readonly #own = new ByteQueue();
  #base = 0;
  readonly #unackedIndex = new UnackedIndex();

  constructor(turn: Turn, plain: boolean) {
    this.#turn = turn;
    this.plain = plain;
  }

  get sink(): Sink | null {
    return this.#sink;
  }

  set sink(sink: Sink | null) {
    this.follow();
    this.#sink = sink;
  }

  /** Position behind the last byte that was appended or followed. */
  get end(): number {
    return this.#base + this.#own.length + this.#to - this.#from;
  }

  /** How far a reader may have it: on an earlier connection that may be further than on this one. */
  get furthest(): number {
    this.#catchUp();
    return Math.max(this.#furthest, this.sent);
  }

  /** The number of the last message that is not confirmed; 0 when all are. */
  get lastNumber(): number {
    return this.#unackedIndex.lastNumber;
  }

  /** The highest number among the messages that were confirmed. */
  get ackedNumber(): number {
    return this.#unackedIndex.ackedNumber;
  }

  /** Bytes of memory that are this stream's own. */
  get heldBytes(): number {
    return this.#own.bytes.length;
  }

  /** Bytes that the reader has not confirmed. */
  get unacked(): number {
    this.#catchUp();
    return this.end - this.acked;
  }

  /** Bytes that the kernel has not taken. */
  get unsent(): number {
    return this.end - this.sent;
  }

  /** The sink is flushed when the turn ends, as it is after everything that is appended. */
  markDirty(): void {
    if (!this.dirty) this.#turn.markDirty(this);
  }

  /** From now on what is appended to the log is part of this stream. */
  subscribe(group: StreamGroup): void {
    this.#group = group;
    this.#log = group.log;
    this.#followed = this.#log.end;
    this.groupIndex = group.add(this);
  }

  /** What the log holds by now still belongs to the stream; what comes later does not. */
  unsubscribe(): void {
    this.follow();
    this.#materializeAll();
    this.#group?.remove(this);
    this.#group = this.#log = null;
  }

  /** Takes in what was appended to the log since. */
  follow(): void {
    const log = this.#log;
    if (log === null) return;
    if (this.#inSync) this.#leave();
    if (this.#followed === log.end) return;
    if (this.#from === this.#to) this.#hold(this.#followed);
    else if (this.#to !== this.#followed) {
      this.#materializeAll();
      this.#hold(this.#followed);
    }
    this.#to = this.#followed = log.end;
    this.markDirty();
  }

  /** Steps in with those who were sent everything up to `at` of the log; false when it has something else to send. */
  join(at: number): boolean {
    if (this.#followed !== at || this.sent < this.end || this.#sink?.write === undefined) return false;
    if (this.#to !== at) this.#materializeAll();
    if (this.plain)
      this.#from = this.#to = at; // All that it was sent is confirmed: it holds nothing.
    else if (this.#from === this.#to) this.#hold(at);
    this.#inSync = true;
    return true;
  }

  /** Its socket took only so many bytes of what those in step are sent just now. */
  fallBehind(taken: number): void {
    this.follow();
    this.durable = this.committing = this.sent + taken;
    this.advance(taken);
  }

  #leave(): void {
    this.#catchUp();
    this.#inSync = false;
    if (this.#from === this.#to && !this.plain) this.#log!.release(this.#from);
    this.#group!.leave(this);
  }

  /** Follows those in step: everything up to there was sent. */
  #catchUp(): void {
    if (!this.#inSync) return;
    const { sent } = this.#group!;
    this.sent += sent - this.#to;
    this.#to = this.#followed = sent;
    if (this.plain) {
      this.#from = sent;
      this.acked = this.#base = this.sent;
    }
    this.durable = this.committing = this.sent;
  }

  /** The log goes on without this stream: what was appended since the last `follow` is not for it. */
  skip(): void {
    if (this.#log !== null) this.#followed = this.#log.end; // It has stepped out, since it followed.
  }

  /** Copies what it holds of the log to its own bytes, so that the log may forget it. */
  materialize(before: number): void {
    this.#catchUp();
    if (this.#from < this.#to && this.#from < before) this.#materializeAll();
  }

  /** Appends the last line, if there is one; later lines are dropped. The stream has left the log before. */
  finish(line: Uint8Array | null): void {
    if (line !== null) this.append(line);
    this.#finished = true;
  }

  append(line: Uint8Array): void {
    const at = this.#reserve(line.length);
    if (at < 0) return;
    copy(line, this.#own.bytes, at, 0, line.length);
  }

  /** Appends the line head + bytes[start..end) + LF; false when the stream is finished. */
  appendLine(head: Uint8Array, bytes: Uint8Array, start: number, end: number): boolean {
    const count = head.length + end - start + 1;
    const at = this.#reserve(count);
    if (at < 0) return false;
    const own = this.#own.bytes;
    copy(head, own, at, 0, head.length);
    copy(bytes, own, at + head.length, start, end);
    own[at + count - 1] = LF;
    return true;
  }

  /** Appends the line of a message that only this outbox has until it is acknowledged; `head` is `message <from> `. */
  appendMessage(number: number, unixMs: number, head: Uint8Array, bytes: Uint8Array, start: number, end: number): void {
    if (!this.appendLine(head, bytes, start, end)) return;
    const to = this.end;
    this.#unackedIndex.add(number, unixMs, to - (head.length + end - start + 1), to);
  }

  /** Appends the line of a message that the mailbox has too, until it is acknowledged. */
  appendFromMailbox(number: number, head: Uint8Array, text: Uint8Array): void {
    if (!this.appendLine(head, text, 0, text.length)) return;
    const to = this.end;
    this.#unackedIndex.addFromMailbox(number, to - (head.length + text.length + 1), to);
  }

  /** Copies the messages that were appended since the last time, in runs of what was appended together. */
  copyNew(copy: StreamCopy): void {
    const { bytes, head } = this.#own;
    this.#unackedIndex.takeNew(copy, bytes, head - this.#base);
  }

  /** The next bytes to write, into `piece`; false when nothing is safe to write. The socket's answer goes to `took`. */
  peek(): boolean {
    if (this.sent >= this.durable) return false;
    const own = this.#own;
    let ownEnd = this.#base + own.length;
    if (this.sent < ownEnd && this.#from < this.#to && this.#to - this.#from <= JOIN_BYTES_MAX) {
      this.#materializeAll();
      ownEnd = this.#base + own.length;
    }
    if (this.sent < ownEnd) {
      this.piece = own.bytes;
      this.pieceStart = own.head + this.sent - this.#base;
      this.pieceEnd = this.pieceStart + Math.min(ownEnd, this.durable) - this.sent;
    } else {
      const position = this.#from + this.sent - ownEnd;
      this.piece = this.#log!.block(position);
      this.pieceStart = this.#log!.offset(position);
      this.pieceEnd = Math.min(this.piece.length, this.pieceStart + this.durable - this.sent);
    }
    return true;
  }

  /** The socket took so many bytes of `piece`. */
  advance(count: number): void {
    this.sent += count;
    this.piece = EMPTY;
    if (this.plain) this.ack(this.sent);
    else if (this.#base < this.acked) this.#release();
  }

  /** The reader is there again, on another connection: it has everything before `position`, and wants the rest. */
  rewind(position: number): void {
    this.follow();
    this.#furthest = this.furthest;
    if (position > this.acked) this.ack(position);
    this.sent = this.acked;
    this.#release();
  }

  /**
   * The reader has everything before `position`, perhaps from an earlier connection: this one is still sent all of it,
   * since a stream that skips bytes is torn.
   */
  ack(position: number): void {
    this.#catchUp();
    this.acked = position;
    this.#unackedIndex.ack(position);
    this.#release();
  }

  /**
   * The session has ended, and its messages rest in the mailbox: they are none of this stream's any more. Of a plain
   * one what was not begun to be sent leaves it; the rest of a line begun stays, so that no line is torn. The reader of
   * any other stream may still get it all, and say at its next login how far it came. When there is no sink, nobody is
   * there to read anything.
   */
  withdraw(): void {
    this.follow();
    this.#materializeAll();
    if (this.plain) this.#cutMessages();
    this.#unackedIndex.clear();
    if (this.#sink === null) this.acked = this.sent = this.durable = this.committing = this.end;
    this.#release();
  }

  /** The mailbox has the messages with numbers above `after` and up to `upTo` from now on. */
  spill(after: number, upTo: number): void {
    this.#unackedIndex.spill(after, upTo);
  }

  /** The unconfirmed messages with numbers above `after` and up to `upTo`, about so many bytes of them. */
  messages(after: number, upTo: number, bytesMax: number): UnackedMessage[] {
    const { bytes, head } = this.#own;
    return this.#unackedIndex.messages(after, upTo, bytesMax, bytes, head - this.#base);
  }

  /** Marked lines that were not begun to be sent go, and the rest moves together, in one pass: there may be many. */
  #cutMessages(): void {
    const own = this.#own;
    const { bytes, head } = own;
    const offset = head - this.#base;
    let at = head;
    let from = head;
    const keep = (end: number): void => {
      if (at < from) copy(bytes, bytes, at, from, end);
      at += end - from;
    };
    const { fields, first } = this.#unackedIndex;
    let { durable: safe, committing: saving } = this;
    for (let i = first; i < fields.length; i += MARK.fields) {
      const start = fields[i + MARK.start]!;
      const end = fields[i + MARK.end]!;
      if (start < this.sent) continue;
      keep(offset + start);
      from = offset + end;
      safe -= Math.max(0, Math.min(end, this.durable) - start);
      saving -= Math.max(0, Math.min(end, this.committing) - start);
    }
    keep(own.tail);
    own.tail = at;
    this.durable = safe;
    this.committing = saving;
  }

  #hold(position: number): void {
    this.#from = this.#to = position;
    this.#log!.hold(position);
  }

  /** The range of the log becomes own bytes. */
  #materializeAll(): void {
    const count = this.#to - this.#from;
    if (count === 0) return;
    const at = this.#own.reserve(count);
    this.#log!.copy(this.#from, this.#to, this.#own.bytes, at);
    this.#drop(this.#to);
  }

  /** Room for a line of its own, after everything that came before it; -1 when the stream is finished. */
  #reserve(count: number): number {
    // Without a log, as a finished stream is, this is always so.
    if (!this.dirty || this.#inSync || this.#from !== this.#to || this.#followed !== this.#log?.end) {
      if (this.#finished) return -1;
      this.follow();
      this.#materializeAll();
      this.markDirty();
    }
    return this.#own.reserve(count);
  }

  /** Gives up what is confirmed and was sent on this connection, but for the beginning of an unconfirmed message. */
  #release(): void {
    const position = Math.min(this.acked, this.sent, this.#unackedIndex.start);
    const ownEnd = this.#base + this.#own.length;
    if (position < ownEnd) this.#own.drop(position - this.#base);
    else {
      this.#own.clear();
      if (position > ownEnd) this.#drop(this.#from + position - ownEnd);
    }
    this.#base = position;
  }

  /** Its range of the log begins at `from` now. One in step holds its place even when the range is empty. */
  #drop(from: number): void {
    if (from === this.#to && !this.#inSync) this.#log!.release(this.#from);
    else this.#log!.move(this.#from, from);
    this.#from = from;
  }
}
