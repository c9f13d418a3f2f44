import { MOVED_BYTES_PER_TURN } from "../limits.ts";
import type { Accounts } from "./accounts.ts";
import type { Mailbox } from "./mailbox.ts";
import type { Account, Session } from "./session.ts";
import type { ChatStore } from "./store.ts";

/** A session counts as so many bytes at least, since the store is told of each. */
const SESSION_BYTES = 256;

/**
 * Moves messages to and from the mailboxes, some in each turn, so that no turn is long: to them, what ended sessions
 * leave behind, what a session holds that is about to be replaced, and what nobody has confirmed for long, so that the
 * store may forget its oldest records, which alone know it; from them, what waits for users who are there. While the
 * disk is behind, nothing moves.
 */
export class Checkpoint {
  readonly #accounts: Accounts;
  readonly #mailbox: Mailbox;
  readonly #store: ChatStore;
  readonly #wrote: (session: Session) => void;
  readonly #report: (error: unknown) => void;
  /** Those to whom more of their mailbox is fed. */
  readonly #hungry = new Set<Session>();
  /** Ended sessions that are not settled yet. */
  readonly #leaving = new Set<Session>();
  /** Who waits until what a user's earlier sessions hold is in the mailbox. */
  readonly #waiting: { account: Account; goOn: () => void }[] = [];
  /** What may still be moved in this turn. */
  #bytesLeft = MOVED_BYTES_PER_TURN;
  /** The next user to look at. */
  #next = 0;

  /** `wrote` hears of streams to which messages were fed. */
  constructor(
    accounts: Accounts,
    mailbox: Mailbox,
    store: ChatStore,
    wrote: (session: Session) => void,
    report: (error: unknown) => void,
  ) {
    this.#accounts = accounts;
    this.#mailbox = mailbox;
    this.#store = store;
    this.#wrote = wrote;
    this.#report = report;
  }

  /**
   * What was confirmed leaves the mailbox, and the next portion is fed, as far as there is room for it: at once, or in
   * the next turns.
   */
  feed(session: Session): void {
    this.#mailbox.forget(session);
    if (session.account.waiting === 0) return;
    const wasHungry = session.hungry;
    session.hungry = true;
    this.#hungry.add(session);
    if (this.#bytesLeft > 0) this.#feed(session);
    // What is left needs a turn to come; and who is not hungry any more may go on, even if there was nothing to feed.
    if (session.hungry ? !this.#store.isBehind : wasHungry) session.outbox.touch();
  }

  #feed(session: Session): void {
    try {
      if (!session.ended) this.#bytesLeft -= this.#mailbox.feed(session, this.#bytesLeft);
      this.#wrote(session);
    } catch (error) {
      this.#report(error);
    }
    if (this.#bytesLeft <= 0) return;
    session.hungry = false;
    this.#hungry.delete(session);
  }

  /** A session has ended: what it holds goes back to its user's mailbox, at once or in the next turns. */
  settle(session: Session): void {
    this.#leaving.add(session);
    if (this.#bytesLeft > 0) this.#settle(session, this.#bytesLeft);
  }

  /** All of it goes back now; false when the disk refuses. */
  settleNow(session: Session): boolean {
    this.#settle(session, Number.POSITIVE_INFINITY);
    return session.account.leaving === null;
  }

  /** While the disk refuses, the session stays the one that is leaving, and its user cannot log in. */
  #settle(session: Session, bytesMax: number): void {
    try {
      this.#bytesLeft -= this.#mailbox.settle(session, bytesMax);
      if (session.outbox.lastNumber > session.restedUpTo) return;
      session.outbox.withdraw();
      session.account.leaving = null;
    } catch (error) {
      this.#report(error);
    }
    this.#leaving.delete(session);
  }

  /** Goes on when a new session of that user makes no long turn: at once, or at the end of one of the next. */
  prepare(account: Account, goOn: () => void): void {
    if (this.#isPrepared(account)) goOn();
    else this.#waiting.push({ account, goOn });
  }

  /** Moves more of what that user's sessions hold; true when nothing is left to be moved. */
  #isPrepared({ leaving, session }: Account): boolean {
    if (leaving !== null && leaving.settling) return !this.#leaving.has(leaving);
    if (leaving === null && session === null) return true;
    try {
      for (const each of [leaving, session]) if (each !== null) this.#rest(each, Number.POSITIVE_INFINITY);
      return this.#bytesLeft > 0;
    } catch (error) {
      this.#report(error);
      return true; // It goes on as it can.
    }
  }

  #rest(session: Session, upTo: number): void {
    if (this.#bytesLeft <= 0) return;
    this.#bytesLeft -= Math.max(SESSION_BYTES, this.#mailbox.rest(session, upTo, this.#bytesLeft));
  }

  /**
   * A turn ends, and all that was said in it is known to the store. True when another one should follow at once; while
   * the disk is behind, what waits goes on with some turn that comes anyhow.
   */
  step(): boolean {
    for (const session of this.#leaving) if (this.#bytesLeft > 0) this.#settle(session, this.#bytesLeft);
    while (this.#waiting.length > 0 && this.#isPrepared(this.#waiting[0]!.account)) this.#waiting.shift()!.goOn();
    const upTo = this.#store.restUpTo;
    if (upTo !== null) this.#restOld(upTo);
    for (const session of this.#hungry) {
      if (this.#bytesLeft <= 0) break;
      this.#feed(session);
      session.outbox.touch(); // Its requests may go on.
    }
    const { isBehind } = this.#store;
    this.#bytesLeft = isBehind ? 0 : MOVED_BYTES_PER_TURN;
    return !isBehind && this.#hungry.size + this.#leaving.size + this.#waiting.length > 0;
  }

  #restOld(upTo: number): void {
    const { all } = this.#accounts;
    for (; this.#next < all.length; this.#next++) {
      const { session, leaving } = all[this.#next]!;
      if (leaving !== null && leaving.settling) {
        this.#leaving.add(leaving); // Again, if the disk refused it.
        return;
      }
      for (const each of [leaving, session]) if (each !== null) this.#rest(each, upTo);
      if (this.#bytesLeft <= 0) return; // There may be more of this one.
    }
    this.#next = 0;
    this.#store.rested();
  }
}
