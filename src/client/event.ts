import { wordEnd } from "../protocol/ascii.ts";

/** What the server says by itself. Texts are decoded as UTF-8 and not yet fit for a display. */
export type ChatEvent =
  | { kind: "message" | "broadcast"; from: string; text: string }
  | { kind: "stored"; from: string; unixMs: number; text: string }
  | { kind: "joined"; user: string }
  | { kind: "left"; user: string; reason: string }
  | { kind: "goodbye"; reason: string };

/** An event's line as an event; null for one that this client does not know. */
export function parseEvent(bytes: Uint8Array, start: number, end: number): ChatEvent | null {
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
    default:
      return null;
  }
}

/** UTF-8, whatever the bytes are. */
export function decode(bytes: Uint8Array, start: number, end: number): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset + start, end - start).toString("utf8");
}
