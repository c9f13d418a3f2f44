/**
 * What calls the user back to the terminal: the bell, the count in the title and a notification (OSC 9), and the mark
 * where the user stopped reading. A terminal that has not reported its focus counts as not focused. It only decides and
 * returns escape sequences; screen.ts writes them.
 */

/** String Terminator. BEL would end a title too, but it rings where titles are unknown. */
const ST = "\x1b\\";
const BELL = "\x07";
const SAVE_TITLE = "\x1b[22;2t";
const RESTORE_TITLE = "\x1b[23;2t";

/** A user of a terminal without reports of the focus is away after this time without a key. */
const AWAY_MS = 60_000;

/** What a terminal understands. */
export interface AttentionOptions {
  isBellOn: boolean;
  /** Whether titles and notifications may be written: some consoles print the parts of them. */
  hasTitle: boolean;
}

export class Attention {
  isBellOn: boolean;
  readonly #hasTitle: boolean;
  /** Null: the terminal has not reported it. */
  #hasFocus: boolean | null = null;
  /** Messages and questions for the user since the last key or focus. */
  #unread = 0;
  /** Whether the mark is due before the next message of another user: the focus went away after the last mark. */
  #isMarkDue = false;
  #isTitleSaved = false;
  /** Time of the last key or focus; infinite after the mark. */
  #seenMs: number;

  constructor({ isBellOn, hasTitle }: AttentionOptions, nowMs: number) {
    this.#seenMs = nowMs;
    this.isBellOn = isBellOn;
    this.#hasTitle = hasTitle;
  }

  /** Whether the mark comes before the next line of another user, which arrives now. */
  takeMark(nowMs: number): boolean {
    // Without reports of the focus, nobody reads after a long time without a key.
    const isAway = this.#hasFocus === null && nowMs - this.#seenMs >= AWAY_MS;
    const isDue = this.#isMarkDue || isAway;
    this.#isMarkDue = false;
    if (isAway) this.#seenMs = Number.POSITIVE_INFINITY;
    return isDue;
  }

  /** Messages or questions arrived together, the last one of `user`. Returns what to write before them. */
  call(count: number, user: string): string {
    if (this.#hasFocus === true || !this.isBellOn) return "";
    this.#unread += count;
    if (!this.#hasTitle) return BELL;
    const what = count === 1 ? `message from ${user}` : `${count} messages, the last one from ${user}`;
    return `${BELL}\x1b]9;${what}${ST}${this.#title()}`;
  }

  /** The terminal reports its focus. Returns what to write. */
  focus(hasFocus: boolean, nowMs: number): string {
    if (this.#hasFocus !== false && !hasFocus) this.#isMarkDue = true;
    if (hasFocus) this.#isMarkDue = false;
    this.#hasFocus = hasFocus;
    return hasFocus ? this.seen(nowMs) : "";
  }

  /** The user has looked at the terminal: the focus came back, or a key was pressed. Returns what to write. */
  seen(nowMs: number): string {
    this.#seenMs = nowMs;
    if (this.#unread === 0) return "";
    this.#unread = 0;
    return this.#title();
  }

  /** Restores the title. */
  end(): string {
    return this.#isTitleSaved ? RESTORE_TITLE : "";
  }

  #title(): string {
    if (!this.#hasTitle) return "";
    const save = this.#isTitleSaved ? "" : SAVE_TITLE;
    this.#isTitleSaved = true;
    return this.#unread === 0 ? `\x1b]2;heartline${ST}` : `${save}\x1b]2;(${this.#unread}) heartline${ST}`;
  }
}
