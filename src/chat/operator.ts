import { NOTICED_PER_TURN, PURGED_PER_TURN } from "../limits.ts";
import type { Chat } from "./chat.ts";
import { type Account, FOREVER, type Session } from "./session.ts";

/**
 * What an operator does to users and sessions. Each function makes a short turn: those that have more to do take a part
 * at a time, and are called again in the next turn. How an operator gives orders is not known here (src/admin).
 */

/** Ends the session of a user: `goodbye kicked [<words>]`. False when the user is offline. */
export function kick(chat: Chat, { session }: Account, words: Uint8Array | null = null): boolean {
  if (session === null) return false;
  chat.end(session, "kicked", words);
  return true;
}

/** Bans a user for that many seconds, or for good (null), and ends the session. The store has room for a change. */
export function ban(chat: Chat, account: Account, seconds: number | null): void {
  const untilMs = seconds === null ? FOREVER : Math.min(FOREVER, chat.unixMs + 1000 * seconds);
  setBan(chat, account, untilMs);
  kick(chat, account);
}

/** False when the user is not banned. The store has room for a change. */
export function unban(chat: Chat, account: Account): boolean {
  const wasBanned = account.isBanned(chat.unixMs);
  if (account.bannedUntilMs > 0) setBan(chat, account, 0);
  return wasBanned;
}

function setBan({ store }: Chat, account: Account, untilMs: number): void {
  account.bannedUntilMs = untilMs;
  store.banned(account.name, untilMs);
}

/**
 * Sends a line to the next sessions of a list, from an index on, until `isTurnLong`: an outbox that has much to copy
 * takes longer. Sessions of the list may have ended. Returns the next index.
 */
export function notify(
  line: Uint8Array,
  sessions: readonly Session[],
  from: number,
  isTurnLong: () => boolean,
): number {
  const to = Math.min(sessions.length, from + NOTICED_PER_TURN);
  let at = from;
  do if (!sessions[at]!.ended) sessions[at]!.outbox.append(line);
  while (++at < to && !isTurnLong());
  return at;
}

/** How many messages were deleted from a mailbox, and bytes of their texts. */
export interface Purged {
  messages: number;
  bytes: number;
}

/**
 * Deletes some of the oldest messages that wait for a user, with numbers up to `upTo`. Messages that are on their way
 * to a client are not among them: the client may have them already. The store has room for a change. Null when messages
 * of the last session are still moving to the mailbox, or the store is busy: a later turn has to try again.
 */
export function purge({ store }: Chat, account: Account, upTo: number): Purged | null {
  const { session, leaving } = account;
  if (leaving !== null || store.isBusy) return null;
  // In a stream every message is older than those that wait in the mailbox to be delivered to it.
  const streamed = session === null ? 0 : Math.max(session.delivery.deliveredUpTo, session.outbox.lastNumber);
  const purged: Purged = { messages: 0, bytes: 0 };
  for (const { from, messages, bytes } of store.purge(
    account.name,
    Math.max(streamed, account.ackedUpTo),
    upTo,
    PURGED_PER_TURN,
  )) {
    account.countWaiting(from, -messages, -bytes);
    purged.messages += messages;
    purged.bytes += bytes;
  }
  return purged;
}
