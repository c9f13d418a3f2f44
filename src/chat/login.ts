import { secondsIn } from "../auth/addresses.ts";
import type { LoginRecord } from "../auth/lockouts.ts";
import { encode, equals, isToken, parseNumber, startsWith } from "../protocol/ascii.ts";
import { type ErrorCode, refuse } from "../protocol/reply.ts";
import type { Request } from "../protocol/request.ts";
import type { Chat } from "./chat.ts";
import { fault } from "./fault.ts";
import { type Account, FOREVER, type LoginOptions, type Peer } from "./session.ts";

/** Bytes of a refused option that the reply shows: the option may be half a megabyte, and three times that as text. */
const OPTION_CHARACTERS_SHOWN = 64;

/** The request `login`: options, throttle, user; then the steps of `Login`. */
export function login(chat: Chat, peer: Peer, request: Request): void {
  const { addresses, accounts } = chat;
  const { replies, address, isWebSocket } = peer;
  const { bytes, starts, ends } = request;
  const options = parseOptions(request);
  if (typeof options === "number")
    return refuse(replies, "bad_request", `option ${request.word(options).slice(0, OPTION_CHARACTERS_SHOWN)}`);
  if (options.callbackPort > 0 && peer.isEncrypted)
    return refuse(replies, "bad_request", "callback over TLS, since calls are plain TCP");
  if (isWebSocket && !options.resumable)
    return refuse(replies, "bad_request", "over WebSocket a session is resumable: login <user> <password> resumable");
  if (options.callbackPort > 0 && !peer.isCallable)
    return refuse(replies, "bad_request", `callback to ${address}, which is on another machine than your shard`);
  const account = accounts.find(bytes, starts[0]!, ends[0]!) ?? null;
  if (chat.isOver) return refuseAtEnd(chat, peer, account);
  const waitSeconds = addresses.loginWait(address, isWebSocket);
  if (waitSeconds > 0)
    return refuseLogin(chat, peer, account, "busy", `too many failed logins; try again in ${waitSeconds} s`);
  if (account !== null && account.neighbour !== null) {
    // Servers of one cluster agree on the shard of a user: the one that relays this login is faulty.
    return refuseLogin(chat, peer, account, "internal", "this server does not have the sessions of that user");
  }
  // It counts as failed until it ends in another way. An unknown user stays a failure.
  addresses.loginBegins(address, isWebSocket);
  if (account === null) return refuseLogin(chat, peer, null, "unknown_user");
  // Before the password, as docs/protocol.md orders the codes: nobody can test passwords of a banned user.
  if (account.isBanned(chat.unixMs)) return refuseLogin(chat, peer, account, "banned", banLeft(chat, account));
  const password = Buffer.from(bytes.subarray(starts[1], ends[1]));
  const attempt = new Login(chat, peer, account, password, options);
  peer.pause();
  if (chat.lockouts.enter(account.name, address, (record) => attempt.verify(record))) return;
  addresses.loginEnds(address, isWebSocket);
  refuseLogin(chat, peer, account, "busy");
  peer.resume();
}

function refuseLogin(chat: Chat, peer: Peer, account: Account | null, code: ErrorCode, detail?: string | number): void {
  chat.observer?.loginRefused(account, peer, code);
  refuse(peer.replies, code, detail);
}

/** The seconds that are left of a ban, rounded up; undefined when it has no end. */
function banLeft({ unixMs }: Chat, { bannedUntilMs }: Account): number | undefined {
  return bannedUntilMs === FOREVER ? undefined : secondsIn(bannedUntilMs - unixMs);
}

/** The server drains or stops. The connection is closed too: the next one may reach another server. */
function refuseAtEnd(chat: Chat, peer: Peer, account: Account | null): void {
  refuseLogin(chat, peer, account, "busy", "the server is shutting down; try again in a moment");
  peer.close();
}

