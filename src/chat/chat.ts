import { ACK_BYTES_MAX, KEEPING_UP_BOUNDS, KEEPING_UP_MS, type Limits, POOLED_MS } from "../limits.ts";
import { encode } from "../protocol/ascii.ts";
import { trimBufferPools } from "../byte-queue.ts";
import { BroadcastGroup } from "../stream/broadcast-group.ts";
import { Outbox } from "../stream/outbox.ts";
import type { GoodbyeReason, LeftReason } from "../protocol/reply.ts";
import type { Turn } from "../stream/turn.ts";
import type { TimerKind, TimerWheel } from "../timer-wheel.ts";
import { Accounts, type Passwords } from "./accounts.ts";
import { Addresses } from "../auth/addresses.ts";
import { MailboxScheduler } from "./mailbox-scheduler.ts";
import { Introductions } from "./introductions.ts";
import { Departing } from "./departing.ts";
import { Lockouts, type LockoutScope } from "../auth/lockouts.ts";
import { Mailbox } from "./mailbox.ts";
import type { ChatObserver } from "./observer.ts";
import { Presence } from "./presence.ts";
import { Rates } from "./rates.ts";
import { type Account, type Caller, type LoginOptions, type Peer, Session, type SessionKind } from "./session.ts";
import type { ChatStore } from "./store.ts";

export interface ChatOptions {
  wheel: TimerWheel;
  turn: Turn;
  store: ChatStore;
  passwords: Passwords;
  newToken: () => string;
  /** Calls the client of a callback session, at the address of its login. */
  newCaller: (session: Session, address: string, port: number, secret: string) => Caller;
  /** A session ends, and a stranger's connection too, when nothing was heard for so long. */
  idleTimeoutMs: number;
  blockMs: number;
  lockoutScope: LockoutScope;
  limits: Limits;
  /** Hears of faults that no caller can answer for; with whoever's line it was. */
  report: (error: unknown, peer?: Peer) => void;
  observer?: ChatObserver;
  /** See `MailboxScheduler`. */
  movedBytesPerTurn?: number;
}

/**
 * The rules: who is in, who hears what, what happens to a session. It reads no clock and touches no socket or disk:
 * time stands on the wheel, lines are appended to outboxes, and the turn that it was given writes them.
 */
export class Chat {
  readonly accounts = new Accounts();
  readonly presence = new Presence();
  readonly broadcastGroup: BroadcastGroup;
  readonly wheel: TimerWheel;
  readonly turn: Turn;
  readonly store: ChatStore;
  readonly mailbox: Mailbox;
  readonly lockouts: Lockouts;
  readonly addresses: Addresses;
  readonly rates: Rates;
  readonly introductions: Introductions;
  readonly passwords: Passwords;
  readonly idleTimeoutMs: number;
  readonly limits: Limits;
  readonly report: ChatOptions["report"];
  readonly observer: ChatObserver | null;
  /** The server stops: nobody gets in any more. */
  isOver = false;
  /** Unix time of this turn, for messages that are read later. */
  unixMs = 0;
  readonly mailboxScheduler: MailboxScheduler;
  readonly departing: Departing;
  #broadcastWaits = false;
  /** How far the multicast was sent when the last sweep looked at those who are slow. */
  #lookedAt = 0;
  /** When spare memory is given back. */
  #trimMs = 0;
  /** Sessions to whose streams messages were appended in this turn. */
  #appendedTo: Session[] = [];
  /** Sessions that can be named by their token, from another connection. */
  readonly #byToken = new Map<string, Session>();
  readonly #newToken: () => string;
  readonly #newCaller: ChatOptions["newCaller"];
  readonly #idle: TimerKind<Session>;
  readonly #overdue: TimerKind<Session>;

