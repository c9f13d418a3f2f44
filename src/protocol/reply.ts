/** The words that the server sends: replies, error codes, and reasons of `goodbye` and `left`. */

import { encode } from "./ascii.ts";

/** Takes a reply. */
export interface Replies {
  append(line: Uint8Array): void;
}

export const OK = encode("ok\n");
export const OK_SENT = encode("ok sent\n");
export const OK_ASKED = encode("ok asked\n");
export const OK_STORED = encode("ok stored\n");

/** The codes after `err`: docs/protocol.md, Requests. */
export type ErrorCode =
  | "line_too_long"
  | "unknown_command"
  | "not_logged_in"
  | "already_logged_in"
  | "bad_request"
  | "unknown_session"
  | "unknown_user"
  | "banned"
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

/** The reason after `goodbye`: why the server ends a session. */
export type GoodbyeReason = "replaced" | "expired" | "slow" | "flood" | "removed" | "kicked" | "shutdown";
/** The reason after `left`: why a user went offline. */
export const LEFT_REASONS = ["logout", "expired", "disconnected", "slow", "flood", "removed", "kicked"] as const;
export type LeftReason = (typeof LEFT_REASONS)[number];

/** Encoded `err <code>` lines. */
const BARE = new Map<ErrorCode, Uint8Array>();

/** Appends `err <code> [<detail>]`. */
export function refuse(out: Replies, code: ErrorCode, detail?: string | number): void {
  if (detail !== undefined) {
    out.append(encode(`err ${code} ${detail}\n`));
    return;
  }
  let line = BARE.get(code);
  if (line === undefined) BARE.set(code, (line = encode(`err ${code}\n`)));
  out.append(line);
}

/** The line `goodbye <reason> [<words>]`. */
export function goodbye(reason: string, words: Uint8Array | null): Buffer {
  if (words === null) return encode(`goodbye ${reason}\n`);
  return Buffer.concat([encode(`goodbye ${reason} `), words, encode("\n")]);
}
