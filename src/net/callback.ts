/**
 * Delivery to callback sessions, which have no connection of their own: the server calls the client. `Callbacks` limits
 * the calls of the server, `Callback` decides when one client is called, `Call` is one connection to it. What is
 * delivered is the session's outbox; chat/commands.ts has the requests of these sessions.
 */

import type { Chat } from "../chat/chat.ts";
import type { Account, Caller, Session } from "../chat/session.ts";
import {
  CALLBACK_BYTES_MAX,
  CALLBACK_BYTES_MIN,
  CALLBACK_BYTES_PER_SECOND_MIN,
  CALLBACK_DEADLINE_MS,
  CALLBACK_PAUSE_MAX_MS,
  CALLBACK_PAUSE_MIN_MS,
  CALLBACKS_PER_USER_MAX,
  SERVER_LINE_BYTES_MAX,
} from "../limits.ts";
import { encode, equals, parseNumber, startsWith } from "../protocol/ascii.ts";
import { LineReader } from "../protocol/line-reader.ts";
import { SocketWriter } from "../stream/socket-writer.ts";
import { WheelTimer, type TimerKind } from "../timer-wheel.ts";
import { type DialedSocket, dial } from "./dial.ts";

/** The longest line of a client is `ready <token>`; twice that is enough for its two lines. */
const REPLY_BYTES_MAX = 256;
const RECEIVED = encode("received ");

/** The calls of all callback sessions: how many run at once, and which sessions wait. */
export class Callbacks {
  readonly chat: Chat;
  /** Begins a turn. Every socket event calls it first. */
  readonly begin: () => void;
  readonly dial: typeof dial;
  readonly deadline: TimerKind<Call>;
  readonly pause: TimerKind<Callback>;
  /** Calls with an open descriptor. */
  readonly calls = new Set<Call>();
  /** Sessions that wait until another call has ended. */
  readonly waiting = new Set<Callback>();
  /** The sessions of each user that call or wait: ended ones, and at most one live one. */
  readonly #byUser = new Map<Account, Set<Callback>>();

  constructor(chat: Chat, begin: () => void, connect = dial) {
    this.chat = chat;
    this.begin = begin;
    this.dial = connect;
    this.deadline = chat.wheel.kind((call) => call.end());
    this.pause = chat.wheel.kind((callback) => callback.retry());
  }

  /** Whether a call may begin now. Otherwise the session waits, and is flushed when another call has ended. */
  mayCall(callback: Callback): boolean {
    const { account, ended } = callback.session;
    const ofUser = this.#byUser.get(account) ?? new Set();
    this.#byUser.set(account, ofUser.add(callback));
    if (ofUser.size > CALLBACKS_PER_USER_MAX) [...ofUser].find(({ session }) => session.ended)?.giveUp();
    if (this.calls.size < this.chat.limits.callbacksMax) return true;
    const isNew = !this.waiting.has(callback);
    this.waiting.add(callback);
    // A live session takes the place of an ended one.
    if (isNew && !ended) [...this.calls].find((call) => call.callback.session.ended)?.callback.giveUp();
    return false;
  }

  /** The session neither calls nor waits any longer. */
  leave(callback: Callback): void {
    const { account } = callback.session;
    this.waiting.delete(callback);
    const ofUser = this.#byUser.get(account);
    if (ofUser?.delete(callback) && ofUser.size === 0) this.#byUser.delete(account);
  }

  /** The descriptor of a call is closed: waiting sessions may call, live ones first. */
  closed(call: Call): void {
    this.calls.delete(call);
    this.leave(call.callback);
    for (const isEnded of [false, true]) {
      for (const callback of this.waiting) {
        if (this.calls.size >= this.chat.limits.callbacksMax) return;
        if (callback.session.ended !== isEnded) continue;
        this.leave(callback);
        callback.flush();
      }
    }
  }
}

