import { ACK_BYTES_MAX, type Limits, MAILBOX_PORTION_BYTES, MOVED_BYTES_MIN } from "../limits.ts";
import { encode } from "../protocol/ascii.ts";
import type { UnackedMessage } from "../stream/unacked-index.ts";
import type { ChatObserver } from "./observer.ts";
import type { Account, Session } from "./session.ts";
import type { ChatStore, EndedSession, StoredMessage } from "./store.ts";

/**
 * What waits for users who are not there. It is fed into a session in portions, as they are confirmed, so that no
 * mailbox makes a session slow; an entry leaves the store only when it is confirmed.
 */
export class Mailbox {
  readonly #store: ChatStore;
  readonly #limits: Limits;
  readonly #observer: ChatObserver | null;
  /** A session was not fed, since the store had no room to record that. */
  deliveryRefused = false;

  constructor(store: ChatStore, limits: Limits, observer: ChatObserver | null) {
    this.#store = store;
    this.#limits = limits;
    this.#observer = observer;
  }

  /** No room for another message; or not for one of that sender, who has taken their share. */
  isFull(account: Account, from: Account): boolean {
    const { mailboxMessagesMax, mailboxBytesMax, mailboxSharePercent } = this.#limits;
    if (account.waiting >= mailboxMessagesMax || account.waitingBytes >= mailboxBytesMax) return true;
    const { messages, bytes } = account.waitingFrom(from.name);
    const share = mailboxSharePercent / 100;
    return messages >= mailboxMessagesMax * share || bytes >= mailboxBytesMax * share;
  }

  keep(account: Account, message: StoredMessage): void {
    this.#store.keep(account.name, message);
    account.countWaiting(message.from, 1, message.text.length);
  }

  /**
   * A session has ended: what its reader has not confirmed goes back, in its old place, even beyond the bound, since it
   * was accepted. A stream that a client may have read further than it confirmed is remembered. Messages of about
   * `bytesMax` go back now, and the rest with the next calls. Returns how many bytes that was.
   */
  requeue(session: Session, bytesMax: number): number {
    if (!session.requeueing) {
      this.#observer?.requeued(session);
      const ended = endOf(session);
      this.#store.wrote(session.account, session.number, session.outbox);
      this.noteAcked(session);
      if (ended !== null) this.#store.ends(ended);
      session.requeueing = true;
    }
    return this.spill(session, Number.POSITIVE_INFINITY, bytesMax);
  }

  /** Counts what is in the store from now on. */
  #countSpilled(account: Account, carried: readonly UnackedMessage[]): number {
    let count = 0;
    for (const { spilled: resting, from, text } of carried) {
      if (resting) continue;
      count++;
      account.countWaiting(from, 1, text.length);
    }
    return count;
  }

  /**
   * Unconfirmed messages of a session, up to number `upTo` and about so many bytes, rest in the store from now on, as
   * if they had been fed. Returns how many bytes that was.
   */
  spill(session: Session, upTo: number, bytesMax: number): number {
    const { account, outbox, number, received } = session;
    this.#store.wrote(account, number, outbox); // Before they rest, or their texts would not be told.
    const carried = outbox.messages(session.spilledUpTo, upTo, bytesMax);
    if (carried.length === 0 && (number === 0 || session.ended)) return 0;
    this.#store.spill(account.name, number, received, carried);
    session.deliveredUnacked += this.#countSpilled(account, carried);
    const upToNow = carried.at(-1)?.number ?? session.spilledUpTo;
    outbox.spill(session.spilledUpTo, upToNow);
    session.spilledUpTo = upToNow;
    session.deliveredUpTo = Math.max(session.deliveredUpTo, session.spilledUpTo);
    return carried.reduce((sum, { bytes }) => sum + Math.max(MOVED_BYTES_MIN, bytes), 0);
  }

  /** What an ended session of that user had carried up to `position` is confirmed: its client has it. */
  ackDelivered(account: Account, ended: EndedSession, position: number): void {
    this.#acked(account, this.#store.lastDelivered(ended.number, position));
  }

  /** A session begins: it gets nothing that was confirmed before. */
  skip(session: Session): void {
    session.deliveredUpTo = session.skippedUpTo = session.account.ackedUpTo;
  }

  /** Whether some of it has not been fed into the session yet: then a new message must join its end. */
  hasMore(session: Session): boolean {
    return session.account.waiting > session.deliveredUnacked;
  }

  /** Forgets what the session's reader has confirmed. */
  noteAcked(session: Session): void {
    const { account, outbox } = session;
    const upTo = outbox.ackedNumber;
    if (upTo === session.notedAckUpTo) return;
    session.notedAckUpTo = upTo;
    this.#acked(account, upTo);
  }

  #acked(account: Account, upTo: number): void {
    this.#store.acked(account, upTo);
    if (account.waiting > 0) account.ackedUpTo = Math.max(account.ackedUpTo, upTo);
  }

  /** Drops some of what the user has confirmed, for about `bytesMax`. Returns for how many bytes that counts. */
  drop(account: Account, bytesMax: number): number {
    const { session } = account;
    const isSkipped = session !== null && session.skippedUpTo > 0;
    const upTo = isSkipped ? Math.min(account.ackedUpTo, session.skippedUpTo) : account.ackedUpTo;
    const most = Math.max(1, Math.ceil(bytesMax / MOVED_BYTES_MIN));
    const before = account.waiting;
    for (const { from, messages, bytes } of this.#store.drop(account.name, upTo, most))
      account.countWaiting(from, -messages, -bytes);
    const dropped = before - account.waiting;
    if (session !== null && !isSkipped) session.deliveredUnacked -= dropped;
    if (dropped < most) {
      if (isSkipped) session.skippedUpTo = 0;
      if (account.ackedUpTo === upTo) account.ackedUpTo = 0;
    }
    return dropped * MOVED_BYTES_MIN;
  }

  /**
   * Bytes that may be fed now; 0 or less when there is no room, or nothing to feed. The room grows by what was
   * confirmed (TCP's slow start, RFC 5681), so that a client that logs in again and again, and confirms nothing, costs
   * little. It is never less than what makes a client confirm.
   */
  room(session: Session): number {
    const { unacked: unconfirmed, acked: confirmed } = session.outbox;
    if (session.ended || !this.hasMore(session)) return 0;
    return Math.min(MAILBOX_PORTION_BYTES, ACK_BYTES_MAX + confirmed) - unconfirmed;
  }

  /** Feeds the next portion for which there is room, of about `bytesMax`. Returns its bytes. */
  deliver(session: Session, bytesMax: number): number {
    const { account, outbox, number } = session;
    this.noteAcked(session);
    const room = Math.min(bytesMax, this.room(session));
    if (room <= 0) return 0;
    if (number !== 0 && !this.#store.hasRoom(room)) {
      this.deliveryRefused = true; // What a known session carried is recorded, or it might come again.
      return 0;
    }
    const { end } = outbox;
    for (const { number, unixMs, from, text } of this.#store.read(account.name, session.deliveredUpTo, room)) {
      outbox.appendMessage(number, 0, encode(`stored ${from} ${unixMs} `), text, 0, text.length);
      session.deliveredUpTo = number;
      session.deliveredUnacked++;
    }
    return outbox.end - end;
  }
}

/** What is remembered of a session that has ended; nothing of a plain one. */
function endOf(session: Session): EndedSession | null {
  const { account, kind, number, token, received, endReason, endedUnixMs } = session;
  if (kind === "plain") return null;
  const resumable = kind === "resumable";
  return { number, token, user: account.name, resumable, replaced: endReason === "replaced", received, endedUnixMs };
}
