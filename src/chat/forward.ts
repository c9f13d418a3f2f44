import { FORWARD_HEAD_BYTES_MAX, WORK_FORWARDED } from "../limits.ts";
import { type ErrorCode, type Replies, refuse } from "../protocol/reply.ts";
import type { Request } from "../protocol/request.ts";
import type { Chat } from "./chat.ts";
import { type ReplySlot, ReplySlots } from "./reply-slots.ts";
import type { Account, Neighbour, Session } from "./session.ts";

/** Requests of local users that concern users of other shards. How they are forwarded is not known here. */

/** What it needs of the session; users of other shards have none here. */
type Forwarder = Pick<Session, "account" | "slots">;

/**
 * Forwards the request bytes[start..end) to the shard of the user whom it names, which gives the reply later. Returns
 * the place of that reply, or the code when the request was refused instead.
 */
export function forward(
  chat: Chat,
  session: Forwarder,
  to: Neighbour,
  out: Replies,
  bytes: Uint8Array,
  start: number,
  end: number,
): ReplySlot | ErrorCode {
  const { store, neighbours } = chat;
  // The other shard believes that the user is of this one: it has another number of shards.
  if (session.account.neighbour !== null) return refused(out, "internal", "a request of a third shard");
  const obstacle = neighbours!.obstacle(to);
  if (obstacle !== null) return refused(out, "busy", obstacle);
  if (!store.accepts(end - start + FORWARD_HEAD_BYTES_MAX)) return refused(out, "internal", store.writeError!);
  const slots = out instanceof ReplySlots ? out : (session.slots = new ReplySlots(out));
  chat.rates.work += WORK_FORWARDED;
  return neighbours!.forward(session.account, to, slots, bytes, start, end);
}

function refused(out: Replies, code: ErrorCode, detail: string): ErrorCode {
  refuse(out, code, detail);
  return code;
}

type Run<From> = (chat: Chat, session: From, request: Request, out: Replies, user: Account) => void;

/** The request takes effect here, and is forwarded when the user whom it names is of another shard, which replies. */
export function alsoForwarded<From extends Forwarder>(run: Run<From>): Run<From> {
  return (chat, session, request, out, user) => {
    const { bytes, start, end } = request;
    if (user.neighbour === null) return run(chat, session, request, out, user);
    const code = forward(chat, session, user.neighbour, out, bytes, start, end);
    if (typeof code !== "string") run(chat, session, request, NOBODY, user);
    else chat.observer?.refused(session.account, user, code);
  };
}

const NOBODY: Replies = { append: () => {} };
