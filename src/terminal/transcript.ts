import type { Display, Printable } from "./display.ts";
import { printable, time } from "./display.ts";

/** The lines of a chat on a screen, each with its time, and the day before the first line of a day. */

/** Where lines go. */
export interface LinePrinter {
  /** Prints lines after a control sequence; resolves when the kernel took them. */
  printAll(lines: readonly Printable[], control?: string): Promise<void>;
}

export interface TimedLine {
  line: Printable;
  /** Null: the line has no time. */
  unixMs: number | null;
}

/** Lines that `find` searches when nothing is logged. */
const SEEN_MAX = 5_000;

/** A text that was sent or received. */
export interface Entry {
  unixMs: number;
  /** The other side: a user, or `all`. */
  partner: string;
  from: string;
  text: string;
}

export class Transcript {
  readonly #printer: LinePrinter;
  readonly #display: Display;
  readonly #nowMs: () => number;
  /** The day of the last line; null before the first one. */
  #day: string | null = null;
  readonly #seen: Entry[] = [];

  constructor(printer: LinePrinter, display: Display, nowMs: () => number = Date.now) {
    this.#printer = printer;
    this.#display = display;
    this.#nowMs = nowMs;
  }

  /** Prints a line of the program. */
  note(text: string): void {
    void this.printNow([this.#display.note(text)]);
  }

  failure(text: string): void {
    void this.printNow([this.#display.failure(text)]);
  }

  question(text: string): void {
    void this.printNow([this.#display.question(text)]);
  }

  /** Prints lines with the present time. */
  printNow(lines: readonly Printable[], control = ""): Promise<void> {
    const unixMs = this.#nowMs();
    return this.print(
      lines.map((line) => ({ line, unixMs })),
      control,
    );
  }

  /** Prints lines with their times, and those without a time as they are. */
  print(lines: readonly TimedLine[], control = ""): Promise<void> {
    const all: Printable[] = [];
    // Not earlier: the first local time of a process costs 5 ms.
    this.#day ??= dayOf(this.#nowMs());
    for (const { line, unixMs } of lines) {
      if (unixMs === null) {
        all.push(line);
        continue;
      }
      const day = dayOf(unixMs);
      if (day !== this.#day) {
        this.#day = day;
        all.push(this.#display.day(unixMs));
      }
      all.push(this.#display.timed(line, unixMs));
    }
    return this.#printer.printAll(all, control);
  }

  /** Prints lines as they are, such as a page of help. */
  plain(lines: readonly string[]): void {
    void this.#printer.printAll(lines.map(printable));
  }

  remember(entry: Entry): void {
    this.#seen.push(entry);
    if (this.#seen.length >= 2 * SEEN_MAX) this.#seen.splice(0, SEEN_MAX);
  }

  /** The texts of this run, the oldest first. */
  get seen(): readonly Entry[] {
    return this.#seen;
  }
}

let dayStartMs = Number.NaN;
let dayText = "";

/** The local day; computed anew once an hour at most, since most lines are of the present hour. */
function dayOf(unixMs: number): string {
  const startMs = unixMs - (unixMs % 900_000);
  if (startMs !== dayStartMs) [dayStartMs, dayText] = [startMs, time(unixMs).slice(0, 10)];
  return dayText;
}
