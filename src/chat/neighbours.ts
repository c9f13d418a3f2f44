import { FORWARDS_MAX, FORWARD_BYTES_MAX, NEIGHBOUR_AWAY_MS, REPLY_WAITING_MS } from "../limits.ts";
import { copy } from "../byte-queue.ts";
import { LF, encode, equals, parseNumber, wordEnd } from "../protocol/ascii.ts";
import type { LineReader } from "../protocol/line-reader.ts";
import {
  type ErrorCode,
  type GoodbyeReason,
  OK,
  OK_ASKED,
  OK_SENT,
  OK_STORED,
  type Replies,
} from "../protocol/reply.ts";
import { shardOf } from "../protocol/shard.ts";
import { Outbox } from "../stream/outbox.ts";
import type { Turn } from "../stream/turn.ts";
import type { TimerWheel } from "../timer-wheel.ts";
import type { Accounts } from "./accounts.ts";
import type { Mailbox } from "./mailbox.ts";
import type { MailboxScheduler } from "./mailbox-scheduler.ts";
import { type ReplySlot, ReplySlots } from "./reply-slots.ts";
import { type Account, Neighbour, type Peer, Session } from "./session.ts";
import type { ChatStore } from "./store.ts";

/** Which part of the users of a cluster a server has. */
export interface Shards {
  home: number;
  count: number;
  /** Takes what an operator must know, in words. */
  warn: (what: string) => void;
}

/** What it needs of the chat. */
interface Host {
  readonly accounts: Accounts;
  readonly wheel: TimerWheel;
  readonly turn: Turn;
  readonly store: ChatStore;
  readonly mailbox: Mailbox;
  readonly mailboxScheduler: MailboxScheduler;
  readonly unixMs: number;
  readonly isOver: boolean;
  readonly report: (error: unknown, peer?: Peer) => void;
  messagesAppended(session: Session): void;
  end(session: Session, reason: GoodbyeReason): void;
}

/**
 * What links have besides requests and their outcomes: who is online, broadcasts, private chats. See
 * neighbour-events.ts.
 */
export interface LinkObserver {
  /** The session of a neighbour has begun. */
  began(session: Session): void;
  /** It has ended. */
  ended(neighbour: Neighbour): void;
  /** It has sent `tell`: the words after that are bytes[start..end). False when no neighbour sends them. */
  told(from: Neighbour, bytes: Uint8Array, start: number, end: number): boolean;
  /** A session of a local user has ended. */
  sessionEnded(session: Session): void;
  /** The request `getaddress` for a user of another shard. */
  ask(session: Session, asked: Account, key: string, out: Replies): void;
  /** The same request of a user of another shard, from its session of that number. An error code, or null. */
  asked(by: Account, number: number, ip: string, asked: Account, key: string): ErrorCode | null;
}

const OUTCOME = encode("outcome");
const ALIVE = encode("alive");
const TELL = encode("tell");
const WAITING = encode("waiting\n");
const SENT = OK_SENT.subarray(0, -1);
const STORED = OK_STORED.subarray(0, -1);
const ASKED = OK_ASKED.subarray(0, -1);

/**
 * The other shards of a cluster, as users of this one. A request of a local user that concerns a user of another shard
 * is a message to that shard (`forward`): it waits in its mailbox, is delivered on its link and again after a crash,
 * until the shard gives the reply with the request `outcome`. See docs/architecture.md, Several shards.
 */
export class Neighbours {
  /** By shard; undefined for this one. */
  readonly all: readonly (Neighbour | undefined)[];
  /** Null for a shard without users, as in tests. */
  observer: LinkObserver | null = null;
  readonly #host: Host;
  readonly #warn: (what: string) => void;
  readonly #byAccount = new Map<Account, Neighbour>();
  /** The text of the last request that was forwarded. */
  #text = Buffer.alloc(0);
  /** The streams with an open slot. */
  readonly #streams = new Set<ReplySlots>();

