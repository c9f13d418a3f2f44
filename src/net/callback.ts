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

/** The longest line of a called client, `ready <token>`, with room to spare; it sends two lines. */
const ANSWER_BYTES_MAX = 256;
const RECEIVED = encode("received ");

/** What all callbacks of a server share: which calls are under way, and which have to wait. */
export class Callbacks {
  readonly chat: Chat;
  /** Called before each event of a socket is handled: it begins a turn. */
  readonly begin: () => void;
  readonly dial: typeof dial;
  readonly deadline: TimerKind<Call>;
  readonly pause: TimerKind<Callback>;
  /** Calls whose descriptor is not closed yet. */
  readonly calls = new Set<Call>();
  /** Callbacks that wait for the end of a call. */
  readonly waiting = new Set<Callback>();
  /** By user, the callbacks that are calling or waiting: ended sessions, and at most one that lives. */
  readonly #byUser = new Map<Account, Set<Callback>>();

  constructor(chat: Chat, begin: () => void, connect = dial) {
    this.chat = chat;
    this.begin = begin;
    this.dial = connect;
    this.deadline = chat.wheel.kind((call) => call.end());
    this.pause = chat.wheel.kind((callback) => callback.retry());
  }

  /** Whether a call may begin now; if not, its callback is flushed after the end of another call. */
  mayCall(callback: Callback): boolean {
    const { account, ended } = callback.session;
    const ofUser = this.#byUser.get(account) ?? new Set();
    this.#byUser.set(account, ofUser.add(callback));
    if (ofUser.size > CALLBACKS_PER_USER_MAX) [...ofUser].find(({ session }) => session.ended)?.giveUp();
    if (this.calls.size < this.chat.limits.callbacksMax) return true;
    const isNew = !this.waiting.has(callback);
    this.waiting.add(callback);
    // An ended session does not delay the messages of one that lives.
    if (isNew && !ended) [...this.calls].find((call) => call.callback.session.ended)?.callback.giveUp();
    return false;
  }

  /** That callback is neither calling nor waiting. */
  leave(callback: Callback): void {
    const { account } = callback.session;
    this.waiting.delete(callback);
    const ofUser = this.#byUser.get(account);
    if (ofUser?.delete(callback) && ofUser.size === 0) this.#byUser.delete(account);
  }

  /** The descriptor of a call is closed. */
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
 * Writes the stream of a session that has no connection of its own, by calling its client: one delivery at a time, from
 * what is confirmed. A call that fails is tried again after growing pauses, with half as many bytes, until the session
 * ends; then once more.
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
  /** The first call comes even with nothing to deliver: a client that hears none knows that it cannot be reached. */
  #reached = false;
  /** The call for the goodbye has begun, or does not come. */
  #last = false;

  constructor(all: Callbacks, session: Session, host: string, port: number, secret: string) {
    this.all = all;
    this.session = session;
    this.host = host;
    this.port = port;
    this.secret = secret;
  }

