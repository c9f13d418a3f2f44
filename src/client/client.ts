import { type ChatEvent, decode, parseEvent } from "./event.ts";
import { Link } from "./link.ts";

export type { ChatEvent } from "./event.ts";

/** The server's `err <code> [<detail>]`; or, with the code `closed`, a connection that ended before the reply came. */
export class ChatError extends Error {
  readonly code: string;
  readonly detail: string;

  constructor(code: string, detail: string) {
    super(detail === "" ? code : `${code} ${detail}`);
    this.code = code;
    this.detail = detail;
  }
}

export interface ChatClientOptions {
  host: string;
  port: number;
  /** Hears everything that the server says by itself, in order. */
  onEvent?: (event: ChatEvent) => void;
}

/** What a login gave. */
export interface Login {
  token: string;
  /** A session from which nothing is heard for so long ends; the client beats by itself, well within it. */
  silenceMs: number;
}

/** Who is online: names in byte order, and how many more there are than the server lists. */
export interface Online {
  names: string[];
  more: number;
}

const BEAT_MS = 30_000;

interface Pending {
  resolve: (words: string) => void;
  reject: (error: ChatError) => void;
}

/**
 * A chat session: requests as promises, which may be made without waiting for the one before; they are answered in
 * order. A refused request rejects with ChatError.
 */
export class ChatClient {
  /**
   * Resolves when the session has ended, with why: "logout", the reason of the server's goodbye, or "lost" when the
   * connection ended without a word.
   */
  readonly ended: Promise<string>;
  readonly #options: ChatClientOptions;
  readonly #pending: Pending[] = [];
  #link: Link | null = null;
  #resolveEnded!: (reason: string) => void;
  #reason = "lost";
  #beat: Timer | null = null;
  #beatUnanswered = false;

  constructor(options: ChatClientOptions) {
    this.#options = options;
    this.ended = new Promise((resolve) => (this.#resolveEnded = resolve));
  }

  /** Connects without logging in. Rejects with the system's error (`code` tells which) when nobody answers there. */
  async connect(): Promise<void> {
    this.#link = await Link.connect(this.#options.host, this.#options.port, {
      line: (bytes, start, end) => this.#line(bytes, start, end),
      closed: () => this.#closed(),
    });
  }

  /** Connects if need be. Rejects with `unknown_user`, `wrong_password <tries left>` or `locked_out <seconds>`. */
  async login(user: string, password: string): Promise<Login> {
    const request = `login ${word(user)} ${word(password)}`;
    if (this.#link === null) await this.connect();
    const [token = "", silence = ""] = (await this.#request(request)).split(" ");
    const silenceMs = Number(silence) * 1000;
    this.#beatEvery(Math.min(BEAT_MS, Math.max(silenceMs - 5_000, silenceMs * 0.6)));
    return { token, silenceMs };
  }

  /** "sent" when the user is online, "stored" when the message waits. Text is a line: it has no line feed in it. */
  async message(user: string, text: string): Promise<"sent" | "stored"> {
    return (await this.#request(`message ${word(user)} ${line(text)}`)) === "sent" ? "sent" : "stored";
  }

  /** Returns how many users it went to. */
  async broadcast(text: string): Promise<number> {
    return Number(await this.#request(`broadcast ${line(text)}`));
  }

  async online(): Promise<Online> {
    const words = await this.#request("online");
    const names = words === "" ? [] : words.split(" ");
    const more = names.at(-1)?.startsWith("+") ? Number(names.pop()) : 0;
    return { names, more };
  }

  async block(user: string): Promise<void> {
    await this.#request(`block ${word(user)}`);
  }

  async unblock(user: string): Promise<void> {
    await this.#request(`unblock ${word(user)}`);
  }

  /** Ends the session; the server closes the connection behind its reply. */
  async logout(): Promise<void> {
    await this.#request("logout");
    this.#reason = "logout";
    this.close();
  }

  /** Hangs up. Requests that were not answered reject with the code `closed`. */
  close(): void {
    this.#link?.close();
  }

  #request(text: string): Promise<string> {
    return new Promise((resolve, reject) => {
      if (this.#link === null) return reject(new ChatError("closed", "the connection has ended"));
      this.#pending.push({ resolve, reject });
      this.#link.send(text);
    });
  }

  #line(bytes: Uint8Array, start: number, end: number): void {
    const isOk = isReply(bytes, start, end, "ok");
    if (!isOk && !isReply(bytes, start, end, "err")) return this.#hear(parseEvent(bytes, start, end));
    const pending = this.#pending.shift();
    if (isOk) return pending?.resolve(decode(bytes, Math.min(start + 3, end), end));
    const [code = "", ...detail] = decode(bytes, Math.min(start + 4, end), end).split(" ");
    pending?.reject(new ChatError(code, detail.join(" ")));
  }

  #hear(event: ChatEvent | null): void {
    if (event === null) return;
    if (event.kind === "goodbye") this.#reason = event.reason;
    this.#options.onEvent?.(event);
  }

  #beatEvery(beatMs: number): void {
    this.#beat = setInterval(() => {
      // A server that did not answer the last beat is gone, even if no packet says so.
      if (this.#beatUnanswered) return this.close();
      this.#beatUnanswered = true;
      this.#request("alive").then(
        () => (this.#beatUnanswered = false),
        () => {},
      );
    }, beatMs);
  }

  #closed(): void {
    this.#link = null;
    for (const { reject } of this.#pending.splice(0)) reject(new ChatError("closed", "the connection has ended"));
    if (this.#beat === null) return; // There was no session yet; the next login connects again.
    clearInterval(this.#beat);
    this.#resolveEnded(this.#reason);
  }
}

function isReply(bytes: Uint8Array, start: number, end: number, reply: "ok" | "err"): boolean {
  const at = start + reply.length;
  for (let i = 0; i < reply.length; i++) if (bytes[start + i] !== reply.charCodeAt(i)) return false;
  return at === end || bytes[at] === 32;
}

/** A word of a request must not become two, or a line of its own. */
function word(text: string): string {
  if (text === "" || /[ \n]/.test(text)) throw new ChatError("bad_request", "a name or password has no spaces in it");
  return text;
}

function line(text: string): string {
  if (text === "" || text.includes("\n")) throw new ChatError("bad_request", "a text is one line, and not empty");
  return text;
}