  /** From now on each new account belongs to a shard. */
  constructor(host: Host, { home, count, warn }: Shards) {
    this.#host = host;
    this.#warn = warn;
    const { accounts } = host;
    this.all = Array.from({ length: count }, (_, shard) =>
      shard === home ? undefined : new Neighbour(shard, accounts.recall(`#${shard}`)),
    );
    for (const each of this.all) if (each !== undefined) this.#byAccount.set(each.account, each);
    accounts.neighbourOf = (name) => this.all[shardOf(name, 0, name.length, count)] ?? null;
  }

  /** Wheel time at which the request was acted on that waits longest for a reply; infinite without one. */
  get oldestSlotMs(): number {
    let oldestMs = Number.POSITIVE_INFINITY;
    for (const slots of this.#streams) oldestMs = Math.min(oldestMs, slots.oldestMs);
    return oldestMs;
  }

  /** Some reply has not come from its shard yet. */
  get owesReplies(): boolean {
    return this.#streams.size > 0;
  }

  /** The shard takes requests: it has a link, and was heard of within NEIGHBOUR_AWAY_MS. */
  isReachable({ session }: Neighbour): boolean {
    return session !== null && this.#host.wheel.nowMs - session.lastActivityMs <= NEIGHBOUR_AWAY_MS;
  }

  /** Why no further request can be forwarded to that shard, in words; null when it can. */
  obstacle(neighbour: Neighbour): string | null {
    const { account, slots, slotBytes } = neighbour;
    if (!this.isReachable(neighbour)) return "the server of that user is away; try again in a moment";
    if (slots.size + account.waiting < FORWARDS_MAX && slotBytes + account.waitingBytes < FORWARD_BYTES_MAX)
      return null;
    return "too many requests wait for the server of that user; try again in a moment";
  }

  /**
   * Forwards the request bytes[start..end) of a local user. The reply comes later, in the place in `slots` that is
   * returned. The shard has no obstacle, and the store has room.
   */
  forward(from: Account, to: Neighbour, slots: ReplySlots, bytes: Uint8Array, start: number, end: number): ReplySlot {
    const { store, mailbox, mailboxScheduler, unixMs, wheel } = this.#host;
    const { account, session } = to;
    const number = store.newNumber();
    const textEnd = this.#writeText(`${number} ${to.lastNumber} `, bytes, start, end);
    if (session === null || account.isAwaitingLogin || mailbox.hasMore(session.delivery)) {
      mailbox.keep(account, { number, unixMs, from: from.name, text: this.#text.subarray(0, textEnd) });
      if (session !== null) mailboxScheduler.deliver(session);
    } else {
      session.outbox.appendMessage(number, unixMs, from.messageHead, this.#text, 0, textEnd);
      this.#host.messagesAppended(session);
    }
    to.lastNumber = number;
    const slot = slots.open(wheel.nowMs, textEnd);
    to.slots.set(number, slot);
    to.slotBytes += textEnd;
    this.#streams.add(slots);
    return slot;
  }

  /** Puts the text of a forwarded request into `#text`, and returns where it ends. */
  #writeText(head: string, bytes: Uint8Array, start: number, end: number): number {
    const textEnd = head.length + end - start;
    if (textEnd > this.#text.length) this.#text = Buffer.alloc(2 * textEnd);
    this.#text.write(head, "latin1");
    copy(bytes, this.#text, head.length, start, end);
    return textEnd;
  }

  /**
   * A link was opened, and its handshake is done. The peer becomes the session of that shard, whose owner has that
   * epoch and has acted on the requests up to number `heard`. The peer gets `ok <number>`: the highest number of which
   * the outcome is known here. A peer that is not taken gets `refused <words>`, and is closed.
   */
  connected(peer: Peer, shard: number, epoch: number, heard: number): void {
    const neighbour = this.all[shard];
    if (neighbour === undefined) return refuse(peer, `there is no other shard ${shard}`);
    peer.pause();
    this.#host.mailboxScheduler.prepare(neighbour.account, () => {
      try {
        this.#begin(peer, neighbour, epoch, heard);
      } catch (error) {
        this.#host.report(error, peer);
        peer.close();
      }
      peer.resume();
    });
    peer.replies.markDirty(); // The messages of the last link may have to move first: this begins a turn.
  }

  #begin(peer: Peer, neighbour: Neighbour, epoch: number, heard: number): void {
    const { isOver, turn, wheel, unixMs, mailbox, mailboxScheduler } = this.#host;
    const { account, shard } = neighbour;
    if (peer.isClosed) return;
    if (epoch < neighbour.epoch) return refuse(peer, `shard ${shard} has an owner of a higher epoch`);
    // An owner forgets nothing: it has opened another link since it said that, and this one arrives late.
    if (epoch === neighbour.epoch && heard < neighbour.ackedNumber)
      return refuse(peer, `the owner of shard ${shard} has a newer link`);
    if (isOver) return refuse(peer, "the server is shutting down");
    if (account.session !== null) this.#host.end(account.session, "replaced");
    if (account.leaving !== null && !mailboxScheduler.requeueNow(account.leaving))
      throw new Error(`the requests for shard ${shard} cannot be stored`);
    neighbour.epoch = epoch;
    this.#heard(neighbour, heard);
    peer.replies.append(encode(`ok ${answeredUpTo(neighbour, heard)}\n`));
    const session = new Session(account, 0, "", "link", new Outbox(turn, false), wheel.nowMs, unixMs);
    session.slots = new ReplySlots(session.outbox);
    mailbox.skip(session.delivery);
    account.session = session;
    session.peer = peer;
    peer.attach(session);
    this.observer?.began(session);
    mailboxScheduler.deliver(session);
  }

  /**
   * The shard has acted on the requests up to that number, and gives the outcomes that are not known here; also those
   * of requests that are delivered again. The next request follows that number.
   */
  #heard(neighbour: Neighbour, heard: number): void {
    const { store } = this.#host;
    const { account, shard } = neighbour;
    // After a restart, only the request that waits next knows of the one before it, which had an outcome.
    const [next] = store.read(account.name, heard, 1);
    const previous = next === undefined ? 0 : previousOf(next.text);
    if (previous > heard) neighbour.ackedNumber = Math.max(neighbour.ackedNumber, previous);
    const { ackedNumber } = neighbour;
    if (heard < ackedNumber)
      this.#warn(`shard ${shard} has lost requests: it knows them up to ${heard}, and had acted on ${ackedNumber}`);
    if (store.raiseNumber(account, heard))
      this.#warn(`this shard has lost requests: shard ${shard} has acted on request ${heard}, which is not known here`);
    if (neighbour.lastNumber === 0) neighbour.lastNumber = store.lastStored(account.name);
    neighbour.lastNumber = Math.max(neighbour.lastNumber, heard);
  }

  /** A line of a link. After an invalid one the link ends. */
  receive(session: Session, { tooLong, bytes, start, end, lineBytes }: LineReader): void {
    const { peer, account } = session;
    peer!.refund(); // Two shards that delay each other's lines could wait for each other.
    session.lastActivityMs = this.#host.wheel.nowMs;
    session.received += lineBytes;
    const verbEnd = wordEnd(bytes, start, end);
    let isValid = false;
    if (tooLong) isValid = false;
    else if (equals(bytes, start, verbEnd, OUTCOME)) isValid = this.#outcome(session, bytes, verbEnd + 1, end);
    else if (equals(bytes, start, verbEnd, ALIVE)) isValid = this.#alive(session, bytes, verbEnd + 1, end);
    else if (equals(bytes, start, verbEnd, TELL))
      isValid = this.observer?.told(this.#byAccount.get(account)!, bytes, verbEnd + 1, end) === true;
    if (isValid) return;
    this.#warn(`the link of shard ${account.name.slice(1)} is closed: it sent an invalid line`);
    this.#host.end(session, "flood");
  }

  /** `outcome <number> <reply>`: the shard has acted on the request of that number. */
  #outcome(session: Session, bytes: Uint8Array, start: number, end: number): boolean {
    const { outbox, account } = session;
    const { mailboxScheduler } = this.#host;
    const neighbour = this.#byAccount.get(account)!;
    const numberEnd = wordEnd(bytes, start, end);
    const number = parseNumber(bytes, start, numberEnd);
    if (number < 1 || number > neighbour.lastNumber || numberEnd + 1 >= end) return false;
    this.#fill(neighbour, number, bytes, numberEnd + 1, end);
    neighbour.ackedNumber = Math.max(neighbour.ackedNumber, number);
    // It may not be in the stream yet. Then the shard gets it later, and gives an outcome again.
    const position = outbox.unackedIndex.positionAfter(number);
    if (position > 0) outbox.ack(position);
    // `Chat.flushed` records it. After a crash before that, nobody waits for the outcome that the shard has forgotten.
    outbox.append(OK);
    if (account.waiting > 0) mailboxScheduler.deliver(session);
    return true;
  }

  /** Without a slot, the request is of an earlier run of this server, or its outcome is known. */
  #fill(neighbour: Neighbour, number: number, bytes: Uint8Array, start: number, end: number): void {
    const slot = neighbour.slots.get(number);
    if (slot === undefined) return;
    neighbour.slots.delete(number);
    neighbour.slotBytes -= slot.bytes;
    slot.slots.fill(slot, lineOf(bytes, start, end), this.#host.wheel.nowMs);
    if (!slot.slots.isOpen) this.#streams.delete(slot.slots);
  }

  /** `alive [<received>]`: the position counts up to the first request without an outcome. */
  #alive(session: Session, bytes: Uint8Array, start: number, end: number): boolean {
    const { outbox } = session;
    if (start < end) {
      const position = parseNumber(bytes, start, end);
      if (position < 0 || position > outbox.furthest) return false;
      const upTo = Math.min(position, outbox.unackedIndex.start);
      if (upTo > outbox.acked) outbox.ack(upTo);
      this.#host.mailboxScheduler.deliver(session);
    }
    outbox.append(encode(`ok ${session.received}\n`));
    return true;
  }

