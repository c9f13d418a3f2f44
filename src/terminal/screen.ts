import { type Interface, createInterface } from "node:readline";
import { Writable } from "node:stream";
import { keyboard } from "../runtime/keyboard.ts";
import { type Printable, rendered, rowsOf, widthOf } from "./display.ts";
import type { OutputWriter } from "../runtime/output.ts";

/** Internal fields of readline that this file sets. */
interface ReadlineInternals {
  /** Rows between the first row of the prompt and the cursor. */
  prevRows: number;
  /** The lines typed before, for the arrow keys. */
  history: string[];
}

/** More lines than any screen has rows. */
const RECENT_MAX = 300;
const HISTORY_MAX = 500;

/**
 * A terminal: the prompt with the typed line at the bottom, printed lines above it. Printing keeps the typed line
 * intact. It does not know what the lines mean.
 */
export class Screen {
  readonly #input: NodeJS.ReadStream;
  readonly #output: NodeJS.WriteStream;
  readonly #writer: OutputWriter;
  readonly #readline: Interface & ReadlineInternals;
  /** Typed characters are not shown. True before a question, too: they may be a password that is typed early. */
  #muted = true;
  #closed = false;
  /** The last printed lines, and the width of the terminal when they were printed. */
  readonly #recent: { line: Printable; columns: number }[] = [];
  /** Resolves the open question of `ask`; null when there is none. */
  #resolveQuestion: ((line: string | null) => void) | null = null;
  /** Called with each line that is not the answer to a question. */
  onLine: (line: string) => void = () => {};
  /** Called with true for Ctrl+C; with false for Ctrl+D, a signal or a closed terminal, possibly more than once. */
  onQuit: (byCtrlC: boolean) => void = () => {};

  /** `writer` writes to `output`; `complete` is a completer for readline. */
  constructor(
    input: NodeJS.ReadStream,
    output: NodeJS.WriteStream,
    writer: OutputWriter,
    complete: (line: string) => [words: string[], typed: string],
  ) {
    this.#input = input;
    this.#output = output;
    this.#writer = writer;
    this.#readline = createInterface({
      input: keyboard(input),
      output: this.#readlineOutput(),
      terminal: true,
      completer: complete,
      historySize: HISTORY_MAX,
    }) as Interface & ReadlineInternals;
    this.#readline.on("line", (line) => {
      const resolve = this.#takeQuestion();
      if (resolve !== null) return resolve(line);
      this.#redraw();
      this.onLine(line);
    });
    this.#readline.on("SIGINT", () => this.quit(true));
    this.#readline.on("SIGTSTP", () => this.#suspend());
    this.#readline.on("close", () => this.quit(false));
    output.on("resize", () => this.#resized());
  }

  /** The stream that readline writes to: drops everything while muted. */
  #readlineOutput(): Writable {
    const output = this.#output;
    const stream = new Writable({
      write: (chunk, _encoding, done) => {
        if (!this.#muted) this.#write(String(chunk));
        done();
      },
    });
    return Object.defineProperties(stream, {
      columns: { get: () => output.columns },
      rows: { get: () => output.rows },
      isTTY: { value: true },
    });
  }

  /** The user wants to leave, or the terminal was closed. An open question resolves with null. */
  quit(byCtrlC: boolean): void {
    const resolve = this.#takeQuestion();
    if (resolve !== null) resolve(null);
    else this.onQuit(byCtrlC);
  }

  #takeQuestion(): ((line: string | null) => void) | null {
    const resolve = this.#resolveQuestion;
    this.#resolveQuestion = null;
    return resolve;
  }

  /**
   * Ctrl+Z: stops until `fg`; without a job-control shell it continues at once. The signal goes to the process group,
   * since the parent (`bun run`) would otherwise keep waiting in the foreground.
   */
  #suspend(): void {
    this.#input.setRawMode(false);
    process.kill(0, "SIGTSTP");
    this.#input.setRawMode(true);
    this.#redraw();
  }

  /** Shows a question and returns the typed line; null when the user leaves. A `secret` line is not shown. */
  async ask(question: string, secret = false): Promise<string | null> {
    if (this.#closed) return null;
    const { history } = this.#readline;
    const before = history.slice();
    this.#readline.setPrompt(question);
    this.#muted = secret;
    this.#redraw();
    const line = await new Promise<string | null>((resolve) => (this.#resolveQuestion = resolve));
    if (secret) this.#write("\n");
    this.#muted = true;
    // The arrow keys bring back commands, not names and passwords.
    history.splice(0, history.length, ...before);
    this.#readline.setPrompt("");
    return line;
  }

  /** Shows a prompt; typed lines go to `onLine` from now on. */
  setPrompt(prompt: string): void {
    if (this.#closed) return;
    this.#erase();
    this.#muted = false;
    this.#readline.setPrompt(prompt);
    this.#redraw();
  }

  fail(line: Printable): void {
    void this.print(line);
  }

  /** Prints a line above the prompt and the typed line; resolves when the kernel took it. */
  print(line: Printable): Promise<void> {
    if (this.#closed || this.#resolveQuestion !== null) return this.#write(rendered(line, this.#output));
    this.#erase();
    const printed = this.#write(rendered(line, this.#output));
    this.#redraw();
    this.#recent.push({ line, columns: this.#output.columns });
    if (this.#recent.length > RECENT_MAX) this.#recent.shift();
    return printed;
  }

  /**
   * A terminal that became narrower has broken long rows in two, and the second row is not indented: the lines that are
   * still on the screen are printed again. Lines that have left the screen stay as the terminal broke them.
   */
  #resized(): void {
    const { columns, rows } = this.#output;
    if (this.#closed || this.#resolveQuestion !== null) return;
    const room = rows - 1 - this.#readline.getCursorPos().rows;
    let first = this.#recent.length;
    let height = 0;
    while (first > 0 && height < room) {
      const { line, columns: before } = this.#recent[--first]!;
      for (const row of rowsOf(line, before)) height += Math.max(1, Math.ceil(widthOf(row) / columns));
    }
    const visible = this.#recent.slice(first);
    if (visible.every(({ columns: before }) => before <= columns)) return;
    this.#erase();
    this.#write(`\x1b[${Math.min(height, room)}A\x1b[J`);
    for (const recent of visible) {
      this.#write(rendered(recent.line, this.#output));
      recent.columns = columns;
    }
    this.#redraw();
  }

  #write(text: string | Uint8Array): Promise<void> {
    return this.#writer.write(text);
  }

  /** Shows the prompt and the typed line from the cursor's row on. */
  #redraw(): void {
    // Otherwise readline moves up to the former first row of the prompt and erases the line printed there.
    this.#readline.prevRows = 0;
    if (this.#muted) this.#write(this.#readline.getPrompt());
    this.#readline.prompt(true);
  }

  /** Removes the prompt and the typed line from the screen. */
  #erase(): void {
    const { rows } = this.#readline.getCursorPos();
    this.#write(`\r${rows > 0 ? `\x1b[${rows}A` : ""}\x1b[J`);
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#erase();
    this.#resolveQuestion = null;
    this.onQuit = () => {};
    this.#readline.close();
  }
}
