import type { Socket } from "bun";
import type { Chat } from "../chat/chat.ts";
import { receive } from "../chat/commands.ts";
import type { Peer, Session } from "../chat/session.ts";
import { LINGER_MS, UNSENT_BYTES_MAX } from "../limits.ts";
import { LineReader } from "../protocol/line-reader.ts";
import { Outbox } from "../protocol/outbox.ts";
import { refuse } from "../protocol/reply.ts";
import type { Sink } from "../protocol/turn.ts";
import type { TimerHandle, TimerKind, TimerWheel } from "../timer-wheel.ts";
import { send } from "./kernel.ts";

/** What all connections of a server share. */
export class Connections {
  readonly chat: Chat;
  readonly wheel: TimerWheel;
  readonly lineBytesMax: number;
  /** Requests a second and session, above which a session is read later; 0 for no limit. */
  readonly rateLimit: number;
  readonly open = new Set<Connection>();
  /** A connection without a session that says nothing, one that does not close its side, one that is read later. */
  readonly silence: TimerKind<Connection>;
  readonly linger: TimerKind<Connection>;
  readonly later: TimerKind<Connection>;

  constructor(chat: Chat, lineBytesMax: number, rateLimit: number) {
    this.chat = chat;
    this.wheel = chat.wheel;
    this.lineBytesMax = lineBytesMax;
    this.rateLimit = rateLimit;
    this.silence = chat.wheel.kind((connection) => connection.heardNothing());
    this.linger = chat.wheel.kind((connection) => connection.hangUp());
    this.later = chat.wheel.kind((connection) => connection.readOn());
  }
}

/** An accepted socket: lines in, streams out. It decides when to read and when to write, and nothing else. */
export class Connection implements Peer, Sink {
  readonly address: string;
  session: Session | null = null;
  gone = false;
  readonly #all: Connections;
  readonly #socket: Socket<Connection | null>;
  /** -1 when it is closed: the number may be somebody else's by then. */
  #descriptor: number;
  readonly #reader: LineReader;
  /** Lines outside any session; null when there will be none any more. */
  #own: Outbox | null;
  #heardMs: number;
  #timer: TimerHandle;
  /** The last request is not answered yet. */
  #unanswered = false;
  /** The rate limit was reached; or too much of its own output waits. */
  #overRate = false;
  #backlogged = false;
  #reading = true;
  #pulling = false;
  /** The kernel takes no more until `drain`. */
  #full = false;
  #ended = false;
  #closing = false;
  #shut = false;
  /** Requests that it may still make at once, as of `#allowedAtMs`. */
  #allowance: number;
  #allowedAtMs: number;

  constructor(all: Connections, socket: Socket<Connection | null>) {
    this.#all = all;
    this.#socket = socket;
    this.#descriptor = (socket as unknown as { fd?: number }).fd ?? -1;
    // Whoever was gone before we looked has none. On an IPv6 socket IPv4 comes in disguise.
    this.address = socket.remoteAddress?.replace(/^::ffff:(?=.*\.)/i, "") ?? "";
    this.#reader = new LineReader(all.lineBytesMax);
    this.#own = this.#newStream();
    this.#heardMs = this.#allowedAtMs = all.wheel.nowMs;
    this.#allowance = all.rateLimit;
    this.#timer = all.wheel.schedule(all.silence, this, all.chat.silenceMs);
    all.open.add(this);
  }

  get paused(): boolean {
    return this.#unanswered || this.#overRate || this.#backlogged;
  }

