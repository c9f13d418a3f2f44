import { createColors } from "picocolors";
import { filterText } from "../display-filter.ts";
import { formatAddress } from "../runtime/host.ts";
import { type ChatEvent, decode, encodeText } from "../client/event.ts";
import { explainGoodbye } from "./explanations.ts";

/**
 * What may be printed, and how: texts of others without control characters, lines broken into rows, events in words.
 * Error codes and reasons in words are in explanations.ts.
 */

declare const filtered: unique symbol;

/** A line that may be printed: only this file makes one, from text that is filtered. */
export type Printable = string & { readonly [filtered]: true };

/** Removes control characters and invisible characters from a text. */
export function printable(text: string): Printable {
  const shown = filterText(text);
  if (shown === text || shown.isWellFormed()) return shown as Printable;
  // Invalid bytes that the filter made neighbours may together be valid UTF-8, such as a control character.
  const bytes = encodeText(shown);
  return printable(decode(bytes, 0, bytes.length));
}

/** Begins each row that continues a line. The first column is where the name of a sender begins. */
const INDENT = "  ";
const COLUMNS_DEFAULT = 80;
/** A narrower terminal breaks lines by itself. */
const COLUMNS_MIN = 8;
/** DECAWM. While it is off, a character that is wider than expected does not begin a new row without indent. */
const [AUTOWRAP_OFF, AUTOWRAP_ON] = ["\x1b[?7l", "\x1b[?7h"];
// biome-ignore lint/suspicious/noControlCharactersInRegex: colours begin with ESC
const COLOR = /(\x1b\[\d+m)/g;
const graphemes = new Intl.Segmenter();

/**
 * The bytes to write for a line. For a pipe they are the line and LF. For a terminal the line is broken into rows, all
 * but the first indented: otherwise a text could fill its row and continue like the line of another user.
 */
export function rendered(line: Printable, { isTTY, columns }: { isTTY?: boolean; columns?: number }): Uint8Array {
  if (isTTY !== true) return encodeText(`${line}\n`);
  const rows = rowsOf(line, columns).join("\n");
  return Buffer.from(/^[\n\x1b-~]*$/.test(rows) ? `${rows}\n` : `${AUTOWRAP_OFF}${rows}${AUTOWRAP_ON}\n`);
}

/** Breaks a line into the rows of a terminal. Colours stay and take no columns. */
export function rowsOf(line: Printable, columns = 0): string[] {
  const limit = columns > 0 ? columns : COLUMNS_DEFAULT;
  if (limit < COLUMNS_MIN) return [line];
  const rows: string[] = [];
  let row = "";
  let width = 0;
  for (const part of line.toWellFormed().split(COLOR)) {
    if (part.startsWith("\x1b")) {
      row += part;
      continue;
    }
    // Plain ASCII, which most texts are: one column per character, 15 times as fast (4,000 characters in 0.08 ms).
    if (/^[ -~]*$/.test(part)) {
      let at = 0;
      // The row may be too wide already, by a grapheme that is wider than the terminal.
      for (let room = Math.max(0, limit - width); part.length - at > room; room = limit - INDENT.length) {
        rows.push(row + part.slice(at, at + room));
        at += room;
        row = INDENT;
        width = INDENT.length;
      }
      row += part.slice(at);
      width += part.length - at;
      continue;
    }
    for (const { segment } of graphemes.segment(part)) {
      const columns = widthOf(segment);
      if (width + columns > limit) {
        rows.push(row);
        row = INDENT;
        width = INDENT.length;
      }
      row += segment;
      width += columns;
    }
  }
  return [...rows, row];
}

/** The largest width in columns that any terminal may show, without colours: some show each part of an emoji. */
export function widthOf(text: string): number {
  let columns = 0;
  for (const character of text.replace(COLOR, "")) columns += character === "\ufe0f" ? 1 : Bun.stringWidth(character);
  return columns;
}

export function hasColors(output: NodeJS.WriteStream): boolean {
  return output.isTTY === true && !process.env.NO_COLOR && process.env.TERM !== "dumb";
}

/** Turns events and results into printable lines, with or without colours. */
export class Display {
  readonly #colors: ReturnType<typeof createColors>;

  constructor(colored: boolean) {
    this.#colors = createColors(colored);
  }

  event(event: ChatEvent): Printable {
    return this.#words(event) as Printable;
  }

  #words(event: ChatEvent): string {
    const { bold, dim, inverse, yellow } = this.#colors;
    const user = "user" in event ? printable(event.user) : "";
    switch (event.kind) {
      case "message":
        return `${bold(printable(event.from))}: ${printable(event.text)}`;
      case "broadcast":
        return `${bold(printable(event.from))} ${dim("to all")}: ${printable(event.text)}`;
      case "stored":
        return `${bold(printable(event.from))} ${dim(`on ${time(event.unixMs)}`)}: ${printable(event.text)}`;
      case "joined":
        return dim(`* ${user} is here`);
      case "left":
        return dim(`* ${user} left (${printable(event.reason)})`);
      case "private":
        return `${inverse("[private]")} ${bold(printable(event.from))}: ${printable(event.text)}`;
      case "asked":
        if (!event.encrypted)
          return yellow(`* ${user} asks for a private chat without encryption; this client refused it`);
        return yellow(`? ${user} asks for a private chat; answer with: yes ${user}, or no ${user}`);
      case "agreed":
        if (!event.encrypted)
          return yellow(`* ${user} agrees to a private chat without encryption; this client does not start it`);
        return yellow(`* ${user} agrees to a private chat: private ${user} <text> sends directly to ${address(event)}`);
      case "invited":
        return dim(`* ${user} can send you private messages now; answer with: private ${user} <text>`);
      case "denied":
        return dim(`* ${user} refused the private chat, did not answer, or is not here`);
      case "parted":
        return dim(`* the private chat with ${user} has ended`);
      case "unreachable":
        return dim(`* ${user} cannot be reached directly; to send through the server: message ${user} <text>`);
      case "impostor":
        return yellow(`* another program answers at the address of ${user}; nothing was sent to it`);
      case "notice":
        return yellow(`* notice of the operator: ${printable(event.text)}`);
      case "goodbye":
        return yellow(printable(explainGoodbye(event.reason, event.words)));
    }
  }

  /** The result of a command, or another line of the program's own. */
  note(text: string): Printable {
    return this.#colors.dim(printable(text)) as Printable;
  }

  failure(text: string): Printable {
    return this.#colors.red(printable(text)) as Printable;
  }
}

function address({ host, port }: { host: string; port: number }): string {
  return formatAddress(printable(host), port);
}

/** A local time in the form 2026-11-22 21:58; "?" for a number that is not a time. */
function time(unixMs: number): string {
  const local = new Date(unixMs - new Date(unixMs).getTimezoneOffset() * 60_000);
  return Number.isNaN(local.getTime()) ? "?" : local.toISOString().slice(0, 16).replace("T", " ");
}
