import { encode } from "./ascii.ts";

/** Where a reply goes. */
interface Replies {
  append(line: Uint8Array): void;
}

export const OK = encode("ok\n");
export const OK_SENT = encode("ok sent\n");
export const OK_ASKED = encode("ok asked\n");
export const OK_STORED = encode("ok stored\n");

/** docs/protocol.md, Requests: what may stand behind `err`. */
export type ErrorCode =
  | "line_too_long"
  | "unknown_command"
  | "not_logged_in"
  | "already_logged_in"
  | "bad_request"
  | "unknown_session"
  | "unknown_user"
  | "locked_out"
  | "wrong_password"
  | "blocked"
  | "mailbox_full"
  | "already_blocked"
  | "not_blocked"
  | "offline"
  | "not_listening"
  | "already_asked"
  | "no_request"
  | "busy"
  | "internal";

/** Why the server ends a session: behind `goodbye`. */
export type GoodbyeReason = "replaced" | "expired" | "slow" | "flood" | "removed" | "shutdown";
/** Why a user is gone: behind `left`. */
export type LeftReason = "logout" | "expired" | "disconnected" | "slow" | "flood" | "removed";

const BARE = new Map<ErrorCode, Uint8Array>();

/** Appends `err <code>`, with what a person or a client may want to know behind it. */
export function refuse(out: Replies, code: ErrorCode, detail?: string | number): void {
  if (detail !== undefined) {
    out.append(encode(`err ${code} ${detail}\n`));
    return;
  }
  let line = BARE.get(code);
  if (line === undefined) BARE.set(code, (line = encode(`err ${code}\n`)));
  out.append(line);
}
