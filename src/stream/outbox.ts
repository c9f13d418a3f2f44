import { LF } from "../protocol/ascii.ts";
import type { BroadcastLog } from "./broadcast-log.ts";
import { ByteQueue, type Memory, copy } from "../byte-queue.ts";
import { MARK, UnackedIndex, type StreamCopy, type UnackedMessage } from "./unacked-index.ts";
import type { Sink, Stream, Turn } from "./turn.ts";

/** The streams that follow one log, as an outbox sees them: see `BroadcastGroup`. */
export interface StreamGroup {
  readonly log: BroadcastLog;
  /** Position in the log up to which a member was sent. */
  sentTo(outbox: Outbox): number;
  /** Returns the index in the group. The group changes it later. */
  add(outbox: Outbox): number;
  /** The outbox is not a member (`leave` was called). */
  remove(outbox: Outbox): void;
  leave(outbox: Outbox): void;
}

const EMPTY = Buffer.alloc(0);
/** A range of the log up to this size is copied to the outbox's own bytes, so that one send has both. */
const JOIN_BYTES_MAX = 4096;

/**
 * One byte stream to one reader, with positions `acked`, `sent` <= `durable` <= `end`. Whole lines are appended at
 * `end`, the end of the turn moves `durable`, a socket is given the bytes from `sent` up to `durable`, and the reader
 * moves `acked`. A stream may follow the broadcast log: then its last part is a range of the log, after its own bytes.
 *
 * It remembers which messages in it are not acknowledged, so that they can return to the mailbox. An idle outbox has no
 * buffer. It does not know sessions and sockets.
 */
export class Outbox implements Stream {
  /** The reader has everything before this position. */
  acked = 0;
  /** The kernel has accepted everything before this position, on the connection of the moment. */
  sent = 0;
  durable = 0;
  /** `durable` when the commit that runs has succeeded. */
  committing = 0;
  /** Set and cleared by the turn. */
  dirty = false;
  /** Index in the group. Only the group changes it. */
  groupIndex = -1;
  /** `acked` follows what the kernel accepts: a plain session, or lines outside a session. */
  readonly plain: boolean;
  /** Changed only here. */
  readonly unackedIndex = new UnackedIndex();

  /** The piece that `peek` found: bytes[start..end). */
  piece: Buffer = EMPTY;
  pieceStart = 0;
  pieceEnd = 0;

  readonly #turn: Turn;
  /** How far it was ever sent. After a `rewind` that is more than `sent`. */
  #furthest = 0;
  /** Later lines are dropped. */
  #finished = false;
  #sink: Sink | null = null;
  #group: StreamGroup | null = null;
  #log: BroadcastLog | null = null;
  /** A member of the group, which writes it. Its positions are those at which it joined, until `#catchUp`. */
  #inSync = false;
  /** The range of the log that is the last part of this stream, and up to where the log was followed. */
  #from = 0;
  #to = 0;
  #followed = 0;
  /** Its own bytes, and the position of the first of them. */
  readonly #own: ByteQueue;
  #base = 0;

  /** `memory` counts what this outbox holds, without the log. */
  constructor(turn: Turn, plain: boolean, memory?: Memory) {
    this.#turn = turn;
    this.plain = plain;
    this.#own = new ByteQueue(memory);
  }

  get sink(): Sink | null {
    return this.#sink;
  }

  set sink(sink: Sink | null) {
    this.follow();
    this.#sink = sink;
  }

  /** Position after the last byte. */
  get end(): number {
    return this.#base + this.#own.length + this.#to - this.#from;
  }

