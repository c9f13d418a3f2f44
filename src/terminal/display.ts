import { createColors } from "picocolors";
import { filterText } from "../display-filter.ts";
import { formatAddress } from "../runtime/host.ts";
import { type ChatEvent, decode, encodeText } from "../client/event.ts";

declare const filtered: unique symbol;

/** A line that may be shown: only this file makes one, and what of it comes from outside was filtered. */
export type Printable = string & { readonly [filtered]: true };

/** Text of others as it may be shown. */
export function printable(text: string): Printable {
  const shown = filterText(text);
  if (shown === text || shown.isWellFormed()) return shown as Printable;
  // Bytes that were no UTF-8 may be neighbours now, and be UTF-8 together.
  const bytes = encodeText(shown);
  return printable(decode(bytes, 0, bytes.length));
}

/** Begins each row that continues a line, so that no text stands where a name begins. */
const INDENT = "  ";
const COLUMNS_DEFAULT = 80;
/** A narrower terminal breaks lines by itself. */
const COLUMNS_MIN = 8;
/** Off, a character that is wider than expected stays in its row (DECAWM), instead of beginning one not indented. */
const [AUTOWRAP_OFF, AUTOWRAP_ON] = ["\x1b[?7l", "\x1b[?7h"];
// biome-ignore lint/suspicious/noControlCharactersInRegex: colours begin with one
const COLOR = /(\x1b\[\d+m)/g;
const graphemes = new Intl.Segmenter();

/**
 * The bytes to write for a line. For a terminal this program breaks the line into rows and indents all but the first:
 * otherwise a text could fill its row and go on like the line of another user. For a pipe they are the line and LF.
 */
export function rendered(line: Printable, { isTTY, columns }: { isTTY?: boolean; columns?: number }): Uint8Array {
  if (isTTY !== true) return encodeText(`${line}\n`);
  const rows = rowsOf(line, columns).join("\n");
  return Buffer.from(/^[\n\x1b-~]*$/.test(rows) ? `${rows}\n` : `${AUTOWRAP_OFF}${rows}${AUTOWRAP_ON}\n`);
}

/** The rows of a line on a terminal, with the colours in it. */
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
    // A column for each character, as nearly all texts have it: 15 times as fast (a text of 4,000 characters: 0.08 ms).
    if (/^[ -~]*$/.test(part)) {
      let at = 0;
      // A grapheme may have been wider than the terminal.
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

/** The most columns that a terminal takes for it, without colours: some show the parts of an emoji one by one. */
export function widthOf(text: string): number {
  let columns = 0;
  for (const character of text.replace(COLOR, "")) columns += character === "\ufe0f" ? 1 : Bun.stringWidth(character);
  return columns;
}

const GOODBYES: Record<string, string> = {
  replaced: "You logged in somewhere else, so this session has ended.",
  expired: "The server heard nothing for too long and ended the session.",
  slow: "Too much waited to be read here, so the server ended the session. Messages are kept for the next login.",
  flood: "The server ended the session: too many bad lines.",
  removed: "The server ended the session: this user was removed.",
  shutdown: "The server is shutting down.",
};

/** Words for people; with colours where there is a terminal that wants them. */
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
        if (!event.encrypted) return yellow(`* ${user} asks to chat privately, but not encrypted; the answer was no`);
        return yellow(`? ${user} asks to chat privately: yes ${user}, or no ${user}`);
      case "agreed":
        if (!event.encrypted) return yellow(`* ${user} agrees to a chat that is not encrypted; there will be none`);
        return yellow(`* ${user} agrees: private ${user} <text> goes straight to ${address(event)}`);
      case "invited":
        return dim(`* ${user} may write to you privately now; private ${user} <text> answers`);
      case "denied":
        return dim(`* ${user} does not agree to a private chat, or is not here`);
      case "parted":
        return dim(`* the private chat with ${user} is over`);
      case "unreachable":
        return dim(`* ${user} cannot be reached privately for now`);
      case "impostor":
        return yellow(`* whoever answers at the address of ${user} is somebody else; nothing was said`);
      case "goodbye":
        // The reason is the server's: it may be a word that every object has.
        if (Object.hasOwn(GOODBYES, event.reason)) return yellow(GOODBYES[event.reason]!);
        return yellow(`The server ended the session (${printable(event.reason)}).`);
    }
  }

  /** What came of a command. */
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

/** A local time that sorts and reads well: 2026-11-22 21:58. */
function time(unixMs: number): string {
  const local = new Date(unixMs - new Date(unixMs).getTimezoneOffset() * 60_000);
  return Number.isNaN(local.getTime()) ? "?" : local.toISOString().slice(0, 16).replace("T", " ");
}
