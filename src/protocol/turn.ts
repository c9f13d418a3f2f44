import type { Outbox, Turn } from "./outbox.ts";

/**
 * One turn of the event loop: the runtime calls the handlers of all ready sockets, then due timers, then `setImmediate`
 * callbacks, then polls again. Handlers only append; when the turn ends, what they appended becomes safe and each
 * touched stream is written once. Nothing leaves in any other way.
 */
export class LoopTurn implements Turn {
  readonly #begins: () => void;
  readonly #ends: () => void;
  #begun = false;
  #touched: Outbox[] = [];
  #ending: Outbox[] = [];

  /** `begins` is called once a turn, by the first `begin`; `ends` before anything is written. */
  constructor(begins: () => void = () => {}, ends: () => void = () => {}) {
    this.#begins = begins;
    this.#ends = ends;
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

  readonly #end = (): void => {
    this.#begun = false;
    this.#ends();
    const ending = this.#touched;
    this.#touched = this.#ending;
    this.#ending = ending;
    for (let i = 0; i < ending.length; i++) {
      const outbox = ending[i]!;
      outbox.touched = false;
      outbox.safe = outbox.end;
    }
    for (let i = 0; i < ending.length; i++) ending[i]!.sink?.flush();
    ending.length = 0;
  };
}