/**
 * The sink of one callback session. It calls the client when there is something to deliver, one call at a time, from
 * the acknowledged position. A failed call is repeated after a growing pause, with half as many bytes. After the end of
 * the session there is one last call, for the goodbye.
 */
export class Callback implements Caller {
  readonly all: Callbacks;
  readonly session: Session;
  readonly host: string;
  readonly port: number;
  readonly secret: string;
  /** Bytes of the next delivery at most. */
  portion = CALLBACK_BYTES_MAX;
  #call: Call | null = null;
  #pauseMs = CALLBACK_PAUSE_MIN_MS;
  /** Armed during a pause. */
  readonly #pause = new WheelTimer<Callback>(this);
  /** A call succeeded. The first call is made even with nothing to deliver: without it a client is not reachable. */
  #isReached = false;
  /** No further call is made: the last one has begun, or was given up. */
  #isFinished = false;

  constructor(all: Callbacks, session: Session, host: string, port: number, secret: string) {
    this.all = all;
    this.session = session;
    this.host = host;
    this.port = port;
    this.secret = secret;
  }

  flush(): void {
    // The limit on unacknowledged bytes holds without a connection too.
    this.all.chat.flushed(this.session);
    const { ended, outbox } = this.session;
    if (this.#call !== null || this.#isFinished || outbox.sink !== this) return;
    if (this.#pause.armed && !ended) return;
    if (ended && outbox.durable < outbox.end) return; // The goodbye becomes durable at the end of this turn.
    if (this.#isReached && outbox.durable === outbox.acked) return;
    this.#cancelPause();
    if (!this.all.mayCall(this)) return;
    this.#isFinished = ended;
    this.#call = new Call(this);
  }

  retry(): void {
    this.#cancelPause();
    this.flush();
  }

  giveUp(): void {
    this.#isFinished = true;
    this.#cancelPause();
    this.all.leave(this);
    this.#call?.end();
    this.all.chat.departing.remove(this.session);
  }

  /** A call has ended. The client has the stream up to `received`, or has not replied if that is -1. */
  called({ position, to, received }: Call): void {
    this.#call = null;
    const { session, all } = this;
    if (received >= 0) {
      this.#isReached = true;
      session.lastActivityMs = all.chat.wheel.nowMs;
      all.chat.ack(session, received);
    }
    if (received < 0) this.portion = Math.max(CALLBACK_BYTES_MIN, this.portion / 2);
    else if (received > position) this.portion = Math.min(CALLBACK_BYTES_MAX, this.portion * 2);
    // The client acknowledges whole lines, and its next line is longer than the portion.
    else if (to > position) this.portion = Math.min(SERVER_LINE_BYTES_MAX, this.portion * 2);
    if (this.#isFinished) return all.chat.departing.remove(session);
    if (received > position || (received >= 0 && to === position)) this.#pauseMs = CALLBACK_PAUSE_MIN_MS;
    else if (!session.ended) {
      all.chat.wheel.schedule(this.#pause, all.pause, this.#pauseMs);
      this.#pauseMs = Math.min(this.#pauseMs * 2, CALLBACK_PAUSE_MAX_MS);
    }
    this.flush();
  }

  #cancelPause(): void {
    this.all.chat.wheel.cancel(this.#pause);
  }
}

/**
 * One call: the server sends `callback <secret> <position> <bytes>`, the client `ready <token>`, the server the bytes,
 * and the client `received <position>`.
 */
export class Call {
  readonly callback: Callback;
  /** The part of the stream that this call delivers. */
  readonly position: number;
  readonly to: number;
  /** The client has the stream up to here; -1 before its reply, and when the call has failed. */
  received = -1;
  readonly #reader = new LineReader(REPLY_BYTES_MAX);
  #replyBytes = 0;
  readonly #socket: DialedSocket;
  readonly #writer: SocketWriter;
  /** The deadline of the current step. */
  readonly #timer = new WheelTimer<Call>(this);
  /** `greeting` until the client has sent `ready`, then `delivering`; `over` when the result is known. */
  #state: "greeting" | "delivering" | "over" = "greeting";
  /** `sent` of the outbox after the last write of this call. */
  #sent = 0;

  constructor(callback: Callback) {
    const { all, session, host, port, portion } = callback;
    this.callback = callback;
    this.position = session.outbox.acked;
    const { durable } = session.outbox;
    this.to = session.ended ? durable : Math.min(durable, this.position + portion);
    all.calls.add(this);
    this.#setDeadline(CALLBACK_DEADLINE_MS);
    const guarded = (handle: () => void): void => {
      all.begin();
      try {
        handle();
      } catch (error) {
        all.chat.report(error);
        this.end();
      }
    };
    this.#socket = all.dial(host, port, {
      open: () => guarded(() => this.#open()),
      data: (chunk) => guarded(() => this.#read(chunk)),
      drain: () => guarded(() => this.#drain()),
      closed: () => guarded(() => this.#closed()),
    });
    this.#writer = new SocketWriter(this.#socket);
  }

  #setDeadline(delayMs: number): void {
    const { deadline, chat } = this.callback.all;
    chat.wheel.schedule(this.#timer, deadline, delayMs);
  }

  #open(): void {
    if (this.#state === "over") return;
    this.#setDeadline(CALLBACK_DEADLINE_MS);
    const line = Buffer.from(`callback ${this.callback.secret} ${this.position} ${this.to - this.position}\n`);
    this.#socket.write(line, 0, line.length); // A new socket accepts all of a line this short.
  }

  #read(chunk: Buffer): void {
    this.#replyBytes += chunk.length;
    if (this.#replyBytes > 2 * REPLY_BYTES_MAX) return this.end();
    this.#reader.feed(chunk);
    while (this.#state !== "over" && this.#reader.next()) {
      const { bytes, start, end } = this.#reader;
      if (this.#state === "greeting") this.#greeted(bytes, start, end);
      else this.#acknowledged(bytes, start, end);
    }
  }

  /** Nothing is sent without the right token: another program may listen at the port now. */
  #greeted(bytes: Uint8Array, start: number, end: number): void {
    const { session, portion } = this.callback;
    if (!equals(bytes, start, end, encode(`ready ${session.token}`))) return this.end();
    this.#state = "delivering";
    const count = Math.min(portion, this.to - this.position);
    this.#setDeadline(CALLBACK_DEADLINE_MS + (1000 * count) / CALLBACK_BYTES_PER_SECOND_MIN);
    session.outbox.rewind(this.position);
    this.#sent = this.position;
    this.#write();
  }

  #acknowledged(bytes: Uint8Array, start: number, end: number): void {
    const isReceived = startsWith(bytes, start, end, RECEIVED);
    const received = isReceived ? parseNumber(bytes, start + RECEIVED.length, end) : -1;
    this.end(received >= this.position && received <= this.callback.session.outbox.furthest ? received : -1);
  }

  #drain(): void {
    this.#writer.isFull = false;
    this.#write();
  }

  #write(): void {
    if (this.#state !== "delivering") return;
    const { outbox } = this.callback.session;
    // Before `ready` an `as` request acknowledged more than `position`: the bytes that were announced are freed.
    if (outbox.sent !== this.#sent) return this.end();
    if (!this.#writer.write(outbox, this.to)) return this.end();
    this.#sent = outbox.sent;
  }

  /** Closes the socket. `received`: the reply of the client, -1 when the call has failed. */
  end(received = -1): void {
    if (this.#state === "over") return;
    this.#state = "over";
    this.received = received;
    this.callback.all.chat.wheel.cancel(this.#timer);
    if (received < 0) this.#socket.terminate();
    else this.#socket.end();
  }

  #closed(): void {
    const { all } = this.callback;
    if (!all.calls.has(this)) return;
    this.end();
    all.closed(this);
    this.callback.called(this);
  }
}
