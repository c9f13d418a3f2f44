/**
 * Delivery to callback sessions. They have no permanent connection: to deliver bytes of their outbox, the server
 * connects to the client (a call). `Callbacks` limits the number of calls, `Callback` decides when a client is called,
 * and `Call` is one call. Requests of these sessions arrive as `as` lines (chat/commands.ts).
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

/** The most bytes of a line of the client; its longest is `ready <token>`. In a call it sends two lines. */
const REPLY_BYTES_MAX = 256;
const RECEIVED = encode("received ");

/** The calls of all callback sessions: how many run at once, and which sessions wait. */
export class Callbacks {
  readonly chat: Chat;
  /** Each handler of a socket event calls this first. */
  readonly beginTurn: () => void;
  readonly dial: typeof dial;
  readonly deadline: TimerKind<Call>;
  readonly pause: TimerKind<Callback>;
  /** Calls with an open descriptor. */
  readonly calls = new Set<Call>();
  /** Calls that have ended, since the start. */
  succeeded = 0;
  failed = 0;
  /** Sessions that wait until another call has ended. */
  readonly waiting = new Set<Callback>();
  /** The sessions of each user that are called or wait for a call: ended ones, and at most one live one. */
  readonly #byUser = new Map<Account, Set<Callback>>();

  constructor(chat: Chat, beginTurn: () => void, connect = dial) {
    this.chat = chat;
    this.beginTurn = beginTurn;
    this.dial = connect;
    this.deadline = chat.wheel.kind((call) => call.end());
    this.pause = chat.wheel.kind((callback) => callback.retry());
  }

  /** True when the call may begin now. Otherwise the session waits, and is flushed after the end of another call. */
  mayCall(callback: Callback): boolean {
    const { account, ended } = callback.session;
    const ofUser = this.#byUser.get(account) ?? new Set();
    this.#byUser.set(account, ofUser.add(callback));
    if (ofUser.size > CALLBACKS_PER_USER_MAX) [...ofUser].find(({ session }) => session.ended)?.giveUp();
    if (this.calls.size < this.chat.limits.callbacksMax) return true;
    const isNew = !this.waiting.has(callback);
    this.waiting.add(callback);
    // A live session does not wait for ended ones: the call of one of these is given up.
    if (isNew && !ended) [...this.calls].find((call) => call.callback.session.ended)?.callback.giveUp();
    return false;
  }

  /** The session has no call, and waits for none. */
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
 * the acknowledged position. A failed call is repeated with half as many bytes, after a pause that doubles each
 * time. After the end of the session there is one last call, for its `goodbye`.
 */
export class Callback implements Caller {
  readonly callbacks: Callbacks;
  readonly session: Session;
  readonly host: string;
  readonly port: number;
  readonly secret: string;
  /** The next call delivers at most this many bytes. */
  portionBytes = CALLBACK_BYTES_MAX;
  #call: Call | null = null;
  #pauseMs = CALLBACK_PAUSE_MIN_MS;
  /** Armed during a pause. */
  readonly #pause = new WheelTimer<Callback>(this);
  /** A call has succeeded. Until then the client is called even with nothing to deliver: it may be unreachable. */
  #isReached = false;
  /** The last call has begun or was given up: no other one follows. */
  #isFinished = false;

  constructor(callbacks: Callbacks, session: Session, host: string, port: number, secret: string) {
    this.callbacks = callbacks;
    this.session = session;
    this.host = host;
    this.port = port;
    this.secret = secret;
  }

