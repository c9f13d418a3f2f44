import { receive } from "../chat/commands.ts";
import { NOT_WAITED, type Peer, type Session } from "../chat/session.ts";
import { LINGER_BYTES_MAX, LINGER_MS, LINK_LINE_BYTES_MAX, UNSENT_BYTES_MAX } from "../limits.ts";
import { LineReader } from "../protocol/line-reader.ts";
import { isLoopback } from "../runtime/host.ts";
import { Outbox } from "../stream/outbox.ts";
import { SocketWriter } from "../stream/socket-writer.ts";
import type { Sink } from "../stream/turn.ts";
import { WheelTimer } from "../timer-wheel.ts";
import { BACKLOGGED, QUEUED, ReadGate, STOPPING, UNANSWERED } from "./read-gate.ts";
import { ConnectionGroup } from "./connection-group.ts";
import { type ConnectionState, checkTransition } from "./connection-state.ts";
import type { SocketEvents, Successor, Transport } from "./transport.ts";

/** What all connections of a server share. */
export class Connections extends ConnectionGroup<Connection> {}

/**
 * One accepted socket: bytes to requests, streams to bytes. It owns the state, the deadlines and the order of reading
 * and writing. `ReadGate` owns when a request may be taken, `SocketWriter` the write loop, `Transport` the socket, and
 * `receive` (chat/commands.ts) what a request does.
 */
export class Connection implements SocketEvents, Peer, Sink {
  readonly address: string;
  session: Session | null = null;
  badLines = 0;
  #state: ConnectionState = "unauthenticated";
  readonly #server: Connections;
  readonly #transport: Transport;
  readonly #reader: LineReader;
  readonly #gate: ReadGate<Connection>;
  readonly #writer: SocketWriter;
  /** Replies outside a session. Null when all of them are written and a session has its own stream. */
  #replies: Outbox | null;
  /** Wheel time at which it was accepted, and of its last request. */
  readonly #openedMs: number;
  #lastActivityMs: number;
  /** The deadline of the state: `idle` while unauthenticated, `linger` while draining. */
  readonly #timer = new WheelTimer<Connection>(this);
  /** Armed while the socket is full. */
  readonly #stall = new WheelTimer<Connection>(this);
  /** `#pull` is running: a reply that resumes the connection in it must not start it again. */
  #isPulling = false;
  /** The transport is not paused. */
  #isReading = true;
  /** The peer has closed its side. */
  #peerEnded = false;
  /** Bytes of input that were dropped. */
  #droppedBytes = 0;
  #successor: Successor | null = null;
  /** It counts among the connections of its address; those that another server relays count there. */
  readonly #isCounted: boolean;
  readonly isRelayed: boolean;
  readonly isCallable: boolean;
  waited = NOT_WAITED;

  /** `address`: of the client, which a proxy or another server may have named. */
  constructor(
    server: Connections,
    transport: Transport,
    address: string,
    isCounted = true,
    /** The server that relays it is on this machine, or elsewhere; null when none does. */
    relayedFrom: "here" | "elsewhere" | null = null,
  ) {
    const { wheel, chat, limits } = server;
    this.#server = server;
    this.#transport = transport;
    this.address = address;
    this.#isCounted = isCounted;
    this.isRelayed = relayedFrom !== null;
    this.isCallable = relayedFrom !== "elsewhere" || !isLoopback(address);
    this.#reader = new LineReader(limits.lineBytesMax, transport);
    this.#gate = new ReadGate<Connection>(this, server, chat.addresses.requests(address, transport.isWebSocket));
    this.#writer = new SocketWriter(transport);
    this.#replies = this.#newStream();
    this.#openedMs = this.#lastActivityMs = wheel.nowMs;
    this.idleTimedOut();
    server.open.add(this);
    server.unauthenticated.add(this);
  }

  get state(): ConnectionState {
    return this.#state;
  }

  #enter(state: ConnectionState): void {
    checkTransition(this.#state, state);
    this.#state = state;
  }