  constructor(options: ChatOptions) {
    this.wheel = options.wheel;
    this.turn = options.turn;
    this.broadcastGroup = new BroadcastGroup(options.turn);
    this.store = options.store;
    this.passwords = options.passwords;
    this.idleTimeoutMs = options.idleTimeoutMs;
    this.report = options.report;
    this.observer = options.observer ?? null;
    const { wheel, store, limits, blockMs, lockoutScope, report, movedBytesPerTurn } = options;
    this.limits = limits;
    this.mailbox = new Mailbox(store, limits, this.observer);
    this.lockouts = new Lockouts(wheel, blockMs, lockoutScope, (wrong, leftMs) =>
      store.wrongPasswords(wrong, this.unixMs + leftMs),
    );
    this.addresses = new Addresses(wheel, limits);
    this.rates = new Rates(wheel, limits);
    this.introductions = new Introductions(wheel, limits.introductionsMax, options.newToken);
    const wrote = (session: Session): void => this.#messagesAppended(session);
    this.mailboxScheduler = new MailboxScheduler(this.accounts, this.mailbox, store, wrote, report, movedBytesPerTurn);
    this.departing = new Departing(this.mailboxScheduler);
    this.#newToken = options.newToken;
    this.#newCaller = options.newCaller;
    this.#overdue = wheel.kind((session) => this.flushed(session));
    this.#idle = wheel.kind((session) => this.#idleTimedOut(session));
  }

  /** Gives a peer the session of a user, and ends the one that user had. */
  login(peer: Peer, account: Account, password: Uint8Array, options: LoginOptions): void {
    const { wheel, turn, store } = this;
    const replaced = account.session;
    if (replaced !== null) this.end(replaced, "replaced");
    if (account.leaving !== null && !this.mailboxScheduler.requeueNow(account.leaving))
      throw new Error(`what waits for ${account.name} cannot be stored`);
    const kind = options.callbackPort > 0 ? "callback" : options.resumable ? "resumable" : "plain";
    const number = kind === "plain" ? 0 : store.newNumber();
    const outbox = new Outbox(turn, kind === "plain");
    const session = new Session(account, number, this.#newToken(), kind, outbox, wheel.nowMs);
    session.address = peer.address;
    session.listenPort = options.listenPort;
    wheel.schedule(session.timer, this.#idle, this.idleTimeoutMs);
    let reply = `ok ${session.token} ${this.idleTimeoutMs / 1000}`;
    if (kind !== "plain") {
      this.#byToken.set(session.token, session);
      const { token } = session;
      const proof = this.passwords.prove(account, password, token);
      store.began({ number, token, user: account.name, resumable: kind === "resumable" }, proof);
    }
    if (kind === "callback") {
      const secret = this.#newToken();
      session.caller = this.#newCaller(session, peer.address, options.callbackPort, secret);
      reply += ` secret=${secret}`;
    }
    if (options.after !== null) reply += this.#takeUp(account, options.after);
    this.mailbox.skip(session);
    peer.replies.append(encode(`${reply}\n`));
    if (replaced === null) this.#announce(account, `joined ${account.name}`);
    session.outbox.subscribe(this.broadcastGroup);
    this.presence.add(session);
    this.observer?.loggedIn(session, replaced);
    if (kind === "callback") {
      session.outbox.sink = session.caller;
      session.outbox.markDirty(); // The first call comes even with nothing to deliver.
      peer.close();
    } else this.#attach(session, peer);
    this.mailboxScheduler.deliver(session);
  }

  /** Goes on after an earlier session of the same user: what its client has is not delivered again. */
  #takeUp(account: Account, { token, received }: { token: string; received: number }): string {
    const ended = this.store.ended(token);
    if (ended === null || ended.user !== account.name) return "";
    this.mailbox.ackDelivered(account, ended, received);
    return ended.resumable ? ` received=${ended.received}` : "";
  }

  #attach(session: Session, peer: Peer): void {
    session.peer = peer;
    peer.attach(session);
  }

  /**
   * A resumable session goes on at another connection, from the position to which its client has its stream; false when
   * that is further than anything that was sent.
   */
  resume(peer: Peer, session: Session, position: number): boolean {
    if (position > session.outbox.furthest) return false;
    session.peer?.detach();
    session.address = peer.address;
    session.lastActivityMs = this.wheel.nowMs;
    session.lastAckMs = this.wheel.nowMs;
    session.outbox.rewind(position);
    peer.replies.append(encode(`ok ${session.received}\n`));
    this.#attach(session, peer);
    this.flushed(session);
    session.outbox.markDirty();
    return true;
  }

  /** The session of that kind and token; null when there is none. */
  known(kind: SessionKind, token: string): Session | null {
    const session = this.#byToken.get(token);
    return session?.kind === kind ? session : null;
  }

