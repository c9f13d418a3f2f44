/**
 * The data of users (`Account`), of their sessions (`Session`) and of the messages of a session (`Delivery`), and what
 * the chat expects of a connection (`Peer`). No rules: those are in chat.ts, mailbox.ts and mailbox-scheduler.ts.
 */

import { encode } from "../protocol/ascii.ts";
import type { Outbox } from "../stream/outbox.ts";
import type { GoodbyeReason, LeftReason } from "../protocol/reply.ts";
import type { ReplySlot, ReplySlots } from "./reply-slots.ts";
import type { Request, Verb } from "../protocol/request.ts";
import type { Sink } from "../stream/turn.ts";
import { WheelTimer } from "../timer-wheel.ts";
import { TokenBucket } from "../token-bucket.ts";

/** For how long a request has waited before this server could act on it. */
export interface Waited {
  ms: number;
  /** The part of it in which it may not have been sent yet: a server stood still then. */
  uncertainMs: number;
}

export const NOT_WAITED: Waited = { ms: 0, uncertainMs: 0 };

/** The other end of a session: a connection, or a double in tests. It has no session before the login. */
export interface Peer {
  /** Source address: dotted IPv4, or IPv6. */
  readonly address: string;
  /** The connection uses TLS. */
  readonly isEncrypted: boolean;
  /** The connection uses WebSocket: what the client has received is only known when it says so. */
  readonly isWebSocket: boolean;
  /** The client is at another server of the cluster, which relays it to this one. */
  readonly isRelayed: boolean;
  /** For how long its next request has waited there. It counts for that one only. */
  waited: Waited;
  /** `address` is the client's for this server too: not a loopback address of another machine. */
  readonly isCallable: boolean;
  session: Session | null;
  /** Takes its replies: the outbox of its session, or one of its own before the login. */
  readonly replies: Outbox;
  /** From now on this peer writes the outbox of that session. */
  attach(session: Session): void;
  /** The connection is closed. */
  readonly isClosed: boolean;
  /** No line is read for the moment. */
  readonly paused: boolean;
  /** Consecutive invalid lines without a session. */
  badLines: number;
  /** The last request counts against the rate of a user instead of the rate of its address. */
  refund(): void;
  /** Reads no further line until `resume`, since the last one has no reply yet. */
  pause(): void;
  resume(): void;
  /** The session continues on another connection: closes without a last line, and drops unread lines. */
  detach(): void;
  /** Reads no further line, and closes when everything that was appended is written. */
  close(): void;
}

/** Passes clients on to the server of a cluster that has their sessions. */
export interface LoginRelay {
  /**
   * Takes the valid `login`, `resume` or `as` in request.bytes[start..request.end): pauses the peer, and gives the
   * reply later. False when it is for this server.
   */
  relay(peer: Peer, verb: Verb, request: Request, start: number): boolean;
}

/** The request budget of a user. It outlives sessions: otherwise each new session would get a full budget. */
export class Allowance extends TokenBucket {
  /** Waiting requests of connections without a session, in their order; each has reserved a token. */
  delayed: { peer: Peer; act: () => void }[] = [];
  /** Armed while requests wait. */
  readonly timer = new WheelTimer<Allowance>(this);
}

/** Messages in a mailbox, and bytes of their texts. */
export interface Waiting {
  messages: number;
  bytes: number;
}

const NONE: Waiting = { messages: 0, bytes: 0 };

/** A user: password, blocks, and counts of the mailbox. It outlives every session. */
export class Account {
  readonly name: string;
  /** The shard that has the sessions and the mailbox of this user; null when it is this one, as without a cluster. */
  readonly neighbour: Neighbour | null;
  readonly nameBytes: Uint8Array;
  /** As in the credentials file, plain or a hash; null when the file has no such user. */
  password: string | null = null;
  /** The session that is online; null without one. */
  session: Session | null = null;
  /** A user of another shard of the cluster who is online there. Only `Presence` changes it. */
  isElsewhere = false;
  /** That of the last session, which has ended and may still hold messages that are not in the mailbox. */
  leaving: Delivery | null = null;
  /** The request budget; null before the first login. */
  allowance: Allowance | null = null;
  /** Messages in the mailbox, and bytes of their texts. */
  waiting = 0;
  waitingBytes = 0;
  /** Mailbox entries up to that message number are acknowledged, and dropped some at a time; 0 when none is left. */
  ackedUpTo = 0;
  /** Unix time in ms at which a ban ends: FOREVER for a ban for good; 0 without a ban. */
  bannedUntilMs = 0;
  /** Logins that wait until the messages of the user's sessions are in the mailbox; null without any. */
  waitingLogins: (() => void)[] | null = null;
  /** The same by sender. */
  #waitingFrom: Map<string, Waiting> | null = null;
  /** Made when they are needed: most of very many users are never online. */
  #messageHead: Uint8Array | null = null;
  #broadcastHead: Uint8Array | null = null;
  #blocks: Set<Account> | null = null;
  #blockedBy: Set<Account> | null = null;

