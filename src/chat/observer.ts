import type { ErrorCode, GoodbyeReason, LeftReason } from "../protocol/reply.ts";
import type { Account, Session } from "./session.ts";

/**
 * Receives the decisions of the chat, for metrics, a log or the ledger of the simulation. A decision is reported before
 * it is durable and before any output is sent. A method must not change the chat. Bytes are only valid during the call.
 */
export interface ChatObserver {
  /** A login has begun a session. `replaced` is the session of the user that this login ended; null without one. */
  loggedIn(session: Session, replaced: Session | null): void;
  /** A session ends. Its `goodbye`, if it has one, is not in its outbox yet. */
  sessionEnded(session: Session, reason: GoodbyeReason | LeftReason): void;
  /** The message bytes[start..end) is in the recipient's outbox ("sent") or mailbox ("stored"). */
  accepted(from: Account, to: Account, bytes: Uint8Array, start: number, end: number, outcome: "sent" | "stored"): void;
  /** A request of `from` that names the user `to` was refused. */
  refused(from: Account, to: Account, code: ErrorCode): void;
  /** A broadcast. `receivers` is the number of online users who receive it. */
  broadcast(from: Account, bytes: Uint8Array, start: number, end: number, receivers: number): void;
  /** `by` requested the list of users; `line` is the reply. */
  listed(by: Account, line: Buffer): void;
  /** From now on the unacknowledged messages of an ended session move to the mailbox. */
  requeued(session: Session): void;
}
