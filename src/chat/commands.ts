import { NAMES_PER_REQUEST, ONLINE_NAMES_MAX, RECEIVERS_PER_REQUEST, WORK_BYTES, WORK_STORED } from "../limits.ts";
import { encode, equals, isToken, parseNumber, startsWith } from "../protocol/ascii.ts";
import type { LineReader } from "../protocol/line-reader.ts";
import type { Outbox } from "../stream/outbox.ts";
import { type ErrorCode, OK, OK_ASKED, OK_SENT, OK_STORED, refuse } from "../protocol/reply.ts";
import { Request, SHAPES, type Verb, isOtherProtocol } from "../protocol/request.ts";
import type { Chat } from "./chat.ts";
import type { LoginRecord } from "../auth/lockouts.ts";
import type { Account, LoginOptions, Peer, Session, SessionKind } from "./session.ts";

/** A verb's row: who may say it, and what it does. Its words have the shape of protocol/request.ts by then. */
type Command =
  | { stranger: (chat: Chat, peer: Peer, request: Request) => void }
  | { session: (chat: Chat, session: Session, request: Request, out: Outbox) => void };

/**
 * Every row answers with exactly one reply, as the last thing it appends: to `out`, which is the session's own stream
 * except in callback sessions.
 */
const COMMANDS: Record<Verb, Command> = {
  login: { stranger: login },
  resume: { stranger: resume },
  as: { stranger: as },
  message: { session: message },
  broadcast: { session: broadcast },
  online: { session: online },
  block: { session: block },
  unblock: { session: unblock },
  getaddress: { session: getaddress },
  private_answer: { session: privateAnswer },
  alive: { session: alive },
  logout: { session: logout },
};

const GOODBYE_FLOOD = encode("goodbye flood\n");
const request = new Request();

/**
 * One line of a peer: docs/protocol.md, Requests, in the order in which its errors are given. A fault inside ends the
 * peer's connection and nothing else.
 */
export function receive(chat: Chat, peer: Peer, line: LineReader): void {
  const { session, replies } = peer;
  chat.rates.work += 1 + line.lineBytes / WORK_BYTES;
  if (session !== null) {
    session.lastActivityMs = chat.wheel.nowMs;
    session.received += line.lineBytes;
  } else if (
    line.tooLong
      ? isOtherProtocol(line.excerpt, 0, line.excerpt.length)
      : isOtherProtocol(line.bytes, line.start, line.end)
  ) {
    peer.close(); // Nothing more of this connection is a request, and a browser gets no reply to show.
    return;
  }
  let isValid = false;
  if (line.tooLong) decline(replies, "line_too_long");
  else if (line.start === line.end) decline(replies, "bad_request", "the line is empty");
  else {
    try {
      isValid = answer(chat, peer, session, replies, line.bytes, line.start, line.end);
    } catch (error) {
      return fail(chat, peer, error);
    }
  }
  if (session !== null) return countInvalid(chat, session, isValid);
  peer.badLines = isValid ? 0 : peer.badLines + 1;
  if (peer.badLines === 0 || peer.badLines !== chat.limits.badLinesMax) return;
  replies.finish(GOODBYE_FLOOD);
  peer.close();
}

/** Ends the session after `badLinesMax` consecutive invalid lines. */
function countInvalid(chat: Chat, session: Session, isValid: boolean): void {
  session.badLines = isValid ? 0 : session.badLines + 1;
  if (session.badLines > 0 && session.badLines === chat.limits.badLinesMax) chat.end(session, "flood");
}

/** False when the line is not a valid request of this peer. */
function answer(
  chat: Chat,
  peer: Peer,
  session: Session | null,
  out: Outbox,
  bytes: Uint8Array,
  start: number,
  end: number,
): boolean {
  const verb = request.parseVerb(bytes, start, end);
  if (verb === null) return decline(out, "unknown_command");
  const command = COMMANDS[verb];
  if ("session" in command) {
    if (session === null) return decline(out, "not_logged_in");
    if (!request.parseWords(SHAPES[verb])) return decline(out, "bad_request", SHAPES[verb].usage);
    command.session(chat, session, request, out);
  } else {
    if (session !== null) return decline(out, "already_logged_in");
    if (!request.parseWords(SHAPES[verb])) return decline(out, "bad_request", SHAPES[verb].usage);
    command.stranger(chat, peer, request);
  }
  return true;
}