/**
 * One login of a known user, whose turn among the attempts of that user and address has come. The steps are verify,
 * prepare and admit. Each step calls the next one; it waits only for a hash, for the user's request rate, or for the
 * move of the user's messages, so a login that waits for nothing is answered within the call. Until `#end` the peer is
 * paused.
 *
 * Exits: locked out, too many hashes wait, hung up before the verdict, wrong password, user removed, banned or
 * with another password meanwhile, hung up or server stopping before the session, outdated, store refuses, session,
 * fault.
 */
class Login {
  readonly #chat: Chat;
  readonly #peer: Peer;
  readonly #account: Account;
  /** As it was when the attempt began: another credentials file may be read meanwhile. */
  readonly #accountPassword: string | null;
  readonly #password: Uint8Array;
  readonly #options: LoginOptions;
  /** `elapsedMs` of the wheel when it was sent: between these two. */
  readonly #earliestMs: number;
  readonly #latestMs: number;
  /** It counts against the failed logins of its address. */
  #hasFailed = false;

  constructor(chat: Chat, peer: Peer, account: Account, password: Uint8Array, options: LoginOptions) {
    this.#chat = chat;
    this.#peer = peer;
    this.#account = account;
    this.#accountPassword = account.password;
    this.#password = password;
    this.#options = options;
    const { arrivalMs, elapsedMs } = chat.wheel;
    const { ms, uncertainMs } = peer.waited;
    this.#earliestMs = (peer.isRelayed ? elapsedMs : arrivalMs) - ms;
    this.#latestMs = elapsedMs - ms + uncertainMs;
  }

