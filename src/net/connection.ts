import type { Socket } from "bun";
import type { Chat } from "../chat/chat.ts";
import { receive } from "../chat/commands.ts";
import type { Peer, Session } from "../chat/session.ts";
import {
  LINGER_BYTES_MAX,
  LINGER_MS,
  type Limits,
  SKIPPED_BYTES_PER_REQUEST,
  UNSENT_BYTES_MAX,
  WORK_BYTES,
  WORK_PER_TURN,
  WORK_PER_VISIT,
} from "../limits.ts";
import { LineReader } from "../protocol/line-reader.ts";
import { Outbox } from "../stream/outbox.ts";
import type { Sink } from "../stream/turn.ts";
import { WheelTimer, type TimerKind, type TimerWheel } from "../timer-wheel.ts";
import type { TokenBucket } from "../token-bucket.ts";
import { send } from "../runtime/kernel.ts";

/** Whom the events of an accepted socket are told. */
export interface Accepted {
  data(chunk: Buffer): void;
  drain(): void;
  end(): void;
  closed(): void;
  hangUp(): void;
  /** The TLS handshake is over, well or not. */
  handshake?(failure: Error | null): void;
}

export type AcceptedSocket = Socket<Accepted | null>;

/** What all connections of a server share. */
export class Connections {
  readonly chat: Chat;
  readonly wheel: TimerWheel;
  readonly limits: Limits;
  readonly open = new Set<Connection>();
  /** Those without a session, the oldest first. */
  readonly unauthenticated = new Set<Accepted>();
  /** Those with requests that were left over from a turn, in the order in which they go on. */
  readonly ready = new Set<Connection>();
  /** A connection that says nothing, without a session; that does not close its side; is read later; takes nothing. */
  readonly idle: TimerKind<Connection>;
  readonly linger: TimerKind<Connection>;
  readonly later: TimerKind<Connection>;
  readonly stalled: TimerKind<Connection>;

  constructor(chat: Chat) {
    this.chat = chat;
    this.wheel = chat.wheel;
    this.limits = chat.limits;
    this.idle = chat.wheel.kind((connection) => connection.idleTimedOut());
    this.linger = chat.wheel.kind((connection) => connection.hangUp());
    this.later = chat.wheel.kind((connection) => connection.readOn());
    this.stalled = chat.wheel.kind((connection) => connection.tookNothing());
  }

  /** A turn begins: some of those that wait go on. While there are any, turns must follow each other. */
  serveReady(): void {
    const { rates } = this.chat;
    const most = rates.work + WORK_PER_TURN;
    for (const connection of this.ready) {
      if (rates.work >= most) break;
      this.ready.delete(connection);
      connection.serve();
    }
  }
}

/** An accepted socket: lines in, streams out. It decides when to read and when to write, and nothing else. */
export class Connection implements Accepted, Peer, Sink {
  readonly address: string;
  readonly isEncrypted: boolean;
  session: Session | null = null;
  isClosed = false;
  readonly #server: Connections;
  readonly #socket: AcceptedSocket;
  /** -1 over TLS, where nothing is sent past it; and when it is closed: the number may be somebody else's by then. */
  #descriptor: number;
  readonly #reader: LineReader;
  /** Lines outside any session; null when there will be none any more. */
  #own: Outbox | null;
  readonly #openedMs: number;
  #lastActivityMs: number;
  readonly #timer = new WheelTimer<Connection>(this);
  readonly #later = new WheelTimer<Connection>(this);
  /** The last request is not answered yet. */
  #unanswered = false;
  /** The rate limit was reached; or too much of its own output waits, or is to come out of the mailbox. */
  #overRate = false;
  #backlogged = false;
  /** It has said enough for this turn. */
  #waits = false;
  /** Its last visit left requests over: until one does not, its new chunks wait in the queue as well. */
  #isHeavy = false;
  #reading = true;
  #pulling = false;
  /** The kernel takes no more until `drain`; there is a limit to that. */
  #full = false;
  readonly #stall = new WheelTimer<Connection>(this);
  #ended = false;
  #closing = false;
  /** What it said since then. */
  #droppedBytes = 0;
  #shut = false;
  /** Requests that it may still make at once: those of its address until it has a session, then those of its user. */
  #allowance: TokenBucket;
  /** Its next request has waited and is paid for, so that no other connection with the same allowance overtakes it. */
  #reserved = false;
  badLines = 0;

