import { decode } from "./event.ts";

/**
 * The server's `err <code> [<detail>]`. Codes of this client's own: `closed`, `unknown_outcome` and `not_sent`, and
 * `needs_tls` for a server that expects TLS, `untrusted` for one that cannot prove by it to be the server.
 */
export class ChatError extends Error {
  readonly code: string;
  readonly detail: string;

  constructor(code: string, detail = "") {
    super(detail === "" ? code : `${code} ${detail}`);
    this.code = code;
    this.detail = detail;
  }
}

/** Errors of the system mean that the server cannot be reached. */
export function asChatError(error: unknown): ChatError {
  return error instanceof ChatError ? error : new ChatError("closed");
}

/** What must outlive the program, so that nothing comes or goes twice. */
export interface ClientState {
  token: string;
  /** Position in the server's stream: everything before it was told. */
  received: number;
  /** Requests without an answer, and the positions behind them in the client's stream. */
  unanswered: { line: string; position: number }[];
}

/** Keeps a state, and has the last one again after a restart; both before they return. */
export interface StateStore {
  load(): ClientState | null;
  save(state: ClientState): void;
}

/** Requests and what comes of them, whatever the session is like. */
export interface ChatSession {
  connect(): Promise<void>;
  /**
   * `listenPort`: where others may call for private chats; 0 is nowhere. Rejects with `unknown_user`, `wrong_password
   * <tries left>` or `locked_out <seconds>`.
   */
  login(user: string, password: string, listenPort: number): Promise<Login>;
  /** A request, without its line's end; resolves with the words behind `ok`. It waits while the server is away. */
  request(line: string): Promise<string>;
  /** Acknowledges everything read so far, once it is delivered. Resolves after the server's reply. */
  confirm(): Promise<void>;
  logout(): Promise<void>;
  /** Hangs up for good. */
  close(): void;
}

/** What a session tells its owner. */
export interface SessionListener {
  /** A session of that user begins, the first or a newer one: nothing of an earlier one's holds but its messages. */
  began(user: string): void;
  /**
   * An event's line, valid during the call. The line is acknowledged when the returned promise, if any, is resolved,
   * and so are the promises of earlier lines. A handler that throws or rejects ends the session as "undelivered".
   */
  event(bytes: Uint8Array, start: number, end: number): unknown;
  /** The connection was lost, and is there again. */
  lost(): void;
  back(): void;
  /** Who answers now cannot prove to be the server. It is tried on. */
  untrusted(error: ChatError): void;
  /** A request of an earlier run that had no answer yet: it was made again, or why not, or why that was refused. */
  recovered(line: string, error: ChatError | null): void;
  /** The session has ended for good: "logout", the server's reason, a refusal's code, "undelivered" or "lost". */
  ended(reason: string): void;
}

/** Where a server is; with TLS, it must be vouched for by one of these authorities (PEM), or by a public one. */
export interface Address {
  host: string;
  port: number;
  tls: boolean | { ca: string };
  /** Called for each connection with its own address, and with whether the server is on the same machine. */
  connected?: (localAddress: string, isThisMachine: boolean) => void;
}

export interface SessionOptions extends Address {
  /** A plain session ends with its connection; a resumable one comes back; a callback one has none, and is called. */
  kind: "plain" | "resumable" | "callback";
  /** Where a callback session listens; 0 takes a free port. */
  callbackPort: number;
  /** For how long a lost server is tried. */
  giveUpMs: number;
  store: (user: string) => Promise<StateStore> | StateStore | null;
}

/** The words of `ok` after a login. Throws for a reply without a token: something else than this server answers. */
export function parseLogin(words: string): Login & { more: string[] } {
  const [token = "", silence = "", ...more] = words.split(" ");
  const silenceMs = Number(silence) * 1000;
  if (!/^[\w-]{22,64}$/.test(token) || !(silenceMs > 0 && silenceMs <= SILENCE_MS_MAX))
    throw new ChatError("closed", "the answer to the login is not one of a Heartline server");
  return { token, silenceMs, more };
}

/** What a login gave. */
export interface Login {
  token: string;
  /** A session from which nothing is heard for so long ends; the client beats by itself, well within it. */
  silenceMs: number;
}

/** Somebody who waits for a reply. */
export interface PendingReply {
  resolve: (words: string) => void;
  reject: (error: ChatError) => void;
}

