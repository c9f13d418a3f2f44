/** The events of the library: their types, and how event lines and texts are decoded. Replies are in reply.ts. */

/**
 * Events about messages and users. A text may contain control characters: filter it before you display it. A byte that
 * is not UTF-8 is a lone surrogate from U+DC80 to U+DCFF, which is sent as that byte when the text is sent on;
 * `toWellFormed()` replaces it. `unixMs` is the time at which the server accepted the message.
 */
export type ServerEvent =
  | { kind: "message" | "broadcast"; from: string; text: string }
  | { kind: "stored"; from: string; unixMs: number; text: string }
  | { kind: "joined"; user: string }
  | { kind: "left"; user: string; reason: string }
  /** The operator of the server to everybody. */
  | { kind: "notice"; text: string }
  /** `words`: of the operator, if there are any, after "kicked". */
  | { kind: "goodbye"; reason: string; words?: string };

/** Events of the server about private chats. `key` is a certificate in base64; empty when the user has none. */
export type IntroductionEvent =
  | { kind: "private_request"; user: string; key: string }
  | { kind: "address"; user: string; host: string; port: number; ticket: string; key: string }
  | { kind: "expect"; user: string; host: string; ticket: string; key: string }
  | { kind: "denied"; user: string };

/** Events about private chats, as ChatClient reports them. */
export type PrivateEvent =
  /** The user asks for a private chat: see `answer`. When `encrypted` is false, it was refused already. */
  | { kind: "asked"; user: string; encrypted: boolean }
  /** The user agreed: `private` sends to that address. When `encrypted` is false, nothing is sent. */
  | { kind: "agreed"; user: string; host: string; port: number; encrypted: boolean }
  /** The server has introduced this client to a user whose request it accepted. Both may send now. */
  | { kind: "invited"; user: string }
  /** The user refused the request of this client, did not answer in time, or went offline. */
  | { kind: "denied"; user: string }
  /** A text that was sent directly, not through the server. */
  | { kind: "private"; from: string; text: string }
  /** The user cannot be reached for now; or the certificate at that address is not the user's. */
  | { kind: "unreachable" | "impostor"; user: string }
  /** A private chat is over. */
  | { kind: "parted"; user: string };

/** Events about the connection: it was lost; the session continues. */
export type ConnectionEvent = { kind: "lost" | "back" };

/** What users and the operator do. */
export type UserEvent = ServerEvent | PrivateEvent;

export type ChatEvent = UserEvent | ConnectionEvent;

export function isConnectionEvent(event: ChatEvent): event is ConnectionEvent {
  return event.kind === "lost" || event.kind === "back";
}

/** Parses an event line; null for an event that this client does not know. */
export function parseEvent(bytes: Uint8Array, start: number, end: number): ServerEvent | IntroductionEvent | null {
  let rest = decode(bytes, start, end);
  const word = (): string => {
    const space = rest.indexOf(" ");
    const first = space < 0 ? rest : rest.slice(0, space);
    rest = space < 0 ? "" : rest.slice(space + 1);
    return first;
  };
  const kind = word();
  switch (kind) {
    case "message":
    case "broadcast":
      return { kind, from: word(), text: rest };
    case "stored":
      return { kind, from: word(), unixMs: Number(word()), text: rest };
    case "joined":
      return { kind, user: word() };
    case "left":
      return { kind, user: word(), reason: word() };
    case "notice":
      return { kind, text: rest };
    case "goodbye": {
      const reason = word();
      return reason === "kicked" && rest !== "" ? { kind, reason, words: rest } : { kind, reason };
    }
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

const encoder = new TextEncoder();
/** Both keep a byte order mark, which is part of a text like any other character. */
const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
const strictDecoder = new TextDecoder("utf-8", { ignoreBOM: true, fatal: true });

/** Decodes UTF-8. A byte that is not UTF-8 becomes a lone surrogate, as in Python's "surrogateescape" (PEP 383). */
export function decode(bytes: Uint8Array, start: number, end: number): string {
  const line = bytes.subarray(start, end);
  const text = decoder.decode(line);
  return text.includes("\ufffd") && !isUtf8(line) ? decodeEscaped(line) : text;
}

/** The inverse of `decode`. */
export function encodeText(text: string): Uint8Array<ArrayBuffer> {
  if (text.isWellFormed()) return encoder.encode(text);
  const parts = text
    .split(/([\udc80-\udcff]+)/u)
    .map((part, index) => (index % 2 === 0 ? encoder.encode(part) : Uint8Array.from(part, lowByte)));
  const bytes = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}

function lowByte(character: string): number {
  return character.charCodeAt(0) & 0xff;
}

function isUtf8(bytes: Uint8Array): boolean {
  try {
    strictDecoder.decode(bytes);
    return true;
  } catch {
    return false;
  }
}

function decodeEscaped(bytes: Uint8Array): string {
  let text = "";
  for (let at = 0; at < bytes.length;) {
    const lead = bytes[at]!;
    const count = lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    const character = bytes.subarray(at, at + count);
    const isValid = isUtf8(character);
    text += isValid ? decoder.decode(character) : String.fromCharCode(0xdc00 + lead);
    at += isValid ? count : 1;
  }
  return text;
}
