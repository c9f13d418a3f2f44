import { ACK_BYTES_MAX, KEEPING_UP_BOUNDS, KEEPING_UP_MS, LINK_BYTES_MAX, type Limits, POOLED_MS } from "../limits.ts";
import { encode } from "../protocol/ascii.ts";
import { type Memory, trimBufferPools } from "../byte-queue.ts";
import { Outbox } from "../stream/outbox.ts";
import { type GoodbyeReason, type LeftReason, goodbye } from "../protocol/reply.ts";
import type { Turn } from "../stream/turn.ts";
import type { TimerKind, TimerWheel } from "../timer-wheel.ts";
import { Accounts, type Passwords } from "./accounts.ts";
import { Announcements } from "./announcements.ts";
import { Addresses } from "../auth/addresses.ts";
import type { ChatOptions } from "./chat-options.ts";
import { MailboxScheduler } from "./mailbox-scheduler.ts";
import { Introductions } from "./introductions.ts";
import { Departing } from "./departing.ts";
import { Lockouts } from "../auth/lockouts.ts";
import { Mailbox } from "./mailbox.ts";
import { Neighbours } from "./neighbours.ts";
import type { ChatObserver } from "./observer.ts";
import { Presence } from "./presence.ts";
import { Rates } from "./rates.ts";
import { type Account, type LoginRelay, type LoginOptions, type Peer } from "./session.ts";
import { Session, type SessionKind } from "./session.ts";
import type { ChatStore } from "./store.ts";

/**
 * The rules: the life of sessions, messages, broadcasts and presence. It reads no clock and uses no socket and no file:
 * the time is that of the timer wheel, lines are appended to outboxes, and the turn writes them.
 */
export class Chat {
  readonly accounts = new Accounts();
  readonly presence = new Presence();
  readonly announcements: Announcements;
  /** Of the outboxes of all sessions and connections. */
  readonly outboxMemory: Memory = { bytes: 0 };
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
  /** Null: all sessions are here. */
  loginRelay: LoginRelay | null = null;
  /** Where clients that another server relays reach this one; null when they do not. */
  direct: { address: string; isEncrypted: boolean } | null = null;
  /** The one object that all parts read. A reload changes its fields. */
  readonly limits: Limits;
  readonly report: ChatOptions["report"];
  readonly observer: ChatObserver | null;
  /** The server drains or stops: no login succeeds. */
  isOver = false;
  /** Unix time of this turn, for messages in mailboxes. */
  unixMs = 0;
  readonly mailboxScheduler: MailboxScheduler;
  readonly departing: Departing;
  /** The other shards of the cluster; null without one. */
  readonly neighbours: Neighbours | null;
  /** Position of the broadcast group at the last check for slow clients. */
  #checkedAt = 0;
  /** Wheel time of the next trim of the buffer pools. */
  #trimMs = 0;
  /** Sessions to whose outboxes messages were appended in this turn. */
  #appendedTo: Session[] = [];
  /** Resumable and callback sessions by token. */
  readonly #byToken = new Map<string, Session>();
  readonly #newToken: () => string;
  readonly #newCaller: ChatOptions["newCaller"];
  readonly #idle: TimerKind<Session>;
  readonly #overdue: TimerKind<Session>;

  constructor(options: ChatOptions) {
    this.wheel = options.wheel;
    this.turn = options.turn;
    this.announcements = new Announcements(options.turn, this.presence);
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
    this.introductions = new Introductions(wheel, limits, options.newToken);
    const appended = (session: Session): void => this.messagesAppended(session);
    const { accounts, mailbox } = this;
    this.mailboxScheduler = new MailboxScheduler(accounts, mailbox, store, appended, report, movedBytesPerTurn);
    this.departing = new Departing(this.mailboxScheduler);
    this.neighbours = options.shards == null ? null : new Neighbours(this, options.shards);
    this.#newToken = options.newToken;
    this.#newCaller = options.newCaller;
    this.#overdue = wheel.kind((session) => this.flushed(session));
    this.#idle = wheel.kind((session) => this.#idleTimedOut(session));
  }

