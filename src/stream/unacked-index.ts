/**
 * Which messages in a stream are not acknowledged, and where their lines are. The outbox has the bytes.
 */

import { MOVED_BYTES_MIN } from "../limits.ts";
import { wordEnd } from "../protocol/ascii.ts";

/** Fields of a message: its number, when it was accepted (Unix ms) or IN_MAILBOX, where its line starts and ends. */
export const MARK = { fields: 4, number: 0, unixMs: 1, start: 2, end: 3 } as const;
/** In place of the time: the mailbox has the message too, with its time. No clock gives this time. */
const IN_MAILBOX = 0;
const NOTHING: Uint8Array = new Uint8Array();

/** Two messages belong to one run when there are at most this many bytes of other lines between them. */
const GAP_BYTES_MAX = 64;

/** Receives runs of new messages: fields[first..last) of the index. */
export interface StreamCopy {
  /** Messages that only this stream has; their lines are bytes[start..end). */
  accepted(fields: readonly number[], first: number, last: number, bytes: Uint8Array, start: number, end: number): void;
  /** Messages that the mailbox has too. */
  delivered(fields: readonly number[], first: number, last: number): void;
}

/** A message in a stream that the reader has not acknowledged. */
export interface UnackedMessage {
  number: number;
  /** Position in the stream after its line, and the length of the line. */
  position: number;
  bytes: number;
  /** The mailbox has it too. Then `unixMs`, `from` and `text` are empty. */
  inMailbox: boolean;
  unixMs: number;
  from: string;
  text: Uint8Array;
}

/** The unacknowledged messages of a stream, oldest first, in a flat list of numbers: no object for each message. */
export class UnackedIndex {
  /** Fields of all entries. Those before `first` are acknowledged. */
  readonly fields: number[] = [];
  first = 0;
  /** The highest number among the acknowledged messages. */
  ackedNumber = 0;
  /** This number of fields at the end was not given to `takeNew`'s copy yet. */
  #newFields = 0;

  /** The number of the last unacknowledged message; 0 without one. */
  get lastNumber(): number {
    return this.fields.at(MARK.number - MARK.fields) ?? 0;
  }

  /** A message that only this stream has. */
  add(number: number, unixMs: number, start: number, end: number): void {
    this.fields.push(number, unixMs, start, end);
    this.#newFields += MARK.fields;
  }

  /** A message that was delivered from the mailbox. */
  addFromMailbox(number: number, start: number, end: number): void {
    this.add(number, IN_MAILBOX, start, end);
  }

  /** The position after the line of the oldest message; 0 when that has another number, or there is none. */
  positionAfter(number: number): number {
    const { fields, first } = this;
    return fields[first + MARK.number] === number ? fields[first + MARK.end]! : 0;
  }

  /** Start of the first unacknowledged line. The line stays whole, since it may have to return to the mailbox. */
  get start(): number {
    return this.fields[this.first + MARK.start] ?? Number.POSITIVE_INFINITY;
  }

  /** The reader has everything before `position`. */
  ack(position: number): void {
    const { fields } = this;
    let { first } = this;
    while (first < fields.length && fields[first + MARK.end]! <= position) {
      this.ackedNumber = fields[first + MARK.number]!;
      first += MARK.fields;
    }
    if (first === fields.length) return this.clear();
    if (first > 1024 * MARK.fields && first * 2 > fields.length) {
      fields.splice(0, first);
      first = 0;
    }
    this.first = first;
  }

  clear(): void {
    if (this.fields.length > 0) this.fields.length = 0;
    this.first = this.#newFields = 0;
  }

  /**
   * Gives the messages that were added since the last call to `copy`, in runs of neighbours with the same time.
   * Position p of the stream is at bytes[p + offset].
   */
  takeNew(copy: StreamCopy, bytes: Uint8Array, offset: number): void {
    const { fields } = this;
    let first = Math.max(this.first, fields.length - this.#newFields);
    this.#newFields = 0;
    while (first < fields.length) {
      let last = first + MARK.fields;
      while (last < fields.length && fields[last + MARK.unixMs] === fields[first + MARK.unixMs]) {
        if (fields[last + MARK.start]! - fields[last - MARK.fields + MARK.end]! > GAP_BYTES_MAX) break;
        last += MARK.fields;
      }
      if (fields[first + MARK.unixMs] === IN_MAILBOX) copy.delivered(fields, first, last);
      else {
        const end = fields[last - MARK.fields + MARK.end]!;
        copy.accepted(fields, first, last, bytes, offset + fields[first + MARK.start]!, offset + end);
      }
      first = last;
    }
  }

  /**
   * The messages with numbers in (after, upTo], up to about `bytesMax` bytes but at least one. Position p of the stream
   * is at bytes[p + offset].
   */
  messages(after: number, upTo: number, bytesMax: number, bytes: Buffer, offset: number): UnackedMessage[] {
    const messages: UnackedMessage[] = [];
    const { fields } = this;
    let left = bytesMax;
    for (let i = this.#firstAfter(after); i < fields.length && left > 0; i += MARK.fields) {
      const number = fields[i + MARK.number]!;
      if (number > upTo) break;
      const unixMs = fields[i + MARK.unixMs]!;
      const lineStart = fields[i + MARK.start]!;
      const position = fields[i + MARK.end]!;
      left -= Math.max(MOVED_BYTES_MIN, position - lineStart);
      const inMailbox = unixMs === IN_MAILBOX;
      const message = { number, position, bytes: position - lineStart, inMailbox, unixMs, from: "", text: NOTHING };
      messages.push(message);
      if (inMailbox) continue;
      const end = position + offset - 1;
      const name = wordEnd(bytes, lineStart + offset, end) + 1;
      const nameEnd = wordEnd(bytes, name, end);
      message.from = bytes.toString("latin1", name, nameEnd);
      message.text = bytes.subarray(nameEnd + 1, end);
    }
    return messages;
  }

  /** Index of the first entry with a number above `after`, by binary search: numbers increase. */
  #firstAfter(after: number): number {
    const { fields } = this;
    let low = this.first / MARK.fields;
    let high = fields.length / MARK.fields;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (fields[middle * MARK.fields + MARK.number]! <= after) low = middle + 1;
      else high = middle;
    }
    return low * MARK.fields;
  }
}
