import { BROADCAST_LOG_BYTES_MAX, UNCONFIRMED_BYTES_MAX } from "../limits.ts";
import { encode } from "../protocol/ascii.ts";
import { BroadcastLog } from "../protocol/broadcast-log.ts";
import { Outbox, type Turn } from "../protocol/outbox.ts";
import type { GoodbyeReason, LeftReason } from "../protocol/reply.ts";
import type { TimerKind, TimerWheel } from "../timer-wheel.ts";
import { Accounts } from "./accounts.ts";
import { Lockouts } from "./lockouts.ts";
import { Mailbox, type MailboxStore } from "./mailbox.ts";
import { Presence } from "./presence.ts";
import { type Account, type Peer, Session } from "./session.ts";

/** What the chat wants to find again after a restart. Methods throw when the disk refuses. */
export interface ChatStore extends MailboxStore {
  block(user: string, other: string): void;
  unblock(user: string, other: string): void;
}

/** Judges a password, now or later. */
export type Verify = (account: Account, password: Uint8Array) => boolean | Promise<boolean>;

export interface ChatOptions {
  wheel: TimerWheel;
  turn: Turn;
  store: ChatStore;
  verify: Verify;
  newToken: () => string;
  /** A session ends, and a stranger's connection too, when nothing was heard for so long. */
  silenceMs: number;
  blockMs: number;
  /** The highest message number that the store has seen. */
  lastNumber: number;
  /** Hears of faults that no caller can answer for. */
  report: (error: unknown) => void;
}

/**
 * The rules: who is in, who hears what, what happens to a session. It reads no clock and touches no socket or disk:
 * time stands on the wheel, lines are appended to outboxes, and the turn that it was given writes them.
 */
export class Chat {
  readonly accounts = new Accounts();
  readonly presence = new Presence();
  readonly log = new BroadcastLog();
  readonly wheel: TimerWheel;
  readonly turn: Turn;
  readonly store: ChatStore;
  readonly mailbox: Mailbox;
  readonly lockouts: Lockouts;
  readonly verify: Verify;
  readonly silenceMs: number;
  readonly report: (error: unknown) => void;
  /** Unix time of this turn, for messages that are read later. */
  unixMs = 0;
  #lastNumber: number;
  #broadcastWaits = false;
  readonly #newToken: () => string;
  readonly #silence: TimerKind<Session>;

  constructor(options: ChatOptions) {
    this.wheel = options.wheel;
    this.turn = options.turn;
    this.store = options.store;
    this.verify = options.verify;
    this.silenceMs = options.silenceMs;
    this.report = options.report;
    this.mailbox = new Mailbox(options.store);
    this.lockouts = new Lockouts(options.wheel, options.blockMs);
    this.#lastNumber = options.lastNumber;
    this.#newToken = options.newToken;
    this.#silence = options.wheel.kind((session) => this.#heardNothing(session));
  }

  /** Gives a peer the session of a user, and ends the one that user had. */
  login(peer: Peer, account: Account, listenPort: number): void {
    const replaced = account.session;
    if (replaced !== null) this.end(replaced, "replaced");
    if (account.leaving !== null) this.#settle(account.leaving);
    const session = new Session(account, this.#newToken(), new Outbox(this.turn, true), this.wheel.nowMs);
    session.listenPort = listenPort;
    session.peer = peer;
    session.timer = this.wheel.schedule(this.#silence, session, this.silenceMs);
    peer.replies.append(encode(`ok ${session.token} ${this.silenceMs / 1000}\n`));
    peer.attach(session);
    if (replaced === null) this.#announce(account, `joined ${account.name}`);
    session.outbox.join(this.log);
    this.presence.add(session);
    if (account.waiting > 0) this.mailbox.feed(session);
  }

  /** Accepts a message: it is in the other's stream, or in the mailbox, or there is no room for it. */
  send(from: Account, to: Account, bytes: Uint8Array, start: number, end: number): "sent" | "stored" | "full" {
    const session = to.session;
    const number = this.#lastNumber + 1;
    if (session !== null && !this.mailbox.hasMore(session)) {
      session.outbox.appendMessage(number, this.unixMs, from.messageHead, bytes, start, end);
      this.#lastNumber = number;
      return "sent";
    }
    if (this.mailbox.isFull(to)) return "full";
    this.mailbox.keep(to, [{ number, unixMs: this.unixMs, from: from.name, text: bytes.subarray(start, end) }]);
    this.#lastNumber = number;
    return "stored";
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
    this.log.append(head, bytes, start, end);
    for (const { session } of others) {
      if (session === null) continue;
      session.outbox.skip();
      missed++;
    }
    if (by.session === null) return missed;
    by.session.outbox.skip();
    return missed + 1;
  }

  /** Ends a session. What its connection does not take any more goes back to the mailbox. */
  end(session: Session, reason: GoodbyeReason | LeftReason): void {
    if (session.ended) return;
    const { account, outbox, peer } = session;
    session.ended = true;
    this.wheel.cancel(session.timer);
    outbox.leave();
    this.presence.remove(session);
    if (reason !== "logout" && reason !== "disconnected") outbox.append(encode(`goodbye ${reason}\n`));
    if (reason !== "replaced" && reason !== "shutdown") this.#announce(account, `left ${account.name} ${reason}`);
    account.leaving = session;
    peer?.close();
  }

  /** A peer hung up, or was hung up on after its session had ended. */
  lost(peer: Peer): void {
    const { session } = peer;
    if (session === null) return;
    this.end(session, "disconnected");
    if (session.account.leaving === session) this.#settle(session);
  }

  /** Whatever of an ended session was not taken goes to the mailbox, where it will be read from then on. */
  #settle(session: Session): void {
    session.account.leaving = null;
    this.mailbox.forget(session);
    this.mailbox.keep(session.account, session.outbox.withdraw());
  }

  /** The socket took what it could of a session's stream: more of the mailbox may follow; too much left is the end. */
  flushed(session: Session): void {
    if (session.ended) return;
    if (session.outbox.unconfirmed > UNCONFIRMED_BYTES_MAX) this.end(session, "slow");
    else if (session.account.waiting > 0) this.mailbox.feed(session);
  }

  /** The turn ends: broadcasts reach everybody's stream. Presence alone waits for `announceNow`. */
  turnEnds(): void {
    if (this.#broadcastWaits) this.announceNow();
  }

  /** Everybody's stream takes in what the log holds. */
  announceNow(): void {
    this.#broadcastWaits = false;
    const { log } = this;
    if (log.followed === log.end) return;
    for (const { outbox } of this.presence.online) outbox.follow();
    log.followed = log.end;
    log.trim();
    if (log.bytes <= BROADCAST_LOG_BYTES_MAX) return;
    const before = log.end - BROADCAST_LOG_BYTES_MAX;
    for (const { outbox } of this.presence.online) outbox.letGo(before);
  }

  /** Ends everybody's session. */
  shutdown(): void {
    for (const session of [...this.presence.online]) this.end(session, "shutdown");
  }

  #heardNothing(session: Session): void {
    if (session.peer?.paused) session.heardMs = this.wheel.nowMs;
    const leftMs = session.heardMs + this.silenceMs - this.wheel.nowMs;
    if (leftMs <= 0) this.end(session, "expired");
    else session.timer = this.wheel.schedule(this.#silence, session, leftMs);
  }
}
