/** Error codes, reasons and states in words for the people who read the page. */
import { ChatError } from "../client/errors.ts";
import type { Message } from "./conversations.ts";
import { EVERYBODY } from "./conversations.ts";

type Words = (detail: string, user: string) => string;

/** Why a login failed or a session ended. Each is a sentence. */
const END_REASONS: Record<string, Words> = {
  replaced: () => "You logged in somewhere else, so the chat on this page has ended.",
  expired: () => "The server has heard nothing from this page for too long.",
  slow: () => "This page was too slow. Your messages are kept for the next login.",
  flood: () => "This page sent too many invalid requests.",
  removed: () => "This user was removed from the server.",
  kicked: (why) => `The operator has disconnected you${why === "" ? "." : `: ${why}`}`,
  banned: (seconds) => `This user is banned${/^\d+$/.test(seconds) ? ` for ${inSeconds(seconds)}` : ""}.`,
  shutdown: () => "The server is shutting down.",
  locked_out: (seconds) => `Too many wrong passwords. Try again in ${inSeconds(seconds)}.`,
  unknown_user: (_, user) => `There is no user ${user} on this server.`,
  wrong_password: (left) =>
    `Wrong password.${/^\d+$/.test(left) ? ` ${left} ${left === "1" ? "try" : "tries"} left.` : ""}`,
  unknown_session: () => "Your earlier session has ended. Enter the password to go on where you were.",
  busy: (why) => `The server is busy${why === "" ? "; try again in a moment." : `: ${why}`}`,
  bad_request: () => "The server does not accept this name or password.",
  internal: () => "The server has an internal error. Try again in a moment.",
  undelivered: () => "This browser could not store a message, so the chat has stopped. Nothing is lost.",
  not_saved: () => "This browser could not store a message, so the chat has stopped. Nothing is lost.",
  insecure: () => "This page has to come from https or from localhost: only there a browser keeps messages.",
  closed: (why) => `The server cannot be reached${why === "" ? "." : `: ${why}`}`,
  lost: () => "The server cannot be reached.",
};

/** Why a message, a block or another request was refused, as part of a sentence. */
const REQUEST_ERRORS: Record<string, Words> = {
  unknown_user: (_, user) => `there is no user ${user}`,
  blocked: (_, user) => `${user} has blocked you`,
  mailbox_full: (_, user) => `the mailbox of ${user} is full`,
  line_too_long: () => "it is too long for this server",
  bad_request: () => "the server does not accept it",
  busy: () => "the server is busy",
  internal: () => "the server has an internal error",
};

function inSeconds(seconds: string): string {
  return seconds === "1" ? "1 second" : `${seconds} seconds`;
}

/** `code` may be a name that every object has, such as `constructor`. */
function words(table: Record<string, Words>, code: string, detail: string, user: string): string | null {
  return Object.hasOwn(table, code) ? table[code]!(detail, user) : null;
}

/** Why a session has ended, or a login failed. */
export function explainEnd(code: string, detail: string, user: string): string {
  return words(END_REASONS, code, detail, user) ?? `The server has ended the session (${code.replaceAll("_", " ")}).`;
}

export function explainRefusal(error: unknown, user: string): string {
  if (!(error instanceof ChatError)) return "something went wrong on this page";
  return words(REQUEST_ERRORS, error.code, error.detail, user) ?? error.code.replaceAll("_", " ");
}

/** The state of an own message: a sign for the eye, and words for everybody. */
export function explainState({ state, conversation, detail }: Message): { sign: string; words: string } | null {
  switch (state) {
    case null:
      return null;
    case "waiting":
      return { sign: "…", words: "on its way" };
    case "sent":
      if (conversation !== EVERYBODY) return { sign: "✓", words: "delivered" };
      return { sign: "✓", words: detail === "1" ? "sent to 1 user" : `sent to ${detail} users` };
    case "stored":
      return { sign: "✉", words: `kept until ${conversation} is back` };
    case "refused":
      return { sign: "✗", words: `not sent: ${detail}` };
    case "unknown":
      return { sign: "?", words: "the answer was lost; it may not have been sent" };
  }
}

/** `3 messages`, `1 user` */
export function count(n: number, noun: string): string {
  return `${n.toLocaleString("en")} ${noun}${n === 1 ? "" : "s"}`;
}
