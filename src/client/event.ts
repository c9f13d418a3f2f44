import { wordEnd } from "../protocol/ascii.ts";

/** What the server passes on. Texts are decoded as UTF-8 and not yet fit for a display. */
type TalkEvent =
  | { kind: "message" | "broadcast"; from: string; text: string }
  | { kind: "stored"; from: string; unixMs: number; text: string }
  | { kind: "joined"; user: string }
  | { kind: "left"; user: string; reason: string }
  | { kind: "goodbye"; reason: string };

/** What the server says of private chats; a key is empty where there is none. */
export type ConsentEvent =
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

export type ChatEvent = TalkEvent | PrivateEvent;

/** An event's line as an event; null for one that this client does not know. */
export function parseEvent(bytes: Uint8Array, start: number, end: number): TalkEvent | ConsentEvent | null {
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

/** UTF-8, whatever the bytes are. */
export function decode(bytes: Uint8Array, start: number, end: number): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset + start, end - start).toString("utf8");
}
