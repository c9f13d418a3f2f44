import { Terminal } from "@xterm/headless";
import { join } from "node:path";

const root = join(import.meta.dir, "../..");

/** Cells next to each other that look the same. `color` is one of the 16 of a terminal, -1 for the default. */
export interface StyledText {
  color: number;
  isBold: boolean;
  isDim: boolean;
  isInverse: boolean;
  text: string;
}

/** A program of the project on a pseudo-terminal, and the screen that a person sees (xterm). */
export class Pty {
  readonly #screen: Terminal;
  readonly #process: Bun.Subprocess;
  readonly #watchers = new Set<() => void>();
  /** Everything that the program has written, with escape sequences. */
  written = "";
  /** The title of the window, and how often the bell has rung. */
  title = "";
  bells = 0;
  #columns: number;
  #rows: number;

  constructor(
    args: readonly string[],
    { columns = 60, rows = 20, env = {} as Record<string, string>, program = process.execPath } = {},
  ) {
    this.#columns = columns;
    this.#rows = rows;
    this.#screen = new Terminal({ cols: columns, rows, allowProposedApi: true });
    this.#screen.onTitleChange((title) => (this.title = title));
    this.#screen.onBell(() => this.bells++);
    const decoder = new TextDecoder();
    this.#process = Bun.spawn([program, ...args], {
      cwd: root,
      env: { PATH: process.env.PATH, HOME: process.env.HOME, TERM: "xterm-256color", ...env },
      terminal: {
        cols: columns,
        rows,
        data: (_terminal, bytes) => {
          this.written += decoder.decode(bytes, { stream: true });
          // A copy: xterm reads the bytes later.
          this.#screen.write(Uint8Array.from(bytes), () => this.#notify());
        },
      },
    });
  }

  get exited(): Promise<number> {
    return this.#process.exited;
  }

  /** The rows of the screen without spaces at their ends, and without empty rows at the bottom. */
  get lines(): string[] {
    const { active } = this.#screen.buffer;
    const lines: string[] = [];
    for (let row = 0; row < this.#rows; row++) {
      lines.push(
        active
          .getLine(active.baseY + row)
          ?.translateToString()
          .trimEnd() ?? "",
      );
    }
    while (lines.at(-1) === "") lines.pop();
    return lines;
  }

  /** The rows of the screen and those that have left it at the top. */
  get scrollback(): string[] {
    const { active } = this.#screen.buffer;
    const rows = Array.from({ length: active.baseY }, (_, row) => active.getLine(row)!.translateToString().trimEnd());
    return [...rows, ...this.lines];
  }

  /** Whether any cell of the screen is coloured, bold or dim. */
  get colored(): boolean {
    const { active } = this.#screen.buffer;
    for (let row = 0; row < this.#rows; row++) {
      for (let column = 0; column < this.#columns; column++) {
        const cell = active.getLine(active.baseY + row)?.getCell(column);
        if (cell !== undefined && (!cell.isFgDefault() || cell.isDim() !== 0 || cell.isBold() !== 0)) return true;
      }
    }
    return false;
  }

  /** The rows of the screen as runs of cells that look the same. */
  get styled(): StyledText[][] {
    const { active } = this.#screen.buffer;
    return this.lines.map((line, row) => {
      const runs: StyledText[] = [];
      for (let column = 0; column < line.length; column++) {
        const cell = active.getLine(active.baseY + row)!.getCell(column)!;
        const [color, isBold, isDim] = [cell.isFgDefault() ? -1 : cell.getFgColor(), cell.isBold(), cell.isDim()];
        const style = { color, isBold: isBold !== 0, isDim: isDim !== 0, isInverse: cell.isInverse() !== 0 };
        const last = runs.at(-1);
        const isSame =
          last !== undefined && JSON.stringify({ ...last, text: "" }) === JSON.stringify({ ...style, text: "" });
        if (isSame) last.text += cell.getChars() || " ";
        else runs.push({ ...style, text: cell.getChars() || " " });
      }
      return runs;
    });
  }

  type(text: string): void {
    this.#process.terminal!.write(text);
  }

  resize(columns: number, rows = this.#rows): void {
    this.#columns = columns;
    this.#rows = rows;
    this.#screen.resize(columns, this.#rows);
    this.#process.terminal!.resize(columns, this.#rows);
  }

  /** Resolves when the rows of the screen meet the condition; the time limit of the test ends the wait. */
  async until(condition: (lines: string[]) => boolean): Promise<string[]> {
    while (!condition(this.lines)) {
      await new Promise<void>((resolve) => {
        const watcher = (): void => {
          this.#watchers.delete(watcher);
          resolve();
        };
        this.#watchers.add(watcher);
      });
    }
    return this.lines;
  }

  /** The text on the screen without time and indents, as if no row was ever broken at a word. */
  get text(): string {
    return this.lines.join(" ").replace(/ +/g, " ");
  }

  /** Resolves when a row of the screen contains the text. */
  async sees(text: string): Promise<string[]> {
    return this.until((lines) => lines.some((line) => line.includes(text)));
  }

  kill(signal: NodeJS.Signals): void {
    this.#process.kill(signal);
  }

  /** Closes the terminal, as a closed window does. */
  hangUp(): void {
    this.#process.terminal!.close();
  }

  end(): void {
    this.#process.kill();
    this.#process.terminal?.close();
  }

  #notify(): void {
    for (const watcher of [...this.#watchers]) watcher();
  }
}
