import type { UnackedMessage } from "../stream/unacked-index.ts";
import type { Outbox } from "../stream/outbox.ts";
import type { WrongPasswords } from "../auth/lockouts.ts";
import type { Account } from "./session.ts";

/** A message that waits: its number orders it among all others. */
export interface StoredMessage {
  number: number;
  unixMs: number;
  from: string;
  text: Uint8Array;
}

/** A session that its client may ask for when it has ended. */
export interface KnownSession {
  /** From the same counter as message numbers. */
  number: number;
  token: string;
  user: string;
  resumable: boolean;
}

/** What is remembered of a session that has ended, so that nothing of it comes twice. */
export interface EndedSession extends KnownSession {
  /** A newer login ended it. */
  replaced: boolean;
  /** Position in the client's stream up to which it was acted on. */
  received: number;
  endedUnixMs: number;
}

/** Messages of one sender, and bytes of their text. */
export interface Amount {
  from: string;
  messages: number;
  bytes: number;
}

/**
 * What the chat wants to find again after a restart, however the last run ended: whatever it says here in one turn is
 * safe together, when the turn has ended and before anything of it leaves. A disk that refuses is no fault of these
 * methods; what was said waits for it.
 */
export interface ChatStore {
  /** Why nothing more may be promised, in words for people; null when all is well. */
  readonly writeError: string | null;
  /** Reserves room for a text of `bytes` in this turn's record. False when it may not be promised: see `trouble`. */
  accepts(bytes: number): boolean;
  /** The same for what goes on during a trouble, as long as the journal has room for it. */
  hasRoom(bytes: number): boolean;
  /** The disk is behind: what need not move now should wait until it is not. */
  readonly isBehind: boolean;
  /** A number above all that were given out before. */
  newNumber(): number;

  /** Messages were appended to a user's stream; `session` is 0 for one that nobody asks for when it has ended. */
  wrote(to: Account, session: number, outbox: Outbox): void;
  /** A message waits in a user's mailbox. */
  keep(user: string, message: StoredMessage): void;
  /** A user has all messages up to that number, wherever they are. While the disk is full that may be lost. */
  acked(user: Account, upTo: number): void;

  /** `proof`: what lets its user's password be judged at once when it comes with its token; empty when nothing does. */
  began(session: KnownSession, proof: Uint8Array): void;
  /** A session's client was acted on up to that position of its stream. While the disk is full that may be lost. */
  received(session: number, position: number): void;
  /** A session has ended; what it holds follows, to the mailbox. */
  ends(session: EndedSession): void;

  /** Messages up to that number must rest in mailboxes now, unconfirmed ones of living sessions too; null: none. */
  readonly spillUpTo: number | null;
  /** Messages that a session carries now rest in the mailbox; of a known session also how far it is. */
  spill(user: string, session: number, received: number, messages: readonly UnackedMessage[]): void;
  /** All up to `restUpTo` do. */
  spilled(): void;

  /** The oldest messages with a number above `after`, until their texts have `bytes`, but at least one. */
  read(user: string, after: number, bytes: number): StoredMessage[];
  /** Forgets the oldest messages of the mailbox up to that number, `most` at most; returns their amounts by sender. */
  drop(user: string, upTo: number, most: number): Amount[];
  ended(token: string): EndedSession | null;
  /** The number of the last message that an ended session had carried up to that position; 0 when there is none. */
  lastDelivered(session: number, position: number): number;

  /** There are so many wrong passwords of a user from there, until then; none are forgotten. */
  wrongPasswords(wrong: WrongPasswords, untilUnixMs: number): void;

  block(user: string, other: string): void;
  unblock(user: string, other: string): void;
}
