import { JOURNAL_MOVES_MAX, SETTLED_BYTES_PER_TURN } from "../limits.ts";
import type { Accounts } from "./accounts.ts";
import type { Mailbox } from "./mailbox.ts";
import type { Session } from "./session.ts";
import type { ChatStore } from "./store.ts";

/**
 * Moves messages to the mailboxes, some in each turn, so that no turn is long: those that ended sessions leave behind;
 * and those that nobody has confirmed for long, so that the store may forget its oldest records, which alone know them.
 */
export class Checkpoint {
  readonly #accounts: Accounts;
  readonly #mailbox: Mailbox;
  readonly #store: ChatStore;
  readonly #report: (error: unknown) => void;
  /** Ended sessions that are not settled yet. */
  readonly #leaving = new Set<Session>();
  /** What may still be moved in this turn. */
  #bytesLeft = SETTLED_BYTES_PER_TURN;
  /** The next user to look at. */
  #next = 0;

  constructor(accounts: Accounts, mailbox: Mailbox, store: ChatStore, report: (error: unknown) => void) {
    this.#accounts = accounts;
    this.#mailbox = mailbox;
    this.#store = store;
    this.#report = report;
  }

  /** A session has ended: what it holds goes back to its user's mailbox, at once or in the next turns. */
  settle(session: Session, unixMs: number): void {
    this.#leaving.add(session);
    this.#settle(session, unixMs, this.#bytesLeft);
  }

  /** All of it goes back now; false when the disk refuses. */
  settleNow(session: Session, unixMs: number): boolean {
    this.#settle(session, unixMs, Number.POSITIVE_INFINITY);
    return session.account.leaving === null;
  }

  /** While the disk refuses, the session stays the one that is leaving, and its user cannot log in. */
  #settle(session: Session, unixMs: number, bytesMax: number): void {
    try {
      this.#bytesLeft -= this.#mailbox.settle(session, unixMs, bytesMax);
      if (session.settled < session.withdrawn!.length) return;
      session.account.leaving = null;
    } catch (error) {
      this.#report(error);
    }
    this.#leaving.delete(session);
  }

  /** A turn ends. */
  step(unixMs: number): void {
    for (const session of this.#leaving) if (this.#bytesLeft > 0) this.#settle(session, unixMs, this.#bytesLeft);
    this.#bytesLeft = SETTLED_BYTES_PER_TURN;
    const upTo = this.#store.restUpTo;
    if (upTo !== null) this.#rest(upTo);
  }

  #rest(upTo: number): void {
    const { all } = this.#accounts;
    let left = JOURNAL_MOVES_MAX;
    for (; this.#next < all.length; this.#next++) {
      const { session, leaving } = all[this.#next]!;
      if (leaving !== null && leaving.withdrawn !== null) {
        this.#leaving.add(leaving); // Again, if the disk refused it.
        return;
      }
      for (const each of [leaving, session])
        if (each !== null && left > 0) left -= this.#mailbox.rest(each, upTo, left);
      if (left <= 0) return; // There may be more of this one.
    }
    this.#next = 0;
    this.#store.rested();
  }
}
