import type { SessionObserver } from "../chat/observer.ts";
import type { Account, Peer, Session } from "../chat/session.ts";
import type { ErrorCode, GoodbyeReason, LeftReason } from "../protocol/reply.ts";
import type { Logger } from "../runtime/log.ts";
import { Counters } from "./counters.ts";

/** Logs who logs in, from where, what fails, and how sessions end. docs/operating.md lists the fields. */
export class AuditLog implements SessionObserver {
  readonly #log: Logger;

  constructor(log: Logger) {
    this.#log = log;
  }

  loginRefused(account: Account | null, { address }: Peer, why: ErrorCode): void {
    // The name of a user who does not exist may be a password, typed at the wrong prompt.
    const user = account === null || account.password === null ? "unknown" : account.name;
    this.#log.warn({ event: "login_failed", user, address, why }, "login failed");
  }

  lockedOut({ name }: Account, { address }: Peer): void {
    this.#log.warn({ event: "lockout", user: name, address }, "locked out after wrong passwords");
  }

  loggedIn({ account, address, kind }: Session): void {
    this.#log.info({ event: "login", user: account.name, address, kind }, "login");
  }

  sessionEnded(session: Session, reason: GoodbyeReason | LeftReason): void {
    const { address, beganUnixMs, endedUnixMs, messagesIn, messagesOut } = session;
    const user = session.account.name;
    if (reason === "slow") {
      const { unacked } = session.outbox;
      this.#log.warn({ event: "slow", user, address, unacked }, "the client acknowledges too slowly; the session ends");
    }
    if (reason === "flood") this.#logFlood(user, address);
    // The wall clock may have been set back meanwhile.
    const seconds = Math.max(0, Math.round((endedUnixMs - beganUnixMs) / 1000));
    const fields = { user, address, reason, seconds, in: messagesIn, out: messagesOut };
    this.#log.info({ event: "session_end", ...fields }, "the session ended");
  }

  flooded({ address }: Peer): void {
    this.#logFlood("unknown", address);
  }

  #logFlood(user: string, address: string): void {
    this.#log.warn({ event: "flood", user, address }, "too many consecutive invalid lines; the connection is closed");
  }
}

/** The observer of the server: passes the events of sessions to the log. All others are only counted. */
export class LoggedCounters extends Counters {
  readonly #audit: AuditLog;

  constructor(log: Logger) {
    super();
    this.#audit = new AuditLog(log);
  }

  override loginRefused(account: Account | null, peer: Peer, code: ErrorCode): void {
    super.loginRefused(account, peer, code);
    this.#audit.loginRefused(account, peer, code);
  }

  override lockedOut(account: Account, peer: Peer): void {
    super.lockedOut(account, peer);
    this.#audit.lockedOut(account, peer);
  }

  override loggedIn(session: Session, replaced: Session | null): void {
    super.loggedIn(session, replaced);
    this.#audit.loggedIn(session);
  }

  override sessionEnded(session: Session, reason: GoodbyeReason | LeftReason): void {
    super.sessionEnded(session, reason);
    this.#audit.sessionEnded(session, reason);
  }

  override flooded(peer: Peer): void {
    super.flooded(peer);
    this.#audit.flooded(peer);
  }
}
