/** Texts of messages as they are shown, and as they are typed. */
import { encodeText } from "../client/event.ts";
import { filterText } from "../display-filter.ts";
import { LIMITS_DEFAULT } from "../limits.ts";

/** A part of a text; with `href` it is a link. */
export interface TextPart {
  text: string;
  href: string | null;
}

const URL_IN_TEXT = /\bhttps?:\/\/[^\s<>"]+/gi;
/** At the end of a URL these belong to the sentence around it. */
const AFTER_URL = /[.,:;!?'")\]}]+$/;

/** A text without characters that reorder or hide words. */
export function shownText(text: string): string {
  return filterText(text.toWellFormed());
}

/** The parts of a shown text. Only http and https become links. */
export function textParts(text: string): TextPart[] {
  const parts: TextPart[] = [];
  let end = 0;
  for (const { 0: found, index } of text.matchAll(URL_IN_TEXT)) {
    const href = found.replace(AFTER_URL, "");
    if (!URL.canParse(href)) continue;
    if (index > end) parts.push({ text: text.slice(end, index), href: null });
    parts.push({ text: href, href });
    end = index + href.length;
  }
  if (end < text.length) parts.push({ text: text.slice(end), href: null });
  return parts;
}

/** The messages in what was typed or pasted: one for each line that is not empty. */
export function typedLines(typed: string): string[] {
  return typed
    .split(/\r\n|[\r\n\u2028\u2029]/)
    .map((line) => line.trimEnd())
    .filter((line) => line !== "");
}

const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$/;

/** Whether a user can have this name. */
export function isName(text: string): boolean {
  return NAME.test(text) && !text.includes("..") && !/^\d+\.\d+\.\d+\.\d+$/.test(text);
}

/** By how many bytes a request with its LF is longer than a server takes by default; 0 when it is not. */
export function excessBytes(request: string): number {
  return Math.max(0, encodeText(request).length + 1 - LIMITS_DEFAULT.lineBytesMax);
}