function decline(out: Outbox, code: ErrorCode, detail?: string): false {
  refuse(out, code, detail);
  return false;
}

function fail(chat: Chat, peer: Peer, error: unknown): void {
  chat.report(error, peer);
  refuse(peer.replies, "internal");
  peer.close();
}

/** The user that a word names; `unknown_user` when there is none. */
function named(chat: Chat, out: Outbox, { bytes, starts, ends }: Request, word: number): Account | null {
  const account = chat.accounts.find(bytes, starts[word]!, ends[word]!);
  if (account === undefined) refuse(out, "unknown_user");
  return account ?? null;
}

const LISTEN = encode("listen=");
const RESUMABLE = encode("resumable");
const CALLBACK = encode("callback=");
const AFTER = encode("after=");
const COLON = 58;

/** The options behind a login's password; or the first that is unknown, comes twice, or contradicts another. */
function parseOptions({ bytes, starts, ends, words }: Request): LoginOptions | number {
  const options: LoginOptions = { listenPort: 0, resumable: false, callbackPort: 0, after: null };
  for (let i = 2; i < words; i++) {
    const start = starts[i]!;
    const end = ends[i]!;
    const port = (prefix: Uint8Array, least: number): number => {
      const value = parseNumber(bytes, start + prefix.length, end);
      return value >= least && value <= 65535 ? value : 0;
    };
    const kindIsOpen = !options.resumable && options.callbackPort === 0;
    if (startsWith(bytes, start, end, LISTEN) && options.listenPort === 0) {
      options.listenPort = port(LISTEN, 1);
      if (options.listenPort === 0) return i;
    } else if (startsWith(bytes, start, end, CALLBACK) && kindIsOpen) {
      options.callbackPort = port(CALLBACK, 1024);
      if (options.callbackPort === 0) return i;
    } else if (equals(bytes, start, end, RESUMABLE) && kindIsOpen) options.resumable = true;
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

/** Of an option that is refused. */
const OPTION_CHARACTERS_SHOWN = 64;

/** May be answered later, when the password is judged: until then the peer takes no further line. */
function login(chat: Chat, peer: Peer, request: Request): void {
  const options = parseOptions(request);
  if (typeof options === "number") {
    // Shortened: it may be half a megabyte that would be three times as long as text.
    return refuse(peer.replies, "bad_request", `option ${request.word(options).slice(0, OPTION_CHARACTERS_SHOWN)}`);
  }
  if (options.callbackPort > 0 && peer.isEncrypted)
    return refuse(peer.replies, "bad_request", "callback over TLS, since calls are plain TCP");
  const waitSeconds = chat.addresses.loginWait(peer.address);
  if (waitSeconds > 0) return refuse(peer.replies, "busy", `too many failed logins; try again in ${waitSeconds} s`);
  chat.addresses.loginBegins(peer.address);
  let hasFailed = false;
  const account = named(chat, peer.replies, request, 0);
  if (account === null) return;
  const known = account.password; // Another file may be read while this is judged.
  const password = Buffer.from(request.bytes.subarray(request.starts[1], request.ends[1]));
  peer.pause();
  const answer = (record: LoginRecord, right: boolean): void => {
    if (account.password === null) return refuse(peer.replies, "unknown_user");
    if (account.password !== known) return refuse(peer.replies, "busy", "your password was just changed; try again");
    if (right) {
      chat.lockouts.right(record);
      if (peer.isClosed || chat.isOver) return;
      const isKnown = options.resumable || options.callbackPort > 0;
      if (isKnown && !chat.store.accepts(0)) refuse(peer.replies, "internal", chat.store.writeError!);
      else chat.login(peer, account, password, options);
      return;
    }
    hasFailed = true;
    const triesLeft = chat.lockouts.wrong(record);
    if (triesLeft > 0) refuse(peer.replies, "wrong_password", triesLeft);
    else lockedOut(chat, peer, record);
  };
  const judge = (record: LoginRecord): void => {
    const conclude = (how: () => void): void => {
      try {
        how();
      } catch (error) {
        fail(chat, peer, error);
      }
      if (!hasFailed) chat.addresses.loginEnds(peer.address);
      chat.lockouts.leave(record);
      peer.resume();
    };
    const judged = (right: boolean | null): void => {
      if (right === null) return conclude(() => void (hasFailed = true)); // It hung up: nobody knows.
      if (!right) return conclude(() => answer(record, false));
      chat.rates.take(account, peer, () => {
        chat.mailboxScheduler.prepare(account, () => conclude(() => answer(record, true)));
        peer.replies.markDirty(); // The verdict may come between two turns: this begins one.
      });
    };
    const failed = (error: unknown): void => conclude(() => fail(chat, peer, error));
    if (chat.lockouts.secondsLeft(record) > 0) return conclude(() => lockedOut(chat, peer, record));
    try {
      const verdict = chat.passwords.verify(account, password, options.after?.token ?? null, () => peer.isClosed);
      if (verdict === null) conclude(() => refuse(peer.replies, "busy", "too many log in; try again in a moment"));
      else if (typeof verdict === "boolean") judged(verdict);
      else void verdict.then(judged, failed);
    } catch (error) {
      failed(error);
    }
  };
  if (!chat.lockouts.enter(account.name, peer.address, judge)) {
    chat.addresses.loginEnds(peer.address);
    refuse(peer.replies, "busy");
    peer.resume();
  }
}

function lockedOut(chat: Chat, peer: Peer, record: LoginRecord): void {
  refuse(peer.replies, "locked_out", chat.lockouts.secondsLeft(record));
  peer.close();
}

function resume(chat: Chat, peer: Peer, request: Request): void {
  const position = request.number(1);
  forSession(chat, peer, "resumable", request.word(0), (session) => {
    if (!chat.resume(peer, session, position)) refuse(peer.replies, "bad_request", "so much was never sent");
  });
}

/** One request of a callback session: its reply goes to this connection, which is closed behind it. */
function as(chat: Chat, peer: Peer, request: Request): void {
  const { replies } = peer;
  // They stay valid while this peer is paused.
  const { bytes, textStart, end } = request;
  const verb = request.parseVerb(bytes, textStart, end);
  if (verb !== null && "stranger" in COMMANDS[verb]) {
    refuse(replies, "bad_request", SHAPES.as.usage);
    return peer.close();
  }
  forSession(chat, peer, "callback", request.word(0), (session) => {
    session.lastActivityMs = chat.wheel.nowMs;
    countInvalid(chat, session, answer(chat, peer, session, replies, bytes, textStart, end));
    session.caller?.retry();
  });
}

/**
 * Calls `act` with the session of that kind and token when its user's rate allows it. A connection with a request of a
 * callback session is closed after it.
 */
function forSession(chat: Chat, peer: Peer, kind: SessionKind, token: string, act: (session: Session) => void): void {
  const attempt = (): void => {
    try {
      const session = chat.known(kind, token); // It may have ended meanwhile.
      if (session === null) refuse(peer.replies, "unknown_session", chat.wasReplaced(token) ? "replaced" : undefined);
      else act(session);
    } catch (error) {
      return fail(chat, peer, error);
    }
    if (kind === "callback") peer.close();
  };
  const session = chat.known(kind, token);
  if (session === null) return attempt();
  chat.rates.take(session.account, peer, () => {
    if (!peer.isClosed) attempt();
    peer.resume();
  });
}

function message(chat: Chat, { account }: Session, request: Request, out: Outbox): void {
  const to = named(chat, out, request, 0);
  if (to === null) return;
  if (to.blocks.has(account)) return refuseMessage(chat, account, to, out, "blocked");
  if (!chat.store.accepts(request.end - request.textStart))
    return refuseMessage(chat, account, to, out, "internal", chat.store.writeError!);
  const fate = chat.send(account, to, request.bytes, request.textStart, request.end);
  if (fate === "stored") chat.rates.work += WORK_STORED + (request.end - request.textStart) / WORK_BYTES;
  if (fate === "full") return refuseMessage(chat, account, to, out, "mailbox_full");
  chat.observer?.accepted(account, to, request.bytes, request.textStart, request.end, fate);
  out.append(fate === "sent" ? OK_SENT : OK_STORED);
}

function refuseMessage(chat: Chat, from: Account, to: Account, out: Outbox, code: ErrorCode, detail?: string): void {
  chat.observer?.refused(from, to, code);
  refuse(out, code, detail);
}

function broadcast(chat: Chat, { account, kind }: Session, request: Request, out: Outbox): void {
  // That it was acted on must be known after a crash, or its client would send it again.
  if (kind === "resumable" && !chat.store.hasRoom(0)) return refuse(out, "internal", chat.store.writeError!);
  const count = chat.broadcast(account, request.bytes, request.textStart, request.end);
  chat.observer?.broadcast(account, request.bytes, request.textStart, request.end, count);
  // A user who has blocked the sender costs as much as a receiver.
  chat.rates.charge(account, (count + account.blockedBy.size) / RECEIVERS_PER_REQUEST);
  out.append(encode(`ok ${count}\n`));
}

function online(chat: Chat, { account }: Session, _request: Request, out: Outbox): void {
  const names = Math.min(chat.presence.online.length, ONLINE_NAMES_MAX) + account.blockedBy.size;
  chat.rates.charge(account, names / NAMES_PER_REQUEST);
  const line = chat.presence.list(account, ONLINE_NAMES_MAX);
  chat.observer?.listed(account, line);
  out.append(line);
}

function block(chat: Chat, session: Session, request: Request, out: Outbox): void {
  const { account } = session;
  const other = named(chat, out, request, 0);
  if (other === null) return;
  if (account.blocks.has(other)) return refuse(out, "already_blocked");
  if (account === other) return refuse(out, "bad_request", "nobody blocks themselves");
  if (!chat.store.accepts(0)) return refuse(out, "internal", chat.store.writeError!);
  chat.store.block(account.name, other.name);
  account.block(other);
  if (other.session !== null) chat.introductions.part(session, other.session);
  out.append(OK);
}

function unblock(chat: Chat, { account }: Session, request: Request, out: Outbox): void {
  const other = named(chat, out, request, 0);
  if (other === null) return;
  if (!account.blocks.has(other)) return refuse(out, "not_blocked");
  if (!chat.store.accepts(0)) return refuse(out, "internal", chat.store.writeError!);
  chat.store.unblock(account.name, other.name);
  account.unblock(other);
  out.append(OK);
}

function getaddress(chat: Chat, session: Session, request: Request, out: Outbox): void {
  const other = named(chat, out, request, 0);
  if (other === null) return;
  if (other === session.account) return refuse(out, "bad_request", "nobody calls themselves");
  if (other.blocks.has(session.account)) return refuse(out, "blocked");
  if (other.session === null) return refuse(out, "offline");
  if (other.session.listenPort === 0) return refuse(out, "not_listening");
  const refusal = chat.introductions.ask(session, other.session, request.words > 1 ? request.word(1) : "");
  if (refusal !== null) return refuse(out, refusal);
  out.append(OK_ASKED);
}

function privateAnswer(chat: Chat, session: Session, request: Request, out: Outbox): void {
  const asker = chat.accounts.find(request.bytes, request.starts[0]!, request.ends[0]!)?.session ?? null;
  const key = request.words > 2 ? request.word(2) : "";
  if (!chat.introductions.answer(session, asker, request.word(1) === "yes", key)) return refuse(out, "no_request");
  out.append(OK);
}

/** What the client has of its stream, if it says so; false when it cannot have that. */
function confirmed(chat: Chat, session: Session, request: Request, out: Outbox): boolean {
  if (request.words === 0 || chat.ack(session, request.number(0))) return true;
  refuse(out, "bad_request", "so much was never sent");
  return false;
}

function alive(chat: Chat, session: Session, request: Request, out: Outbox): void {
  if (!confirmed(chat, session, request, out)) return;
  out.append(session.kind === "plain" ? OK : encode(`ok ${session.received}\n`));
}

function logout(chat: Chat, session: Session, request: Request, out: Outbox): void {
  if (!confirmed(chat, session, request, out)) return;
  out.append(OK);
  chat.end(session, "logout");
}
