import { MAILBOX_BYTES_MAX, MAILBOX_FEED_BYTES, MAILBOX_MESSAGES_MAX } from "../limits.ts";
import { encode } from "../protocol/ascii.ts";
import type { Unconfirmed } from "../protocol/outbox.ts";
import type { Account, Session } from "./session.ts";

/** A message that waits: its number orders it among all others. */
export type StoredMessage = Unconfirmed;

/** Where mailboxes rest. Methods throw when the disk refuses. */
export interface MailboxStore {
  keep(user: string, messages: readonly StoredMessage[]): void;
  /** The oldest messages with a number above `after`, until their texts have `bytes`, but at least one. */
  read(user: string, after: number, bytes: number): StoredMessage[];
  /** Forgets the messages up to that number; returns how many and their bytes of text. */
  drop(user: string, upTo: number): { messages: number; bytes: number };
}

/**
 * What waits for users who are not there. It is fed into a session in portions, as they are confirmed, so that no
 * mailbox makes a session slow; an entry leaves the store only when it is confirmed.
 */
export class Mailbox {
  readonly #store: MailboxStore;

  constructor(store: MailboxStore) {
    this.#store = store;
  }

  isFull(account: Account): boolean {
    return account.waiting >= MAILBOX_MESSAGES_MAX || account.waitingBytes >= MAILBOX_BYTES_MAX;
  }

  /** Keeps messages for a user, even beyond the bound: refusing is for the one who accepts them. */
  keep(account: Account, messages: readonly StoredMessage[]): void {
    if (messages.length === 0) return;
    this.#store.keep(account.name, messages);
    account.waiting += messages.length;
    for (const { text } of messages) account.waitingBytes += text.length;
  }

  /** Whether some of it has not been fed into the session yet: then a new message must join its end. */
  hasMore(session: Session): boolean {
    return session.account.waiting > session.fedUnconfirmed;
  }

  /** Forgets what the session's reader has confirmed. */
  forget(session: Session): void {
    const { account, outbox } = session;
    if (outbox.fedConfirmed === session.forgottenUpTo) return;
    const dropped = this.#store.drop(account.name, outbox.fedConfirmed);
    session.forgottenUpTo = outbox.fedConfirmed;
    session.fedUnconfirmed -= dropped.messages;
    account.waiting -= dropped.messages;
    account.waitingBytes -= dropped.bytes;
  }

  /** Feeds the next portion, as far as there is room for it. */
  feed(session: Session): void {
    const { account, outbox } = session;
    this.forget(session);
    const room = MAILBOX_FEED_BYTES - outbox.unconfirmed;
    if (room <= 0 || !this.hasMore(session)) return;
    for (const { number, unixMs, from, text } of this.#store.read(account.name, session.fedUpTo, room)) {
      outbox.appendMessage(number, 0, encode(`stored ${from} ${unixMs} `), text, 0, text.length);
      session.fedUpTo = number;
      session.fedUnconfirmed++;
    }
  }
}
