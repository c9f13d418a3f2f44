import { isIPv6 } from "node:net";
import { ChatError } from "../client/client.ts";
import { FINAL_REASONS } from "../client/reply.ts";
import { everyAddress } from "../runtime/host.ts";
import type { Options } from "./options.ts";

/**
 * Error codes and reasons in words for people: why a command, a login or a connection failed, and why a session ended.
 * Codes and details come from the server. A code may be a name that every object has, such as `constructor`, and
 * details are not filtered here: Display does that.
 */

/** `slash`: what a command in a hint begins with. */
const COMMAND_ERRORS: Record<string, (user: string, detail: string, slash: string) => string> = {
  unknown_user: (user) => `there is no user ${user}`,
  blocked: (user) => `${user} has blocked you`,
  mailbox_full: (user) => `the message was not stored: the mailbox of ${user} is full; try again later`,
  already_blocked: (user) => `${user} is blocked already`,
  not_blocked: (user) => `${user} is not blocked`,
  line_too_long: () => "the line is too long for this server; send a shorter text",
  offline: (user) => `${user} is not here`,
  not_listening: (user) => `${user} does not accept private chats`,
  already_asked: (user) => `${user} has been asked already; wait up to a minute for the answer`,
  no_request: (user) => `${user} has not asked for a private chat in the last minute`,
  not_introduced: (user, _, slash) => `there is no private chat with ${user}; ${slash}getaddress ${user} asks for one`,
  denied: (user, text, slash) =>
    `${user} refused the private chat, did not answer, or left; ` +
    `to send through the server: ${slash}message ${user} ${text}`,
  gone: (user, text, slash) =>
    `nothing was sent: ${user} cannot be reached directly; to send through the server: ${slash}message ${user} ${text}`,
  wrong_certificate: (user, _, slash) =>
    `nothing was sent: another program answers at the address of ${user}; ` +
    `${slash}getaddress ${user} asks for a new chat`,
  busy: (_user, why) => (why === "" ? "the server is busy; try again in a moment" : `the server is busy: ${why}`),
  banned: (user, seconds) => `${user} is banned${/^\d+$/.test(seconds) ? ` for ${seconds} seconds` : ""}`,
  refused: () => "the server refused the request without a reason",
  internal: () => "the server has an internal error; the command may or may not have been carried out",
  closed: (_user, why) => (why === "" ? "the connection was closed" : why),
  needs_tls: () => "the server speaks TLS at that port: try --tls",
  not_sent: () => "nothing was sent: the server cannot be reached; try again",
  unknown_session: () =>
    "the command was not carried out: the session had ended, and a new one has begun; send it again",
  unknown_outcome: () => "the reply was lost; the command may or may not have been carried out",
};

/** Why a request failed. `slash`: what a command in a hint begins with. */
export function explainError(error: unknown, user: string, slash = ""): string {
  if (!(error instanceof ChatError)) return (error as Error).message;
  if (Object.hasOwn(COMMAND_ERRORS, error.code)) return COMMAND_ERRORS[error.code]!(user, error.detail, slash);
  return error.detail === "" ? error.code.replaceAll("_", " ") : error.detail;
}

/** The outcome of a request that an earlier run of this program left without a reply. */
export function explainRecovered(request: string, error: ChatError | null): string {
  const isUnknown = error !== null && ["unknown_outcome", "closed"].includes(error.code);
  const outcome = isUnknown
    ? "the reply was lost; it may or may not have been carried out"
    : "sent again: the server had not received it";
  const refusal = error === null || isUnknown ? "" : `; ${explainError(error, request.split(" ")[1] ?? "")}`;
  return `from the last run: ${request} (${outcome}${refusal})`;
}

/** Why a login failed. Throws errors on that are not about the server or a port. */
export function explainLogin(error: unknown, user: string, { host, tls }: Options): string {
  if (!(error instanceof ChatError)) {
    const { code, syscall } = error as NodeJS.ErrnoException;
    if (syscall === undefined) throw error;
    if (syscall !== "listen") return `cannot reach the server: ${explainUnreachable(error, host)}`;
    const why = code === "EADDRINUSE" ? "the port is already in use" : code;
    return `cannot listen for private chats: ${why}; choose another port with --listen, or use --no-listen`;
  }
  const { code, detail } = error;
  if (code === "wrong_password") return `wrong password; ${detail} ${detail === "1" ? "try" : "tries"} left`;
  if (code === "locked_out")
    return `too many wrong passwords: ${user} is locked out from this address for ${detail} seconds`;
  // A callback session reports a connection that was closed before the reply as `unknown_outcome`.
  const isClosed = code === "closed" || code === "unknown_outcome";
  if (isClosed && detail === "" && tls === false)
    return "the server closed the connection; if it speaks TLS, try --tls";
  return explainError(error, user);
}

/** Why there is no connection to that host. */
export function explainUnreachable(error: unknown, host: string): string {
  if (error instanceof ChatError) return error.detail;
  if (isIPv6(host) && everyAddress() !== "::") return "this machine has no IPv6"; // The runtime gives ECONNREFUSED.
  const { code, message } = error as NodeJS.ErrnoException;
  if (code === "ECONNREFUSED") return "no server listens there; check the host and the port";
  if (code === "ENOTFOUND") return "there is no such host; check the name";
  if (code === "EADDRNOTAVAIL") return "this machine has no network to that address";
  if (code === "EINVAL") return "a link-local address needs its interface, like fe80::1%eth0";
  return message;
}

/** Reasons for the end of a session, as part of a sentence. */
const END_REASONS: Record<string, string> = {
  replaced: "you logged in somewhere else",
  expired: "the server received nothing from this client for too long",
  slow: "this client read too slowly (the next login gets its messages)",
  flood: "this client sent too many invalid lines",
  removed: "the operator removed this user",
  kicked: "the operator disconnected this user",
  banned: "this user is banned",
  shutdown: "the server is shutting down",
  locked_out: "too many wrong passwords; this user is locked out from this address",
  unknown_user: "the server no longer knows this user",
  wrong_password: "the server no longer accepts the password",
  unknown_session: "the server no longer knows the session",
  bad_request: "the server did not accept the position at which the session should continue",
  internal: "the server has an internal error",
  unreachable: "the server cannot connect to this client",
};

/** Why a session has ended for good. `detail`: what the server said with the reason. */
export function explainEnd(reason: string, detail = ""): string {
  if (reason === "lost") return "the connection to the server was lost";
  // An unknown code says more than its details.
  const words = Object.hasOwn(COMMAND_ERRORS, reason) ? detail : "";
  const error = new ChatError(reason, words);
  const why = Object.hasOwn(END_REASONS, reason) ? END_REASONS[reason]! : explainError(error, "");
  return `the session has ended: ${why}`;
}

/**
 * The server's last line of a session as a sentence, and the operator's words after it. After most reasons the client
 * comes back by itself: only a final one says that the session has ended.
 */
export function explainGoodbye(reason: string, words?: string): string {
  if (!Object.hasOwn(END_REASONS, reason)) return `The server ended the session (${reason}).`;
  const why = END_REASONS[reason]!;
  const end = FINAL_REASONS.includes(reason) ? ", so this session has ended" : "";
  const sentence = `${why[0]!.toUpperCase()}${why.slice(1)}${end}`;
  return words === undefined ? `${sentence}.` : `${sentence}: ${words}`;
}
