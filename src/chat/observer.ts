import type { ErrorCode, GoodbyeReason, LeftReason } from "../protocol/reply.ts";
import type { Account, Session } from "./session.ts";

/**
 * Receives what the chat decides, at the moment of the decision: nothing of it is durable or sent yet. For metrics, the
 * log and the simulation's ledger. A method must not change the chat. Bytes are only valid during the call.
 */
export interface ChatObserver {
  /** A login has begun a session. `replaced` is the user's earlier session, which it ended. */
  loggedIn(session: Session, replaced: Session | null): void;
  /** Called before the last line is appended to the session's stream. */
  sessionEnded(session: Session, reason: GoodbyeReason | LeftReason): void;
  /** The message `bytes[start..end)` is in the recipient's stream ("sent"), or waits in the mailbox ("stored"). */
  accepted(from: Account, to: Account, bytes: Uint8Array, start: number, end: number, fate: "sent" | "stored"): void;
  /** A message to that user was refused. */
  refused(from: Account, to: Account, code: ErrorCode): void;
  broadcast(from: Account, bytes: Uint8Array, start: number, end: number, receivers: number): void;
  /** `by` requested the list of users; `line` is the reply. */
  listed(by: Account, line: Buffer): void;
  /** The unacknowledged messages of an ended session begin to move to the mailbox. */
  requeued(session: Session): void;
}