  /** Unless the user is locked out, compares the password: at once, or later when it is kept as a hash. */
  verify(record: LoginRecord): void {
    const { lockouts, passwords } = this.#chat;
    if (lockouts.secondsLeft(record) > 0) return this.#end(record, () => this.#refuseLockedOut(record));
    if (this.#account.password !== this.#accountPassword) return this.#end(record, () => void this.#hasUserChanged());
    const decide = (isRight: boolean | null): void => this.#decide(record, isRight);
    const failed = (error: unknown): void => this.#end(record, () => fault(this.#chat, this.#peer, error));
    let verdict: ReturnType<typeof passwords.verify>;
    try {
      const earlierToken = this.#options.after?.token ?? null;
      verdict = passwords.verify(this.#account, this.#password, earlierToken, () => this.#peer.isClosed);
    } catch (error) {
      return failed(error);
    }
    if (verdict === null) this.#end(record, () => this.#refuse("busy", "too many log in; try again in a moment"));
    else if (typeof verdict === "boolean") decide(verdict);
    else void verdict.then(decide, failed);
  }

  /** `isRight` is null when the peer hung up before its password was compared. */
  #decide(record: LoginRecord, isRight: boolean | null): void {
    if (isRight === true) return this.#prepare(record);
    this.#end(record, () => {
      if (isRight === null) this.#hasFailed = true;
      else this.#refuseWrong(record);
    });
  }

  /** Waits for the user's request rate, then until a new session of that user makes no long turn. */
  #prepare(record: LoginRecord): void {
    const { rates, mailboxScheduler } = this.#chat;
    rates.take(this.#account, this.#peer, () => {
      mailboxScheduler.prepare(this.#account, () => this.#end(record, () => this.#admit(record)));
      this.#peer.replies.markDirty(); // A verdict may come between two turns: this begins one.
    });
  }

  #admit(record: LoginRecord): void {
    const chat = this.#chat;
    if (this.#hasUserChanged()) return;
    chat.lockouts.right(record);
    if (this.#peer.isClosed) return;
    if (chat.isOver) return refuseAtEnd(chat, this.#peer, this.#account);
    if (this.#isOutdated) return this.#refuse("busy", "a newer session has begun meanwhile; try again");
    const isKnown = this.#options.resumable || this.#options.callbackPort > 0;
    if (isKnown && !chat.store.accepts(0)) this.#refuse("internal", chat.store.writeError!);
    else chat.login(this.#peer, this.#account, this.#password, this.#options, this.#latestMs);
  }

  /**
   * Its client may be gone: a session that may have been asked for later is not replaced. Where both were asked for at
   * this server, they were read in their order.
   */
  get #isOutdated(): boolean {
    const { session } = this.#account;
    if (session === null || !(session.isRelayed || this.#peer.isRelayed)) return false;
    return session.askedMs > this.#earliestMs;
  }

  #refuseWrong(record: LoginRecord): void {
    if (this.#hasUserChanged()) return;
    this.#hasFailed = true;
    const triesLeft = this.#chat.lockouts.wrong(record);
    if (triesLeft > 0) return this.#refuse("wrong_password", triesLeft);
    this.#chat.observer?.lockedOut(this.#account, this.#peer);
    this.#refuseLockedOut(record);
  }

  #refuseLockedOut(record: LoginRecord): void {
    this.#refuse("locked_out", this.#chat.lockouts.secondsLeft(record));
    this.#peer.close();
  }

  /** Refuses the login when the user was removed or banned, or got another password since it began. */
  #hasUserChanged(): boolean {
    const { password } = this.#account;
    if (password !== null && this.#account.isBanned(this.#chat.unixMs)) {
      this.#hasFailed = true;
      this.#refuse("banned", banLeft(this.#chat, this.#account));
      return true;
    }
    if (password === null) this.#refuse("unknown_user");
    else if (password !== this.#accountPassword) this.#refuse("busy", "your password was just changed; try again");
    return password !== this.#accountPassword;
  }

  #refuse(code: ErrorCode, detail?: string | number): void {
    refuseLogin(this.#chat, this.#peer, this.#account, code, detail);
  }

  /** Every exit: the reply, then the next attempt of the user from this address, then the peer's next line. */
  #end(record: LoginRecord, reply: () => void): void {
    const { addresses, lockouts } = this.#chat;
    try {
      reply();
    } catch (error) {
      fault(this.#chat, this.#peer, error);
    }
    if (!this.#hasFailed) addresses.loginEnds(this.#peer.address, this.#peer.isWebSocket);
    lockouts.leave(record);
    this.#peer.resume();
  }
}

const LISTEN = encode("listen=");
const RESUMABLE = encode("resumable");
const CALLBACK = encode("callback=");
const AFTER = encode("after=");
const COLON = 58;

/** The options after the password; or the index of the first that is unknown, repeated, or contradicts another. */
function parseOptions({ bytes, starts, ends, words }: Request): LoginOptions | number {
  const options: LoginOptions = { listenPort: 0, resumable: false, callbackPort: 0, after: null };
  for (let i = 2; i < words; i++) {
    const start = starts[i]!;
    const end = ends[i]!;
    const port = (prefix: Uint8Array, portMin: number): number => {
      const value = parseNumber(bytes, start + prefix.length, end);
      return value >= portMin && value <= 65535 ? value : 0;
    };
    const hasNoKind = !options.resumable && options.callbackPort === 0;
    if (startsWith(bytes, start, end, LISTEN) && options.listenPort === 0) {
      options.listenPort = port(LISTEN, 1);
      if (options.listenPort === 0) return i;
    } else if (startsWith(bytes, start, end, CALLBACK) && hasNoKind) {
      options.callbackPort = port(CALLBACK, 1024);
      if (options.callbackPort === 0) return i;
    } else if (equals(bytes, start, end, RESUMABLE) && hasNoKind) options.resumable = true;
    else if (startsWith(bytes, start, end, AFTER) && options.after === null) {
      const token = start + AFTER.length;
      const colon = bytes.indexOf(COLON, token);
      const received = colon < 0 || colon >= end ? -1 : parseNumber(bytes, colon + 1, end);
      if (received < 0 || !isToken(bytes, token, colon)) return i;
      options.after = { token: Buffer.from(bytes.subarray(token, colon)).toString("latin1"), received };
    } else return i;
  }
  return options;
}