  get replies(): Outbox {
    return this.session?.outbox ?? (this.#own ??= this.#newStream());
  }

  /** Everything that was appended has been taken by the kernel. */
  get drained(): boolean {
    return (this.#own?.unsent ?? 0) + (this.session?.outbox.unsent ?? 0) === 0;
  }

  #newStream(): Outbox {
    const stream = new Outbox(this.#all.chat.turn, true);
    stream.sink = this;
    return stream;
  }

  attach(session: Session): void {
    this.session = session;
    session.outbox.sink = this;
    this.#all.wheel.cancel(this.#timer);
    this.#timer = 0;
  }

  detach(): void {
    this.session = null;
    this.#closing = true;
    this.hangUp();
  }

  pause(): void {
    this.#unanswered = true;
  }

  resume(): void {
    this.#unanswered = false;
    this.#pull();
  }

  close(): void {
    if (this.#closing || this.gone) return;
    this.#closing = true;
    this.#all.wheel.cancel(this.#timer);
    this.#timer = this.#all.wheel.schedule(this.#all.linger, this, LINGER_MS);
    this.#read(true);
    this.replies.touch();
  }

  /** Bytes from the socket. What comes after the last line that counts is read and dropped: closing stays clean. */
  data(chunk: Buffer): void {
    if (this.#closing) return;
    this.#reader.feed(chunk);
    this.#pull();
  }

  /** The other side has nothing more to say. Its lines are answered first. */
  end(): void {
    this.#ended = true;
    this.#pull();
  }

  /** The kernel takes bytes again. */
  drain(): void {
    this.#full = false;
    this.replies.touch();
  }

  closed(): void {
    if (this.gone) return;
    this.gone = true;
    this.#descriptor = -1;
    this.#all.wheel.cancel(this.#timer);
    this.#all.open.delete(this);
    this.#all.chat.lost(this);
  }

  #pull(): void {
    if (this.#pulling) return;
    this.#pulling = true;
    const received = this.session?.received;
    while (!this.#closing && !this.#unanswered && !this.#mustWait() && this.#reader.next()) {
      this.#heardMs = this.#all.wheel.nowMs;
      this.#allowance--;
      try {
        receive(this.#all.chat, this, this.#reader);
      } catch (error) {
        this.#all.chat.report(error);
        refuse(this.replies, "internal");
      }
    }
    this.#pulling = false;
    if (this.session !== null && this.session.received !== received) this.#all.chat.acted(this.session);
    if (this.#ended && !this.paused) this.close();
    this.#read(this.#closing || !this.paused);
  }

  #mustWait(): boolean {
    this.#backlogged = this.replies.unsent > UNSENT_BYTES_MAX;
    const { rateLimit, wheel, later } = this.#all;
    if (rateLimit > 0 && this.session !== null && !this.#overRate && this.#allowance < 1) {
      const earned = ((wheel.nowMs - this.#allowedAtMs) * rateLimit) / 1000;
      this.#allowance = Math.min(Math.max(1, rateLimit), this.#allowance + earned);
      this.#allowedAtMs = wheel.nowMs;
      this.#overRate = this.#allowance < 1;
      if (this.#overRate) this.#timer = wheel.schedule(later, this, ((1 - this.#allowance) * 1000) / rateLimit);
    }
    return this.#backlogged || this.#overRate;
  }

  /** The rate allows the next request. */
  readOn(): void {
    this.#overRate = false;
    this.#timer = 0;
    this.#pull();
  }

  #read(on: boolean): void {
    if (on === this.#reading || this.gone) return;
    this.#reading = on;
    if (on) this.#socket.resume();
    else this.#socket.pause();
  }

  flush(): void {
    if (this.gone) return;
    if (this.#own !== null && this.#write(this.#own) && this.session !== null) this.#own = null;
    if (this.session !== null) {
      if (this.#own === null) this.#write(this.session.outbox);
      this.#all.chat.flushed(this.session);
    }
    if (this.gone) return;
    if (this.#closing && !this.#shut && this.drained) this.#shutdown();
    if (this.#backlogged) this.#pull();
  }

  /** False when the kernel did not take everything. */
  #write(stream: Outbox): boolean {
    while (!this.#full && stream.peek()) {
      const taken = this.#send(stream.piece, stream.pieceStart, stream.pieceEnd - stream.pieceStart);
      if (taken < 0) {
        this.hangUp();
        return false;
      }
      stream.took(taken);
    }
    return !this.#full;
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
    return taken + more;
  }

  /** Everything was written: our side of the connection ends, and the other side has a while to end its own. */
  #shutdown(): void {
    this.#shut = true;
    if (this.#ended) this.#socket.end();
    else this.#socket.shutdown();
  }

  heardNothing(): void {
    const { wheel, chat, silence } = this.#all;
    const leftMs = this.paused ? chat.silenceMs : this.#heardMs + chat.silenceMs - wheel.nowMs;
    if (leftMs <= 0) this.close();
    else this.#timer = wheel.schedule(silence, this, leftMs);
  }

  /** Closes without waiting for anything; what the kernel took it still delivers. */
  hangUp(): void {
    if (!this.gone) this.#socket.end();
  }
}
