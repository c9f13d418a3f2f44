import { encodeText } from "../client/event.ts";
import type { Printable } from "./display.ts";

/** How a line becomes rows of a terminal: broken at words, all rows but the first indented. It filters nothing. */

/** Columns of the indent of a continuation row on a narrow terminal. */
export const INDENT_MIN = 2;
const COLUMNS_DEFAULT = 80;
/** A narrower terminal breaks lines by itself. */
const COLUMNS_MIN = 8;
/** DECAWM. While it is off, a character that is wider than expected does not begin a new row without indent. */
const [AUTOWRAP_OFF, AUTOWRAP_ON] = ["\x1b[?7l", "\x1b[?7h"];
// biome-ignore lint/suspicious/noControlCharactersInRegex: colours begin with ESC
const COLOR = /(\x1b\[\d+m)/g;
const graphemes = new Intl.Segmenter();

/** The width of a terminal, and how many columns a continuation row is indented. */
export interface RowFormat {
  isTTY?: boolean;
  columns?: number;
  indent?: number;
  /** Whether the terminal understands escape sequences; true by default. */
  hasEscapes?: boolean;
}

/**
 * The bytes to write for a line. For a pipe they are the line and LF. For a terminal the line is broken into rows, all
 * but the first indented: otherwise a text could fill its row and continue like the line of another user.
 */
export function rendered(line: Printable, format: RowFormat): Uint8Array {
  if (format.isTTY !== true) return encodeText(`${line}\n`);
  return Buffer.from(renderedRows(line, format));
}

/** As `rendered`, for a terminal. */
export function renderedRows(line: Printable, { columns, indent, hasEscapes = true }: RowFormat): string {
  const rows = rowsOf(line, columns, indent).join("\n");
  return !hasEscapes || /^[\n\x1b-~]*$/.test(rows) ? `${rows}\n` : `${AUTOWRAP_OFF}${rows}${AUTOWRAP_ON}\n`;
}

/** Breaks a line into the rows of a terminal. Colours stay and take no columns. */
export function rowsOf(line: Printable, columns = 0, indent = INDENT_MIN): string[] {
  const limit = columns > 0 ? columns : COLUMNS_DEFAULT;
  if (limit < COLUMNS_MIN) return [line];
  const isColored = line.includes("\x1b");
  const plain = (isColored ? line.replace(COLOR, "") : line).toWellFormed();
  // Plain ASCII, which most texts are: one column per character.
  const isAscii = /^[ -~]*$/.test(plain);
  if (isAscii && plain.length <= limit) return [line];
  const ranges = isAscii ? breakAscii(plain, limit, indent) : breakGraphemes(plain, limit, indent);
  const rows = isColored ? withColors(line.toWellFormed(), ranges) : ranges.map(([from, to]) => plain.slice(from, to));
  return rows.map((row, index) => (index === 0 ? row : " ".repeat(indent) + row));
}

type Range = [from: number, to: number];

/**
 * A row ends before the last space that fits, which is dropped. Without one, and before a word that is wider than a
 * row, it ends where it is full.
 */
function breakAscii(plain: string, limit: number, indent: number): Range[] {
  const ranges: Range[] = [];
  let at = 0;
  for (let room = limit; plain.length - at > room; room = limit - indent) {
    const space = plain.lastIndexOf(" ", at + room);
    const isWord = space > at && wordEnd(plain, space + 1) - space - 1 <= limit - indent;
    const end = isWord ? space : at + room;
    ranges.push([at, end]);
    at = isWord ? end + 1 : end;
  }
  return [...ranges, [at, plain.length]];
}

/** As `breakAscii`, for text whose characters differ in width. */
function breakGraphemes(plain: string, limit: number, indent: number): Range[] {
  const ranges: Range[] = [];
  let [from, width, room] = [0, 0, limit];
  /** The last space of the row, and the width up to it. */
  let [space, spaceWidth] = [-1, 0];
  for (const { segment, index } of graphemes.segment(plain)) {
    const columns = widthOf(segment);
    if (segment === " ") [space, spaceWidth] = [index, width];
    width += columns;
    if (width <= room || index === from) continue;
    const wordWidth = width - spaceWidth - 1;
    const isWord = space > from && widthOf(plain.slice(space + 1, wordEnd(plain, space + 1))) <= limit - indent;
    ranges.push([from, isWord ? space : index]);
    from = isWord ? space + 1 : index;
    width = isWord ? wordWidth : columns;
    [space, spaceWidth, room] = [-1, 0, limit - indent];
  }
  return [...ranges, [from, plain.length]];
}

function wordEnd(plain: string, from: number): number {
  const space = plain.indexOf(" ", from);
  return space < 0 ? plain.length : space;
}

/** The rows of a line with colours, whose text without them is broken at these positions. */
function withColors(line: string, ranges: Range[]): string[] {
  const rows = ranges.map(() => "");
  let [row, start] = [0, 0];
  for (const part of line.split(COLOR)) {
    if (part.startsWith("\x1b")) {
      rows[row] += part;
      continue;
    }
    const end = start + part.length;
    for (;;) {
      const [from, to] = ranges[row]!;
      if (from < end && to > start) rows[row] += part.slice(Math.max(from - start, 0), to - start);
      if (to > end || row === ranges.length - 1) break;
      row++;
    }
    start = end;
  }
  return rows;
}

/** The largest width in columns that any terminal may show, without colours: some show each part of an emoji. */
export function widthOf(text: string): number {
  let columns = 0;
  for (const character of text.replace(COLOR, "")) columns += character === "\ufe0f" ? 1 : Bun.stringWidth(character);
  return columns;
}