  flush(): void {
    // Nobody else looks at how much waits for a client that is not reached.
    this.all.chat.flushed(this.session);
    const { ended, outbox } = this.session;
    if (this.#call !== null || this.#last || outbox.sink !== this) return;
    if (this.#pause.armed && !ended) return;
    if (ended && outbox.durable < outbox.end) return; // The goodbye follows at the end of this turn.
    if (this.#reached && outbox.durable === outbox.acked) return;
    this.#cancelPause();
    if (!this.all.mayCall(this)) return;
    this.#last = ended;
    this.#call = new Call(this);
  }

  retry(): void {
    this.#cancelPause();
    this.flush();
  }

  giveUp(): void {
    this.#last = true;
    this.#cancelPause();
    this.all.leave(this);
    this.#call?.end();
    this.all.chat.departing.remove(this.session);
  }

  /** A call is over. The client has the stream up to `received`, -1 when it did not answer. */
  called({ position, to, received }: Call): void {
    this.#call = null;
    const { session, all } = this;
    if (received >= 0) {
      this.#reached = true;
      session.lastActivityMs = all.chat.wheel.nowMs;
      all.chat.ack(session, received);
    }
    if (received < 0) this.portion = Math.max(CALLBACK_BYTES_MIN, this.portion / 2);
    else if (received > position) this.portion = Math.min(CALLBACK_BYTES_MAX, this.portion * 2);
    // The client takes whole lines, and its next one is longer than that.
    else if (to > position) this.portion = Math.min(SERVER_LINE_BYTES_MAX, this.portion * 2);
    if (this.#last) return all.chat.departing.remove(session);
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

/** One call: `callback <secret> <position> <bytes>`, then `ready <token>`, the bytes, and `received <position>`. */
export class Call {
  readonly callback: Callback;
  /** The part of the stream that this call delivers. */
  readonly position: number;
  readonly to: number;
  /** How far the client has the stream; -1 while it has not answered. */
  received = -1;
  readonly #answers = new LineReader(ANSWER_BYTES_MAX);
  #answerBytes = 0;
  readonly #socket: DialedSocket;
  readonly #writer: SocketWriter;
  /** Armed until the next step of the call is due. */
  readonly #timer = new WheelTimer<Call>(this);
  #ready = false;
  /** How far this call brought the stream. */
  #sent = 0;
  #over = false;

  constructor(callback: Callback) {
    const { all, session, host, port, portion } = callback;
    this.callback = callback;
    this.position = session.outbox.acked;
    const { durable: safe } = session.outbox;
    this.to = session.ended ? safe : Math.min(safe, this.position + portion);
    all.calls.add(this);
    this.#arm(CALLBACK_DEADLINE_MS);
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

  /** From now on, the time for the next step of the call. */
  #arm(delayMs: number): void {
    const { deadline, chat } = this.callback.all;
    chat.wheel.schedule(this.#timer, deadline, delayMs);
  }

  #open(): void {
    if (this.#over) return;
    this.#arm(CALLBACK_DEADLINE_MS);
    const line = Buffer.from(`callback ${this.callback.secret} ${this.position} ${this.to - this.position}\n`);
    this.#socket.write(line, 0, line.length); // A line this short always fits into an empty socket.
  }

  #read(chunk: Buffer): void {
    const { session, portion } = this.callback;
    this.#answerBytes += chunk.length;
    if (this.#answerBytes > 2 * ANSWER_BYTES_MAX) return this.end();
    this.#answers.feed(chunk);
    while (!this.#over && this.#answers.next()) {
      const { bytes, start, end } = this.#answers;
      if (!this.#ready) {
        // Only who shows the token is sent anything: the port may be somebody else's by now.
        if (!equals(bytes, start, end, encode(`ready ${session.token}`))) return this.end();
        this.#ready = true;
        const count = Math.min(portion, this.to - this.position);
        this.#arm(CALLBACK_DEADLINE_MS + (1000 * count) / CALLBACK_BYTES_PER_SECOND_MIN);
        session.outbox.rewind(this.position);
        this.#sent = this.position;
        this.#write();
      } else {
        const isReceived = startsWith(bytes, start, end, RECEIVED);
        const received = isReceived ? parseNumber(bytes, start + RECEIVED.length, end) : -1;
        return this.end(received >= this.position && received <= session.outbox.furthest ? received : -1);
      }
    }
  }

  #drain(): void {
    this.#writer.isFull = false;
    this.#write();
  }

  #write(): void {
    if (!this.#ready || this.#over) return;
    const { outbox } = this.callback.session;
    // Before `ready` an `as` acked more than the announced position: the bytes that this call announced are gone.
    if (outbox.sent !== this.#sent) return this.end();
    if (!this.#writer.write(outbox, this.to)) return this.end();
    this.#sent = outbox.sent;
  }

  /** Hangs up; `received` is what the client answered, -1 for a call that has failed. */
  end(received = -1): void {
    if (this.#over) return;
    this.#over = true;
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
