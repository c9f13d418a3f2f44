import { Fifo } from "../fifo.ts";
import { REPLY_SLOTS_MAX } from "../limits.ts";
import { encode, startsWith } from "../protocol/ascii.ts";
import type { LineReader } from "../protocol/line-reader.ts";
import type { Replies } from "../protocol/reply.ts";

const MESSAGE = encode("message ");
const ALIVE = encode("alive");

/** The place of one reply in a stream. */
export class ReplySlot {
  readonly slots: ReplySlots;
  /** Wheel time at which the request was acted on, and bytes of its line. */
  readonly openedMs: number;
  readonly bytes: number;
  /** The line; null until it is known. */
  reply: Uint8Array | null = null;
  /** Called with the reply when it has come, perhaps before those of earlier requests. Null for most. */
  filled: ((reply: Uint8Array) => void) | null = null;

  constructor(slots: ReplySlots, openedMs: number, bytes: number) {
    this.slots = slots;
    this.openedMs = openedMs;
    this.bytes = bytes;
  }
}

/**
 * The replies of one stream (of a session, or of the connection of one `as`) while another shard owes one of them: they
 * leave in the order of their requests. While a slot is open, only `message` and `alive` are acted on; their replies
 * wait here.
 */
export class ReplySlots implements Replies {
  /** The stream. Events are appended to it directly. */
  readonly out: Replies;
  /** Wheel time of the last event `waiting`, and of the last reply of another shard. */
  waitingMs = 0;
  filledMs = 0;
  /** Called when the last open slot was filled; null: nobody waits for that. */
  whenClosed: (() => void) | null = null;
  /** The oldest one waits for its reply; those before it are in the stream. */
  readonly #slots = new Fifo<ReplySlot>();

  constructor(out: Replies) {
    this.out = out;
  }

  get size(): number {
    return this.#slots.size;
  }

  /** A reply of another shard is missing. */
  get isOpen(): boolean {
    return this.size > 0;
  }

  /** No further request is taken. */
  get isFull(): boolean {
    return this.size >= REPLY_SLOTS_MAX;
  }

  /** No further request of that input is taken: one waits there, or the next one would have to. */
  isBlocked({ isHeld }: LineReader): boolean {
    return this.isOpen && (isHeld || this.isFull);
  }

  /** The request must wait until the replies to earlier ones are there. */
  mustWait({ tooLong, bytes, start, end }: LineReader): boolean {
    if (!this.isOpen) return false;
    return tooLong || !(startsWith(bytes, start, end, MESSAGE) || startsWith(bytes, start, end, ALIVE));
  }

  /** Wheel time at which the oldest one was opened. */
  get oldestMs(): number {
    return this.#slots.first!.openedMs;
  }

  /** The reply to a request that was acted on here: after those that are missing. */
  append(line: Uint8Array): void {
    if (!this.isOpen) this.out.append(line);
    else this.open(this.oldestMs, 0).reply = line;
  }

  open(nowMs: number, bytes: number): ReplySlot {
    const slot = new ReplySlot(this, nowMs, bytes);
    this.#slots.push(slot);
    return slot;
  }

  /** The reply of another shard has come. `line` does not change. */
  fill(slot: ReplySlot, line: Uint8Array, nowMs: number): void {
    this.filledMs = nowMs;
    slot.reply = line;
    const slots = this.#slots;
    while (slots.size > 0 && slots.first!.reply !== null) this.out.append(slots.shift()!.reply!);
    slot.filled?.(line);
    if (!this.isOpen) this.whenClosed?.();
  }
}