  #takesRequests(): boolean {
    return this.#state === "open" || this.#state === "unauthenticated";
  }

  get isClosed(): boolean {
    return this.#state === "closed";
  }

  get isEncrypted(): boolean {
    return this.#transport.isEncrypted;
  }

  get isWebSocket(): boolean {
    return this.#transport.isWebSocket;
  }

  get paused(): boolean {
    return !this.#gate.isOpen;
  }

  get replies(): Outbox {
    return this.session?.outbox ?? (this.#replies ??= this.#newStream());
  }

  /** Bytes of input in memory. */
  get heldBytes(): number {
    return this.#reader.heldBytes + (this.#successor?.heldBytes ?? 0);
  }

  /** Bytes of memory of replies outside a session. */
  get heldReplyBytes(): number {
    return this.#replies?.heldBytes ?? 0;
  }

  /** The kernel has accepted all output. */
  get drained(): boolean {
    return (this.#replies?.unsent ?? 0) + (this.session?.outbox.unsent ?? 0) === 0;
  }

  #newStream(): Outbox {
    const { turn, outboxMemory } = this.#server.chat;
    const stream = new Outbox(turn, true, outboxMemory);
    stream.sink = this;
    return stream;
  }

  attach(session: Session): void {
    this.#enter("open");
    this.session = session;
    session.outbox.sink = this;
    if (session.kind === "link") this.#reader.lineBytesMax = LINK_LINE_BYTES_MAX;
    this.#gate.useBucket(this.#server.rates.of(session.account));
    this.#server.unauthenticated.delete(this);
    this.#server.wheel.cancel(this.#timer);
  }

  detach(): void {
    this.session = null;
    if (this.#takesRequests()) this.#enter("draining");
    this.hangUp();
  }

  close(): void {
    if (!this.#takesRequests()) return;
    this.#enter("draining");
    this.#gate.cancelReservation();
    this.#server.wheel.schedule(this.#timer, this.#server.linger, LINGER_MS);
    this.#setReading(true); // The dropped bytes would otherwise make the kernel reset the connection.
    this.replies.markDirty();
  }

  /** Takes no further request: when all replies are written, `successor` gets the socket. */
  relayTo(successor: Successor): void {
    this.#enter("relayed");
    this.#successor = successor;
    this.#gate.cancelReservation();
    this.#server.unauthenticated.delete(this);
    this.#server.wheel.cancel(this.#timer);
    this.replies.markDirty();
  }

  #handOver(successor: Successor): void {
    this.#replies = null;
    this.#transport.handOver(successor);
    successor.begin(this.#transport, this.#reader.takeUnread(), this.#peerEnded);
  }

  /** Closes without waiting for unsent output. */
  hangUp(): void {
    if (this.isClosed) return;
    this.#gate.cancelReservation();
    this.#transport.end();
  }

  closed(): void {
    if (this.isClosed) return;
    const successor = this.#successor;
    const hasSocket = successor === null || this.#replies !== null;
    this.#enter("closed");
    if (hasSocket) this.#transport.closed();
    this.#gate.cancelReservation();
    for (const timer of [this.#timer, this.#stall]) this.#server.wheel.cancel(timer);
    this.#server.open.delete(this);
    this.#server.ready.delete(this);
    this.#server.unauthenticated.delete(this);
    if (this.#isCounted) this.#server.chat.addresses.disconnect(this.address, this.isWebSocket);
    this.#discardReplies();
    this.#server.chat.connectionClosed(this);
    if (hasSocket) successor?.closed();
  }

  /** Frees the memory of replies that will not be sent. */
  #discardReplies(): void {
    const replies = this.#replies;
    if (replies === null) return;
    replies.sink = null;
    replies.withdraw();
    replies.sink = this; // A reply that comes later, as to a login, is discarded by `flush`.
  }

  refund(): void {
    this.#gate.refund();
  }

  pause(): void {
    this.#gate.add(UNANSWERED);
  }

  resume(): void {
    this.#gate.remove(UNANSWERED);
    this.#pull();
  }

  /** Takes no further request, unless it is a link. Replies and events are still written. */
  suspend(): void {
    if (this.session?.kind === "link") return;
    this.#gate.add(STOPPING);
    this.#setReading(!this.#takesRequests());
  }

  data(chunk: Buffer): void {
    if (!this.#takesRequests()) return this.#state === "relayed" ? this.#reader.feed(chunk) : this.#drop(chunk.length);
    this.#reader.feed(chunk);
    this.#gate.chunkArrived();
    this.#pull();
  }

  #drop(bytes: number): void {
    this.#droppedBytes += bytes;
    if (this.#droppedBytes > LINGER_BYTES_MAX) this.hangUp();
  }

  /** The requests that have arrived are answered before the connection closes. */
  end(): void {
    this.#peerEnded = true;
    this.#pull();
  }

  /** Limits have changed, in place. */
  limitsChanged(): void {
    if (this.session?.kind !== "link") this.#reader.lineBytesMax = this.#server.limits.lineBytesMax;
    if (this.#takesRequests()) this.#gate.rateChanged();
    if (this.#state === "unauthenticated") this.idleTimedOut();
  }

  /** The rate limit allows the next request. */
  readOn(): void {
    this.#gate.rateAllows();
  }

  /** The next connection of the queue `ready` is this one. */
  serve(): void {
    this.#gate.remove(QUEUED);
    this.#pull();
  }

  /** A visit: takes requests while the gate is open. */
  #pull(): void {
    if (this.#isPulling || this.isClosed) return;
    this.#isPulling = true;
    const gate = this.#gate;
    const reader = this.#reader;
    const { chat, wheel } = this.#server;
    const received = this.session?.received;
    gate.beginVisit(reader);
    while (this.#takesRequests() && gate.admits(this.#isBacklogged(), reader) && reader.next()) {
      this.#lastActivityMs = wheel.nowMs;
      gate.taken();
      receive(chat, this, reader);
      gate.done(reader);
    }
    this.#isPulling = false;
    gate.endVisit(reader.takeSkipped());
    if (this.session !== null && this.session.received !== received) chat.requestsDone(this.session);
    if (this.#peerEnded && gate.isOpen && this.#hasReplied()) this.close();
    this.#setReading(gate.isOpen || !this.#takesRequests());
  }

  #isBacklogged(): boolean {
    const { session } = this;
    if (session !== null && session.slots !== null && session.slots.isBlocked(this.#reader)) return true;
    const isFull = this.replies.unsent > UNSENT_BYTES_MAX || session?.delivery.isPending === true;
    return isFull && session?.kind !== "link"; // Two shards could wait for each other.
  }

  /** False while another shard owes a reply: `flush` continues when it is there. */
  #hasReplied(): boolean {
    const { slots = null } = this.session ?? {};
    if (slots?.isOpen === true) this.#gate.add(BACKLOGGED);
    return slots?.isOpen !== true;
  }

  #setReading(isReading: boolean): void {
    if (isReading === this.#isReading || this.isClosed) return;
    this.#isReading = isReading;
    if (isReading) this.#transport.resume();
    else this.#transport.pause();
  }

  flush(): void {
    if (this.isClosed) return this.#discardReplies();
    if (this.#replies !== null) this.#write(this.#replies);
    if (this.session !== null) {
      // Replies from before the session that are not durable, or that the full socket has not accepted, come first.
      if (this.#replies?.unsent === 0) this.#replies = null;
      if (this.#replies === null) this.#write(this.session.outbox);
      this.#server.chat.flushed(this.session);
    }
    if (this.isClosed) return;
    if (this.#state === "draining" && this.drained) this.#shutdown();
    if (this.#state === "relayed" && this.#replies?.unsent === 0) return this.#handOver(this.#successor!);
    if (this.#gate.has(BACKLOGGED)) this.#pull();
  }

  #write(stream: Outbox): void {
    if (!this.#writer.write(stream)) this.hangUp();
    else if (this.#writer.isFull && !this.#stall.armed) this.#armStall();
  }

  /** Part of a broadcast, which is the same for all connections of the `BroadcastGroup`. */
  write(bytes: Buffer, start: number, count: number): number {
    return this.#writer.isFull || this.#replies !== null ? 0 : this.#transport.send(bytes, start, count);
  }

  /** The kernel accepts bytes again. The runtime sends this event after each pause and resume too. */
  drain(): void {
    if (!this.#writer.isFull) return;
    this.#writer.isFull = false;
    this.#server.wheel.cancel(this.#stall);
    this.replies.markDirty();
  }

  #armStall(): void {
    const { chat, wheel, stalled } = this.#server;
    wheel.schedule(this.#stall, stalled, chat.idleTimeoutMs);
  }

  /**
   * The socket accepted nothing during the idle timeout. The connection is dead if its requests wait for this output,
   * since the session's heartbeat is not read, and over TLS, since the runtime reports a fatal TLS error in no other
   * way. All others are left to the heartbeat.
   */
  writeTimedOut(): void {
    if (this.#gate.has(BACKLOGGED) || this.isEncrypted) this.hangUp();
    else this.#armStall();
  }

  /** Everything was written. The peer has LINGER_MS since `close` to close its side. */
  #shutdown(): void {
    this.#enter("shut");
    if (this.#peerEnded) this.#transport.end();
    else this.#transport.shutdown();
  }

  /** Without a session: closes after the idle timeout without a request, and after `loginMs` in any case. */
  idleTimedOut(): void {
    const { chat, limits, wheel, idle } = this.#server;
    const { nowMs } = wheel;
    const idleMs = this.paused ? 0 : nowMs - this.#lastActivityMs;
    let leftMs = chat.idleTimeoutMs - idleMs;
    // The time that the server takes to verify a password is not the client's.
    if (!this.#gate.has(UNANSWERED)) leftMs = Math.min(leftMs, this.#openedMs + limits.loginMs - nowMs);
    if (leftMs <= 0) this.close();
    else wheel.schedule(this.#timer, idle, leftMs);
  }
}