  /** The session of a link has ended. Its requests without an outcome return to the mailbox. */
  ended({ account }: Session): void {
    account.session = null;
    this.observer?.ended(this.#byAccount.get(account)!);
  }

  /** The reader of that stream is gone. The replies that are missing are dropped when they come. */
  abandon(slots: ReplySlots): void {
    this.#streams.delete(slots);
  }

  /** Called at some ticks: clients whose reply is late receive `waiting`. */
  sweep(): void {
    const { nowMs } = this.#host.wheel;
    for (const slots of this.#streams) {
      if (nowMs - Math.max(slots.oldestMs, slots.waitingMs) < REPLY_WAITING_MS) continue;
      slots.waitingMs = nowMs;
      slots.out.append(WAITING);
    }
  }

  /** Ends all links. */
  shutdown(): void {
    for (const neighbour of this.all) if (neighbour?.session != null) this.#host.end(neighbour.session, "shutdown");
  }
}

/**
 * The number up to which no outcome of the shard is awaited here: it may forget them, so it never keeps more than it
 * was forwarded within the limits. After a crash of this shard that is everything that it has acted on.
 */
function answeredUpTo({ slots, ackedNumber }: Neighbour, heard: number): number {
  const [oldest = Number.POSITIVE_INFINITY] = slots.keys();
  return Math.max(ackedNumber, Math.min(heard, oldest - 1));
}

/** The number before that of a forwarded request: its text is `<number> <previous> <request>`. */
function previousOf(text: Uint8Array): number {
  const start = wordEnd(text, 0, text.length) + 1;
  return parseNumber(text, start, wordEnd(text, start, text.length));
}

function refuse(peer: Peer, why: string): void {
  peer.replies.append(encode(`refused ${why}\n`));
  peer.close();
}

/** The line bytes[start..end) with an LF, in memory of its own; most are one of these. */
function lineOf(bytes: Uint8Array, start: number, end: number): Uint8Array {
  if (equals(bytes, start, end, SENT)) return OK_SENT;
  if (equals(bytes, start, end, STORED)) return OK_STORED;
  if (equals(bytes, start, end, ASKED)) return OK_ASKED;
  const line = Buffer.allocUnsafe(end - start + 1);
  line.set(bytes.subarray(start, end));
  line[end - start] = LF;
  return line;
}
