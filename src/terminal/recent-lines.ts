import type { Printable } from "./display.ts";
import { INDENT_MIN, rowsOf, widthOf } from "./rows.ts";

/**
 * The last printed lines, for a terminal that becomes narrower: it has broken long rows in two, and the second row is
 * not indented, so the lines that are still on the screen are printed again. Lines that have left the screen stay as
 * the terminal broke them.
 */

/** More lines than any screen has rows. */
const LINES_MAX = 300;
/** With more columns, continuation rows begin under the text after the time `HH:MM `. */
const NARROW_COLUMNS = 40;
const INDENT_OF_TIME = 6;

/** Columns by which continuation rows are indented. */
export function indentFor(columns: number): number {
  return columns >= NARROW_COLUMNS ? INDENT_OF_TIME : INDENT_MIN;
}

export class RecentLines {
  /** With the width of the terminal when they were printed. */
  readonly #lines: { line: Printable; columns: number }[] = [];

  add(lines: readonly Printable[], columns: number): void {
    for (const line of lines.slice(-LINES_MAX)) this.#lines.push({ line, columns });
    if (this.#lines.length > LINES_MAX) this.#lines.splice(0, this.#lines.length - LINES_MAX);
  }

  /**
   * The lines to print again at this width, and the rows from the first of them to the prompt; null when nothing has
   * been broken. `rowsMax`: rows above the prompt. The lines count as printed at this width from now on.
   */
  broken(columns: number, rowsMax: number): { lines: Printable[]; rows: number } | null {
    let [first, rows] = [this.#lines.length, 0];
    while (first > 0 && rows < rowsMax) {
      const { line, columns: before } = this.#lines[--first]!;
      for (const row of rowsOf(line, before, indentFor(before))) rows += Math.max(1, Math.ceil(widthOf(row) / columns));
    }
    const visible = this.#lines.slice(first);
    if (visible.every(({ columns: before }) => before <= columns)) return null;
    for (const each of visible) each.columns = columns;
    return { lines: visible.map(({ line }) => line), rows: Math.min(rows, rowsMax) };
  }
}
