import type { Socket } from "bun";
import type { Chat } from "../chat/chat.ts";
import type { Caller, Session } from "../chat/session.ts";
import { CALLBACK_BYTES_MAX, CALLBACK_DEADLINE_MS, CALLBACK_PAUSE_MAX_MS, CALLBACK_PAUSE_MIN_MS } from "../limits.ts";
import { encode, equals, parseNumber, startsWith } from "../protocol/ascii.ts";
import { LineReader } from "../protocol/line-reader.ts";
import { WheelTimer, type TimerKind } from "../timer-wheel.ts";

/** The longest line that a called client has to say: `ready <token>`, with room to spare. */
const ANSWER_BYTES_MAX = 256;
const RECEIVED = encode("received ");

/** What all callbacks of a server share. */
export class Callbacks {
  readonly chat: Chat;
  /** Whatever a socket says begins a turn. */
  readonly begin: () => void;
  readonly deadline: TimerKind<Call>;
  readonly pause: TimerKind<Callback>;
  /** Calls that are under way, and who waits for the end of one. */
  readonly calls = new Set<Call>();
  readonly waiting = new Set<Callback>();

  constructor(chat: Chat, begin: () => void) {
    this.chat = chat;
    this.begin = begin;
    this.deadline = chat.wheel.kind((call) => call.end(false));
    this.pause = chat.wheel.kind((callback) => callback.retry());
  }

  /** Whether one more call may be made now; if not, its callback is flushed when its turn has come. */
  mayCall(callback: Callback): boolean {
    if (this.calls.size < this.chat.limits.callbacksMax) return true;
    this.waiting.add(callback);
    return false;
  }

  /** A call is over. */
  ended(call: Call): void {
    this.chat.wheel.cancel(call.timer);
    this.calls.delete(call);
    for (const callback of this.waiting) {
      if (this.calls.size >= this.chat.limits.callbacksMax) return;
      this.waiting.delete(callback);
      callback.flush();
    }
  }
}

/**
 * Writes the stream of a session that has no connection of its own, by calling its client: one delivery at a time, from
 * what is confirmed. A call that fails is tried again after growing pauses, until the session ends; then once more.
 */
export class Callback implements Caller {
  readonly all: Callbacks;
  readonly session: Session;
  readonly host: string;
  readonly port: number;
  readonly secret: string;
  #call: Call | null = null;
  #pauseMs = CALLBACK_PAUSE_MIN_MS;
  /** Armed during a pause. */
  readonly #pause = new WheelTimer<Callback>(this);
  /** The first call comes even with nothing to deliver: a client that hears none knows that it cannot be reached. */
  #reached = false;
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
    if (this.#reached && outbox.safe === outbox.confirmed) return;
    this.#cancelPause();
    if (!this.all.mayCall(this)) return;
    this.#last = ended;
    this.#call = new Call(this);
  }

  retry(): void {
    this.#cancelPause();
    this.flush();
  }

  /** A call is over. The client has the stream up to `received`, -1 when it did not say. */
  called(received: number, progress: boolean): void {
    this.#call = null;
    const { session, all } = this;
    if (received >= 0) {
      this.#reached = true;
      session.heardMs = all.chat.wheel.nowMs;
      all.chat.confirm(session, received);
    }
    if (progress) this.#pauseMs = CALLBACK_PAUSE_MIN_MS;
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
  readonly #callback: Callback;
  readonly #position: number;
  readonly #to: number;
  readonly #answers = new LineReader(ANSWER_BYTES_MAX);
  readonly timer = new WheelTimer<Call>(this);
  #socket: Socket<undefined> | null = null;
  #ready = false;
  /** How far this call brought the stream. */
  #sent = 0;
  #over = false;

  constructor(callback: Callback) {
    const { all, session, host, port } = callback;
    this.#callback = callback;
    this.#position = session.outbox.confirmed;
    const { safe } = session.outbox;
    this.#to = session.ended ? safe : Math.min(safe, this.#position + CALLBACK_BYTES_MAX);
    all.chat.wheel.schedule(this.timer, all.deadline, CALLBACK_DEADLINE_MS);
    all.calls.add(this);
    const heard = (handle: () => void) => (): void => {
      all.begin();
      handle();
    };
    Bun.connect({
      hostname: host,
      port,
      socket: {
        open: (socket) => this.#open(socket),
        data: (_socket, chunk) => {
          all.begin();
          this.#read(chunk);
        },
        drain: heard(() => this.#write()),
        close: heard(() => this.end(false)),
        connectError: heard(() => this.end(false)),
      },
    }).catch(heard(() => this.end(false)));
  }

  #open(socket: Socket<undefined>): void {
    if (this.#over) return void socket.end();
    this.#socket = socket;
    // A line this short always fits into an empty socket.
    socket.write(`callback ${this.#callback.secret} ${this.#position} ${this.#to - this.#position}\n`);
  }

  #read(chunk: Buffer): void {
    const { session } = this.#callback;
    this.#answers.feed(chunk);
    while (!this.#over && this.#answers.next()) {
      const { bytes, start, end } = this.#answers;
      if (!this.#ready) {
        // Only who shows the token is sent anything: the port may be somebody else's by now.
        if (!equals(bytes, start, end, encode(`ready ${session.token}`))) return this.end(false);
        this.#ready = true;
        session.outbox.rewind(this.#position);
        this.#sent = this.#position;
        this.#write();
      } else {
        const isReceived = startsWith(bytes, start, end, RECEIVED);
        const received = isReceived ? parseNumber(bytes, start + RECEIVED.length, end) : -1;
        return this.end(received >= this.#position && received <= session.outbox.furthest, received);
      }
    }
  }

  #write(): void {
    const { outbox } = this.#callback.session;
    // By an `as` the client has confirmed what this call would bring next: the bytes that it announced are gone.
    if (this.#ready && outbox.sent !== this.#sent) return this.end(false);
    while (this.#ready && !this.#over && outbox.sent < this.#to && outbox.peek()) {
      const count = Math.min(outbox.pieceEnd - outbox.pieceStart, this.#to - outbox.sent);
      const taken = this.#socket!.write(outbox.piece, outbox.pieceStart, count);
      if (taken < 0) return this.end(false);
      outbox.took(taken);
      this.#sent = outbox.sent;
      if (taken < count) return;
    }
  }

  /** Hangs up, and says what came of it. */
  end(delivered: boolean, received = -1): void {
    if (this.#over) return;
    this.#over = true;
    const { all } = this.#callback;
    all.ended(this);
    this.#socket?.end();
    const progress = delivered && (received > this.#position || this.#to === this.#position);
    this.#callback.called(delivered ? received : -1, progress);
  }
}