/** A server that does not answer within this time is gone, even if no packet says so. */
export const ANSWER_MS = 10_000;
export const NO_ANSWER = `no answer came within ${ANSWER_MS / 1000} seconds`;
const LOCKOUT_MS_MAX = 3_600_000;
/** The longest time that a timer of this runtime takes. */
const SILENCE_MS_MAX = 2 ** 31 - 1;
const PAUSE_MIN_MS = 200;
const PAUSE_MAX_MS = 20_000;

/** Growing pauses between attempts, uneven, so that the clients of a server that went away do not come back as one. */
export class Backoff {
  readonly #startMs = performance.now();
  #pauseMs: number;
  #lastMs = performance.now();

  /** Goes on behind so many attempts. */
  constructor(attempts = 0) {
    this.#pauseMs = Math.min(PAUSE_MIN_MS * 2 ** attempts, PAUSE_MAX_MS);
  }

  /** Time since the first attempt. */
  get elapsedMs(): number {
    return performance.now() - this.#startMs;
  }

  /** Time since the end of the last pause. */
  get sinceLastMs(): number {
    return performance.now() - this.#lastMs;
  }

  /** Waits for the next pause, at least `leastMs`. */
  async next(leastMs = 0): Promise<void> {
    const pauseMs = this.#pauseMs * (0.5 + Math.random() / 2);
    this.#pauseMs = Math.min(this.#pauseMs * 2, PAUSE_MAX_MS);
    await Bun.sleep(Math.max(pauseMs, leastMs));
    this.#lastMs = performance.now();
  }
}

/**
 * Repeats `attempt` after growing pauses while it fails with one of the `passing` codes. After `locked_out <seconds>`
 * it waits for the end of the lockout. Rejects with any other failure, and with the last one when `giveUpMs` is over,
 * counted from the start of `pauses`.
 */
export async function retry<T>(
  attempt: () => Promise<T>,
  passing: readonly string[],
  giveUpMs: number,
  pauses = new Backoff(),
): Promise<T> {
  for (;;) {
    const isLastTime = pauses.elapsedMs > giveUpMs;
    try {
      return await attempt();
    } catch (error) {
      if (isLastTime || !(error instanceof ChatError) || !passing.includes(error.code)) throw error;
      const isLockedOut = error.code === "locked_out";
      await pauses.next(isLockedOut ? Math.min(Number.parseInt(error.detail, 10) * 1000 || 0, LOCKOUT_MS_MAX) : 0);
    }
  }
}

/** The beginning of a login: which kind of session it is to be, and what it goes on from, follows. */
export function loginLine(user: string, password: string, listenPort: number): string {
  return `login ${user} ${password}${listenPort > 0 ? ` listen=${listenPort}` : ""}`;
}

/** A request that belongs to its session, and not to whoever is in it: no later session makes it again. */
export function isOwn(line: string): boolean {
  return /^(alive|logout|getaddress|private_answer)/.test(line);
}

/** Gives a reply's line bytes[start..end) to who waits for it. */
export function answer(
  { resolve, reject }: PendingReply,
  isOk: boolean,
  bytes: Uint8Array,
  start: number,
  end: number,
): void {
  if (isOk) return resolve(decode(bytes, Math.min(start + 3, end), end));
  reject(refusalIn(bytes, start, end)!);
}

/** The refusal in a line `err <code> ...`, or in `busy <words>` of an older server; null for any other line. */
export function refusalIn(bytes: Uint8Array, start: number, end: number): ChatError | null {
  const isError = startsWithWord(bytes, start, end, "err");
  if (!isError && !startsWithWord(bytes, start, end, "busy")) return null;
  const [code = "", ...detail] = decode(bytes, isError ? Math.min(start + 4, end) : start, end).split(" ");
  return new ChatError(code === "" ? "refused" : code, detail.join(" "));
}

/** Reasons after which a client does not log in again by itself. */
export const STAYS_AWAY = ["replaced", "removed", "kicked", "logout"];

/** Whether the first word of a line is that one. */
export function startsWithWord(bytes: Uint8Array, start: number, end: number, word: string): boolean {
  for (let i = 0; i < word.length; i++) if (bytes[start + i] !== word.charCodeAt(i)) return false;
  const at = start + word.length;
  return at === end || bytes[at] === 32;
}

/** The reason that a `goodbye` line gives, `unknown` if none; null for any other line. */
export function goodbyeReason(bytes: Uint8Array, start: number, end: number): string | null {
  return startsWithWord(bytes, start, end, "goodbye") ? decode(bytes, start, end).split(" ", 2)[1] || "unknown" : null;
}
