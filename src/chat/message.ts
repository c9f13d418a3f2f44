import { WORK_BYTES, WORK_STORED } from "../limits.ts";
import { startsWith } from "../protocol/ascii.ts";
import { type ErrorCode, OK_SENT, OK_STORED, type Replies, refuse } from "../protocol/reply.ts";
import type { Request } from "../protocol/request.ts";
import type { Chat } from "./chat.ts";
import { forward } from "./forward.ts";
import type { Account, Session } from "./session.ts";

/** The request `message`, of local users and of users of other shards. */

/** What the rows that other shards forward need of a session: their users have none here (foreign-requests.ts). */
export type Requester = Pick<Session, "account" | "kind" | "recipient" | "messagesIn" | "slots">;

/**
 * The recipient of the request bytes[start..end) if it is a message to the same user as the session's last one, as most
 * are. One comparison replaces the parser and the look-up, which saves 27 of 172 ns per message (`bun run bench:micro
 * --filter server`). A request begins as a line from its recipient does, with `message <user> `.
 */
export function sameRecipient({ recipient }: Session, bytes: Uint8Array, start: number, end: number): Account | null {
  if (recipient === null || recipient.password === null) return null;
  const { messageHead } = recipient;
  return end - start > messageHead.length && startsWith(bytes, start, end, messageHead) ? recipient : null;
}

/** Checks its preconditions itself, and is called without `act`, which costs more. */
export function message(chat: Chat, session: Requester, request: Request, out: Replies): void {
  const to = chat.accounts.find(request.bytes, request.starts[0]!, request.ends[0]!);
  if (to === undefined) return refuseMessage(chat, session.account, null, out, "unknown_user");
  session.recipient = to;
  send(chat, session, to, out, request.bytes, request.textStart, request.end);
}

/** Sends the text bytes[start..end) to a user. */
export function send(
  chat: Chat,
  session: Requester,
  to: Account,
  out: Replies,
  bytes: Uint8Array,
  start: number,
  end: number,
): void {
  const { account } = session;
  if (to.neighbour !== null) {
    // The line is `message <user> <text>`, as its recipient's would be.
    const code = forward(chat, session, to.neighbour, out, bytes, start - to.messageHead.length, end);
    if (typeof code !== "string") session.messagesIn++;
    else chat.observer?.messageRefused(account, to, code);
    return;
  }
  if (to.blocks.has(account)) return refuseMessage(chat, account, to, out, "blocked");
  if (!chat.store.accepts(end - start))
    return refuseMessage(chat, account, to, out, "internal", chat.store.writeError!);
  const fate = chat.send(account, to, bytes, start, end);
  if (fate === "stored") chat.rates.work += WORK_STORED + (end - start) / WORK_BYTES;
  if (fate === "full") return refuseMessage(chat, account, to, out, "mailbox_full");
  session.messagesIn++;
  chat.observer?.accepted(account, to, bytes, start, end, fate);
  out.append(fate === "sent" ? OK_SENT : OK_STORED);
}

function refuseMessage(
  chat: Chat,
  from: Account,
  to: Account | null,
  out: Replies,
  code: ErrorCode,
  detail?: string,
): void {
  chat.observer?.messageRefused(from, to, code);
  refuse(out, code, detail);
}
