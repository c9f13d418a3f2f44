import type { UnackedMessage } from "../stream/unacked-index.ts";
import type { Outbox } from "../stream/outbox.ts";
import type { WrongPasswords } from "../auth/lockouts.ts";
import type { Outcomes } from "./outcomes.ts";
import type { Account } from "./session.ts";

/** The port between the rules and the storage, in the words of the rules. How it is stored is not known here. */

/** A message in a mailbox. */
export interface StoredMessage {
  /** Orders it among all messages. */
  number: number;
  unixMs: number;
  from: string;
  text: Uint8Array;
}

/** A session whose client may ask for it after its end: resumable, or with a callback. */
export interface KnownSession {
  /** From the same counter as message numbers. */
  number: number;
  token: string;
  user: string;
  resumable: boolean;
}

export type FinalReason = "replaced" | "kicked";

/** What is remembered of a known session after its end, so that no message of it is delivered twice. */
export interface EndedSession extends KnownSession {
  /** Why its client must not log in by itself: a newer login or an operator ended it. Null after any other end. */
  finalReason: FinalReason | null;
  /** Position in the client's stream up to which its requests were acted on. */
  received: number;
  endedUnixMs: number;
}

/** Messages from one sender, and bytes of their text. */
export interface Amount {
  from: string;
  messages: number;
  bytes: number;
}

/** When a user logged in last, and from where. */
export interface LastLogin {
  unixMs: number;
  address: string;
}

/**
 * Moves what the chat still holds of messages up to number `upTo` to the mailboxes: unacknowledged messages by
 * `ChatStore.requeued`, acknowledged mailbox entries by `ChatStore.drop`. It does about `bytesMax` bytes of that, and
 * returns true when nothing is left.
 */
export type MoveOldMessages = (upTo: number, bytesMax: number) => boolean;

/**
 * The events that the chat must know again after a restart, however the last run ended. All events of one turn become
 * durable together: after the end of the turn, and before any output of the turn leaves. These methods do not fail when
 * the disk is full; what they were given waits until there is room.
 */
export interface ChatStore {
  /** Why nothing more may be promised, in words for people; null when nothing prevents it. */
  readonly writeError: string | null;
  /** Reserves room for a text of `bytes` in this turn. False when it may not be promised: see `writeError`. */
  accepts(bytes: number): boolean;
  /** The same for what continues during a write error while there is room. */
  hasRoom(bytes: number): boolean;
  /** True while no request should be accepted: too much waits to become durable, or has waited for too long. */
  readonly isCongested: boolean;
  /** True while moves to and from mailboxes that no client waits for should be deferred. */
  readonly isBusy: boolean;
  /** A number above all numbers that were given out before, also by earlier runs. */
  newNumber(): number;
  /**
   * That user has a message of that number. True when it was never given out: then numbers above it follow, also in
   * later runs.
   */
  raiseNumber(user: Account, number: number): boolean;

  /** A message was put into the mailbox of a user. */
  stored(user: string, message: StoredMessage): void;
  /** Messages were appended to the outbox of a user's session; `session` is 0 for a plain one. */
  appended(to: Account, session: number, outbox: Outbox): void;
  /** The user has all messages up to that number. A full disk and a crash may lose this event. */
  acked(user: Account, upTo: number): void;
  /**
   * Unacknowledged messages of a session are in the user's mailbox from now on. `received` is how far a known session
   * was acted on.
   */
  requeued(user: string, session: number, received: number, messages: readonly UnackedMessage[]): void;

  /** `proof` lets a login with the session's token skip the hash of the password; empty when nothing is needed. */
  sessionBegan(session: KnownSession, proof: Uint8Array): void;
  /**
   * The requests of a session were acted on up to that position. A full disk and a crash may lose this event. Returns
   * the highest message number that was given out: the store has the position until `compact` asks for messages up to
   * this number or a higher one. Returns 0 when the position waits for room.
   */
  received(session: number, position: number): number;
  /** The session has ended. Its unacknowledged messages follow with `requeued`. */
  sessionEnded(session: EndedSession): void;

  /** That many wrong passwords of a user from an address count until then; `count` 0 means that none do. */
  wrongPasswords(wrong: WrongPasswords, untilUnixMs: number): void;
  /** The user is banned until then; 0 ends the ban. */
  banned(user: string, untilUnixMs: number): void;
  /** A login of the user, from that address. A full disk and a crash may lose this event. */
  loggedIn(user: Account, unixMs: number, address: string): void;
  block(user: string, other: string): void;
  unblock(user: string, other: string): void;

  /**
   * A request of that other shard was acted on, with that reply, which ends with LF and does not change. Added to
   * `outcomes`.
   */
  heard(shard: number, number: number, reply: Uint8Array): void;
  /** What was heard from that shard. */
  outcomes(shard: number): Outcomes;

  /** Once a turn: when the store wants to forget its oldest records, it calls `move` for what only they have. */
  compact(move: MoveOldMessages): void;

  /** The oldest messages of a mailbox with a number above `after`: at least one, until they count for `bytes` bytes. */
  read(user: string, after: number, bytes: number): StoredMessage[];
  /** The number of the newest message of a mailbox; 0 without one. */
  lastStored(user: string): number;
  /** Deletes the oldest messages of a mailbox up to number `upTo`, at most `countMax`; their amounts by sender. */
  drop(user: string, upTo: number, countMax: number): Amount[];
  /** Deletes the oldest messages of a mailbox with numbers in (after, upTo], at most `countMax`; amounts by sender. */
  purge(user: string, after: number, upTo: number, countMax: number): Amount[];
  /** The last login of a user; null when there was none. */
  lastLogin(user: string): LastLogin | null;
  /** The ended session with that token; null when there is none, or when it is forgotten. */
  endedSession(token: string): EndedSession | null;
  /** The number of the last message that an ended session had in its stream up to that position; 0 without one. */
  lastDelivered(session: number, position: number): number;
}
