/** Bytes to somebody. The turn asks for `end`, and moves `saving` and `safe` there as what is said becomes safe. */
export interface Stream {
  /** Set and cleared by the turn. */
  dirty: boolean;
  readonly end: number;
  committing: number;
  durable: number;
  readonly sink: Sink | null;
}

/** What a stream is attached to right now. */
export interface Sink {
  /** Writes what is safe and not sent yet. */
  flush(): void;
  /**
   * Writes what all get alike, from bytes[start..start + count): returns how much of it was taken. Who has no such
   * method, or takes less, is flushed. It must not call back: nobody may step in or out meanwhile.
   */
  write?(bytes: Buffer, start: number, count: number): number;
}

/** Hears that something was appended; writes it when the turn ends. */
export interface Turn {
  markDirty(stream: Stream): void;
}

/** What happens around a turn; nothing, where nothing is given. */
export interface TurnHooks {
  /** Once a turn, when it begins. */
  begins?: () => void;
  /** The last things are said; true when another turn should follow at once. */
  ends?: () => boolean;
  /**
   * What was said is made safe: true when it is, or a promise that resolves when it is. False when it cannot be for
   * now: nothing leaves, and the next turn tries again. Must not throw.
   */
  commits?: () => boolean | Promise<void>;
  /** Hears of faults, and at whose stream. */
  failed?: (error: unknown, sink?: Sink | null) => void;
  /** Calls back when the loop has done what it had to do. */
  later?: (end: () => void) => void;
}

/**
 * One turn of the event loop: the runtime calls the handlers of all ready sockets, then due timers, then `setImmediate`
 * callbacks, then polls again. Handlers only append; when the turn ends, what they appended becomes safe and each
 * touched stream is written once. Nothing leaves in any other way.
 *
 * What becomes safe later does not stop the loop: until then the turns that follow are saved together (group commit).
 */
export class LoopTurn implements Turn {
  readonly #hooks: Required<TurnHooks>;
  #begun = false;
  #armed = false;
  #isCommitting = false;
  #dirty: Stream[] = [];
  #ending: Stream[] = [];

  constructor({
    begins = () => {},
    ends = () => false,
    commits: saves = () => true,
    failed = (error) => reportError(error),
    later = setImmediate,
  }: TurnHooks = {}) {
    this.#hooks = { begins, ends, commits: saves, failed, later };
  }

  /** Whatever the loop calls begins with this. */
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
    this.begin(); // A stream may have been touched without anything having begun.
    this.#begun = this.#armed = false;
    if (this.#isCommitting) return;
    let more = false;
    try {
      more = this.#hooks.ends();
    } catch (error) {
      this.#hooks.failed(error);
    }
    const saved = this.#hooks.commits();
    if (saved === false) return;
    const ending = this.#dirty;
    this.#dirty = this.#ending;
    this.#ending = ending;
    for (let i = 0; i < ending.length; i++) {
      const stream = ending[i]!;
      stream.dirty = false;
      stream.committing = stream.end;
    }
    if (saved === true) this.#flush();
    else {
      this.#isCommitting = true;
      saved.then(this.#committed, (error) => this.#hooks.failed(error));
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
        this.#hooks.failed(error, ending[i]!.sink); // A fault at one stream must not cost the others theirs.
      }
    }
    ending.length = 0;
  }
}
