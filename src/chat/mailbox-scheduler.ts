import { MOVED_BYTES_PER_TURN, MOVED_BYTES_SHARE } from "../limits.ts";
import type { Accounts } from "./accounts.ts";
import type { Mailbox } from "./mailbox.ts";
import type { Account, Delivery, Session } from "./session.ts";
import type { ChatStore } from "./store.ts";

/** Each visit to a user counts as at least this many bytes, since each costs the store a write. */
const VISIT_BYTES_MIN = 256;
/** In compaction, each look at a user counts as this many bytes, which is little: it costs the store nothing. */
const LOOK_BYTES = 4;

/**
 * Decides when messages move to and from mailboxes, a bounded number of bytes in each turn, so that no turn is long.
 * To a mailbox: messages of ended sessions, of sessions that are about to be replaced, and old ones when the store asks
 * for them. From a mailbox: messages for users who are online. `Mailbox` does the moves.
 *
 * Users take turns (round robin): each visit moves a share, then the user goes to the end of the queue. So the mail of
 * one user delays the login or the mailbox of another user for one round at most. While the store is busy, only urgent
 * users are visited, with one share a turn: a login waits for the move, or the next request of a client does.
 *
 * A user logs in once a turn at most, since a login costs as much as many messages.
 */
export class MailboxScheduler {
  readonly #accounts: Accounts;
  readonly #mailbox: Mailbox;
  readonly #store: ChatStore;
  readonly #appended: (session: Session) => void;
  readonly #report: (error: unknown) => void;
  /** Users with something to move, in the order of their next visits. */
  readonly #queue = new Set<Account>();
  /** The urgent ones among them, in the same order. */
  readonly #urgent = new Set<Account>();
  /** Users who have logged in in this turn: the next login of each waits for the next turn. */
  readonly #loggedIn = new Set<Account>();
  /** Visits do not nest: a nested one could admit the next login of a user in the middle of a login. */
  #isVisiting = false;
  readonly #bytesPerTurn: number;
  /** Bytes that may still be moved in this turn. */
  #bytesLeft: number;
  /** The store was busy when the last turn ended. */
  #wasBusy = false;
  /** Index of the next account in `#moveOld`. */
  #next = 0;

  /** `appended` is called with each session to whose outbox a portion was appended; `bytesPerTurn` bounds the moves. */
  constructor(
    accounts: Accounts,
    mailbox: Mailbox,
    store: ChatStore,
    appended: (session: Session) => void,
    report: (error: unknown) => void,
    bytesPerTurn = MOVED_BYTES_PER_TURN,
  ) {
    this.#accounts = accounts;
    this.#mailbox = mailbox;
    this.#store = store;
    this.#appended = appended;
    this.#report = report;
    this.#bytesLeft = this.#bytesPerTurn = bytesPerTurn;
  }

  /** Drops acknowledged entries and delivers the next portion for which there is room: now or in later turns. */
  deliver(session: Session): void {
    const { account, delivery, outbox } = session;
    this.#mailbox.noteAcked(delivery);
    if (account.isAwaitingLogin || account.waiting === 0) return;
    const wasPending = delivery.isPending;
    delivery.isPending = this.#mailbox.room(session) > 0;
    if (delivery.isPending || account.ackedUpTo > 0) this.#enqueue(account);
    // The rest needs another turn; and requests that waited for the portion continue, even if there was no room.
    if (this.#waiting.has(account) || wasPending) outbox.markDirty();
  }

  /** After the end of a session: its unacknowledged messages return to the mailbox, now or in later turns. */
  requeue(delivery: Delivery): void {
    const { account } = delivery.session;
    try {
      this.#requeue(delivery, 0); // The store knows of the end at once.
    } catch (error) {
      return this.#report(error);
    }
    if (delivery.state !== "done" || account.ackedUpTo > 0) this.#enqueue(account);
  }

  /** All of them return now; false when the disk refuses. */
  requeueNow(delivery: Delivery): boolean {
    try {
      this.#requeue(delivery, Number.POSITIVE_INFINITY);
    } catch (error) {
      this.#report(error);
    }
    return delivery.state === "done";
  }

  /** Those for whom another turn follows at once. */
  get #waiting(): Set<Account> {
    return this.#wasBusy ? this.#urgent : this.#queue;
  }

  /** Bytes of one user per visit while others wait. */
  get #share(): number {
    return Math.min(MOVED_BYTES_SHARE, this.#bytesPerTurn);
  }

  /** The server stops: everything that is left to be moved is moved now, unless the disk refuses. */
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

