import { MAILBOX_BYTES_MAX, MAILBOX_FEED_BYTES, MAILBOX_MESSAGES_MAX } from "../limits.ts";
import { encode } from "../protocol/ascii.ts";
import type { Account, Session } from "./session.ts";

/** A message that waits: its number orders it among all others. */
export interface StoredMessage {
  number: number;
  unixMs: number;
  from: string;
  text: Uint8Array;
}

/** What is remembered of a session that has ended, so that nothing of it comes twice. */
export interface EndedSession {
  token: string;
  user: string;
  resumable: boolean;
  /** A newer login ended it. */
  replaced: boolean;
  /** Position in the client's stream up to which it was acted on. */
  received: number;
  endedUnixMs: number;
  /** The messages that lay in its stream unconfirmed, and the positions behind them. */
  carried: readonly { number: number; position: number }[];
}

/** Messages and their bytes of text. */
export interface Amount {
  messages: number;
  bytes: number;
}

/** Where mailboxes rest, and what is known of sessions that ended. Methods throw when the disk refuses. */
export interface MailboxStore {
  keep(user: string, message: StoredMessage): void;
  /** A session's end: what goes back to the mailbox, and what is remembered of it, if anything; all or nothing. */
  settle(user: string, messages: readonly StoredMessage[], ended: EndedSession | null): void;
  /** The oldest messages with a number above `after`, until their texts have `bytes`, but at least one. */
  read(user: string, after: number, bytes: number): StoredMessage[];
  /** Forgets the messages up to that number; returns how much that was. */
  drop(user: string, upTo: number): Amount;
  ended(token: string): Omit<EndedSession, "carried"> | null;
  /** Forgets the messages that an ended session had carried up to that position. */
  dropCarried(user: string, token: string, position: number): Amount;
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

  keep(account: Account, message: StoredMessage): void {
    this.#store.keep(account.name, message);
    account.waiting++;
    account.waitingBytes += message.text.length;
  }

  /**
   * A session has ended: what its reader has not confirmed goes back, in its old place, even beyond the bound, since it
   * was accepted. A stream that a client may have read further than it confirmed is remembered.
   */
  settle(session: Session, unixMs: number): void {
    this.forget(session);
    const { account, outbox, kind, token, received } = session;
    const carried = (session.withdrawn ??= outbox.withdraw());
    const messages = carried.filter(({ resting }) => !resting);
    const resumable = kind === "resumable";
    const replaced = session.endReason === "replaced";
    const ended = { token, user: account.name, resumable, replaced, received, endedUnixMs: unixMs, carried };
    if (kind === "plain" && messages.length === 0) return;
    this.#store.settle(account.name, messages, kind === "plain" ? null : ended);
    account.waiting += messages.length;
    for (const { text } of messages) account.waitingBytes += text.length;
  }

  /** Drops what an ended session of that user had carried up to `position`: its client has it. */
  dropCarried(account: Account, token: string, position: number): void {
    this.#forgotten(account, this.#store.dropCarried(account.name, token, position));
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
    this.#forgotten(account, dropped);
  }

  #forgotten(account: Account, { messages, bytes }: Amount): void {
    account.waiting -= messages;
    account.waitingBytes -= bytes;
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