  /** The counts of all mailboxes. */
  readonly #total: Waiting;

  /** `total` counts what waits in all mailboxes together. */
  constructor(
    name: string,
    total: Waiting = { messages: 0, bytes: 0 },
    neighbour: Neighbour | null = null,
    nameBytes = encode(name),
  ) {
    this.name = name;
    this.neighbour = neighbour;
    this.#total = total;
    this.nameBytes = nameBytes;
  }

  /** The beginnings of the lines that other users receive from this user. */
  get messageHead(): Uint8Array {
    return (this.#messageHead ??= encode(`message ${this.name} `));
  }
  get broadcastHead(): Uint8Array {
    return (this.#broadcastHead ??= encode(`broadcast ${this.name} `));
  }

  /** New messages go to the mailbox: otherwise the messages that the waiting logins need moved would only grow. */
  get isAwaitingLogin(): boolean {
    return this.waitingLogins !== null;
  }

  /** Adds messages of a sender to the counts of the mailbox; negative numbers subtract. */
  countWaiting(from: string, messages: number, bytes: number): void {
    this.waiting += messages;
    this.waitingBytes += bytes;
    this.#total.messages += messages;
    this.#total.bytes += bytes;
    const all = (this.#waitingFrom ??= new Map());
    const one = all.get(from) ?? { messages: 0, bytes: 0 };
    one.messages += messages;
    one.bytes += bytes;
    if (one.messages > 0) all.set(from, one);
    else all.delete(from);
    if (all.size === 0) this.#waitingFrom = null;
  }

  /** The counts of one sender. */
  waitingFrom(from: string): Readonly<Waiting> {
    return this.#waitingFrom?.get(from) ?? NONE;
  }

  /** The counts of each sender. */
  get senders(): Iterable<[from: string, Readonly<Waiting>]> {
    return this.#waitingFrom ?? [];
  }

  isBanned(unixMs: number): boolean {
    return this.bannedUntilMs > unixMs;
  }

  /** Users whom this user has blocked, and users who have blocked this user. */
  get blocks(): ReadonlySet<Account> {
    return this.#blocks ?? NO_ACCOUNTS;
  }
  get blockedBy(): ReadonlySet<Account> {
    return this.#blockedBy ?? NO_ACCOUNTS;
  }

  block(other: Account): void {
    (this.#blocks ??= new Set()).add(other);
    (other.#blockedBy ??= new Set()).add(this);
  }

  unblock(other: Account): void {
    this.#blocks?.delete(other);
    other.#blockedBy?.delete(this);
  }
}

/** The end of a ban for good. */
export const FOREVER = Number.MAX_SAFE_INTEGER;

const NO_ACCOUNTS: ReadonlySet<Account> = new Set();

/**
 * Another shard of a cluster, as this one sees it. It is a user here, `#<shard>`: what users of this shard request of
 * users of that one are messages to this user, which wait in its mailbox and are delivered to its session. `Neighbours`
 * has the rules.
 */
export class Neighbour {
  readonly shard: number;
  /** It has no password, so no client can log in as this user. */
  readonly account: Account;
  /** Of the owner that opened the last link; 0 before the first one. */
  epoch = 0;
  /** The number of the last request that was forwarded; 0 while it is unknown: until the first link. */
  lastNumber = 0;
  /** Its replies to the requests up to that number have come; 0 while nothing is known. */
  ackedNumber = 0;
  /** The requests whose replies have not come, by their numbers; and bytes of their lines. */
  readonly slots = new Map<number, ReplySlot>();
  slotBytes = 0;

  constructor(shard: number, account: Account) {
    this.shard = shard;
    this.account = account;
  }

  /** The session of its link; null without one. */
  get session(): Session | null {
    return this.account.session;
  }
}

/** The options of a login. */
export interface LoginOptions {
  /** The port on which the client accepts private chats; 0: none. */
  listenPort: number;
  resumable: boolean;
  /** The port that the server calls; 0: no callback session. */
  callbackPort: number;
  /** An earlier session, and the position up to which the client has received its stream. */
  after: { token: string; received: number } | null;
}

/**
 * The kinds differ in how their stream is acknowledged, and in what the end of a connection means. A `link` is the
 * session of another shard (`Neighbour`), and counts as no user's.
 */
export type SessionKind = "plain" | "resumable" | "callback" | "link";

/** Writes the outbox of a callback session by calling its client. */
export interface Caller extends Sink {
  /** The client has sent a request: calls again without waiting for the end of a pause. */
  retry(): void;
  /** The session has ended: its client is not called again. */
  giveUp(): void;
}

/** A session of a user, who has one at most. Its peer may change; its outbox stays. */
export class Session {
  readonly account: Account;
  /** From the counter of message numbers; 0 for a plain session or a link, which is not remembered after its end. */
  readonly number: number;
  readonly token: string;
  readonly kind: SessionKind;
  readonly outbox: Outbox;
  /** The connection; a resumable session may have none, a callback session never has one. */
  peer: Peer | null = null;
  /** Of a callback session. */
  caller: Caller | null = null;
  /** Consecutive invalid lines, on all its connections. */
  badLines = 0;
  /** Position in the client's stream up to which requests were acted on. */
  received = 0;
  /** The store has that position until it asks for messages up to this number; see `ChatStore.received`. */
  receivedNumber = Number.MAX_SAFE_INTEGER;
  /** Wheel time at which the client last acknowledged, or had at most `ACK_BYTES_MAX` to acknowledge. */
  lastAckMs = Number.NEGATIVE_INFINITY;
  /** Armed while more than `unackedBytesMax` is unacknowledged, and the client still acknowledges. */
  readonly overdue = new WheelTimer<Session>(this);
  /** Unix time of its login. */
  readonly beganUnixMs: number;
  /** `elapsedMs` of the wheel when it was asked for, or later. */
  askedMs = 0;
  /** It was asked for at another server of the cluster. */
  isRelayed = false;
  /** Address of its last connection, and the port on which the client accepts private chats; 0: none. */
  address = "";
  listenPort = 0;
  /** Wheel time of the last line. */
  lastActivityMs: number;
  /** Armed until the session expires. */
  readonly timer = new WheelTimer<Session>(this);
  /** Private messages that were accepted from its user, and that were appended to its outbox. */
  messagesIn = 0;
  messagesOut = 0;
  /** The user of its last message; null before the first one. */
  recipient: Account | null = null;
  /** Replies that wait for those of other shards; null before the first request that was forwarded. */
  slots: ReplySlots | null = null;
  /** Null while the session is online. */
  endReason: GoodbyeReason | LeftReason | null = null;
  endedUnixMs = 0;
  /** Which messages were delivered, and which are in the mailbox. */
  readonly delivery = new Delivery(this);
  /** Messages were appended to its outbox in this turn. */
  hasAppended = false;
  /** Index in `Presence.online`; -1 before and after. */
  onlineIndex = -1;

  constructor(
    account: Account,
    number: number,
    token: string,
    kind: SessionKind,
    outbox: Outbox,
    nowMs: number,
    unixMs: number,
  ) {
    this.account = account;
    this.number = number;
    this.token = token;
    this.kind = kind;
    this.outbox = outbox;
    this.lastActivityMs = nowMs;
    this.beganUnixMs = unixMs;
  }

  get ended(): boolean {
    return this.endReason !== null;
  }
}

/**
 * - `live`: the session is online.
 * - `ended`: the session has ended, but the connection of a plain session may still take messages.
 * - `requeueing`: the store knows of the end; unacknowledged messages move to the mailbox, some in each turn.
 * - `done`: every unacknowledged message is in the mailbox.
 *
 * Whether the session is about to be replaced is no state of it: see `Account.isAwaitingLogin`.
 */
export type DeliveryState = "live" | "ended" | "requeueing" | "done";

/**
 * The messages of one session: how far the mailbox was delivered into its outbox, and which messages of its outbox are
 * in the mailbox too. All fields are message numbers or counts; `Mailbox` changes them. It moves no messages itself.
 */
export class Delivery {
  readonly session: Session;
  /** The mailbox was delivered up to that number. */
  deliveredUpTo = 0;
  /** Messages that are in the mailbox and in the outbox. */
  deliveredUnacked = 0;
  /** Mailbox entries up to that number were acknowledged before the session began, and are not delivered; 0: none. */
  skippedUpTo = 0;
  /** The store knows that messages up to that number are acknowledged. */
  notedAckUpTo = 0;
  /** Unacknowledged messages up to that number are in the mailbox too. */
  spilledUpTo = 0;
  /** `MailboxScheduler` delivers a portion in this turn or a later one. The client's next request waits for it. */
  isPending = false;
  #state: DeliveryState = "live";

  constructor(session: Session) {
    this.session = session;
  }

  get state(): DeliveryState {
    return this.#state;
  }

  /** Every unacknowledged message is in the mailbox too. */
  get isSpilled(): boolean {
    return this.session.outbox.lastNumber <= this.spilledUpTo;
  }

  /** The session has ended. Its user cannot log in until this delivery is done. */
  end(): void {
    this.#state = "ended";
    this.session.account.leaving = this;
  }

  /** The store knows of the end. */
  beginRequeue(): void {
    this.#state = "requeueing";
  }

  finish(): void {
    this.#state = "done";
    this.session.account.leaving = null;
  }
}
