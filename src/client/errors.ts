/** The one error type of the library. */

/**
 * A request, a login or a connection failed. `code` is the code of the server's `err <code> [<detail>]`, or one of the
 * client's own:
 *
 * - `closed`: the session has ended, or the connection closed before a reply
 * - `unknown_outcome`: the request was sent and its reply is lost, so the server may have acted on it
 * - `not_sent`: a callback session did not reach the server
 * - `unreachable`: the server could not call a callback session
 * - `needs_tls`: the server expects TLS; `untrusted`: the certificate of the server is not valid for its host
 * - `bad_request`: an argument is not one word, or not one line; `line_too_long`: the detail has the limit
 * - states: `bad_state` for a file with something else; `in_use` when another tab has it; `insecure` on a page without
 *   https; `not_saved` when the browser stores nothing
 * - private chats: `not_introduced`, `denied`, `gone`, `wrong_certificate`
 */
export class ChatError extends Error {
  readonly code: string;
  /** What follows the code: words for people, or a number such as the seconds of `locked_out`. Empty without one. */
  readonly detail: string;

  constructor(code: string, detail = "") {
    super(detail === "" ? code : `${code} ${detail}`);
    this.code = code;
    this.detail = detail;
  }
}

/** Calls an event handler of the application. When it throws or rejects, `warn` reports that. */
export function warnOnFailure(handler: () => unknown, warn: (error: unknown) => void): void {
  const attempt = async (): Promise<unknown> => handler();
  attempt().catch(warn);
}

/** A system error becomes `closed`: the server cannot be reached. */
export function asChatError(error: unknown): ChatError {
  return error instanceof ChatError ? error : new ChatError("closed");
}
