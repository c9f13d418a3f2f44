import { DRAINED_PER_TICK_MAX } from "../limits.ts";
import { TICK_MS, type TimerKind, WheelTimer } from "../timer-wheel.ts";
import type { Chat } from "./chat.ts";

/**
 * Ends the sessions one after another, evenly over a time, so that their clients do not all return in the same moment.
 * From its beginning no login succeeds; all other requests do. It leaves what remains at its end to `Chat.shutdown`.
 */
export class Drain {
  readonly #chat: Chat;
  readonly #durationMs: number;
  readonly #done: () => void;
  readonly #startMs: number;
  /** Sessions at the beginning. */
  readonly #sessions: number;
  readonly #kind: TimerKind<Drain>;
  readonly #timer = new WheelTimer<Drain>(this);

  /** Calls `done` after `durationMs`: with 0 in the next tick. */
  constructor(chat: Chat, durationMs: number, done: () => void) {
    const { wheel, presence } = chat;
    this.#chat = chat;
    this.#durationMs = durationMs;
    this.#done = done;
    this.#startMs = wheel.nowMs;
    this.#sessions = presence.online.length;
    this.#kind = wheel.kind((drain) => drain.#step());
    chat.isOver = true;
    wheel.schedule(this.#timer, this.#kind, 0);
  }

  #step(): void {
    const { wheel, presence } = this.#chat;
    const leftMs = this.#startMs + this.#durationMs - wheel.nowMs;
    if (leftMs <= 0) return this.#done();
    const { online } = presence;
    const keep = Math.ceil((this.#sessions * leftMs) / this.#durationMs);
    const least = Math.max(keep, online.length - DRAINED_PER_TICK_MAX);
    while (online.length > least) this.#chat.end(online.at(-1)!, "shutdown");
    wheel.schedule(this.#timer, this.#kind, Math.min(TICK_MS, leftMs));
  }

  /** It ends no further session, and does not call `done`. */
  cancel(): void {
    this.#chat.wheel.cancel(this.#timer);
  }
}