  /** When the disk refuses, the delivery is not done, and its user cannot log in. */
  #requeue(delivery: Delivery, bytesMax: number): number {
    const bytes = this.#mailbox.requeue(delivery, bytesMax);
    if (!delivery.isSpilled) return bytes;
    delivery.session.outbox.withdraw();
    delivery.finish();
    return bytes;
  }

  /**
   * Calls `admit` when a new session of that user makes no long turn: now, or at the end of this or a later turn, after
   * the logins that wait already.
   */
  prepare(account: Account, admit: () => void): void {
    const { waitingLogins } = account;
    if (waitingLogins !== null) return void waitingLogins.push(admit);
    if (!this.#loggedIn.has(account) && deliveries(account).every(({ isSpilled }) => isSpilled)) {
      this.#loggedIn.add(account);
      return admit();
    }
    account.waitingLogins = [admit];
    this.#enqueue(account);
  }

  /** Visits the user at once when no other user waits and no visit is under way, else at the end of a turn. */
  #enqueue(account: Account): void {
    this.#queue.add(account);
    if (this.#isUrgent(account)) this.#urgent.add(account);
    if (this.#waitsForTurn(account)) return;
    if (!this.#isVisiting && this.#queue.size === 1 && this.#bytesLeft > 0) this.#visit(account, this.#bytesLeft);
  }

  /** The next step for that user is a login, and the user has logged in in this turn. */
  #waitsForTurn(account: Account): boolean {
    return account.isAwaitingLogin && this.#loggedIn.has(account);
  }

  #isUrgent(account: Account): boolean {
    return account.session?.delivery.isPending === true || account.isAwaitingLogin;
  }

  /** Moves about `bytesMax` bytes of that user's messages. With more to move, the user goes to the end of the queue. */
  #visit(account: Account, bytesMax: number): void {
    this.#queue.delete(account);
    this.#urgent.delete(account);
    this.#isVisiting = true;
    let bytes = VISIT_BYTES_MIN;
    try {
      bytes = Math.max(bytes, this.#move(account, bytesMax));
    } catch (error) {
      this.#report(error);
      this.#giveUp(account);
    } finally {
      this.#isVisiting = false;
    }
    this.#bytesLeft -= bytes;
  }

  #move(account: Account, bytesMax: number): number {
    const { leaving, session } = account;
    let bytes = 0;
    if (leaving?.state === "requeueing") bytes = this.#requeue(leaving, bytesMax);
    else if (account.isAwaitingLogin) bytes = this.#prepare(account, bytesMax);
    else if (account.ackedUpTo > 0) bytes = this.#mailbox.drop(account, bytesMax);
    else if (session?.delivery.isPending === true) bytes = this.#deliver(session, bytesMax);
    const isUrgent = this.#isUrgent(account);
    if (isUrgent) this.#urgent.add(account);
    if (isUrgent || account.leaving?.state === "requeueing" || account.ackedUpTo > 0) this.#queue.add(account);
    return bytes;
  }

  /** Spills what the user's sessions hold; when nothing is left, the next login is admitted. */
  #prepare(account: Account, bytesMax: number): number {
    let bytes = 0;
    for (const delivery of deliveries(account)) {
      if (delivery.isSpilled) continue;
      if (bytes < bytesMax) bytes += this.#mailbox.spill(delivery, Number.POSITIVE_INFINITY, bytesMax - bytes);
      if (!delivery.isSpilled) return bytes;
    }
    this.#admit(account);
    return bytes;
  }

  #admit(account: Account): void {
    const logins = account.waitingLogins!;
    const admit = logins.shift()!;
    if (logins.length === 0) account.waitingLogins = null;
    this.#loggedIn.add(account);
    admit(); // It may call `prepare` for the user's next login.
    const { session } = account; // The new one; the old one when the login failed.
    if (session !== null && account.waiting > 0) this.deliver(session);
  }

  /** After a fault of the store: waiting logins continue and are refused, and requests do not wait for the mailbox. */
  #giveUp(account: Account): void {
    while (account.isAwaitingLogin) this.#admit(account);
    if (account.session !== null) account.session.delivery.isPending = false;
  }

  #deliver(session: Session, bytesMax: number): number {
    const bytes = this.#mailbox.deliver(session, bytesMax);
    this.#appended(session);
    session.delivery.isPending = bytes > 0 && this.#mailbox.room(session) > 0;
    return bytes;
  }

  /**
   * Once at the end of each turn, after its other changes were given to the store. True when another turn should follow
   * at once; while the store is busy, only for urgent users.
   */
  step(): boolean {
    const wasBusy = this.#wasBusy;
    if (this.#mailbox.deliveryRefused && this.#store.writeError === null) this.#deliverAll();
    if (wasBusy) this.#bytesLeft = this.#share;
    for (const account of this.#waiting) {
      if (this.#bytesLeft <= 0) break;
      if (this.#waitsForTurn(account)) continue;
      const { session } = account;
      const wasPending = session?.delivery.isPending === true;
      this.#visit(account, Math.max(this.#share, this.#bytesLeft / this.#queue.size));
      if (wasPending) session!.outbox.markDirty(); // Its requests may continue.
    }
    this.#loggedIn.clear();
    this.#store.compact(this.#moveOld);
    this.#wasBusy = this.#store.isBusy;
    this.#bytesLeft = this.#wasBusy ? 0 : this.#bytesPerTurn;
    return this.#waiting.size > 0;
  }

  /** The store has room again: the deliveries that it refused continue. */
  #deliverAll(): void {
    this.#mailbox.deliveryRefused = false;
    for (const { session, waiting } of this.#accounts.all) if (session !== null && waiting > 0) this.deliver(session);
  }

  /** Goes over all users, in as many turns as that takes; see `ChatStore.compact`. */
  readonly #moveOld = (upTo: number, bytesMax: number): boolean => {
    const { all } = this.#accounts;
    let bytesLeft = Math.min(bytesMax, this.#bytesPerTurn / 2);
    for (; this.#next < all.length; this.#next++) {
      if (bytesLeft <= 0) return false;
      const account = all[this.#next]!;
      if (account.leaving?.state === "requeueing") this.#queue.add(account); // Again, if the disk refused it.
      if (account.ackedUpTo > 0) bytesLeft -= this.#mailbox.drop(account, bytesLeft);
      if (account.ackedUpTo > 0) return false;
      for (const delivery of deliveries(account)) {
        if (bytesLeft <= 0) return false;
        const bytes = this.#mailbox.spill(delivery, upTo, bytesLeft);
        if (bytes >= bytesLeft) return false; // There may be more of this delivery.
        bytesLeft -= bytes;
      }
      bytesLeft -= LOOK_BYTES;
    }
    this.#next = 0;
    return true;
  };
}

/** Those of a user that may hold messages which are not in the mailbox, the oldest first. */
function deliveries({ leaving, session }: Account): Delivery[] {
  return [leaving, session?.delivery].filter((delivery) => delivery != null);
}
