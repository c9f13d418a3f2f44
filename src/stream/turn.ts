/**
 * The turn of the event loop: it collects the streams that changed, has their new bytes made durable, and then flushes
 * each of them once. It does not know what the bytes mean, how they become durable, or what a socket is.
 */

/** A byte stream with positions. A commit sets `committing` to `end`; when it is durable, `durable` follows. */
export interface Stream {
  /** Set and cleared by the turn. */
  dirty: boolean;
  readonly end: number;
  committing: number;
  durable: number;
  readonly sink: Sink | null;
}

/** Writes a stream: a connection, or the calls to the client of a callback session. */
export interface Sink {
  /** Writes the durable bytes that were not sent yet. */
  flush(): void;
  /**
   * Writes part of a broadcast, bytes[start..start + count), and returns how many bytes were accepted. A sink without
   * this method, or that accepts fewer, is flushed afterwards. The method must not make a stream join or leave the
   * `BroadcastGroup`, which calls it in a loop over its members.
   */
  write?(bytes: Buffer, start: number, count: number): number;
}

/** Collects the streams that have changed, to write them when the turn ends. */
export interface Turn {
  markDirty(stream: Stream): void;
}

/** What the server does at each step of a turn. A hook that is missing does nothing. */
export interface TurnHooks {
  /** The turn begins. */
  begins?: () => void;
  /** The turn ends. The last hook that may append to streams. True when another turn should follow at once. */
  ends?: () => boolean;
  /**
   * Makes what the turn has changed durable: true when it is, or a promise that resolves when it is. False when the
   * disk refuses: then nothing is written to sockets, and the next turn tries again. Must not throw.
   */
  commits?: () => boolean | Promise<void>;
  /** The turn is over: everything in it was done, except a commit that continues. */
  ended?: () => void;
  /** Reports a fault, and the sink of the stream at which it happened. */
  failed?: (error: unknown, sink?: Sink | null) => void;
  /** Schedules `end`: it is called after the handlers of all ready sockets and due timers. */
  later?: (end: () => void) => void;
}

/**
 * In each turn the runtime calls the handlers of all ready sockets, then due timers, then `setImmediate` callbacks, and
 * polls again. Handlers only append to streams. At the end of the turn what they appended becomes durable, and each
 * dirty stream is flushed once. Nothing else flushes streams.
 *
 * The loop does not wait for a slow disk: the turns that end during a commit share the next one (group commit).
 */
export class LoopTurn implements Turn {
  readonly #hooks: Required<TurnHooks>;
  /** The hook `begins` was called in this turn. */
  #hasBegun = false;
  /** The hook `later` was called, so `#end` follows. */
  #isEndScheduled = false;
  /** The commit of an earlier turn is not durable yet. The streams of this turn wait for the next commit. */
  #isCommitting = false;
  /** Streams that changed since the last commit began. */
  #dirty: Stream[] = [];
  /** Streams in the current commit. They are flushed when it is durable. */
  #inCommit: Stream[] = [];

  constructor({
    begins = () => {},
    ends = () => false,
    commits = () => true,
    ended = () => {},
    failed = (error) => reportError(error),
    later = setImmediate,
  }: TurnHooks = {}) {
    this.#hooks = { begins, ends, commits, ended, failed, later };
  }

  /** Each handler that the loop calls must call this first. */
  begin(): void {
    if (this.#hasBegun) return;
    this.#hasBegun = true;
    this.#hooks.begins();
    this.#scheduleEnd();
  }

  markDirty(stream: Stream): void {
    stream.dirty = true;
    this.#dirty.push(stream);
    this.#scheduleEnd();
  }

  /** Resolves when everything that has happened in this turn is durable. */
  saved(): Promise<void> {
    return new Promise((resolve) => {
      this.markDirty({ dirty: false, end: 0, committing: 0, durable: 0, sink: { flush: resolve } });
    });
  }

  #scheduleEnd(): void {
    if (this.#isEndScheduled) return;
    this.#isEndScheduled = true;
    this.#hooks.later(this.#end);
  }

  readonly #end = (): void => {
    this.begin(); // A stream may be dirty although no handler has begun the turn.
    this.#hasBegun = this.#isEndScheduled = false;
    const more = !this.#isCommitting && this.#commit();
    this.#hooks.ended();
    if (more) this.begin();
  };

  /** True when another turn should follow at once. */
  #commit(): boolean {
    let more = false;
    try {
      more = this.#hooks.ends();
    } catch (error) {
      this.#hooks.failed(error);
    }
    const committed = this.#hooks.commits();
    if (committed === false) return false;
    const streams = this.#dirty;
    this.#dirty = this.#inCommit; // The other array is empty, and is used again.
    this.#inCommit = streams;
    for (let i = 0; i < streams.length; i++) {
      const stream = streams[i]!;
      stream.dirty = false;
      stream.committing = stream.end;
    }
    if (committed === true) this.#flush();
    else {
      this.#isCommitting = true;
      committed.then(this.#committed, (error) => this.#hooks.failed(error));
    }
    return more;
  }

  readonly #committed = (): void => {
    this.#isCommitting = false;
    this.begin();
    this.#flush();
  };

  #flush(): void {
    const streams = this.#inCommit;
    for (let i = 0; i < streams.length; i++) streams[i]!.durable = streams[i]!.committing;
    for (let i = 0; i < streams.length; i++) {
      try {
        streams[i]!.sink?.flush();
      } catch (error) {
        this.#hooks.failed(error, streams[i]!.sink); // A fault at one stream must not affect the others.
      }
    }
    streams.length = 0;
  }
}
