/** The grammar of requests: verbs, the words of each verb, and lines of other protocols. No rules. */

import { REQUEST_WORDS_MAX } from "../limits.ts";
import { SPACE, encode, equals, isKey, isToken, nameEnd, parseNumber, startsWith, wordEnd } from "./ascii.ts";

export type Verb =
  | "login"
  | "resume"
  | "as"
  | "message"
  | "broadcast"
  | "online"
  | "block"
  | "unblock"
  | "getaddress"
  | "private_answer"
  | "alive"
  | "logout";

/** The form of a word; `key` is a certificate in base64, `word` any word that is not empty. */
type Form = "name" | "token" | "number" | "key" | "yes or no" | "word";

/** The words of a verb: the needed ones, then what may follow. `text` is the rest of the line, spaces included. */
export interface Shape {
  needed: readonly Form[];
  rest: "nothing" | "a number" | "a key" | "options" | "text";
  usage: string;
}

/** See docs/protocol.md, Requests. The rules of each verb are in chat/commands.ts. */
export const SHAPES: Record<Verb, Shape> = {
  login: { needed: ["name", "word"], rest: "options", usage: "login <user> <password> [option...]" },
  resume: { needed: ["token", "number"], rest: "nothing", usage: "resume <token> <received>" },
  as: { needed: ["token"], rest: "text", usage: "as <token> <request>" },
  message: { needed: ["name"], rest: "text", usage: "message <user> <text>" },
  broadcast: { needed: [], rest: "text", usage: "broadcast <text>" },
  online: { needed: [], rest: "nothing", usage: "online" },
  block: { needed: ["name"], rest: "nothing", usage: "block <user>" },
  unblock: { needed: ["name"], rest: "nothing", usage: "unblock <user>" },
  getaddress: { needed: ["name"], rest: "a key", usage: "getaddress <user> [<key>]" },
  private_answer: { needed: ["name", "yes or no"], rest: "a key", usage: "private_answer <user> yes|no [<key>]" },
  alive: { needed: [], rest: "a number", usage: "alive [<received>]" },
  logout: { needed: [], rest: "a number", usage: "logout [<received>]" },
};

const YES = encode("yes");
const NO = encode("no");
const BY_FIRST: { verb: Verb; word: Uint8Array }[][] = Array.from({ length: 256 }, () => []);
for (const verb of Object.keys(SHAPES) as Verb[]) BY_FIRST[verb.charCodeAt(0)]!.push({ verb, word: encode(verb) });

const HTTP_1 = encode("HTTP/1.");
const HTTP_2_PREFACE = encode("PRI * HTTP/2.0");
/** The beginning of a TLS record with a handshake message: ClientHello (RFC 8446, 5.1). */
const TLS_HANDSHAKE = encode("\x16\x03");
const HOST = encode("host");
const ORIGIN = encode("origin");
const COLON = 58;

/**
 * Whether a line belongs to HTTP (a request line, `Host:` or `Origin:`) or TLS. A web page can make a browser send
 * these to any port, followed by lines that the page chooses.
 */
export function isOtherProtocol(bytes: Uint8Array, start: number, end: number): boolean {
  if (isHeader(bytes, start, end, HOST) || isHeader(bytes, start, end, ORIGIN)) return true;
  const target = wordEnd(bytes, start, end) + 1;
  const version = wordEnd(bytes, target, end) + 1;
  if (target > start + 1 && version > target + 1 && startsWith(bytes, version, end, HTTP_1)) return true;
  return startsWith(bytes, start, end, TLS_HANDSHAKE) || equals(bytes, start, end, HTTP_2_PREFACE);
}

/** `name` is in lower case; case in the line does not matter. */
function isHeader(bytes: Uint8Array, start: number, end: number, name: Uint8Array): boolean {
  if (end - start <= name.length || bytes[start + name.length] !== COLON) return false;
  // Upper and lower case of a letter differ in the bit 0x20 only.
  for (let i = 0; i < name.length; i++) if ((bytes[start + i]! | 0x20) !== name[i]) return false;
  return true;
}

/** A request as offsets into its line, parsed in two steps. One object is reused for all lines. */
export class Request {
  bytes: Uint8Array = new Uint8Array(0);
  /** The line is bytes[start..end). */
  start = 0;
  end = 0;
  /** Number of words after the verb. */
  words = 0;
  /** The text is bytes[textStart..end). */
  textStart = 0;
  readonly starts = new Int32Array(REQUEST_WORDS_MAX);
  readonly ends = new Int32Array(REQUEST_WORDS_MAX);
  #next = 0;

  /** Step one: the verb of the line bytes[start..end); null when it is unknown. */
  parseVerb(bytes: Uint8Array, start: number, end: number): Verb | null {
    this.bytes = bytes;
    this.start = start;
    this.end = end;
    const candidates = BY_FIRST[bytes[start]!]!;
    for (let i = 0; i < candidates.length; i++) {
      const { verb, word } = candidates[i]!;
      const verbEnd = start + word.length;
      if (verbEnd !== end && bytes[verbEnd] !== SPACE) continue;
      if (!startsWith(bytes, start, end, word)) continue;
      this.#next = verbEnd;
      return verb;
    }
    return null;
  }

  /** Step two: the words; false when they do not have the shape. */
  parseWords(shape: Shape): boolean {
    const { needed, rest } = shape;
    this.words = 0;
    for (let i = 0; i < needed.length; i++) if (!this.#parseWord(needed[i]!)) return false;
    if (rest === "text") {
      this.textStart = this.#next + 1;
      return this.textStart < this.end;
    }
    if (rest === "a number" && this.#next < this.end && !this.#parseWord("number")) return false;
    if (rest === "a key" && this.#next < this.end && !this.#parseWord("key")) return false;
    if (rest === "options") while (this.#next < this.end) if (!this.#parseWord("word")) return false;
    return this.#next >= this.end;
  }

  #parseWord(form: Form): boolean {
    const start = this.#next + 1;
    if (start >= this.end || this.words === REQUEST_WORDS_MAX) return false;
    const end = (form === "name" ? nameEnd : wordEnd)(this.bytes, start, this.end);
    if (end <= start) return false;
    if (form === "token" && !isToken(this.bytes, start, end)) return false;
    if (form === "number" && parseNumber(this.bytes, start, end) < 0) return false;
    if (form === "key" && !isKey(this.bytes, start, end)) return false;
    if (form === "yes or no" && !equals(this.bytes, start, end, YES) && !equals(this.bytes, start, end, NO))
      return false;
    this.starts[this.words] = start;
    this.ends[this.words++] = end;
    this.#next = end;
    return true;
  }

  /** A word of the form `number`. */
  number(index: number): number {
    return parseNumber(this.bytes, this.starts[index]!, this.ends[index]!);
  }

  /** A word as a string; not for the hot path. */
  word(index: number): string {
    return Buffer.from(this.bytes.subarray(this.starts[index]!, this.ends[index]!)).toString("utf8");
  }
}
