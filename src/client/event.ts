import { isUtf8 } from "node:buffer";
import { wordEnd } from "../protocol/ascii.ts";

/**
 * What the server passes on. Texts are UTF-8 and not yet fit for a display. A byte that is not UTF-8 is a lone
 * surrogate from U+DC80 to U+DCFF (`toWellFormed()` replaces it), which is sent as that byte when the text is sent on.
 */
type ServerEvent =
  | { kind: "message" | "broadcast"; from: string; text: string }
  | { kind: "stored"; from: string; unixMs: number; text: string }
  | { kind: "joined"; user: string }
  | { kind: "left"; user: string; reason: string }
  | { kind: "goodbye"; reason: string };

/** What the server says of private chats; a key is empty where there is none. */
export type IntroductionEvent =
  | { kind: "private_request"; user: string; key: string }
  | { kind: "address"; user: string; host: string; port: number; ticket: string; key: string }
  | { kind: "expect"; user: string; host: string; ticket: string; key: string }
  | { kind: "denied"; user: string };

/** What a client hears of private chats. */
export type PrivateEvent =
  /** Somebody asks for this client's address: see `answer`. Without encryption the answer was no already. */
  | { kind: "asked"; user: string; encrypted: boolean }
  /** Somebody agreed: what is said to them privately goes there; but to nobody who does not encrypt. */
  | { kind: "agreed"; user: string; host: string; port: number; encrypted: boolean }
  /** Somebody was told yes, and may write privately from now on. */
  | { kind: "invited"; user: string }
  /** A question was answered no, or not in time, or the other went away. */
  | { kind: "denied"; user: string }
  /** Said from machine to machine. */
  | { kind: "private"; from: string; text: string }
  /** Somebody cannot be reached for now; or somebody else answers at that address. */
  | { kind: "unreachable" | "impostor"; user: string }
  /** A chat that was agreed to is over. */
  | { kind: "parted"; user: string };

export type ChatEvent = ServerEvent | PrivateEvent;

/** An event's line as an event; null for one that this client does not know. */
export function parseEvent(bytes: Uint8Array, start: number, end: number): ServerEvent | IntroductionEvent | null {
  let at = start;
  const word = (): string => {
    const from = at;
    const to = wordEnd(bytes, from, end);
    at = Math.min(to + 1, end);
    return decode(bytes, from, to);
  };
  const kind = word();
  switch (kind) {
    case "message":
    case "broadcast":
      return { kind, from: word(), text: decode(bytes, at, end) };
    case "stored":
      return { kind, from: word(), unixMs: Number(word()), text: decode(bytes, at, end) };
    case "joined":
      return { kind, user: word() };
    case "left":
      return { kind, user: word(), reason: word() };
    case "goodbye":
      return { kind, reason: word() };
    case "private_request":
      return { kind, user: word(), key: word() };
    case "address":
      return { kind, user: word(), host: word(), port: Number(word()), ticket: word(), key: word() };
    case "expect":
      return { kind, user: word(), host: word(), ticket: word(), key: word() };
    case "denied":
      return { kind, user: word() };
    default:
      return null;
  }
}

/** UTF-8 as text; a byte that is not UTF-8 as a lone surrogate, as Python's "surrogateescape" does it (PEP 383). */
export function decode(bytes: Uint8Array, start: number, end: number): string {
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset + start, end - start);
  const text = buffer.toString("utf8");
  return text.includes("\ufffd") && !isUtf8(buffer) ? decodeEscaped(buffer) : text;
}

/** The bytes that `decode` made this text of. */
export function encodeText(text: string): Buffer {
  if (text.isWellFormed()) return Buffer.from(text);
  const parts = text.split(/([\udc80-\udcff]+)/u);
  return Buffer.concat(parts.map((part, index) => Buffer.from(part, index % 2 === 0 ? "utf8" : "latin1")));
}

function decodeEscaped(buffer: Buffer): string {
  let text = "";
  for (let at = 0; at < buffer.length;) {
    const lead = buffer[at]!;
    const count = lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    const character = buffer.subarray(at, at + count);
    const isValid = isUtf8(character);
    text += isValid ? character.toString("utf8") : String.fromCharCode(0xdc00 + lead);
    at += isValid ? count : 1;
  }
  return text;
}
