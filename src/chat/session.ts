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
  /** One that ended and may still hold messages which its connection has not taken. */
  leaving: Session | null = null;
  /** The request budget; null before the first login. */
  allowance: Allowance | null = null;
  /** Messages and bytes of text in the mailbox, of all senders and of each. */
  waiting = 0;
  waitingBytes = 0;
  /** The user has all messages up to that number: those in the mailbox are dropped some at a time; 0 when all are. */
  ackedUpTo = 0;
  /** Logins that wait until the messages of the user's sessions are in the mailbox, in their order; null without any. */
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
  /** The mailbox: fed up to that number, of which so many are unconfirmed, and forgotten up to that number. */
  deliveredUpTo = 0;
  /** Messages of it up to that number were confirmed before, and not fed. */
  skippedUpTo = 0;
  deliveredUnacked = 0;
  notedAckUpTo = 0;
  /** A portion of it is to be fed in the next turns, and the client's next request comes behind that. */
  deliveryPending = false;
  /** Messages were appended to its stream in this turn. */
  hasAppended = false;
  /** Its unconfirmed messages up to that number rest in the mailbox too. */
  spilledUpTo = 0;
  /** It has ended, the store knows, and the rest of its messages follow. */
  requeueing = false;
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
