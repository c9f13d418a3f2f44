/**
 * The turn of the event loop: it collects the streams that changed, makes their new bytes durable, and has each written
 * once. It does not know what is in them, how they become durable, or what a socket is.
 */

/** A byte stream with positions. The turn moves `committing` and then `durable` to `end`. */
export interface Stream {
  /** Set and cleared by the turn. */
  dirty: boolean;
  readonly end: number;
  committing: number;
  durable: number;
  readonly sink: Sink | null;
}

/** Where a stream is written to at the moment: a connection, a caller, or nothing. */
export interface Sink {
  /** Writes the durable bytes that were not sent yet. */
  flush(): void;
  /**
   * Writes part of a broadcast, bytes[start..start + count), and returns how many bytes were accepted. A sink without
   * this method, or that accepts fewer, is flushed afterwards. It must not call back: no stream may join or leave the
   * group meanwhile.
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
  /** The turn ends: the last bytes may be appended. True when another turn should follow at once. */
  ends?: () => boolean;
  /**
   * Makes what the turn has changed durable: true when it is, a promise that resolves when it is, and false when the
   * disk refuses. Then nothing is written to sockets, and the next turn tries again. Must not throw.
   */
  commits?: () => boolean | Promise<void>;
  /** Reports a fault, and the sink of the stream at which it happened. */
  failed?: (error: unknown, sink?: Sink | null) => void;
  /** Calls back when the loop has run the handlers of all ready sockets and due timers. */
  later?: (end: () => void) => void;
}

/**
 * In each turn the runtime calls the handlers of all ready sockets, then due timers, then `setImmediate` callbacks, and
 * polls again. Handlers only append to streams. At the end of the turn what they appended becomes durable, and each
 * dirty stream is written once. Streams are written in no other way.
 *
 * The loop does not wait for a slow disk: the turns that end meanwhile are made durable together (group commit).
 */
export class LoopTurn implements Turn {
  readonly #hooks: Required<TurnHooks>;
  /** `begins` was called in this turn. */
  #begun = false;
  /** `#end` will be called by `later`. */
  #armed = false;
  /** The promise of an earlier turn has not resolved: this turn ends with the next one. */
  #isCommitting = false;
  /** Streams that changed since the last end of a turn. */
  #dirty: Stream[] = [];
  /** Streams that are written when the commit is durable. */
  #ending: Stream[] = [];

  constructor({
    begins = () => {},
    ends = () => false,
    commits = () => true,
    failed = (error) => reportError(error),
    later = setImmediate,
  }: TurnHooks = {}) {
    this.#hooks = { begins, ends, commits, failed, later };
  }

  /** Every handler that the loop calls begins with this. */
  begin(): void {
    if (this.#begun) return;
    this.#begun = true;
    this.#hooks.begins();
    this.#arm();
  }

  markDirty(stream: Stream): void {
    stream.dirty = true;
    this.#dirty.push(stream);
    this.#arm();
  }

  #arm(): void {
    if (this.#armed) return;
    this.#armed = true;
    this.#hooks.later(this.#end);
  }

  readonly #end = (): void => {
    this.begin(); // A stream may be dirty although no handler has begun the turn.
    this.#begun = this.#armed = false;
    if (this.#isCommitting) return;
    let more = false;
    try {
      more = this.#hooks.ends();
    } catch (error) {
      this.#hooks.failed(error);
    }
    const committed = this.#hooks.commits();
    if (committed === false) return;
    const ending = this.#dirty;
    this.#dirty = this.#ending;
    this.#ending = ending;
    for (let i = 0; i < ending.length; i++) {
      const stream = ending[i]!;
      stream.dirty = false;
      stream.committing = stream.end;
    }
    if (committed === true) this.#flush();
    else {
      this.#isCommitting = true;
      committed.then(this.#committed, (error) => this.#hooks.failed(error));
    }
    if (more) this.begin();
  };

  readonly #committed = (): void => {
    this.#isCommitting = false;
    this.begin();
    this.#flush();
  };

  #flush(): void {
    const ending = this.#ending;
    for (let i = 0; i < ending.length; i++) ending[i]!.durable = ending[i]!.committing;
    for (let i = 0; i < ending.length; i++) {
      try {
        ending[i]!.sink?.flush();
      } catch (error) {
        this.#hooks.failed(error, ending[i]!.sink); // A fault at one stream must not affect the others.
      }
    }
    ending.length = 0;
  }
}
