import type { ErrorCode, GoodbyeReason, LeftReason } from "../protocol/reply.ts";
import type { Account, Peer, Session } from "./session.ts";

/**
 * The two interfaces receive the decisions of the chat, for metrics, a log or the ledger of the simulation. A decision
 * is reported before it is durable and before any output is sent. A method must not change the chat. Bytes are only
 * valid during the call.
 */
export interface SessionObserver {
  /** A login was refused with `code`. `account` is null when there is no such user. */
  loginRefused(account: Account | null, peer: Peer, code: ErrorCode): void;
  /** A wrong password locks the user out, from the address of the peer or everywhere. `loginRefused` follows. */
  lockedOut(account: Account, peer: Peer): void;
  /** A login has begun a session. `replaced` is the session of the user that this login ended; null without one. */
  loggedIn(session: Session, replaced: Session | null): void;
  /** A session ends. Its `goodbye`, if it has one, is not in its outbox yet. */
  sessionEnded(session: Session, reason: GoodbyeReason | LeftReason): void;
  /** A connection without a session is closed after `badLinesMax` consecutive invalid lines. */
  flooded(peer: Peer): void;
}

export interface ChatObserver extends SessionObserver {
  /** The message bytes[start..end) is in the recipient's outbox ("sent") or mailbox ("stored"). */
  accepted(from: Account, to: Account, bytes: Uint8Array, start: number, end: number, outcome: "sent" | "stored"): void;
  /** A message was refused. `to` is null when there is no such user. */
  messageRefused(from: Account, to: Account | null, code: ErrorCode): void;
  /** Another request of `from` that names the user `to` was refused. */
  refused(from: Account, to: Account, code: ErrorCode): void;
  /** A broadcast. `receivers` is the number of online users who receive it. */
  broadcast(from: Account, bytes: Uint8Array, start: number, end: number, receivers: number): void;
  /** `by` requested the list of users; `line` is the reply. */
  listed(by: Account, line: Buffer): void;
  /** From now on the unacknowledged messages of an ended session move to the mailbox. */
  requeued(session: Session): void;
}
