import { ChatError } from "../client/client.ts";
import type { Result } from "./commands.ts";
import type { Display, Mark } from "./display.ts";
import { explainError } from "./explanations.ts";
import type { Transcript } from "./transcript.ts";

/**
 * The texts of this user and their states. The screen is the terminal's own scrollback, where a line that was printed
 * cannot be changed honestly: it may have scrolled away, or other programs may have written. So a text is printed once,
 * with its final state, when the reply comes in time. Otherwise it is printed as waiting, and a short line follows when
 * its state is known. It also notices a server that does not answer.
 */

/** A reply that comes sooner is printed with its text. */
export const WAIT_MS = 150;
/** A server that does not answer for this time is reported. */
export const SILENCE_MS = 5_000;
/** Characters of a text in the line that tells its later state. */
const QUOTE_LENGTH = 24;

/** Errors that leave open whether the server acted on a request. */
const UNKNOWN = ["unknown_outcome", "internal"];

export interface Text {
  /** A user, or `all`. */
  recipient: string;
  text: string;
  isPrivate: boolean;
}

export class Outgoing {
  /** Requests without a reply, with the times of their beginnings. */
  readonly #pending = new Set<{ sinceMs: number }>();
  readonly #transcript: Transcript;
  readonly #display: Display;
  #silenceTimer: Timer | null = null;
  #isSilent = false;
  /** Called with true when the server has not answered for SILENCE_MS, and with false when it does again. */
  onSilence: (isSilent: boolean, ms: number) => void = () => {};

  constructor(transcript: Transcript, display: Display) {
    this.#transcript = transcript;
    this.#display = display;
  }

  /** Requests without a reply. */
  get count(): number {
    return this.#pending.size;
  }

  /** Prints a text with its state. Resolves with the result; with null when it was refused, which is printed. */
  async say({ recipient, text, isPrivate }: Text, request: Promise<Result>): Promise<Result | null> {
    let isPrinted = false;
    const print = (mark: Mark, shown = text): void => {
      void this.#transcript.printNow([this.#display.own(mark, recipient, shown, isPrivate)]);
    };
    const timer = setTimeout(() => {
      isPrinted = true;
      print("waiting");
    }, WAIT_MS);
    const finish = (mark: Mark): void => {
      clearTimeout(timer);
      print(mark, isPrinted ? quote(text) : text);
    };
    try {
      // A private text waits for the other client, not for the server.
      const result = await (isPrivate ? request : this.track(request));
      finish(result.state ?? "sent");
      return result;
    } catch (error) {
      const isUnknown = error instanceof ChatError && UNKNOWN.includes(error.code);
      finish(isUnknown ? "unknown" : "refused");
      this.#transcript.failure(explainError(error, recipient, this.#display.slash));
      return null;
    }
  }

  /** Watches a request for a reply. */
  async track<T>(request: Promise<T>): Promise<T> {
    const pending = { sinceMs: performance.now() };
    this.#pending.add(pending);
    this.#watch();
    try {
      return await request;
    } finally {
      this.#pending.delete(pending);
      if (this.#isSilent) {
        this.#isSilent = false;
        this.onSilence(false, performance.now() - pending.sinceMs);
      }
      this.#watch();
    }
  }

  stop(): void {
    if (this.#silenceTimer !== null) clearTimeout(this.#silenceTimer);
    this.#silenceTimer = null;
  }

  /** Sets the timer for the oldest request. */
  #watch(): void {
    const [oldest] = this.#pending;
    if (oldest === undefined) return this.stop();
    if (this.#silenceTimer !== null || this.#isSilent) return;
    const leftMs = Math.max(0, oldest.sinceMs + SILENCE_MS - performance.now());
    this.#silenceTimer = setTimeout(() => {
      this.#silenceTimer = null;
      const [first] = this.#pending;
      if (first === undefined) return;
      const ms = performance.now() - first.sinceMs;
      if (ms < SILENCE_MS - 1) return this.#watch();
      this.#isSilent = true;
      this.onSilence(true, ms);
    }, leftMs);
  }
}

/** The beginning of a text. */
function quote(text: string): string {
  const characters = [...text];
  return characters.length <= QUOTE_LENGTH ? text : `${characters.slice(0, QUOTE_LENGTH).join("")}...`;
}
