import { EventEmitter } from "node:events";
import { type Interface, createInterface } from "node:readline";
import { Writable } from "node:stream";
import type { OutputWriter } from "../runtime/output.ts";
import type { Edit } from "./completion.ts";
import { type Printable, printable } from "./display.ts";
import { KeySplitter } from "./keys.ts";
import { RecentLines, indentFor } from "./recent-lines.ts";
import { renderedRows, rowsOf } from "./rows.ts";

/** Internal members of readline that this file uses. */
interface ReadlineInternals {
  line: string;
  cursor: number;
  /** Rows between the first row of the prompt and the cursor. */
  prevRows: number;
  /** The lines typed before, the latest first, for the arrow keys. */
  history: string[];
  historyIndex: number;
  /** Adds `line` to the history. */
  _addHistory(): void;
}

export const HISTORY_MAX = 500;
/** Bracketed paste (DECSET 2004) and reports of the focus (1004). */
const MODES_ON = "\x1b[?2004h\x1b[?1004h";
const MODES_OFF = "\x1b[?2004l\x1b[?1004l";

/** What becomes of a typed line at Enter: it stays on the screen, is erased, or stays in the editor. */
export type LineFate = "keep" | "erase" | "hold";

/** Calls for what the user does at the prompt. */
export interface PromptHandlers {
  line(line: string): LineFate;
  /**
   * A text was pasted, or, when `isMarked` is false, arrived at once with line ends or tabs inside. Returns what is
   * inserted at the cursor.
   */
  paste(text: string, isMarked: boolean): string;
  tab(): void;
  escape(): void;
  interrupt(): void;
  /** Ctrl+D with an empty line. */
  end(): void;
  focus(hasFocus: boolean): void;
  /** Any key. */
  key(): void;
}

/**
 * A terminal: the prompt with the typed line at the bottom, printed lines above it. Printing keeps the typed line
 * intact. It does not know what the lines mean.
 */
export class Screen {
  readonly #input: NodeJS.ReadStream;
  readonly #output: NodeJS.WriteStream;
  readonly #writer: OutputWriter;
  readonly #keys: KeySplitter;
  /** The input of readline: it gets the keys that do not act. */
  readonly #editorInput = Object.assign(new EventEmitter(), { isTTY: true, resume() {}, pause() {} });
  readonly #readline: Interface & ReadlineInternals;
  /** Whether the terminal understands escape sequences. */
  readonly #hasEscapes: boolean;
  /** Typed characters are not shown. True before a question, too: they may be a password that is typed early. */
  #muted = true;
  #closed = false;
  readonly #recent = new RecentLines();
  /** Resolves the open question of `ask`; null when there is none. */
  #resolveQuestion: ((line: string | null) => void) | null = null;
  #resizeTimer: Timer | null = null;
  /** Prints that wait until the line at Enter is in its place; null outside. */
  #later: (() => void)[] | null = null;
  /** Null before the first prompt. */
  #handlers: PromptHandlers | null = null;
  /** The last report of the terminal; null: none. */
  #hasFocus: boolean | null = null;
  /** Called with true for Ctrl+C at a question; with false for Ctrl+D, a signal or a closed terminal, perhaps twice. */
  onQuit: (byCtrlC: boolean) => void = () => {};

