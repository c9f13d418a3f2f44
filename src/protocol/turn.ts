import type { Outbox, Turn } from "./outbox.ts";

/**
 * One turn of the event loop: the runtime calls the handlers of all ready sockets, then due timers, then `setImmediate`
 * callbacks, then polls again. Handlers only append; when the turn ends, what they appended becomes safe and each
 * touched stream is written once. Nothing leaves in any other way.
 */
export class LoopTurn implements Turn {
  readonly #begins: () => void;
  readonly #ends: () => void;
  readonly #failed: (error: unknown) => void;
  #begun = false;
  #touched: Outbox[] = [];
  #ending: Outbox[] = [];

  /** `begins` is called once a turn, by the first `begin`; `ends` before anything is written; `failed` with faults. */
  constructor(begins = (): void => {}, ends = (): void => {}, failed: (error: unknown) => void = reportError) {
    this.#begins = begins;
    this.#ends = ends;
    this.#failed = failed;
  }

  /** Whatever the loop calls begins with this. */
  begin(): void {
    if (this.#begun) return;
    this.#begins();
    this.#arm();
  }

  touch(outbox: Outbox): void {
    outbox.touched = true;
    this.#touched.push(outbox);
    if (!this.#begun) this.#arm();
  }

  #arm(): void {
    this.#begun = true;
    setImmediate(this.#end);
  }

  /** A fault at one stream must not cost the others theirs. */
  #flush(outbox: Outbox): void {
    try {
      outbox.sink?.flush();
    } catch (error) {
      this.#failed(error);
    }
  }

  readonly #end = (): void => {
    this.#begun = false;
    try {
      this.#ends();
    } catch (error) {
      this.#failed(error);
    }
    const ending = this.#touched;
    this.#touched = this.#ending;
    this.#ending = ending;
    for (let i = 0; i < ending.length; i++) {
      const outbox = ending[i]!;
      outbox.touched = false;
      outbox.safe = outbox.end;
    }
    for (let i = 0; i < ending.length; i++) this.#flush(ending[i]!);
    ending.length = 0;
  };
}
