import { DRAINED_PER_TURN_MAX } from "../limits.ts";
import { WheelTimer } from "../timer-wheel.ts";
import type { Chat } from "./chat.ts";

/**
 * Ends the sessions one after another, evenly over a time, so that their clients do not all return in the same moment.
 * From its beginning no login succeeds; all other requests do. What remains at its end is left to `Chat.shutdown`.
 */
export class Drain {
  readonly #chat: Chat;
  readonly #durationMs: number;
  /** Wheel time of its end. */
  readonly #endMs: number;
  /** Sessions at the beginning. */
  readonly #sessions: number;

  /** Calls `done` after `durationMs`: with 0 in the next tick. */
  constructor(chat: Chat, durationMs: number, done: () => void) {
    const { wheel, presence } = chat;
    this.#chat = chat;
    this.#durationMs = Math.max(1, durationMs);
    this.#endMs = wheel.nowMs + durationMs;
    this.#sessions = presence.online.length;
    chat.isOver = true;
    wheel.schedule(new WheelTimer<Drain>(this), wheel.kind(done), durationMs);
  }

  /** A turn ends: ends the sessions that are due. True when more are due than one turn ends. */
  step(): boolean {
    const { online } = this.#chat.presence;
    const leftMs = Math.max(0, this.#endMs - this.#chat.wheel.nowMs);
    const keep = Math.ceil((this.#sessions * leftMs) / this.#durationMs);
    for (let ended = 0; online.length > keep; ended++) {
      if (ended === DRAINED_PER_TURN_MAX) return true;
      this.#chat.end(online.at(-1)!, "shutdown");
    }
    return false;
  }
}