  flush(): void {
    // This checks the limit on unacknowledged bytes, which also applies between calls.
    this.callbacks.chat.flushed(this.session);
    const { ended, outbox } = this.session;
    if (this.#call !== null || this.#isFinished || outbox.sink !== this) return;
    if (this.#pause.armed && !ended) return;
    if (ended && outbox.durable < outbox.end) return; // The end of this turn makes `goodbye` durable and flushes again.
    if (this.#isReached && outbox.durable === outbox.acked) return;
    this.#cancelPause();
    if (!this.callbacks.mayCall(this)) return;
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
    this.callbacks.leave(this);
    this.#call?.end();
    this.callbacks.chat.departing.remove(this.session);
  }

  /** A call has ended. `received` is the position that the client acknowledged; -1 when the call failed. */
  called({ position, to, received }: Call): void {
    this.#call = null;
    const { session, callbacks } = this;
    if (received >= 0) callbacks.succeeded++;
    else callbacks.failed++;
    if (received >= 0) {
      this.#isReached = true;
      session.lastActivityMs = callbacks.chat.wheel.nowMs;
      callbacks.chat.ack(session, received);
    }
    if (received < 0) this.portionBytes = Math.max(CALLBACK_BYTES_MIN, this.portionBytes / 2);
    else if (received > position) this.portionBytes = Math.min(CALLBACK_BYTES_MAX, this.portionBytes * 2);
    // The client acknowledges only whole lines, and the next line is longer than the portion was.
    else if (to > position) this.portionBytes = Math.min(SERVER_LINE_BYTES_MAX, this.portionBytes * 2);
    if (this.#isFinished) return callbacks.chat.departing.remove(session);
    // After progress, or a call with nothing to deliver, the next call needs no pause.
    if (received > position || (received >= 0 && to === position)) this.#pauseMs = CALLBACK_PAUSE_MIN_MS;
    else if (!session.ended) {
      callbacks.chat.wheel.schedule(this.#pause, callbacks.pause, this.#pauseMs);
      this.#pauseMs = Math.min(this.#pauseMs * 2, CALLBACK_PAUSE_MAX_MS);
    }
    this.flush();
  }

  #cancelPause(): void {
    this.callbacks.chat.wheel.cancel(this.#pause);
  }
}

/**
 * One call: the server sends `callback <secret> <position> <bytes>`, the client `ready <token>`, the server the bytes,
 * and the client `received <position>`.
 */
export class Call {
  readonly callback: Callback;
  /** This call delivers the bytes of the stream from `position` up to `to`. */
  readonly position: number;
  readonly to: number;
  /** The position that the client has acknowledged; -1 before that, and when the call has failed. */
  received = -1;
  readonly #reader = new LineReader(REPLY_BYTES_MAX);
  #replyBytes = 0;
  readonly #socket: DialedSocket;
  readonly #writer: SocketWriter;
  /** The deadline of the current step. */
  readonly #timer = new WheelTimer<Call>(this);
  /** `greeting` until the client has sent `ready`, then `delivering`; `over` when the call has succeeded or failed. */
  #state: "greeting" | "delivering" | "over" = "greeting";
  /** `sent` of the outbox after the last write of this call. */
  #sent = 0;

  constructor(callback: Callback) {
    const { callbacks, session, host, port, portionBytes } = callback;
    this.callback = callback;
    this.position = session.outbox.acked;
    const { durable } = session.outbox;
    this.to = session.ended ? durable : Math.min(durable, this.position + portionBytes);
    callbacks.calls.add(this);
    this.#setDeadline(CALLBACK_DEADLINE_MS);
    const guarded = (handle: () => void): void => {
      callbacks.beginTurn();
      try {
        handle();
      } catch (error) {
        callbacks.chat.report(error);
        this.end();
      }
    };
    this.#socket = callbacks.dial(host, port, {
      open: () => guarded(() => this.#open()),
      data: (chunk) => guarded(() => this.#read(chunk)),
      drain: () => guarded(() => this.#drain()),
      closed: () => guarded(() => this.#closed()),
    });
    this.#writer = new SocketWriter(this.#socket);
  }

  #setDeadline(delayMs: number): void {
    const { deadline, chat } = this.callback.callbacks;
    chat.wheel.schedule(this.#timer, deadline, delayMs);
  }

  #open(): void {
    if (this.#state === "over") return;
    this.#setDeadline(CALLBACK_DEADLINE_MS);
    const line = Buffer.from(`callback ${this.callback.secret} ${this.position} ${this.to - this.position}\n`);
    this.#socket.write(line, 0, line.length); // The buffer of a new socket is empty, so it accepts the whole line.
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

  /** With a wrong token the call ends before the delivery: another program may listen at the port now. */
  #greeted(bytes: Uint8Array, start: number, end: number): void {
    const { session, portionBytes } = this.callback;
    if (!equals(bytes, start, end, encode(`ready ${session.token}`))) return this.end();
    this.#state = "delivering";
    const count = Math.min(portionBytes, this.to - this.position);
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
    // `sent` is not where this call left it: since the call began, an `as` request has acknowledged more than
    // `position`. So bytes that this call announced are freed.
    if (outbox.sent !== this.#sent) return this.end();
    if (!this.#writer.write(outbox, this.to)) return this.end();
    this.#sent = outbox.sent;
  }

  /** Ends the call. `received`: the position that the client has acknowledged; -1 when the call has failed. */
  end(received = -1): void {
    if (this.#state === "over") return;
    this.#state = "over";
    this.received = received;
    this.callback.callbacks.chat.wheel.cancel(this.#timer);
    if (received < 0) this.#socket.terminate();
    else this.#socket.end();
  }

  #closed(): void {
    const { callbacks } = this.callback;
    if (!callbacks.calls.has(this)) return;
    this.end();
    callbacks.closed(this);
    this.callback.called(this);
  }
}
