/** Bytes of protocol lines: words, numbers, names, tokens and keys, without decoding them. */

import { KEY_BYTES_MAX, NAME_BYTES_MAX } from "../limits.ts";

export const LF = 10;
export const CR = 13;
export const SPACE = 32;
const PLUS = 43;
const DOT = 46;
const SLASH = 47;
const ZERO = 48;
const NINE = 57;

/**
 * The UTF-8 bytes of a text. `Buffer.from(text)` would own memory outside the heap, one piece for each result, and the
 * runtime frees these while everything stands still: 100,000 of them cost a pause of 5 to 20 ms instead of 1 ms. It is
 * a Buffer like all other bytes: a Uint8Array among them costs a tenth of a message (`bench:micro -- --filter server`).
 */
export function encode(text: string): Buffer {
  const bytes = Buffer.allocUnsafeSlow(Buffer.byteLength(text));
  bytes.write(text);
  return bytes;
}

/** The end of the word that begins at `start`: the next space, or `end`. */
export function wordEnd(bytes: Uint8Array, start: number, end: number): number {
  let at = start;
  while (at < end && bytes[at] !== SPACE) at++;
  return at;
}

/** Whether bytes[start..end) are exactly `word`. */
export function equals(bytes: Uint8Array, start: number, end: number, word: Uint8Array): boolean {
  if (end - start !== word.length) return false;
  for (let i = 0; i < word.length; i++) if (bytes[start + i] !== word[i]) return false;
  return true;
}

/** Whether bytes[start..end) begin with `prefix`. */
export function startsWith(bytes: Uint8Array, start: number, end: number, prefix: Uint8Array): boolean {
  return end - start >= prefix.length && equals(bytes, start, start + prefix.length, prefix);
}

/** The number of the decimal digits bytes[start..end); -1 when they are not a number below 2^53. */
export function parseNumber(bytes: Uint8Array, start: number, end: number): number {
  if (start === end) return -1;
  let value = 0;
  for (let i = start; i < end; i++) {
    const byte = bytes[i]!;
    if (byte < ZERO || byte > NINE) return -1;
    value = value * 10 + (byte - ZERO);
    if (value > Number.MAX_SAFE_INTEGER) return -1;
  }
  return value;
}

/** The kinds of bytes in names and tokens; 0 for any other byte. */
const LETTER = 1;
const DIGIT = 2;
const DASH = 4;
const POINT = 8;
const KINDS = new Uint8Array(256);
for (const byte of encode("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")) KINDS[byte] = LETTER;
for (const byte of encode("0123456789")) KINDS[byte] = DIGIT;
for (const byte of encode("_-")) KINDS[byte] = DASH;
KINDS[DOT] = POINT;

function isLetterOrDigit(byte: number): boolean {
  return (KINDS[byte]! & (LETTER | DIGIT)) !== 0;
}

/**
 * The end of the user name that begins at `start`, as in `wordEnd`; -1 when the word is not a name (docs/protocol.md,
 * Lines): 1 to 32 of `A-Z a-z 0-9 . _ -`, the first a letter or digit, no `..`, not an IPv4 address.
 */
export function nameEnd(bytes: Uint8Array, start: number, end: number): number {
  let kinds = 0;
  let at = start;
  for (; at < end && bytes[at] !== SPACE; at++) {
    const kind = KINDS[bytes[at]!]!;
    if (kind === 0) return -1;
    kinds |= kind;
  }
  if (at === start || at - start > NAME_BYTES_MAX || !isLetterOrDigit(bytes[start]!)) return -1;
  if ((kinds & POINT) === 0) return at;
  for (let i = start + 1; i < at; i++) if (bytes[i] === DOT && bytes[i - 1] === DOT) return -1;
  return kinds === (DIGIT | POINT) && isIpv4(bytes, start, at) ? -1 : at;
}

export function isName(bytes: Uint8Array, start: number, end: number): boolean {
  return nameEnd(bytes, start, end) === end;
}

function isIpv4(bytes: Uint8Array, start: number, end: number): boolean {
  const parts = Buffer.from(bytes.subarray(start, end)).toString("latin1").split(".");
  return parts.length === 4 && parts.every((part) => part !== "" && part.length <= 3 && Number(part) <= 255);
}

/** Base64 of at most `KEY_BYTES_MAX` characters. */
export function isKey(bytes: Uint8Array, start: number, end: number): boolean {
  let last = end;
  while (last > start && end - last < 2 && bytes[last - 1] === 61) last--;
  if (last === start || end - start > KEY_BYTES_MAX) return false;
  for (let i = start; i < last; i++) {
    const byte = bytes[i]!;
    if (!isLetterOrDigit(byte) && byte !== PLUS && byte !== SLASH) return false;
  }
  return true;
}

/** A token, secret or ticket: 22 to 64 of `A-Z a-z 0-9 _ -`. */
export function isToken(bytes: Uint8Array, start: number, end: number): boolean {
  if (end - start < 22 || end - start > 64) return false;
  for (let i = start; i < end; i++) if ((KINDS[bytes[i]!]! & (LETTER | DIGIT | DASH)) === 0) return false;
  return true;
}

/** FNV-1a (32 bits) of bytes[start..end). */
export function fnv1a(bytes: Uint8Array, start: number, end: number): number {
  let value = 0x811c9dc5;
  for (let i = start; i < end; i++) value = Math.imul(value ^ bytes[i]!, 0x01000193);
  return value >>> 0;
}