  /** `writer` writes to `output`. */
  constructor(input: NodeJS.ReadStream, output: NodeJS.WriteStream, writer: OutputWriter, hasEscapes = true) {
    this.#input = input;
    this.#output = output;
    this.#writer = writer;
    this.#hasEscapes = hasEscapes;
    this.#keys = new KeySplitter({
      keys: (text) => {
        this.#editorInput.emit("data", Buffer.from(text));
        this.#handlers?.key();
      },
      enter: () => this.#enter(),
      tab: () => this.#handlers?.tab(),
      escape: () => this.#handlers?.escape(),
      interrupt: () => (this.#isPrompt ? this.#handlers!.interrupt() : this.quit(true)),
      end: () => this.#end(),
      paste: (text) => this.#paste(text, true),
      burst: (text) => this.#paste(text, false),
      focus: (hasFocus) => {
        this.#hasFocus = hasFocus;
        this.#handlers?.focus(hasFocus);
      },
    });
    this.#readline = createInterface({
      input: Object.assign(this.#editorInput, { setRawMode: (isRaw: boolean) => input.setRawMode(isRaw) }) as never,
      output: this.#readlineOutput(),
      terminal: true,
      historySize: HISTORY_MAX,
      escapeCodeTimeout: 50,
    }) as Interface & ReadlineInternals;
    this.#readline.on("line", (line) => this.#takeQuestion()?.(line));
    this.#readline.on("SIGTSTP", () => this.#suspend());
    this.#readline.on("close", () => this.quit(false));
    input.on("data", (bytes: Buffer) => this.#keys.feed(bytes));
    for (const end of ["error", "close", "end"]) input.on(end, () => this.quit(false));
    output.on("resize", () => this.#resized());
    this.writeControl(MODES_ON);
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

  /** What the user does at the prompt goes there from now on. */
  set handlers(handlers: PromptHandlers) {
    this.#handlers = handlers;
    if (this.#hasFocus !== null) handlers.focus(this.#hasFocus);
  }

  get #isPrompt(): boolean {
    return this.#handlers !== null && this.#resolveQuestion === null;
  }

  get columns(): number {
    return this.#output.columns;
  }

  get rows(): number {
    return this.#output.rows;
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

  #enter(): void {
    if (!this.#isPrompt) return void this.#editorInput.emit("data", Buffer.from("\r"));
    const handlers = this.#handlers;
    handlers!.key();
    this.#later = [];
    const fate = handlers!.line(this.#readline.line);
    if (fate !== "hold" && !this.#closed) this.#take(fate);
    const later = this.#later;
    this.#later = null;
    for (const print of later) print();
  }

  #take(fate: "keep" | "erase"): void {
    if (fate === "keep") {
      const line = printable(this.#readline.getPrompt() + this.#readline.line);
      this.#recent.add([line], this.#output.columns);
      this.#editorInput.emit("data", Buffer.from("\r"));
    } else {
      this.#erase();
      this.#readline._addHistory();
      this.#readline.line = "";
      this.#readline.cursor = 0;
    }
    this.#readline.historyIndex = -1;
    this.#redraw();
  }

  #end(): void {
    if (this.#isPrompt && this.#readline.line === "") this.#handlers!.end();
    else if (this.#isPrompt || this.#readline.line !== "") this.#editorInput.emit("data", Buffer.from("\x04"));
    else this.quit(false);
  }

  #paste(text: string, isMarked: boolean): void {
    // The answer to a question is one line.
    const inserted = this.#isPrompt ? this.#handlers!.paste(text, isMarked) : text.split(/[\r\n]/, 1)[0]!;
    // The line editor would take control characters for keys.
    const typed = inserted.replace(/\p{Cc}/gu, " ");
    if (typed !== "") this.#editorInput.emit("data", Buffer.from(typed));
    this.#handlers?.key();
  }

  /** The typed line. */
  get edit(): Edit {
    return { line: this.#readline.line, cursor: this.#readline.cursor };
  }

  set edit({ line, cursor }: Edit) {
    if (this.#closed) return;
    this.#erase();
    this.#readline.line = line;
    this.#readline.cursor = cursor;
    this.#redraw();
  }

  /** Lines for the arrow keys, the latest first. */
  set history(lines: string[]) {
    this.#readline.history.splice(0, Number.POSITIVE_INFINITY, ...lines);
  }

  /**
   * Ctrl+Z: stops until `fg`; without a job-control shell it continues at once. The signal goes to the process group,
   * since the parent (`bun run`) would otherwise keep waiting in the foreground.
   */
  #suspend(): void {
    this.writeControl(MODES_OFF);
    this.#input.setRawMode(false);
    process.kill(0, "SIGTSTP");
    this.#input.setRawMode(true);
    this.writeControl(MODES_ON);
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

  /** Shows a prompt, broken at words; what is typed goes to `handlers` from now on. */
  setPrompt(text: string): void {
    const prompt = rowsOf(printable(text), this.#output.columns, 0).join("\n");
    if (this.#closed || (!this.#muted && prompt === this.#readline.getPrompt())) return;
    this.#erase();
    this.#muted = false;
    this.#keys.isQuestion = false;
    this.#readline.setPrompt(prompt);
    this.#redraw();
  }

  fail(line: Printable): void {
    void this.print(line);
  }

  /** Prints a line above the prompt and the typed line; resolves when the kernel took it. */
  print(line: Printable): Promise<void> {
    return this.printAll([line]);
  }

  /** Prints lines, after a control sequence. What is printed during a call of `handlers.line` comes after that line. */
  printAll(lines: readonly Printable[], control = ""): Promise<void> {
    const later = this.#later;
    if (later !== null)
      return new Promise((resolve) => later.push(() => void this.printAll(lines, control).then(resolve)));
    const { columns } = this.#output;
    const format = { columns, indent: indentFor(columns), hasEscapes: this.#hasEscapes };
    let text = this.#hasEscapes || control === "\x07" ? control : "";
    for (const line of lines) text += renderedRows(line, format);
    if (this.#closed || this.#resolveQuestion !== null) return this.#write(text);
    this.#erase();
    const printed = this.#write(text);
    this.#redraw();
    this.#recent.add(lines, columns);
    return printed;
  }

  /** Writes a sequence that moves nothing and shows nothing. */
  writeControl(sequence: string): void {
    if (this.#hasEscapes && sequence !== "" && !this.#closed) void this.#write(sequence);
  }

  /** Sizes that change faster than this are one change: in between, the terminal is not in the size it reported. */
  #resized(): void {
    if (this.#resizeTimer !== null) clearTimeout(this.#resizeTimer);
    this.#resizeTimer = setTimeout(() => this.#reprint(), 20);
  }

  /** Prints the lines again that a narrower terminal has broken. */
  #reprint(): void {
    this.#resizeTimer = null;
    const { columns, rows } = this.#output;
    if (this.#closed || this.#resolveQuestion !== null || !this.#hasEscapes) return;
    const broken = this.#recent.broken(columns, rows - 1 - this.#readline.getCursorPos().rows);
    if (broken === null) return;
    this.#erase();
    this.#write(`\x1b[${broken.rows}A\x1b[J`);
    for (const line of broken.lines) this.#write(renderedRows(line, { columns, indent: indentFor(columns) }));
    this.#redraw();
  }

  #write(text: string): Promise<void> {
    return this.#writer.write(text);
  }

  /** Shows the prompt and the typed line from the cursor's row on. */
  #redraw(): void {
    if (this.#closed) return;
    const prompt = this.#readline.getPrompt();
    if (!this.#hasEscapes) return void this.#write(this.#muted ? prompt : prompt + this.#readline.line);
    // Otherwise readline moves up to the former first row of the prompt and erases the line printed there.
    this.#readline.prevRows = 0;
    if (this.#muted) this.#write(prompt);
    this.#readline.prompt(true);
  }

  /** Removes the prompt and the typed line from the screen. */
  #erase(): void {
    if (!this.#hasEscapes) return void (this.#muted || this.#write("\n"));
    const { rows } = this.#readline.getCursorPos();
    this.#write(`\r${rows > 0 ? `\x1b[${rows}A` : ""}\x1b[J`);
  }

  close(): void {
    if (this.#closed) return;
    this.#erase();
    this.writeControl(MODES_OFF);
    this.#closed = true;
    this.#keys.stop();
    if (this.#resizeTimer !== null) clearTimeout(this.#resizeTimer);
    this.#resolveQuestion = null;
    this.onQuit = () => {};
    this.#readline.close();
    this.#input.pause();
  }
}
