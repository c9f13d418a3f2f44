import { encode } from "../protocol/ascii.ts";
import type { Outbox } from "../stream/outbox.ts";
import type { GoodbyeReason, LeftReason } from "../protocol/reply.ts";
import type { Sink } from "../stream/turn.ts";
import { WheelTimer } from "../timer-wheel.ts";
import { TokenBucket } from "../token-bucket.ts";

/** Whoever sends lines: a connection, or in tests a double. Before it has a session, it is a stranger. */
export interface Peer {
  /** Where it comes from: dotted IPv4 or IPv6. */
  readonly address: string;
  /** It speaks TLS. */
  readonly isEncrypted: boolean;
  session: Session | null;
  /** Where its replies go: its session's stream, or before that one of its own. */
  readonly replies: Outbox;
  /** What is appended to the new session's stream goes to this peer from now on. */
  attach(session: Session): void;
  /** It hung up. */
  readonly isClosed: boolean;
  /** It takes no line for a while. */
  readonly paused: boolean;
  /** Consecutive invalid lines without a session. */
  badLines: number;
  /** Its last request counts against the rate of a user, and not of its address. */
  refund(): void;
  /** Takes no further line until `resume`: the reply to the last one is not known yet. */
  pause(): void;
  resume(): void;
  /** The session goes on elsewhere: closes without a word, and drops what was not read. */
  detach(): void;
  /** Takes no further line, and closes when everything that was appended has been written. */
  close(): void;
}

/** The request budget of a user. It outlives sessions, or each new one would bring a second's worth of requests. */
export class Allowance extends TokenBucket {
  /** Requests on connections without a session that wait, in their order; each has reserved a token. */
  delayed: { peer: Peer; act: () => void }[] = [];
  /** Armed while some wait. */
  readonly timer = new WheelTimer<Allowance>(this);
}

interface Waiting {
  messages: number;
  bytes: number;
}

const NONE: Waiting = { messages: 0, bytes: 0 };

/** A user: who may log in, whom they block, what waits for them. It outlives every session. */
export class Account {
  readonly name: string;
  readonly nameBytes: Uint8Array;
  /** As the credentials file has it; null for who is no user, or none any more. */
  password: string | null = null;
  /** What this user's lines begin with at other users. */
  readonly messageHead: Uint8Array;
  readonly broadcastHead: Uint8Array;
  /** The session that is online. */
  session: Session | null = null;
  /** That of the last session, which has ended and may still hold messages that are not in the mailbox. */
  leaving: Delivery | null = null;
  /** The request budget; null before the first login. */
  allowance: Allowance | null = null;
  /** Messages and bytes of text in the mailbox, of all senders and of each. */
  waiting = 0;
  waitingBytes = 0;
  /** The user has all messages up to that number: those in the mailbox are dropped some at a time; 0 when all are. */
  ackedUpTo = 0;
  /** Logins that wait until the messages of the user's sessions are in the mailbox; null without any. */
  waitingLogins: (() => void)[] | null = null;
  #waitingFrom: Map<string, Waiting> | null = null;
  #blocks: Set<Account> | null = null;
  #blockedBy: Set<Account> | null = null;

  constructor(name: string) {
    this.name = name;
    this.nameBytes = encode(name);
    this.messageHead = encode(`message ${name} `);
    this.broadcastHead = encode(`broadcast ${name} `);
  }

  /** New messages go to the mailbox: otherwise the messages that the waiting logins need moved would only grow. */
  get isAwaitingLogin(): boolean {
    return this.waitingLogins !== null;
  }

  /** So much more of a sender waits in the mailbox; or less. */
  countWaiting(from: string, messages: number, bytes: number): void {
    this.waiting += messages;
    this.waitingBytes += bytes;
    const all = (this.#waitingFrom ??= new Map());
    const one = all.get(from) ?? { messages: 0, bytes: 0 };
    one.messages += messages;
    one.bytes += bytes;
    if (one.messages > 0) all.set(from, one);
    else all.delete(from);
    if (all.size === 0) this.#waitingFrom = null;
  }

  /** How much of that sender waits. */
  waitingFrom(from: string): Readonly<Waiting> {
    return this.#waitingFrom?.get(from) ?? NONE;
  }

  /** Whom this user has blocked, and who has blocked this user. */
  get blocks(): ReadonlySet<Account> {
    return this.#blocks ?? NOBODY;
  }
  get blockedBy(): ReadonlySet<Account> {
    return this.#blockedBy ?? NOBODY;
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

const NOBODY: ReadonlySet<Account> = new Set();

/** What a client asked for at its login. */
export interface LoginOptions {
  /** The port on which it accepts private chats; 0 is none. */
  listenPort: number;
  resumable: boolean;
  /** The port at which it wants to be called; 0 is none. */
  callbackPort: number;
  /** An earlier session, and how far the client has its stream. */
  after: { token: string; received: number } | null;
}

/** How a session is reached: the kinds differ in who confirms its stream, and in what a connection's end means. */
export type SessionKind = "plain" | "resumable" | "callback";

/** What writes the stream of a callback session: a sink that calls the client. */
export interface Caller extends Sink {
  /** The client was heard: do not wait for the end of a pause. */
  retry(): void;
  /** The session has ended: its client is not called again. */
  giveUp(): void;
}

/** One user online. There is one session a user; its stream is what its peer is attached to. */
export class Session {
  readonly account: Account;
  /** From the counter of message numbers; 0 for a plain session, which nobody asks for when it has ended. */
  readonly number: number;
  readonly token: string;
  readonly kind: SessionKind;
  readonly outbox: Outbox;
  /** The connection that the stream is attached to; a resumable session may have none, a callback session never has. */
  peer: Peer | null = null;
  caller: Caller | null = null;
  /** Consecutive invalid lines, on whatever connections. */
  badLines = 0;
  /** Position in the client's stream: everything before it was acted on. */
  received = 0;
  /** Wheel time at which the client last confirmed, or had next to nothing to confirm. */
  lastAckMs = Number.NEGATIVE_INFINITY;
  /** Armed while more than the bound waits for a client that may be keeping up. */
  readonly overdue = new WheelTimer<Session>(this);
  /** Where the client accepts private chats: the address that the server saw last, and a port; 0 is none. */
  address = "";
  listenPort = 0;
  /** Wheel time of the last line. */
  lastActivityMs: number;
  readonly timer = new WheelTimer<Session>(this);
  /** Why it ended; null while it lives. */
  endReason: GoodbyeReason | LeftReason | null = null;
  endedUnixMs = 0;
  /** Which messages were delivered, and which are in the mailbox. */
  readonly delivery = new Delivery(this);
  /** Messages were appended to its stream in this turn. */
  hasAppended = false;
  /** Place in `Presence.online`. */
  onlineIndex = -1;

  constructor(account: Account, number: number, token: string, kind: SessionKind, outbox: Outbox, heardMs: number) {
    this.account = account;
    this.number = number;
    this.token = token;
    this.kind = kind;
    this.outbox = outbox;
    this.lastActivityMs = heardMs;
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
