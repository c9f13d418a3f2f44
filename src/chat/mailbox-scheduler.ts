import { MOVED_BYTES_PER_TURN, MOVED_BYTES_SHARE } from "../limits.ts";
import type { Accounts } from "./accounts.ts";
import type { Mailbox } from "./mailbox.ts";
import type { Account, Session } from "./session.ts";
import type { ChatStore } from "./store.ts";

/** Each visit to a user counts as at least this many bytes, since each costs the store a write. */
const SESSION_BYTES = 256;

/**
 * Moves messages to and from the mailboxes, a bounded number of bytes in each turn, so that no turn is long: to them,
 * messages of ended sessions, of sessions that are about to be replaced, and those that have been unconfirmed for long,
 * so that the store may forget its oldest records; from them, messages that wait for users who are online.
 *
 * Users take turns (round robin): each visit moves a share, then the user goes to the end of the queue. So the
 * mail of one user delays the login or the mailbox of another for one round at most. While the disk is behind, only
 * urgent users are visited, with one share a turn: a login waits for the move, or a client's next request does.
 */
export class MailboxScheduler {
  readonly #accounts: Accounts;
  readonly #mailbox: Mailbox;
  readonly #store: ChatStore;
  readonly #wrote: (session: Session) => void;
  readonly #report: (error: unknown) => void;
  /** Users with something to move, in the order of their next visits. */
  readonly #queue = new Set<Account>();
  /** The urgent ones among them, in the same order. */
  readonly #urgent = new Set<Account>();
  /** Logins that wait until what their user's earlier sessions hold is in the mailbox. */
  readonly #logins = new Map<Account, (() => void)[]>();
  readonly #bytesPerTurn: number;
  /**
   * A visit is under way. What it causes is queued: a login in the middle of another login of the same user would leave
   * two sessions.
   */
  #isVisiting = false;
  /** What may still be moved in this turn. */
  #bytesLeft: number;
  /** The disk was behind when the last turn ended. */
  #isBehind = false;
  /** Index of the next account whose oldest messages the store needs. */
  #next = 0;

  /** `wrote` receives the sessions to whose streams messages were fed; `bytesPerTurn` bounds the moves of a turn. */
  constructor(
    accounts: Accounts,
    mailbox: Mailbox,
    store: ChatStore,
    wrote: (session: Session) => void,
    report: (error: unknown) => void,
    bytesPerTurn = MOVED_BYTES_PER_TURN,
  ) {
    this.#accounts = accounts;
    this.#mailbox = mailbox;
    this.#store = store;
    this.#wrote = wrote;
    this.#report = report;
    this.#bytesLeft = this.#bytesPerTurn = bytesPerTurn;
  }

  /**
   * Drops confirmed messages from the mailbox and feeds the next portion for which there is room: at once, or in the
   * next turns.
   */
  deliver(session: Session): void {
    this.#mailbox.noteAcked(session);
    if (session.isBeingReplaced || session.account.waiting === 0) return;
    const wasHungry = session.deliveryPending;
    session.deliveryPending = this.#mailbox.room(session) > 0;
    if (session.deliveryPending || session.account.ackedUpTo > 0) this.#enqueue(session.account);
    // What is left needs a turn to come; and requests that waited for the portion go on, even if there was no room.
    if (session.deliveryPending || wasHungry) session.outbox.markDirty();
  }

  /** A session has ended: what it holds goes back to its user's mailbox, at once or in the next turns. */
  requeue(session: Session): void {
    try {
      this.#requeue(session, 0); // The store knows of the end at once.
    } catch (error) {
      return this.#report(error);
    }
    const { account } = session;
    if (account.leaving === session || account.ackedUpTo > 0) this.#enqueue(account);
  }

  /** All of it goes back now; false when the disk refuses. */
  requeueNow(session: Session): boolean {
    try {
      this.#requeue(session, Number.POSITIVE_INFINITY);
    } catch (error) {
      this.#report(error);
    }
    return session.account.leaving === null;
  }

  /** What one user may move while others wait. */
  get #share(): number {
    return Math.min(MOVED_BYTES_SHARE, this.#bytesPerTurn);
  }

  /** The server stops: nothing is left to be moved, unless the disk refuses. */
  finish(): void {
    for (const account of this.#accounts.all) this.#finish(account);
  }

  #finish(account: Account): void {
    if (account.leaving !== null) this.requeueNow(account.leaving);
    try {
      while (account.ackedUpTo > 0) this.#mailbox.drop(account, Number.MAX_SAFE_INTEGER);
    } catch (error) {
      this.#report(error);
    }
  }

