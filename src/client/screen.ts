import { type Interface, createInterface } from "node:readline";
import { Writable } from "node:stream";

/** What readline keeps to itself, and we must set: rows of the prompt above the cursor, and the lines typed before. */
interface Hidden {
  prevRows: number;
  history: string[];
}

/** A terminal: a prompt below, and above it what arrives, which never tears the line that is being typed. */
export class Screen {
  readonly #output: NodeJS.WriteStream;
  readonly #readline: Interface & Hidden;
  #muted = false;
  #closed = false;
  #answer: ((line: string | null) => void) | null = null;
  /** Hears the lines that no question waits for. */
  onLine: (line: string) => void = () => {};
  /** Hears Ctrl+C, Ctrl+D and the terminal's end. */
  onQuit: () => void = () => {};

  /** `complete` is what readline calls a completer. */
  constructor(
    input: NodeJS.ReadStream,
    output: NodeJS.WriteStream,
    complete: (line: string) => [words: string[], typed: string],
  ) {
    this.#output = output;
    this.#readline = createInterface({
      input,
      output: this.#unlessMuted(),
      terminal: true,
      completer: complete,
      historySize: 500,
    }) as Interface & Hidden;
    this.#readline.on("line", (line) => {
      const answer = this.#answer;
      this.#answer = null;
      if (answer !== null) answer(line);
      else this.onLine(line);
    });
    this.#readline.on("SIGINT", () => this.#quit());
    this.#readline.on("close", () => this.#quit());
    output.on("resize", () => this.#readline.emit("resize"));
  }

  /** Readline's own output, dropped while a password is typed. */
  #unlessMuted(): Writable {
    const output = this.#output;
    const stream = new Writable({
      write: (chunk, _encoding, done) => {
        if (!this.#muted) output.write(chunk);
        done();
      },
    });
    return Object.defineProperties(stream, {
      columns: { get: () => output.columns },
      rows: { get: () => output.rows },
      isTTY: { value: true },
    });
  }

  #quit(): void {
    const answer = this.#answer;
    this.#answer = null;
    if (answer !== null) answer(null);
    else this.onQuit();
  }

  /** A line typed behind `question`; null when there will be none. With `secret` it is neither shown nor remembered. */
  async ask(question: string, secret = false): Promise<string | null> {
    if (this.#closed) return null;
    const { history } = this.#readline;
    const before = history.slice();
    this.#readline.setPrompt(question);
    this.#readline.prompt();
    this.#muted = secret;
    const line = await new Promise<string | null>((resolve) => (this.#answer = resolve));
    if (this.#muted) this.#output.write("\n");
    this.#muted = false;
    // Names and passwords are no commands: none of them comes back with the arrow keys.
    history.splice(0, history.length, ...before);
    this.#readline.setPrompt("");
    return line;
  }

  /** From now on lines are commands, typed behind `prompt`. */
  setPrompt(prompt: string): void {
    if (this.#closed) return;
    this.#erase();
    this.#readline.setPrompt(prompt);
    this.#redraw();
  }

  /** Shows the prompt again, after a command. */
  prompt(): void {
    if (!this.#closed && this.#answer === null) this.#readline.prompt();
  }

  fail(text: string): void {
    this.print(text);
  }

  /** Prints a line above the prompt and what is typed there. */
  print(text: string): void {
    if (this.#closed || this.#answer !== null) return void this.#output.write(`${text}\n`);
    this.#erase();
    this.#output.write(`${text}\n`);
    this.#redraw();
  }

  /** Shows prompt and typed line at the cursor's row. */
  #redraw(): void {
    // Else readline would go up to where the prompt began before, and erase what was just printed there.
    this.#readline.prevRows = 0;
    this.#readline.prompt(true);
  }

  /** Takes the prompt and what is typed behind it off the screen. */
  #erase(): void {
    const { rows } = this.#readline.getCursorPos();
    this.#output.write(`\r${rows > 0 ? `\x1b[${rows}A` : ""}\x1b[J`);
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
