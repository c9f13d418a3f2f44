import { type Interface, createInterface } from "node:readline";
import { Writable } from "node:stream";
import { keyboard } from "../runtime/keyboard.ts";
import { type Printable, rendered, rowsOf, widthOf } from "./display.ts";
import type { OutputWriter } from "./output.ts";

/** What readline keeps to itself, and we must set: rows of the prompt above the cursor, and the lines typed before. */
interface Hidden {
  prevRows: number;
  history: string[];
}

/** More lines than any screen has rows. */
const RECENT_MAX = 300;

/** A terminal: a prompt below, and above it what arrives, which never tears the line that is being typed. */
export class Screen {
  readonly #input: NodeJS.ReadStream;
  readonly #output: NodeJS.WriteStream;
  readonly #writer: OutputWriter;
  readonly #readline: Interface & Hidden;
  /** Nothing typed is shown: it may be a password that comes before it was asked for. */
  #muted = true;
  #closed = false;
  /** The last lines, and how wide the terminal was when they were printed. */
  readonly #recent: { line: Printable; columns: number }[] = [];
  #answer: ((line: string | null) => void) | null = null;
  /** Hears the lines that no question waits for. */
  onLine: (line: string) => void = () => {};
  /** Called at Ctrl+C with true; at Ctrl+D, a signal and the terminal's end with false, perhaps more than once. */
  onQuit: (byCtrlC: boolean) => void = () => {};

  /** `writer` writes to `output`; `complete` is what readline calls a completer. */
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
      output: this.#unlessMuted(),
      terminal: true,
      completer: complete,
      historySize: 500,
    }) as Interface & Hidden;
    this.#readline.on("line", (line) => {
      const answer = this.#answer;
      this.#answer = null;
      if (answer !== null) return answer(line);
      this.#redraw();
      this.onLine(line);
    });
    this.#readline.on("SIGINT", () => this.quit(true));
    this.#readline.on("SIGTSTP", () => this.#suspend());
    this.#readline.on("close", () => this.quit(false));
    output.on("resize", () => this.#resized());
  }

  /** Readline's own output, dropped while it is muted. */
  #unlessMuted(): Writable {
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

  /** The user wants to leave, or the terminal is gone. An open question is answered with null. */
  quit(byCtrlC: boolean): void {
    const answer = this.#answer;
    this.#answer = null;
    if (answer !== null) answer(null);
    else this.onQuit(byCtrlC);
  }

  /**
   * Ctrl+Z: goes on when somebody says `fg`, or at once where there is no shell to say it to. All of the shell's job
   * stops, since whoever started this program (`bun run`) would wait for it in the foreground.
   */
  #suspend(): void {
    this.#input.setRawMode(false);
    process.kill(0, "SIGTSTP");
    this.#input.setRawMode(true);
    this.#redraw();
  }

  /** A line typed behind `question`; null when there will be none. With `secret` it is neither shown nor remembered. */
  async ask(question: string, secret = false): Promise<string | null> {
    if (this.#closed) return null;
    const { history } = this.#readline;
    const before = history.slice();
    this.#readline.setPrompt(question);
    this.#muted = secret;
    this.#redraw();
    const line = await new Promise<string | null>((resolve) => (this.#answer = resolve));
    if (secret) this.#write("\n");
    this.#muted = true;
    // Names and passwords are no commands: none of them comes back with the arrow keys.
    history.splice(0, history.length, ...before);
    this.#readline.setPrompt("");
    return line;
  }

  /** From now on lines are commands, typed behind `prompt`. */
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

  /** Prints a line above the prompt and what is typed there; resolves when the terminal took it. */
  print(line: Printable): Promise<void> {
    if (this.#closed || this.#answer !== null) return this.#write(rendered(line, this.#output));
    this.#erase();
    const printed = this.#write(rendered(line, this.#output));
    this.#redraw();
    this.#recent.push({ line, columns: this.#output.columns });
    if (this.#recent.length > RECENT_MAX) this.#recent.shift();
    return printed;
  }

  /**
   * A terminal that got narrower has broken rows into two, and the second is not indented: what of them is on the
   * screen is printed again. What has left the screen by then stays as the terminal shows it.
   */
  #resized(): void {
    const { columns, rows } = this.#output;
    if (this.#closed || this.#answer !== null) return;
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

  /** Shows prompt and typed line at the cursor's row. */
  #redraw(): void {
    // Else readline would go up to where the prompt began before, and erase what was just printed there.
    this.#readline.prevRows = 0;
    if (this.#muted) this.#write(this.#readline.getPrompt());
    this.#readline.prompt(true);
  }

  /** Takes the prompt and what is typed behind it off the screen. */
  #erase(): void {
    const { rows } = this.#readline.getCursorPos();
    this.#write(`\r${rows > 0 ? `\x1b[${rows}A` : ""}\x1b[J`);
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#erase();
    this.#answer = null;
    this.onQuit = () => {};
    this.#readline.close();
  }
}
