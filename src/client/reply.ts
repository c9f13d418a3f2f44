/** How lines of the server are read: replies, refusals and `goodbye`. Events are parsed in event.ts. */
import { ChatError } from "./errors.ts";
import { decode } from "./event.ts";

/** The promise of a request that waits for its reply. */
export interface PendingReply {
  /** Called with the words after `ok`. */
  resolve: (words: string) => void;
  reject: (error: ChatError) => void;
}

/** Settles a pending reply with the reply line bytes[start..end). `isOk`: the line begins with `ok`. */
export function settleReply(to: PendingReply, isOk: boolean, bytes: Uint8Array, start: number, end: number): void {
  if (isOk) to.resolve(decode(bytes, Math.min(start + 3, end), end));
  else to.reject(refusalIn(bytes, start, end)!);
}

/** The refusal in a line `err <code> ...`, or in `busy <words>` of an older server; null for any other line. */
export function refusalIn(bytes: Uint8Array, start: number, end: number): ChatError | null {
  const isError = startsWithWord(bytes, start, end, "err");
  if (!isError && !startsWithWord(bytes, start, end, "busy")) return null;
  const [code = "", ...detail] = decode(bytes, isError ? Math.min(start + 4, end) : start, end).split(" ");
  return new ChatError(code === "" ? "refused" : code, detail.join(" "));
}

/** The reason in a `goodbye` line, `unknown` when it has none; null for any other line. */
export function goodbyeReason(bytes: Uint8Array, start: number, end: number): string | null {
  return startsWithWord(bytes, start, end, "goodbye") ? decode(bytes, start, end).split(" ", 2)[1] || "unknown" : null;
}

/** Whether the first word of the line bytes[start..end) is `word`. */
export function startsWithWord(bytes: Uint8Array, start: number, end: number, word: string): boolean {
  for (let i = 0; i < word.length; i++) if (bytes[start + i] !== word.charCodeAt(i)) return false;
  const at = start + word.length;
  return at === end || bytes[at] === 32;
}

/** Reasons of the server after which a client does not log in again by itself. */
export const FINAL_REASONS: readonly string[] = ["replaced", "removed", "kicked", "logout"];

/** The final reason in `unknown_session <reason>`; null for other failures and other reasons. */
export function finalReason({ code, detail }: ChatError): string | null {
  const [reason = ""] = detail.split(" ");
  return code === "unknown_session" && FINAL_REASONS.includes(reason) ? reason : null;
}