  /** Begins a session of a user, and ends the older one. Throws when the messages of that one cannot be stored. */
  login(peer: Peer, account: Account, password: Uint8Array, options: LoginOptions, askedMs: number): void {
    const { wheel, turn, store } = this;
    const replaced = account.session;
    if (replaced !== null) this.end(replaced, "replaced");
    if (account.leaving !== null && !this.mailboxScheduler.requeueNow(account.leaving))
      throw new Error(`the messages of the last session of ${account.name} cannot be stored`);
    const kind = options.callbackPort > 0 ? "callback" : options.resumable ? "resumable" : "plain";
    const number = kind === "plain" ? 0 : store.newNumber();
    const outbox = new Outbox(turn, kind === "plain", this.outboxMemory);
    const session = new Session(account, number, this.#newToken(), kind, outbox, wheel.nowMs, this.unixMs);
    session.askedMs = askedMs;
    session.isRelayed = peer.isRelayed;
    session.address = peer.address;
    session.listenPort = options.listenPort;
    wheel.schedule(session.timer, this.#idle, this.idleTimeoutMs);
    let reply = `ok ${session.token} ${this.idleTimeoutMs / 1000}`;
    if (kind !== "plain") {
      this.#byToken.set(session.token, session);
      const proof = this.passwords.prove(account, password, session.token);
      store.sessionBegan({ number, token: session.token, user: account.name, resumable: kind === "resumable" }, proof);
    }
    if (kind === "callback") {
      const secret = this.#newToken();
      session.caller = this.#newCaller(session, peer.address, options.callbackPort, secret);
      reply += ` secret=${secret}`;
    }
    if (options.after !== null) reply += this.#takeUp(account, options.after);
    if (kind === "resumable") reply += this.#directTo(peer);
    this.mailbox.skip(session.delivery);
    peer.replies.append(encode(`${reply}\n`));
    if (replaced === null) this.announcements.presence(account, `joined ${account.name}`);
    session.outbox.subscribe(this.announcements.group);
    this.presence.add(session);
    store.loggedIn(account, this.unixMs, peer.address);
    this.observer?.loggedIn(session, replaced);
    if (kind === "callback") {
      session.outbox.sink = session.caller;
      session.outbox.markDirty(); // The first call comes even with nothing to deliver.
      peer.close();
    } else this.#attach(session, peer);
    this.mailboxScheduler.deliver(session);
  }

  /** Continues after an earlier session of the same user: messages that the client has are not delivered again. */
  #takeUp(account: Account, { token, received }: { token: string; received: number }): string {
    const ended = this.store.endedSession(token);
    if (ended === null || ended.user !== account.name) return "";
    this.mailbox.ackDelivered(account, ended, received);
    return ended.resumable ? ` received=${ended.received}` : "";
  }

  /** Only for a client with the same kind of connection: plain TCP, or TLS. */
  #directTo({ isRelayed, isEncrypted, isWebSocket }: Peer): string {
    const { direct } = this;
    return isRelayed && !isWebSocket && direct?.isEncrypted === isEncrypted ? ` at=${direct.address}` : "";
  }