  /** How far a reader may have it: an earlier connection may have been sent more than this one. */
  get furthest(): number {
    this.#catchUp();
    return Math.max(this.#furthest, this.sent);
  }

  /** The number of the last unacknowledged message; 0 without one. */
  get lastNumber(): number {
    return this.unackedIndex.lastNumber;
  }

  /** The highest number among the acknowledged messages. */
  get ackedNumber(): number {
    return this.unackedIndex.ackedNumber;
  }

  /** Memory in bytes, without the log. */
  get heldBytes(): number {
    return this.#own.bytes.length;
  }

  /** Bytes that the reader has not acknowledged. */
  get unacked(): number {
    this.#catchUp();
    return this.end - this.acked;
  }

  /** Bytes that the kernel has not accepted. */
  get unsent(): number {
    return this.end - this.sent;
  }

  /** The sink is flushed when the turn ends. Appending does that too. */
  markDirty(): void {
    if (!this.dirty) this.#turn.markDirty(this);
  }

  /** What is appended to the log from now on is part of this stream. */
  subscribe(group: StreamGroup): void {
    this.#group = group;
    this.#log = group.log;
    this.#followed = this.#log.end;
    this.groupIndex = group.add(this);
  }

  /** What was appended to the log before is still part of this stream; what is appended later is not. */
  unsubscribe(): void {
    this.follow();
    this.#materializeAll();
    this.#group?.remove(this);
    this.#group = this.#log = null;
  }

  /** What was appended to the log since the last call becomes part of this stream. */
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

  /** Becomes a member of the group, which was sent up to `at` of the log. False when it has something else to send. */
  join(at: number): boolean {
    if (this.#followed !== at || this.sent < this.end || this.#sink?.write === undefined) return false;
    if (this.#to !== at) this.#materializeAll();
    if (this.plain)
      this.#from = this.#to = at; // All that was sent is acknowledged, so it holds nothing.
    else if (this.#from === this.#to) this.#hold(at);
    this.#inSync = true;
    return true;
  }

  /** Its socket accepted only `taken` bytes of what the members are sent: it leaves the group. */
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

  /** Brings the positions of a member up to date. */
  #catchUp(): void {
    if (!this.#inSync) return;
    const sent = this.#group!.sentTo(this);
    this.sent += sent - this.#to;
    this.#to = this.#followed = sent;
    if (this.plain) {
      this.#from = sent;
      this.acked = this.#base = this.sent;
    }
    this.durable = this.committing = this.sent;
  }

  /** What was appended to the log since the last `follow` does not become part of this stream. */
  skip(): void {
    if (this.#log !== null) this.#followed = this.#log.end; // `follow` has made it leave the group.
  }

  /** Copies its range of the log to its own bytes if it begins before `before`, so that the log can free the block. */
  materialize(before: number): void {
    this.#catchUp();
    if (this.#from < this.#to && this.#from < before) this.#materializeAll();
  }

  /** Appends the last line, if there is one. Later lines are dropped. `unsubscribe` was called before. */
  finish(line: Uint8Array | null): void {
    if (line !== null) this.append(line);
    this.#finished = true;
  }

  append(line: Uint8Array): void {
    const at = this.#reserve(line.length);
    if (at < 0) return;
    copy(line, this.#own.bytes, at, 0, line.length);
  }

  /** Appends the line head + bytes[start..end) + LF. False when the stream is finished. */
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
    this.unackedIndex.add(number, unixMs, to - (head.length + end - start + 1), to);
  }

  /** Appends the line of a message that the mailbox has too, until it is acknowledged. */
  appendFromMailbox(number: number, head: Uint8Array, text: Uint8Array): void {
    if (!this.appendLine(head, text, 0, text.length)) return;
    const to = this.end;
    this.unackedIndex.addFromMailbox(number, to - (head.length + text.length + 1), to);
  }

  /** Gives the messages that were appended since the last call to `copy`, in runs. */
  copyNew(copy: StreamCopy): void {
    const { bytes, head } = this.#own;
    this.unackedIndex.takeNew(copy, bytes, head - this.#base);
  }

  /** Puts the next durable bytes into `piece`; false without any. `advance` takes how many of them were accepted. */
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

  /** The socket accepted `count` bytes of `piece`. */
  advance(count: number): void {
    this.sent += count;
    this.piece = EMPTY;
    if (this.plain) this.ack(this.sent);
    else if (this.#base < this.acked) this.#release();
  }

  /** The reader continues on another connection: it has everything before `position`, and is sent the rest. */
  rewind(position: number): void {
    this.follow();
    this.#furthest = this.furthest;
    if (position > this.acked) this.ack(position);
    this.sent = this.acked;
    this.#release();
  }

  /**
   * The reader has everything before `position`. When it has it from an earlier connection, this connection is still
   * sent all of it: a stream in which bytes are missing cannot be read.
   */
  ack(position: number): void {
    this.#catchUp();
    this.acked = position;
    this.unackedIndex.ack(position);
    this.#release();
  }

  /**
   * The session has ended and its messages are in the mailbox, so the stream forgets them. From a plain stream they are
   * removed, except a line of which a part was sent. The reader of any other stream is still sent all of it, and names
   * its position at its next login. Without a sink the stream is emptied.
   */
  withdraw(): void {
    this.follow();
    this.#materializeAll();
    if (this.plain) this.#cutMessages();
    this.unackedIndex.clear();
    if (this.#sink === null) this.acked = this.sent = this.durable = this.committing = this.end;
    this.#release();
  }

  /** The unacknowledged messages with numbers in (after, upTo], up to about `bytesMax` bytes. */
  messages(after: number, upTo: number, bytesMax: number): UnackedMessage[] {
    const { bytes, head } = this.#own;
    return this.unackedIndex.messages(after, upTo, bytesMax, bytes, head - this.#base);
  }

  /** Removes the lines of messages of which nothing was sent, in one pass: there may be many. */
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
    const { fields, first } = this.unackedIndex;
    let { durable, committing } = this;
    for (let i = first; i < fields.length; i += MARK.fields) {
      const start = fields[i + MARK.start]!;
      const end = fields[i + MARK.end]!;
      if (start < this.sent) continue;
      keep(offset + start);
      from = offset + end;
      durable -= Math.max(0, Math.min(end, this.durable) - start);
      committing -= Math.max(0, Math.min(end, this.committing) - start);
    }
    keep(own.tail);
    own.tail = at;
    this.durable = durable;
    this.committing = committing;
  }

  #hold(position: number): void {
    this.#from = this.#to = position;
    this.#log!.hold(position);
  }

  /** Copies its range of the log to its own bytes. */
  #materializeAll(): void {
    const count = this.#to - this.#from;
    if (count === 0) return;
    const at = this.#own.reserve(count);
    this.#log!.copy(this.#from, this.#to, this.#own.bytes, at);
    this.#drop(this.#to);
  }

  /** Reserves own bytes for a line, after everything before it. Returns where; -1 when the stream is finished. */
  #reserve(count: number): number {
    // This is always true without a log, as in a finished stream.
    if (!this.dirty || this.#inSync || this.#from !== this.#to || this.#followed !== this.#log?.end) {
      if (this.#finished) return -1;
      this.follow();
      this.#materializeAll();
      this.markDirty();
    }
    return this.#own.reserve(count);
  }

  /** Frees what is acknowledged and was sent on this connection, up to the first unacknowledged message. */
  #release(): void {
    const position = Math.min(this.acked, this.sent, this.unackedIndex.start);
    const ownEnd = this.#base + this.#own.length;
    if (position < ownEnd) this.#own.drop(position - this.#base);
    else {
      this.#own.clear();
      if (position > ownEnd) this.#drop(this.#from + position - ownEnd);
    }
    this.#base = position;
  }

  /** Its range of the log begins at `from` now. A member holds its position even when the range is empty. */
  #drop(from: number): void {
    if (from === this.#to && !this.#inSync) this.#log!.release(this.#from);
    else this.#log!.move(this.#from, from);
    this.#from = from;
  }
}
