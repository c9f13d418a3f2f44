import { ACK_BYTES_MAX, type Limits, MAILBOX_PORTION_BYTES, MOVED_BYTES_MIN } from "../limits.ts";
import { encode } from "../protocol/ascii.ts";
import type { UnackedMessage } from "../stream/unacked-index.ts";
import type { ChatObserver } from "./observer.ts";
import type { Account, Delivery, Session } from "./session.ts";
import type { ChatStore, EndedSession, FinalReason, StoredMessage } from "./store.ts";

/**
 * Moves messages between the store and the outboxes of sessions, and counts what each mailbox holds. A mailbox is
 * delivered in portions, as the client acknowledges them, so that no mailbox ends a session as `slow`. An entry is
 * dropped from the store only when it is acknowledged. `MailboxScheduler` decides when each of this happens.
 */
export class Mailbox {
  readonly #store: ChatStore;
  readonly #limits: Limits;
  readonly #observer: ChatObserver | null;
  /** A portion was not delivered because the store had no room to record it. */
  deliveryRefused = false;

  constructor(store: ChatStore, limits: Limits, observer: ChatObserver | null) {
    this.#store = store;
    this.#limits = limits;
    this.#observer = observer;
  }

  /** True when the mailbox has no room for another message, or the sender has used the share of one sender. */
  isFull(account: Account, from: Account): boolean {
    const { mailboxMessagesMax, mailboxBytesMax, mailboxSharePercent } = this.#limits;
    if (account.waiting >= mailboxMessagesMax || account.waitingBytes >= mailboxBytesMax) return true;
    const { messages, bytes } = account.waitingFrom(from.name);
    const share = mailboxSharePercent / 100;
    return messages >= mailboxMessagesMax * share || bytes >= mailboxBytesMax * share;
  }

  keep(account: Account, message: StoredMessage): void {
    this.#store.stored(account.name, message);
    account.countWaiting(message.from, 1, message.text.length);
  }

  /**
   * After the end of a session: its unacknowledged messages return to the mailbox, in their old order, and also beyond
   * the limits, since they were accepted. The store remembers a session whose client may have read further than it
   * acknowledged. Moves about `bytesMax` bytes and returns how many; the next calls move the rest.
   */
  requeue(delivery: Delivery, bytesMax: number): number {
    const { session } = delivery;
    if (delivery.state !== "requeueing") {
      this.#observer?.requeued(session);
      const ended = endedSession(session);
      this.#store.appended(session.account, session.number, session.outbox);
      this.noteAcked(delivery);
      if (ended !== null) this.#store.sessionEnded(ended);
      delivery.beginRequeue();
    }
    return this.spill(delivery, Number.POSITIVE_INFINITY, bytesMax);
  }

  /**
   * Copies unacknowledged messages up to number `upTo`, and about `bytesMax` bytes of them, to the mailbox. They count
   * as delivered. Gives the store also the session's position, unless it has a newer one. Returns the number of bytes.
   */
  spill(delivery: Delivery, upTo: number, bytesMax: number): number {
    const { session } = delivery;
    const { account, outbox, number, received, ended } = session;
    this.#store.appended(account, number, outbox); // First: the store takes the texts from there.
    const messages = outbox.messages(delivery.spilledUpTo, upTo, bytesMax);
    const hasPosition = number === 0 || ended || session.receivedNumber > upTo;
    if (messages.length === 0 && hasPosition) return 0;
    this.#store.requeued(account.name, number, received, messages);
    session.receivedNumber = Number.MAX_SAFE_INTEGER;
    delivery.deliveredUnacked += countNew(account, messages);
    const spilledUpTo = messages.at(-1)?.number ?? delivery.spilledUpTo;
    delivery.spilledUpTo = spilledUpTo;
    delivery.deliveredUpTo = Math.max(delivery.deliveredUpTo, spilledUpTo);
    return messages.reduce((sum, { bytes }) => sum + Math.max(MOVED_BYTES_MIN, bytes), MOVED_BYTES_MIN);
  }

  /** The client has what an ended session of that user delivered up to `position`. */
  ackDelivered(account: Account, ended: EndedSession, position: number): void {
    this.#acked(account, this.#store.lastDelivered(ended.number, position));
  }