  /** Whether a token that names no session did so until a newer login of the same user. */
  wasReplaced(token: string): boolean {
    return this.store.ended(token)?.replaced === true;
  }

  /** The client says how far it has its stream; false when that is further than anything that was sent. */
  ack(session: Session, position: number): boolean {
    const { outbox, kind } = session;
    if (kind === "plain") return true;
    if (position > outbox.furthest) return false;
    if (position > outbox.acked) {
      outbox.ack(position);
      session.lastAckMs = this.wheel.nowMs;
      // Of an ended session too, while no newer one is fed from the same mailbox.
      if (!session.ended || session.account.session === null) this.mailboxScheduler.deliver(session);
    }
    return true;
  }

  /** Accepts a message: it is in the other's stream, or in the mailbox, or there is no room for it. */
  send(from: Account, to: Account, bytes: Uint8Array, start: number, end: number): "sent" | "stored" | "full" {
    const { store, mailbox, unixMs } = this;
    const { session } = to;
    if (session !== null && !session.isBeingReplaced && !mailbox.hasMore(session) && !this.#mustWait(session)) {
      session.outbox.appendMessage(store.newNumber(), unixMs, from.messageHead, bytes, start, end);
      this.#messagesAppended(session);
      return "sent";
    }
    if (mailbox.isFull(to, from)) return "full";
    mailbox.keep(to, { number: store.newNumber(), unixMs, from: from.name, text: bytes.subarray(start, end) });
    if (session !== null) this.mailboxScheduler.deliver(session);
    return "stored";
  }