  /** `address`: where it comes from, which a proxy may have said. */
  constructor(all: Connections, socket: AcceptedSocket, address: string, isEncrypted = false) {
    const { nowMs } = all.wheel;
    this.#server = all;
    this.#socket = socket;
    this.#descriptor = isEncrypted ? -1 : ((socket as unknown as { fd?: number }).fd ?? -1);
    this.address = address;
    this.isEncrypted = isEncrypted;
    this.#reader = new LineReader(all.limits.lineBytesMax);
    this.#own = this.#newStream();
    this.#openedMs = this.#lastActivityMs = nowMs;
    this.#allowance = all.chat.addresses.requests(address);
    this.idleTimedOut();
    all.open.add(this);
    all.unauthenticated.add(this);
  }

  get paused(): boolean {
    return this.#unanswered || this.#overRate || this.#backlogged || this.#waits;
  }

  get replies(): Outbox {
    return this.session?.outbox ?? (this.#own ??= this.#newStream());
  }

  /** Bytes that came and were not acted on. */
  get heldBytes(): number {
    return this.#reader.heldBytes;
  }

  /** Everything that was appended has been taken by the kernel. */
  get drained(): boolean {
    return (this.#own?.unsent ?? 0) + (this.session?.outbox.unsent ?? 0) === 0;
  }

  #newStream(): Outbox {
    const stream = new Outbox(this.#server.chat.turn, true);
    stream.sink = this;
    return stream;
  }

  attach(session: Session): void {
    this.session = session;
    session.outbox.sink = this;
    this.#giveBack();
    this.#allowance = this.#server.chat.rates.of(session.account);
    this.#server.unauthenticated.delete(this);
    this.#server.wheel.cancel(this.#timer);
  }

  detach(): void {
    this.session = null;
    this.#closing = true;
    this.hangUp();
  }

  refund(): void {
    this.#allowance.tokens++;
  }

  pause(): void {
    this.#unanswered = true;
  }

  resume(): void {
    this.#unanswered = false;
    this.#pull();
  }

  close(): void {
    if (this.#closing || this.isClosed) return;
    this.#closing = true;
    this.#giveBack();
    this.#server.wheel.schedule(this.#timer, this.#server.linger, LINGER_MS);
    this.#read(true);
    this.replies.markDirty();
  }

  /** Bytes from the socket. What comes after the last line that counts is read and dropped: closing stays clean. */
  data(chunk: Buffer): void {
    if (this.#closing) return this.#drop(chunk.length);
    this.#reader.feed(chunk);
    if (this.#isHeavy) this.#wait();
    this.#pull();
  }

  #drop(bytes: number): void {
    this.#droppedBytes += bytes;
    if (this.#droppedBytes > LINGER_BYTES_MAX) this.hangUp();
  }

  /** The other side has nothing more to say. Its lines are answered first. */
  end(): void {
    this.#ended = true;
    this.#pull();
  }

  /** The kernel takes bytes again. */
  drain(): void {
    this.#full = false;
    this.#server.wheel.cancel(this.#stall);
    this.replies.markDirty();
  }

  closed(): void {
    if (this.isClosed) return;
    this.isClosed = true;
    this.#giveBack();
    this.#descriptor = -1;
    for (const timer of [this.#timer, this.#stall]) this.#server.wheel.cancel(timer);
    this.#server.open.delete(this);
    this.#server.ready.delete(this);
    this.#server.unauthenticated.delete(this);
    this.#server.chat.addresses.disconnect(this.address);
    this.#server.chat.connectionClosed(this);
  }

  /** Answers what may be answered now. */
  #pull(): void {
    if (this.#pulling || this.isClosed) return;
    this.#pulling = true;
    const { chat } = this.#server;
    const { rates } = chat;
    const received = this.session?.received;
    const before = rates.work;
    this.#allowance.save(this.#server.limits.requestsPerSecondMax, this.#server.wheel.nowMs);
    while (!this.#closing && !this.#unanswered && !this.#waits && !this.#mustWait() && this.#reader.next()) {
      this.#lastActivityMs = this.#server.wheel.nowMs;
      if (!this.#reserved) this.#allowance.tokens--;
      this.#reserved = false;
      receive(chat, this, this.#reader);
      if (rates.work - before >= WORK_PER_VISIT && this.#reader.holdsMore) this.#wait();
    }
    this.#pulling = false;
    this.#chargeSkipped(this.#reader.takeSkipped());
    if (rates.work !== before) this.#isHeavy = this.#waits;
    if (this.session !== null && this.session.received !== received) chat.requestsDone(this.session);
    if (this.#ended && !this.paused) this.close();
    this.#read(this.#closing || !this.paused);
  }

  /** A line that is too long may have no end: what follows is not waited for, and is read when its turn has come. */
  #chargeSkipped(bytes: number): void {
    if (bytes === 0) return;
    this.#giveBack();
    this.#allowance.tokens -= bytes / SKIPPED_BYTES_PER_REQUEST;
    this.#server.chat.rates.work += bytes / WORK_BYTES;
    this.#earn();
    if (!this.#overRate) this.#wait();
  }

  #mustWait(): boolean {
    this.#backlogged = this.replies.unsent > UNSENT_BYTES_MAX || this.session?.delivery.isPending === true;
    if (this.#allowance.tokens < 1 && this.#reader.holdsMore) this.#earn();
    return this.#backlogged || this.#overRate;
  }

  /** Sees to it that the next request is allowed, or made later. Who waits longer is allowed sooner. */
  #earn(): void {
    if (this.#reserved || this.#allowance.tokens >= 1) return;
    const { limits, wheel, later } = this.#server;
    const waitMs = this.#allowance.waitMs(limits.requestsPerSecondMax, wheel.nowMs);
    if (waitMs === 0) return;
    this.#overRate = this.#reserved = true;
    this.#allowance.tokens--;
    wheel.schedule(this.#later, later, waitMs);
  }

  /** What is reserved is not needed any more. */
  #giveBack(): void {
    if (this.#reserved) this.#allowance.tokens++;
    this.#overRate = this.#reserved = false;
    this.#server.wheel.cancel(this.#later);
  }

  /** The rate allows the next request. */
  readOn(): void {
    this.#overRate = false;
    this.#wait();
  }

  #wait(): void {
    this.#waits = true;
    this.#server.ready.add(this);
  }

  /** Its turn has come to go on. */
  serve(): void {
    this.#waits = false;
    this.#pull();
  }

  #read(on: boolean): void {
    if (on === this.#reading || this.isClosed) return;
    this.#reading = on;
    if (on) this.#socket.resume();
    else this.#socket.pause();
  }

  flush(): void {
    if (this.isClosed) return;
    if (this.#own !== null) this.#write(this.#own);
    if (this.session !== null) {
      if (this.#own?.unsent === 0) this.#own = null; // Else its last lines are not safe yet, or the kernel is full.
      if (this.#own === null) this.#write(this.session.outbox);
      this.#server.chat.flushed(this.session);
    }
    if (this.isClosed) return;
    if (this.#closing && !this.#shut && this.drained) this.#shutdown();
    if (this.#backlogged) this.#pull();
  }

  /** Writes what is safe, as far as the kernel takes it. */
  #write(stream: Outbox): void {
    while (!this.#full && stream.peek()) {
      const taken = this.#send(stream.piece, stream.pieceStart, stream.pieceEnd - stream.pieceStart);
      if (taken < 0) return this.hangUp();
      stream.advance(taken);
    }
  }

  write(bytes: Buffer, start: number, count: number): number {
    return this.#full || this.#own !== null ? 0 : Math.max(0, send(this.#descriptor, bytes, start, count));
  }

  /** Returns how much the kernel took; below 0 when the connection is dead. */
  #send(bytes: Buffer, start: number, count: number): number {
    const taken = Math.max(0, send(this.#descriptor, bytes, start, count));
    if (taken === count) return taken;
    const more = this.#socket.write(bytes, start + taken, count - taken);
    if (more < 0) return more;
    this.#full = taken + more < count;
    if (this.#full) this.#stalled();
    return taken + more;
  }

  /** From now on something must be taken for as long as a session may be silent. */
  #stalled(): void {
    const { chat, wheel, stalled: stall } = this.#server;
    wheel.schedule(this.#stall, stall, chat.idleTimeoutMs);
  }

  /**
   * Nothing was. Whose lines wait for that, unread, may be gone, and is not heard; and what is fatal in the runtime's
   * TLS looks like this, for ever. Whoever else is gone falls silent.
   */
  tookNothing(): void {
    if (this.#backlogged || this.isEncrypted) this.hangUp();
    else this.#stalled();
  }

  /** Everything was written: our side of the connection ends, and the other side has a while to end its own. */
  #shutdown(): void {
    this.#shut = true;
    if (this.#ended) this.#socket.end();
    else this.#socket.shutdown();
  }

  /** Without a session: closes when the silence or the whole has taken too long. */
  idleTimedOut(): void {
    const { chat, limits, idle: silence } = this.#server;
    const { nowMs } = this.#server.wheel;
    const silentMs = this.paused ? 0 : nowMs - this.#lastActivityMs;
    let leftMs = chat.idleTimeoutMs - silentMs;
    // Whoever waits for a password to be judged is not to blame.
    if (!this.#unanswered) leftMs = Math.min(leftMs, this.#openedMs + limits.loginMs - nowMs);
    if (leftMs <= 0) this.close();
    else this.#server.wheel.schedule(this.#timer, silence, leftMs);
  }

  /** Closes without waiting for anything; what the kernel took it still delivers. */
  hangUp(): void {
    if (this.isClosed) return;
    this.#giveBack();
    this.#socket.end();
  }
}
