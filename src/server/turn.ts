import type { Chat } from "../chat/chat.ts";
import type { Outbox } from "../protocol/outbox.ts";

/**
 * One turn of the event loop: Bun calls the handlers of all ready sockets, then due timers, then `setImmediate`
 * callbacks, then polls again. Handlers only append; when the turn ends, what they appended becomes safe and each
 * touched stream is written once. Nothing leaves the server in any other way.
 */
export class Turn {
  /** Set once, before the first turn begins. */
  chat!: Chat;
  #begun = false;
  #touched: Outbox[] = [];
  #ending: Outbox[] = [];

  /** Whatever the loop calls begins with this: it reads the clocks once a turn. */
  begin(): void {
    if (this.#begun) return;
    this.chat.wheel.begin(performance.now());
    this.chat.unixMs = Date.now();
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
    this.chat.turnEnds();
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
