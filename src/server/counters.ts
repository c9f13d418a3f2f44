import type { ChatObserver } from "../chat/observer.ts";
import type { Account, Peer, Session, SessionKind } from "../chat/session.ts";
import type { ErrorCode, GoodbyeReason, LeftReason } from "../protocol/reply.ts";

/** Counts decisions of the chat in plain fields, since the start of the server. Metrics are read from it. */
export class Counters implements ChatObserver {
  messagesSent = 0;
  messagesStored = 0;
  broadcasts = 0;
  broadcastDeliveries = 0;
  logins = 0;
  lockouts = 0;
  readonly loginsRefused = zeros<ErrorCode>("unknown_user", "wrong_password", "locked_out", "busy", "internal");
  readonly messagesRefused = zeros<ErrorCode>("unknown_user", "blocked", "mailbox_full", "busy", "internal");
  /** Sessions that are online. */
  readonly sessions: Record<Exclude<SessionKind, "link">, number> = { plain: 0, resumable: 0, callback: 0 };
  readonly sessionsEnded = zeros<GoodbyeReason | LeftReason>(
    "logout",
    "disconnected",
    "expired",
    "replaced",
    "slow",
    "flood",
    "removed",
    "shutdown",
  );

  loginRefused(_account: Account | null, _peer: Peer, code: ErrorCode): void {
    increment(this.loginsRefused, code);
  }

  lockedOut(_account: Account, _peer: Peer): void {
    this.lockouts++;
  }

  loggedIn({ kind }: Session, _replaced: Session | null): void {
    this.logins++;
    if (kind !== "link") this.sessions[kind]++;
  }

  sessionEnded({ kind }: Session, reason: GoodbyeReason | LeftReason): void {
    if (kind !== "link") this.sessions[kind]--;
    increment(this.sessionsEnded, reason);
  }

  flooded(_peer: Peer): void {}

  accepted(
    _from: Account,
    _to: Account,
    _bytes: Uint8Array,
    _start: number,
    _end: number,
    outcome: "sent" | "stored",
  ): void {
    if (outcome === "sent") this.messagesSent++;
    else this.messagesStored++;
  }

  messageRefused(_from: Account, _to: Account | null, code: ErrorCode): void {
    increment(this.messagesRefused, code);
  }

  refused(): void {}

  broadcast(_from: Account, _bytes: Uint8Array, _start: number, _end: number, receivers: number): void {
    this.broadcasts++;
    this.broadcastDeliveries += receivers;
  }

  listed(): void {}

  requeued(): void {}
}

/** The usual keys are there from the beginning: a rate in Prometheus begins at the second value of a series. */
function zeros<Key>(...keys: Key[]): Map<Key, number> {
  return new Map(keys.map((key) => [key, 0]));
}

function increment<Key>(counts: Map<Key, number>, key: Key): void {
  counts.set(key, (counts.get(key) ?? 0) + 1);
}