  #messagesAppended(session: Session): void {
    if (session.hasAppended) return;
    session.hasAppended = true;
    this.#appendedTo.push(session);
  }

  /** A client that confirms, but more slowly than messages come, gets them through the mailbox. */
  #mustWait(session: Session): boolean {
    return session.outbox.unacked > this.limits.unackedBytesMax && this.#keepsUp(session);
  }

  #keepsUp({ kind, peer, lastAckMs: promptMs }: Session): boolean {
    if (kind === "plain" || (kind === "resumable" && peer === null)) return false;
    return promptMs + KEEPING_UP_MS > this.wheel.nowMs;
  }

  /** To everybody online but the sender and those who blocked the sender; returns how many they are. */
  broadcast(from: Account, bytes: Uint8Array, start: number, end: number): number {
    this.#broadcastWaits = true;
    const missed = this.#toAll(from, from.blockedBy, from.broadcastHead, bytes, start, end);
    return this.presence.online.length - missed;
  }

  /** `joined` and `left`, which may wait for a while, go to everybody but those whom that user has blocked. */
  #announce(about: Account, line: string): void {
    const bytes = encode(line);
    this.#toAll(about, about.blocks, bytes, bytes, 0, 0);
  }

  /** Appends a line to the log, past one user and some others; returns how many of them are online. */
  #toAll(
    by: Account,
    others: ReadonlySet<Account>,
    head: Uint8Array,
    bytes: Uint8Array,
    start: number,
    end: number,
  ): number {
    let missed = 0;
    by.session?.outbox.follow();
    for (const { session } of others) session?.outbox.follow();
    this.broadcastGroup.log.append(head, bytes, start, end);
    for (const { session } of others) {
      if (session === null) continue;
      session.outbox.skip();
      missed++;
    }
    if (by.session === null) return missed;
    by.session.outbox.skip();
    return missed + 1;
  }

  /** Ends a session. Unacknowledged messages (plain: those that the kernel did not take) return to the mailbox. */
  end(session: Session, reason: GoodbyeReason | LeftReason): void {
    if (session.ended) return;
    const { account, outbox } = session;
    session.endReason = reason;
    session.endedUnixMs = this.unixMs;
    this.observer?.sessionEnded(session, reason);
    this.wheel.cancel(session.timer);
    this.wheel.cancel(session.overdue);
    this.#byToken.delete(session.token);
    outbox.unsubscribe();
    this.presence.remove(session);
    const hasGoodbye = reason !== "logout" && reason !== "disconnected";
    outbox.finish(hasGoodbye ? encode(`goodbye ${reason}\n`) : null);
    this.introductions.end(session);
    if (reason !== "replaced" && reason !== "shutdown") this.#announce(account, `left ${account.name} ${reason}`);
    account.leaving = session;
    this.departing.add(session);
  }

  /** Is no user any more; what waits for them and whom they block is kept, should they become one again. */
  remove(account: Account): void {
    account.password = null;
    if (account.session !== null) this.end(account.session, "removed");
  }

  /** A peer hung up, or was hung up on. A resumable session does not mind. */
  connectionClosed(peer: Peer): void {
    const { session } = peer;
    if (session === null) return;
    if (session.kind === "resumable" && !session.ended) {
      session.peer = null;
      session.outbox.sink = { flush: () => this.flushed(session) };
      return;
    }
    this.end(session, "disconnected");
    this.departing.remove(session);
  }

  /**
   * A stream was written: more of the mailbox may follow; too much left is the end. Not for a request of that session,
   * whose reply must come before the end: the stream is written after it.
   */
  flushed(session: Session): void {
    if (session.ended) return;
    const { unacked: unconfirmed } = session.outbox;
    if (unconfirmed <= ACK_BYTES_MAX) session.lastAckMs = this.wheel.nowMs;
    const most = this.limits.unackedBytesMax;
    if (unconfirmed > most) {
      if (unconfirmed > KEEPING_UP_BOUNDS * most || !this.#keepsUp(session)) return this.end(session, "slow");
      if (!session.overdue.armed) this.wheel.schedule(session.overdue, this.#overdue, KEEPING_UP_MS);
    }
    this.mailboxScheduler.deliver(session);
  }

  /** The turn ends: broadcasts reach everybody's stream. Presence alone waits. True when another turn should follow. */
  turnEnds(): boolean {
    if (this.#broadcastWaits) this.announceNow();
    this.#recordAppended();
    const more = this.mailboxScheduler.step();
    this.#recordAppended(); // Of logins that could go on.
    return more;
  }

  #recordAppended(): void {
    for (const session of this.#appendedTo) {
      session.hasAppended = false;
      this.store.wrote(session.account, session.number, session.outbox);
    }
    this.#appendedTo.length = 0;
  }

  /** Lines of that session were acted on: that is safe together with what came of them. */
  requestsDone({ kind, number, received }: Session): void {
    if (kind === "resumable") this.store.received(number, received);
  }

  /** Everybody's stream takes in what was broadcast. */
  announceNow(): void {
    this.#broadcastWaits = false;
    this.broadcastGroup.announce();
  }

  /**
   * Now and then: presence that waited is told, whoever is slow or holds too much memory ends, spare memory is given
   * back. `processBytes` is the memory of all that runs here: while that is little, nobody holds much.
   */
  sweep(processBytes = Number.POSITIVE_INFINITY): void {
    this.announceNow();
    // Those who confirm are not looked at each time that something is written to all at once, but here.
    const { sent } = this.broadcastGroup;
    if (this.#lookedAt !== sent) for (const session of this.#byToken.values()) this.flushed(session);
    this.#lookedAt = sent;
    if (processBytes > this.limits.streamsBytesMax) this.#limitMemory();
    if (this.wheel.nowMs < this.#trimMs) return;
    this.#trimMs = this.wheel.nowMs + POOLED_MS;
    trimBufferPools();
  }

  /** All streams together are bounded too: the ended go, then those that hold most end, until the others have room. */
  #limitMemory(): void {
    const { streamsBytesMax } = this.limits;
    let bytes = this.departing.heldBytes;
    for (const { outbox } of this.presence.online) bytes += outbox.heldBytes;
    bytes -= this.departing.free(bytes - streamsBytesMax);
    while (bytes > streamsBytesMax) {
      const most = this.presence.online.reduce((a, b) => (b.outbox.heldBytes > a.outbox.heldBytes ? b : a));
      bytes -= most.outbox.heldBytes;
      this.end(most, "slow");
    }
  }

  /** Ends everybody's session; nobody gets in any more. */
  shutdown(): void {
    this.isOver = true;
    for (const session of [...this.presence.online]) this.end(session, "shutdown");
  }

  #idleTimedOut(session: Session): void {
    if (session.peer?.paused || this.rates.isWaiting(session.account)) session.lastActivityMs = this.wheel.nowMs;
    const leftMs = session.lastActivityMs + this.idleTimeoutMs - this.wheel.nowMs;
    if (leftMs <= 0) this.end(session, "expired");
    else this.wheel.schedule(session.timer, this.#idle, leftMs);
  }
}
