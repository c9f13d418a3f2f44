import { StringDecoder } from "node:string_decoder";

/**
 * Separates what a terminal sends: keys for the line editor, keys that act (Enter, Tab, Esc, Ctrl+C, Ctrl+D), pasted
 * text, and reports of the focus. It decides what was typed and what was pasted, so that no pasted text ever acts:
 *
 * - Text between the marks of a bracketed paste is pasted, wherever the reads cut it.
 * - Enter and Tab act only when nothing follows for QUIET_MS, which is shorter than a person needs for the next key.
 *   What follows sooner is a burst: it was pasted, or typed while the program or the line was slow. Terminals without
 *   bracketed paste need this, and so does a pasted text with the end mark in it: the terminal's own end mark then
 *   follows its line ends.
 */

/** The time without input after which Enter, Tab and Esc are keys that a person pressed. */
export const QUIET_MS = 30;

const ESCAPE = "\x1b";
const INTERRUPT = "\x03";
const END = "\x04";
const PASTE_START = "\x1b[200~";
const PASTE_END = "\x1b[201~";
const FOCUS_IN = "\x1b[I";
const FOCUS_OUT = "\x1b[O";
const SEQUENCES = [PASTE_START, PASTE_END, FOCUS_IN, FOCUS_OUT];

/** Text with Enter or Tab at its end. */
const TYPED = /^([^\r\n\t]*)([\r\n]+|\t+)$/;

/** Calls for what was typed, in order. */
export interface KeyHandlers {
  /** Keys for the line editor. */
  keys(text: string): void;
  enter(): void;
  tab(): void;
  escape(): void;
  interrupt(): void;
  /** Ctrl+D. */
  end(): void;
  /** A text that was pasted. It may have several lines. */
  paste(text: string): void;
  /** A text with line ends or tabs inside that arrived at once, without the marks of a paste. */
  burst(text: string): void;
  focus(hasFocus: boolean): void;
}

export class KeySplitter {
  /** While a question is open, Enter and Tab go to the line editor at once: nothing of the answer reaches others. */
  isQuestion = true;
  readonly #handlers: KeyHandlers;
  readonly #decoder = new StringDecoder("utf8");
  /** The beginning of a sequence. */
  #held = "";
  /** Whether the ESC in `#held` was reported as a key, since nothing followed in time. */
  #isEscapeReported = false;
  /** Parts of the text since the start mark of a paste, none empty; null outside. */
  #pasted: string[] | null = null;
  /** Text that arrived with Enter or Tab, and what followed without a pause; empty outside. */
  #burst = "";
  #timer: Timer | null = null;

  constructor(handlers: KeyHandlers) {
    this.#handlers = handlers;
  }

  feed(bytes: Uint8Array): void {
    // Readline treats U+2028 and U+2029 as line ends; here only Enter is one.
    const text = this.#decoder.write(Buffer.from(bytes)).replace(/[\u2028\u2029]/g, " ");
    let plain = "";
    const flush = (): void => {
      if (plain !== "") this.#text(plain);
      plain = "";
    };
    // Ctrl+C alone ends a paste whose end mark was lost.
    if (this.#pasted !== null && text === INTERRUPT) this.#pasted = null;
    for (let at = 0; at < text.length; at++) {
      const character = text[at]!;
      if (this.#pasted !== null) at = this.#takePasted(text, at) - 1;
      else if (this.#held === "" && isWaiting(character) && !this.isQuestion) {
        this.#burst += plain + character;
        plain = "";
      } else if (this.#held !== "" || character === ESCAPE || isActing(character)) {
        flush();
        this.#character(character);
      } else plain += character;
    }
    flush();
    if (this.#burst !== "" || this.#held === ESCAPE) this.#restart();
  }

  stop(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
  }

  #character(character: string): void {
    const sequence = this.#held + character;
    if (SEQUENCES.some((each) => each.startsWith(sequence))) {
      this.#held = sequence;
      if (SEQUENCES.includes(sequence)) this.#sequence(sequence);
      return;
    }
    const keys = this.#isEscapeReported ? this.#held.slice(1) : this.#held;
    if (this.#held === "") return this.#act(character);
    // No pasted text has the sequence of a key: Enter or Tab before it was a key, too.
    if (TYPED.test(this.#burst)) this.#endBurst();
    this.#clearHeld();
    if (character === ESCAPE || isActing(character)) {
      if (keys !== "") this.#text(keys);
      this.#character(character);
    } else this.#text(keys + character);
  }

  /** Takes pasted text from a position on, at most to the end mark. Returns the position after it. */
  #takePasted(text: string, at: number): number {
    const parts = this.#pasted!;
    // The mark may have begun in the text before.
    const begun = parts
      .slice(-PASTE_END.length)
      .join("")
      .slice(-(PASTE_END.length - 1));
    const end = `${begun}${text.slice(at)}`.indexOf(PASTE_END);
    if (end < 0) {
      parts.push(text.slice(at));
      return text.length;
    }
    const after = at + end + PASTE_END.length - begun.length;
    parts.push(text.slice(at, after));
    this.#pasted = null;
    const pasted = parts.join("").slice(0, -PASTE_END.length);
    if (this.#burst === "") this.#handlers.paste(pasted);
    else this.#burst += pasted;
    return after;
  }

  #sequence(sequence: string): void {
    this.#clearHeld();
    if (sequence === PASTE_START) this.#pasted = [];
    else if (sequence === FOCUS_IN || sequence === FOCUS_OUT) this.#handlers.focus(sequence === FOCUS_IN);
    else if (this.#burst !== "") this.#burst += " "; // An end mark without its start: what came before was pasted.
  }

  #clearHeld(): void {
    this.#held = "";
    this.#isEscapeReported = false;
  }

  #act(character: string): void {
    if (character === INTERRUPT) {
      this.#burst = "";
      return this.#handlers.interrupt();
    }
    if (this.#burst !== "" || (isWaiting(character) && !this.isQuestion)) this.#burst += character;
    else if (character === END) this.#handlers.end();
    else this.#handlers.keys(character);
  }

  #text(text: string): void {
    if (this.#burst === "") this.#handlers.keys(text);
    else this.#burst += text;
  }

  #restart(): void {
    this.stop();
    this.#timer = setTimeout(() => this.#quiet(), QUIET_MS);
  }

  /** Nothing has followed in time. */
  #quiet(): void {
    this.#timer = null;
    if (this.#held === ESCAPE && !this.#isEscapeReported) {
      // The rest of a sequence may still arrive over a slow line: the ESC stays held, and is only reported.
      this.#isEscapeReported = true;
      if (this.#burst === "") this.#handlers.escape();
    }
    // A sequence or a paste that has begun belongs to the burst: it is incomplete.
    if (this.#held.length > 1 || this.#pasted !== null || this.#burst === "") return;
    this.#endBurst();
  }

  #endBurst(): void {
    const burst = this.#burst;
    this.#burst = "";
    const [, typed, last] = TYPED.exec(burst) ?? [];
    if (last === undefined) return this.#handlers.burst(burst);
    if (typed !== "") this.#handlers.keys(typed!);
    if (last.startsWith("\t")) for (const _ of last) this.#handlers.tab();
    else this.#handlers.enter();
  }
}

/** Enter and Tab, which wait for a pause. */
function isWaiting(character: string): boolean {
  return character === "\r" || character === "\n" || character === "\t";
}

/** A key that acts, at once or after a pause: Enter, Tab, Ctrl+C or Ctrl+D. */
function isActing(character: string): boolean {
  return isWaiting(character) || character === INTERRUPT || character === END;
}