  /** A session begins: entries that were acknowledged earlier are not delivered to it. */
  skip(delivery: Delivery): void {
    delivery.deliveredUpTo = delivery.skippedUpTo = delivery.session.account.ackedUpTo;
  }

  /** Mailbox entries are not delivered yet: a new message must follow them. */
  hasMore({ session, deliveredUnacked }: Delivery): boolean {
    return session.account.waiting > deliveredUnacked;
  }

  /** Gives the store the highest message number that the client has acknowledged. */
  noteAcked(delivery: Delivery): void {
    const { account, outbox } = delivery.session;
    const upTo = outbox.ackedNumber;
    if (upTo === delivery.notedAckUpTo) return;
    delivery.notedAckUpTo = upTo;
    this.#acked(account, upTo);
  }

  #acked(account: Account, upTo: number): void {
    this.#store.acked(account, upTo);
    if (account.waiting > 0) account.ackedUpTo = Math.max(account.ackedUpTo, upTo);
  }

  /** Drops acknowledged entries that count for about `bytesMax` bytes. Returns for how many bytes they count. */
  drop(account: Account, bytesMax: number): number {
    const delivery = account.session?.delivery ?? null;
    const isSkipped = delivery !== null && delivery.skippedUpTo > 0;
    const upTo = isSkipped ? Math.min(account.ackedUpTo, delivery.skippedUpTo) : account.ackedUpTo;
    const countMax = Math.max(1, Math.ceil(bytesMax / MOVED_BYTES_MIN));
    const before = account.waiting;
    for (const { from, messages, bytes } of this.#store.drop(account.name, upTo, countMax))
      account.countWaiting(from, -messages, -bytes);
    const dropped = before - account.waiting;
    if (delivery !== null && !isSkipped) delivery.deliveredUnacked -= dropped;
    if (dropped < countMax) {
      if (isSkipped) delivery.skippedUpTo = 0;
      if (account.ackedUpTo === upTo) account.ackedUpTo = 0;
    }
    return dropped * MOVED_BYTES_MIN;
  }

  /**
   * Bytes that may be delivered now; 0 or less when there is no room or nothing to deliver. The room grows with the
   * acknowledged bytes (TCP's slow start, RFC 5681), so a client that logs in again and again without acknowledging
   * costs little. It is never less than what makes a client acknowledge.
   */
  room({ ended, delivery, outbox }: Session): number {
    if (ended || !this.hasMore(delivery)) return 0;
    return Math.min(MAILBOX_PORTION_BYTES, ACK_BYTES_MAX + outbox.acked) - outbox.unacked;
  }

  /** Delivers the next portion for which there is room, about `bytesMax` bytes. Returns what it counts for. */
  deliver(session: Session, bytesMax: number): number {
    const { account, outbox, number, delivery } = session;
    this.noteAcked(delivery);
    const room = Math.min(bytesMax, this.room(session));
    if (room <= 0) return 0;
    if (number !== 0 && !this.#store.hasRoom(room)) {
      this.deliveryRefused = true; // A delivery to a known session is recorded, or its messages might come twice.
      return 0;
    }
    const { end } = outbox;
    const messages = this.#store.read(account.name, delivery.deliveredUpTo, room);
    for (const { number, unixMs, from, text } of messages) {
      outbox.appendFromMailbox(number, encode(`stored ${from} ${unixMs} `), text);
      session.messagesOut++;
      delivery.deliveredUpTo = number;
      delivery.deliveredUnacked++;
    }
    return Math.max(outbox.end - end, messages.length * MOVED_BYTES_MIN);
  }
}

/** Counts the messages that were not in the mailbox before. */
function countNew(account: Account, messages: readonly UnackedMessage[]): number {
  let count = 0;
  for (const { inMailbox, from, text } of messages) {
    if (inMailbox) continue;
    count++;
    account.countWaiting(from, 1, text.length);
  }
  return count;
}

const FINAL_REASONS: readonly FinalReason[] = ["replaced", "kicked"];

/** What the store remembers of a session that has ended; null for a plain session or a link. */
function endedSession(session: Session): EndedSession | null {
  const { account, kind, number, token, received, endReason, endedUnixMs } = session;
  if (number === 0) return null;
  const resumable = kind === "resumable";
  const finalReason = FINAL_REASONS.find((reason) => reason === endReason) ?? null;
  return { number, token, user: account.name, resumable, finalReason, received, endedUnixMs };
}