  /** When the disk refuses, the session stays the one that is leaving, and its user cannot log in. */
  #requeue(session: Session, bytesMax: number): number {
    const bytes = this.#mailbox.requeue(session, bytesMax);
    if (!isSpilled(session)) return bytes;
    session.outbox.withdraw();
    session.account.leaving = null;
    return bytes;
  }

  /** Goes on when a new session of that user makes no long turn: at once, or at the end of one of the next. */
  prepare(account: Account, goOn: () => void): void {
    const logins = this.#logins.get(account);
    if (logins !== undefined) return void logins.push(goOn);
    const { leaving, session } = account;
    if ((leaving === null || isSpilled(leaving)) && (session === null || isSpilled(session))) return goOn();
    // What is sent to the user from now on waits in the mailbox, so that what has to be moved does not grow.
    if (session !== null) session.isBeingReplaced = true;
    this.#logins.set(account, [goOn]);
    this.#enqueue(account);
  }

  /** Visits the user at once when the queue was empty, else in a later turn. */
  #enqueue(account: Account): void {
    this.#queue.add(account);
    if (this.#isUrgent(account)) this.#urgent.add(account);
    if (!this.#isVisiting && this.#queue.size === 1 && this.#bytesLeft > 0) this.#visit(account, this.#bytesLeft);
  }

  #isUrgent(account: Account): boolean {
    return account.session?.deliveryPending === true || this.#logins.has(account);
  }

  /** Moves about `bytesMax` bytes of that user's messages. With more to move, the user goes to the end of the queue. */
  #visit(account: Account, bytesMax: number): void {
    this.#queue.delete(account);
    this.#urgent.delete(account);
    let bytes = SESSION_BYTES;
    this.#isVisiting = true;
    try {
      bytes = Math.max(bytes, this.#move(account, bytesMax));
    } catch (error) {
      this.#report(error);
      this.#giveUp(account);
    }
    this.#isVisiting = false;
    this.#bytesLeft -= bytes;
  }

  #move(account: Account, bytesMax: number): number {
    const { leaving, session } = account;
    const logins = this.#logins.get(account);
    let bytes = 0;
    if (leaving?.requeueing === true) bytes = this.#requeue(leaving, bytesMax);
    else if (logins !== undefined) bytes = this.#prepare(account, logins, bytesMax);
    else if (account.ackedUpTo > 0) bytes = this.#mailbox.drop(account, bytesMax);
    else if (session?.deliveryPending === true) bytes = this.#deliver(session, bytesMax);
    const isUrgent = this.#isUrgent(account);
    if (isUrgent) this.#urgent.add(account);
    if (isUrgent || account.leaving?.requeueing === true || account.ackedUpTo > 0) this.#queue.add(account);
    return bytes;
  }

  /** The next login goes on once nothing is left to move. */
  #prepare(account: Account, logins: (() => void)[], bytesMax: number): number {
    const { leaving, session } = account;
    let bytes = 0;
    for (const each of [leaving, session]) {
      if (each === null || isSpilled(each)) continue;
      if (bytes < bytesMax) bytes += this.#mailbox.spill(each, Number.POSITIVE_INFINITY, bytesMax - bytes);
      if (!isSpilled(each)) return bytes;
    }
    this.#admit(account, logins);
    return bytes;
  }

  #admit(account: Account, logins: (() => void)[]): void {
    const goOn = logins.shift()!;
    if (logins.length === 0) this.#logins.delete(account);
    goOn();
    const { session } = account; // A new one, or still the old one if the login came to nothing.
    if (session === null) return;
    session.isBeingReplaced = this.#logins.has(account);
    if (account.waiting > 0) this.deliver(session);
  }

  /** After a failure of the store: logins go on and are refused, and requests do not wait for mail. */
  #giveUp(account: Account): void {
    for (let logins = this.#logins.get(account); logins !== undefined; logins = this.#logins.get(account))
      this.#admit(account, logins);
    if (account.session !== null) account.session.deliveryPending = false;
  }

  #deliver(session: Session, bytesMax: number): number {
    const bytes = this.#mailbox.deliver(session, bytesMax);
    this.#wrote(session);
    session.deliveryPending = bytes > 0 && this.#mailbox.room(session) > 0;
    return bytes;
  }

  /**
   * A turn ends, and the store has all its changes. True when another one should follow at once; while the disk is
   * behind, only for urgent users.
   */
  step(): boolean {
    const wasBehind = this.#isBehind;
    if (this.#mailbox.deliveryRefused && this.#store.writeError === null) this.#deliverAll();
    if (wasBehind) this.#bytesLeft = this.#share;
    for (const account of wasBehind ? this.#urgent : this.#queue) {
      if (this.#bytesLeft <= 0) break;
      const { session } = account;
      const isFed = session?.deliveryPending === true;
      this.#visit(account, Math.max(this.#share, this.#bytesLeft / this.#queue.size));
      if (isFed) session!.outbox.markDirty(); // Its requests may go on.
    }
    const upTo = this.#store.spillUpTo;
    if (upTo !== null && !wasBehind) this.#spillOld(upTo);
    this.#isBehind = this.#store.isBehind;
    this.#bytesLeft = this.#isBehind ? 0 : this.#bytesPerTurn;
    return this.#isBehind ? this.#urgent.size > 0 : this.#queue.size > 0;
  }

  /** The store has room again: feeds the sessions that were refused. */
  #deliverAll(): void {
    this.#mailbox.deliveryRefused = false;
    for (const { session, waiting } of this.#accounts.all) if (session !== null && waiting > 0) this.deliver(session);
  }

  /** What the store needs for its oldest records has bytes of its own, or the journal would grow without a bound. */
  #spillOld(upTo: number): void {
    const { all } = this.#accounts;
    let bytesLeft = this.#bytesPerTurn / 2;
    for (; this.#next < all.length; this.#next++) {
      const account = all[this.#next]!;
      const { session, leaving } = account;
      if (leaving?.requeueing === true) this.#queue.add(account); // Again, if the disk refused it.
      if (account.ackedUpTo > 0) bytesLeft -= this.#mailbox.drop(account, bytesLeft);
      if (account.ackedUpTo > 0) return;
      for (const each of [leaving, session]) {
        if (each === null) continue;
        if (bytesLeft <= 0) return;
        const bytes = this.#mailbox.spill(each, upTo, bytesLeft);
        if (bytes >= bytesLeft) return; // There may be more of this one.
        bytesLeft -= Math.max(SESSION_BYTES, bytes);
      }
    }
    this.#next = 0;
    this.#store.spilled();
  }
}

/** All unconfirmed messages of that session are in the mailbox too. */
function isSpilled({ outbox, spilledUpTo: restedUpTo }: Session): boolean {
  return outbox.lastNumber <= restedUpTo;
}