  #attach(session: Session, peer: Peer): void {
    session.peer = peer;
    peer.attach(session);
  }

  /**
   * Continues a resumable session on another connection, from the position up to which the client has the stream; false
   * when that was never sent.
   */
  resume(peer: Peer, session: Session, position: number): boolean {
    if (position > session.outbox.furthest) return false;
    session.peer?.detach();
    session.address = peer.address;
    session.lastActivityMs = session.lastAckMs = this.wheel.nowMs;
    session.outbox.rewind(position);
    peer.replies.append(encode(`ok ${session.received}\n`));
    this.#attach(session, peer);
    this.flushed(session);
    session.outbox.markDirty();
    return true;
  }

  /** The live session of that kind and token; null without one. */
  known(kind: SessionKind, token: string): Session | null {
    const session = this.#byToken.get(token);
    return session?.kind === kind ? session : null;
  }

  /** A session with that token is live or has ended here. */
  hasSession(token: string): boolean {
    return this.#byToken.has(token) || this.store.endedSession(token) !== null;
  }

  /** The client has the stream up to that position; false when that was never sent. */
  ack(session: Session, position: number): boolean {
    const { outbox, kind } = session;
    if (kind === "plain") return true;
    if (position > outbox.furthest) return false;
    if (position > outbox.acked) {
      outbox.ack(position);
      session.lastAckMs = this.wheel.nowMs;
      // Also for an ended session, while no newer one takes messages from the same mailbox.
      if (!session.ended || session.account.session === null) this.mailboxScheduler.deliver(session);
    }
    return true;
  }

  /** Accepts a message: into the recipient's outbox (`sent`) or mailbox (`stored`), unless that is full. */
  send(from: Account, to: Account, bytes: Uint8Array, start: number, end: number): "sent" | "stored" | "full" {
    const { store, mailbox, unixMs } = this;
    const { session } = to;
    if (session !== null && !to.isAwaitingLogin && !mailbox.hasMore(session.delivery) && !this.#mustWait(session)) {
      session.outbox.appendMessage(store.newNumber(), unixMs, from.messageHead, bytes, start, end);
      session.messagesOut++;
      this.messagesAppended(session);
      return "sent";
    }
    if (mailbox.isFull(to, from)) return "full";
    mailbox.keep(to, { number: store.newNumber(), unixMs, from: from.name, text: bytes.subarray(start, end) });
    if (session !== null) this.mailboxScheduler.deliver(session);
    return "stored";
  }

  /** At the end of the turn the store gets the messages that were appended to the session's outbox. */
  messagesAppended(session: Session): void {
    if (session.hasAppended) return;
    session.hasAppended = true;
    this.#appendedTo.push(session);
  }

  /** Messages for a client that acknowledges more slowly than they arrive go through the mailbox. */
  #mustWait(session: Session): boolean {
    return session.outbox.unacked > this.limits.unackedBytesMax && this.#keepsUp(session);
  }

  #keepsUp({ kind, peer, lastAckMs, slots }: Session): boolean {
    if (kind === "plain" || (kind === "resumable" && peer === null)) return false;
    // While another shard owes a reply, the client's acknowledgement may be in a line that is not read.
    if (slots?.isOpen === true) return true;
    return Math.max(lastAckMs, slots?.filledMs ?? 0) + KEEPING_UP_MS > this.wheel.nowMs;
  }

  /**
   * Ends a session. Its unacknowledged messages return to the mailbox; those of a plain session when its connection has
   * taken what it still takes. `words` follow the reason in `goodbye`.
   */
  end(session: Session, reason: GoodbyeReason | LeftReason, words: Uint8Array | null = null): void {
    if (session.ended) return;
    const { account, outbox } = session;
    session.endReason = reason;
    session.endedUnixMs = this.unixMs;
    if (session.kind === "link") this.neighbours!.ended(session);
    else this.#removeOnline(session, reason);
    this.wheel.cancel(session.timer);
    this.wheel.cancel(session.overdue);
    this.#byToken.delete(session.token);
    const hasGoodbye = reason !== "logout" && reason !== "disconnected";
    outbox.finish(hasGoodbye ? goodbye(reason, words) : null);
    this.introductions.end(session);
    if (reason !== "replaced" && reason !== "shutdown" && session.kind !== "link")
      this.announcements.presence(account, `left ${account.name} ${reason}`);
    if (session.slots !== null) this.neighbours!.abandon(session.slots);
    session.delivery.end();
    this.departing.add(session);
  }

  #removeOnline(session: Session, reason: GoodbyeReason | LeftReason): void {
    this.observer?.sessionEnded(session, reason);
    session.outbox.unsubscribe();
    this.presence.remove(session);
    this.neighbours?.observer?.sessionEnded(session);
  }

  /** Removes a user. The mailbox and the blocks are kept for the case that the user is added again. */
  remove(account: Account): void {
    account.password = null;
    if (account.session !== null) this.end(account.session, "removed");
  }

  /** The connection of a peer is closed. A resumable session continues. */
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
   * After an outbox was written: delivers more of the mailbox, and ends a session with too much unacknowledged as
   * `slow`. Not called within a request of that session, whose reply must come before the end.
   */
  flushed(session: Session): void {
    if (session.ended) return;
    const { unacked } = session.outbox;
    if (unacked <= ACK_BYTES_MAX) session.lastAckMs = this.wheel.nowMs;
    if (session.kind === "link" && unacked <= LINK_BYTES_MAX) return this.mailboxScheduler.deliver(session);
    const { unackedBytesMax } = this.limits;
    if (unacked > unackedBytesMax) {
      if (unacked > KEEPING_UP_BOUNDS * unackedBytesMax || !this.#keepsUp(session)) return this.end(session, "slow");
      if (!session.overdue.armed) this.wheel.schedule(session.overdue, this.#overdue, KEEPING_UP_MS);
    }
    this.mailboxScheduler.deliver(session);
  }

  /** At the end of a turn. True: another turn should follow. */
  turnEnds(): boolean {
    this.announcements.turnEnds();
    this.#recordAppended();
    const more = this.mailboxScheduler.step();
    this.#recordAppended(); // Those of logins that were admitted.
    return more;
  }

  #recordAppended(): void {
    for (const session of this.#appendedTo) {
      session.hasAppended = false;
      this.store.appended(session.account, session.number, session.outbox);
    }
    this.#appendedTo.length = 0;
  }

  /** Requests were acted on: the position becomes durable together with their effects. */
  requestsDone(session: Session): void {
    if (session.kind !== "resumable") return;
    session.receivedNumber = this.store.received(session.number, session.received);
  }

  /** At some ticks: sends delayed presence, ends sessions that are slow or hold too much, trims the buffer pools. */
  sweep(): void {
    this.announcements.flush();
    this.neighbours?.sweep();
    // `BroadcastGroup.flush` does not call `flushed` for each session; this does.
    const { sent } = this.announcements.group;
    if (this.#checkedAt !== sent) for (const session of this.#byToken.values()) this.flushed(session);
    this.#checkedAt = sent;
    const { streamsBytesMax } = this.limits;
    if (this.outboxMemory.bytes > streamsBytesMax)
      this.departing.limitMemory(this.presence.online, streamsBytesMax, (session) => this.end(session, "slow"));
    if (this.wheel.nowMs < this.#trimMs) return;
    this.#trimMs = this.wheel.nowMs + POOLED_MS;
    trimBufferPools();
  }

  /** Ends all sessions. No login succeeds afterwards. */
  shutdown(): void {
    this.isOver = true;
    for (const session of [...this.presence.online]) this.end(session, "shutdown");
    this.neighbours?.shutdown();
  }

  #idleTimedOut(session: Session): void {
    if (session.peer?.paused || this.rates.isWaiting(session.account)) session.lastActivityMs = this.wheel.nowMs;
    const leftMs = session.lastActivityMs + this.idleTimeoutMs - this.wheel.nowMs;
    if (leftMs <= 0) this.end(session, "expired");
    else this.wheel.schedule(session.timer, this.#idle, leftMs);
  }
}
