import {
  NAMES_PER_REQUEST,
  ONLINE_NAMES_MAX,
  RECEIVERS_PER_REQUEST,
  RECEIVERS_PER_WORK,
  WORK_BYTES,
  WORK_STORED,
} from "../limits.ts";
import { encode, startsWith } from "../protocol/ascii.ts";
import type { LineReader } from "../protocol/line-reader.ts";
import { type ErrorCode, OK, OK_ASKED, OK_SENT, OK_STORED, refuse } from "../protocol/reply.ts";
import { Request, SHAPES, type Verb, isOtherProtocol } from "../protocol/request.ts";
import type { Outbox } from "../stream/outbox.ts";
import type { Chat } from "./chat.ts";
import { fault } from "./fault.ts";
import { login } from "./login.ts";
import type { Account, Peer, Session, SessionKind } from "./session.ts";

/** What the store must have room for before a request is acted on; see `canStore`. */
type Stored = "nothing" | "change" | "position";

/** What must be true before a request is acted on. */
interface Preconditions {
  /** The first word names a user: otherwise `unknown_user`. */
  user: boolean;
  /** It does not name the asking user: otherwise `bad_request` with this text; null when it may. */
  notSelf: string | null;
  /** Whether the asking user has blocked that user: otherwise `not_blocked` or `already_blocked`; null for both. */
  hasBlocked: boolean | null;
  /** That user has not blocked the asking user: otherwise `blocked`. */
  unblocked: boolean;
  /** Otherwise `internal`. */
  stored: Stored;
}

const NO_PRECONDITIONS: Preconditions = {
  user: false,
  notSelf: null,
  hasBlocked: null,
  unblocked: false,
  stored: "nothing",
};

/**
 * Appends exactly one reply, as the last thing, to `out`: the session's own outbox, except in callback sessions. `user`
 * is the one that the first word names.
 */
type Run = (chat: Chat, session: Session, request: Request, out: Outbox, user: Account) => void;

/** A request of a session. All rows have one shape, so that the hot path reads them from fixed offsets. */
interface SessionCommand extends Preconditions {
  needsSession: true;
  run: Run;
}

/** A request of a connection without a session. It replies by itself, perhaps later. */
interface ConnectionCommand {
  needsSession: false;
  run: (chat: Chat, peer: Peer, request: Request) => void;
}

function withSession(run: Run, preconditions: Partial<Preconditions> = {}): SessionCommand {
  const { user, notSelf, hasBlocked, unblocked, stored } = { ...NO_PRECONDITIONS, ...preconditions };
  return { needsSession: true, run, user, notSelf, hasBlocked, unblocked, stored };
}

function withoutSession(run: ConnectionCommand["run"]): ConnectionCommand {
  return { needsSession: false, run };
}

/** The words of each verb are in `SHAPES` (protocol/request.ts); they are checked before a row applies. */
const COMMANDS: Record<Verb, SessionCommand | ConnectionCommand> = {
  login: withoutSession(login),
  resume: withoutSession(resume),
  as: withoutSession(as),
  message: withSession(message),
  broadcast: withSession(broadcast, { stored: "position" }),
  online: withSession(online),
  block: withSession(block, { user: true, hasBlocked: false, notSelf: "nobody blocks themselves", stored: "change" }),
  unblock: withSession(unblock, { user: true, hasBlocked: true, stored: "change" }),
  getaddress: withSession(getaddress, { user: true, unblocked: true, notSelf: "nobody calls themselves" }),
  private_answer: withSession(privateAnswer),
  alive: withSession(alive),
  logout: withSession(logout),
};

const GOODBYE_FLOOD = encode("goodbye flood\n");
const request = new Request();

/**
 * Acts on one line of a peer; see docs/protocol.md, Requests. A fault ends the connection of the peer and nothing else.
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
    peer.close(); // No later line of this connection is acted on, and a browser receives no reply.
    return;
  }
  let isValid = false;
  if (line.tooLong) refuseInvalid(replies, "line_too_long");
  else if (line.start === line.end) refuseInvalid(replies, "bad_request", "the line is empty");
  else {
    try {
      isValid = dispatch(chat, peer, session, replies, line.bytes, line.start, line.end);
    } catch (error) {
      return fault(chat, peer, error);
    }
  }
  if (session !== null) return countInvalid(chat, session, isValid);
  peer.badLines = isValid ? 0 : peer.badLines + 1;
  if (!isFlood(chat, peer.badLines)) return;
  chat.observer?.flooded(peer);
  replies.finish(GOODBYE_FLOOD);
  peer.close();
}

/** Ends the session after `badLinesMax` consecutive invalid lines. */
function countInvalid(chat: Chat, session: Session, isValid: boolean): void {
  session.badLines = isValid ? 0 : session.badLines + 1;
  if (isFlood(chat, session.badLines)) chat.end(session, "flood");
}

function isFlood({ limits: { badLinesMax } }: Chat, badLines: number): boolean {
  return badLines >= badLinesMax && badLinesMax > 0;
}

/** Finds the verb, checks the words and acts; false when the line is not a valid request of this peer. */
function dispatch(
  chat: Chat,
  peer: Peer,
  session: Session | null,
  out: Outbox,
  bytes: Uint8Array,
  start: number,
  end: number,
): boolean {
  const recipient = session === null ? null : sameRecipient(session, bytes, start, end);
  if (recipient !== null) {
    send(chat, session!, recipient, out, bytes, start + recipient.messageHead.length, end);
    return true;
  }
  const verb = request.parseVerb(bytes, start, end);
  if (verb === null) return refuseInvalid(out, "unknown_command");
  const command = COMMANDS[verb];
  if (command.needsSession) {
    if (session === null) return refuseInvalid(out, "not_logged_in");
    if (!request.parseWords(SHAPES[verb])) return refuseInvalid(out, "bad_request", SHAPES[verb].usage);
    if (verb === "message") message(chat, session, request, out);
    else act(chat, session, request, out, command);
  } else {
    if (session !== null) return refuseInvalid(out, "already_logged_in");
    if (!request.parseWords(SHAPES[verb])) return refuseInvalid(out, "bad_request", SHAPES[verb].usage);
    if (chat.loginRelay === null) command.run(chat, peer, request);
    else chat.loginRelay.relay(peer, verb, Buffer.from(bytes.subarray(start, end)));
  }
  return true;
}

function refuseInvalid(out: Outbox, code: ErrorCode, detail?: string): false {
  refuse(out, code, detail);
  return false;
}

/** Checks the preconditions of a request, then runs it. */
function act(chat: Chat, session: Session, request: Request, out: Outbox, command: SessionCommand): void {
  const { account } = session;
  let user = account;
  if (command.user) {
    const named = chat.accounts.find(request.bytes, request.starts[0]!, request.ends[0]!);
    if (named === undefined) return refuse(out, "unknown_user");
    const code = refusal(account, named, command);
    if (code !== null) {
      chat.observer?.refused(account, named, code);
      return refuse(out, code, code === "bad_request" ? command.notSelf! : undefined);
    }
    user = named;
  }
  if (command.stored !== "nothing" && !canStore(chat, session, command.stored)) {
    if (command.user) chat.observer?.refused(account, user, "internal");
    return refuse(out, "internal", chat.store.writeError!);
  }
  command.run(chat, session, request, out, user);
}

function refusal(account: Account, user: Account, command: SessionCommand): ErrorCode | null {
  if (command.unblocked && user.blocks.has(account)) return "blocked";
  if (command.notSelf !== null && user === account) return "bad_request";
  if (command.hasBlocked === null || command.hasBlocked === account.blocks.has(user)) return null;
  return command.hasBlocked ? "not_blocked" : "already_blocked";
}

/** Reserves room in the journal, so that a full disk is known before a reply promises anything. */
function canStore({ store }: Chat, { kind }: Session, stored: Stored): boolean {
  if (stored === "change") return store.accepts(0);
  // After a crash it must be known that the request was acted on, or the client would send it again.
  return kind !== "resumable" || store.hasRoom(0);
}

function resume(chat: Chat, peer: Peer, request: Request): void {
  const position = request.number(1);
  forSession(chat, peer, "resumable", request.word(0), (session) => {
    if (!chat.resume(peer, session, position)) refuse(peer.replies, "bad_request", "so much was never sent");
  });
}

/** One request of a callback session: the reply goes to this connection, which is closed after it. */
function as(chat: Chat, peer: Peer, request: Request): void {
  const { replies } = peer;
  // The bytes stay valid while this peer is paused.
  const { bytes, textStart, end } = request;
  const verb = request.parseVerb(bytes, textStart, end);
  if (verb !== null && !COMMANDS[verb].needsSession) {
    refuse(replies, "bad_request", SHAPES.as.usage);
    return peer.close();
  }
  forSession(chat, peer, "callback", request.word(0), (session) => {
    session.lastActivityMs = chat.wheel.nowMs;
    countInvalid(chat, session, dispatch(chat, peer, session, replies, bytes, textStart, end));
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
      const session = chat.known(kind, token); // It may have ended while it waited.
      if (session === null)
        refuse(peer.replies, "unknown_session", chat.store.endedSession(token)?.finalReason ?? undefined);
      else act(session);
    } catch (error) {
      return fault(chat, peer, error);
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

/**
 * The recipient of the request bytes[start..end) if it is a message to the same user as the session's last one, as most
 * are. One comparison replaces the parser and the look-up, which saves 27 of 172 ns per message (`bun run bench:micro
 * --filter server`). A request begins as a line from its recipient does, with `message <user> `.
 */
function sameRecipient({ recipient }: Session, bytes: Uint8Array, start: number, end: number): Account | null {
  if (recipient === null || recipient.password === null) return null;
  const { messageHead } = recipient;
  return end - start > messageHead.length && startsWith(bytes, start, end, messageHead) ? recipient : null;
}

/** Checks its preconditions itself, and is called without `act`, which costs more. */
function message(chat: Chat, session: Session, request: Request, out: Outbox): void {
  const to = chat.accounts.find(request.bytes, request.starts[0]!, request.ends[0]!);
  if (to === undefined) return refuseMessage(chat, session.account, null, out, "unknown_user");
  session.recipient = to;
  send(chat, session, to, out, request.bytes, request.textStart, request.end);
}

/** Sends the text bytes[start..end) to a user. */
function send(
  chat: Chat,
  session: Session,
  to: Account,
  out: Outbox,
  bytes: Uint8Array,
  start: number,
  end: number,
): void {
  const { account } = session;
  if (to.blocks.has(account)) return refuseMessage(chat, account, to, out, "blocked");
  if (!chat.store.accepts(end - start))
    return refuseMessage(chat, account, to, out, "internal", chat.store.writeError!);
  const fate = chat.send(account, to, bytes, start, end);
  if (fate === "stored") chat.rates.work += WORK_STORED + (end - start) / WORK_BYTES;
  if (fate === "full") return refuseMessage(chat, account, to, out, "mailbox_full");
  session.messagesIn++;
  chat.observer?.accepted(account, to, bytes, start, end, fate);
  out.append(fate === "sent" ? OK_SENT : OK_STORED);
}

function refuseMessage(
  chat: Chat,
  from: Account,
  to: Account | null,
  out: Outbox,
  code: ErrorCode,
  detail?: string,
): void {
  chat.observer?.messageRefused(from, to, code);
  refuse(out, code, detail);
}

function broadcast(chat: Chat, { account }: Session, request: Request, out: Outbox): void {
  const count = chat.announcements.broadcast(account, request.bytes, request.textStart, request.end);
  chat.observer?.broadcast(account, request.bytes, request.textStart, request.end, count);
  // A user who has blocked the sender costs as much as a receiver.
  const receivers = count + account.blockedBy.size;
  chat.rates.charge(account, receivers / RECEIVERS_PER_REQUEST, receivers / RECEIVERS_PER_WORK);
  out.append(encode(`ok ${count}\n`));
}

function online(chat: Chat, { account }: Session, _request: Request, out: Outbox): void {
  const names = Math.min(chat.presence.count, ONLINE_NAMES_MAX) + account.blockedBy.size;
  chat.rates.charge(account, names / NAMES_PER_REQUEST, names / NAMES_PER_REQUEST);
  const line = chat.presence.list(account, ONLINE_NAMES_MAX);
  chat.observer?.listed(account, line);
  out.append(line);
}

function block(chat: Chat, session: Session, _request: Request, out: Outbox, other: Account): void {
  chat.store.block(session.account.name, other.name);
  session.account.block(other);
  chat.introductions.part(session, other);
  out.append(OK);
}

function unblock(chat: Chat, { account }: Session, _request: Request, out: Outbox, other: Account): void {
  chat.store.unblock(account.name, other.name);
  account.unblock(other);
  out.append(OK);
}

function getaddress(chat: Chat, session: Session, request: Request, out: Outbox, other: Account): void {
  if (other.session === null) return refuse(out, "offline");
  if (other.session.listenPort === 0) return refuse(out, "not_listening");
  const refusal = chat.introductions.ask(session, other.session, request.words > 1 ? request.word(1) : "");
  if (refusal !== null) return refuse(out, refusal);
  out.append(OK_ASKED);
}

function privateAnswer(chat: Chat, session: Session, request: Request, out: Outbox): void {
  const asker = chat.accounts.find(request.bytes, request.starts[0]!, request.ends[0]!);
  const key = request.words > 2 ? request.word(2) : "";
  if (asker !== undefined && chat.introductions.answer(session, asker, request.word(1) === "yes", key)) out.append(OK);
  else refuse(out, "no_request");
}

/** Takes the position that the client acknowledges, if there is one; false when that was never sent. */
function acked(chat: Chat, session: Session, request: Request, out: Outbox): boolean {
  if (request.words === 0 || chat.ack(session, request.number(0))) return true;
  refuse(out, "bad_request", "so much was never sent");
  return false;
}

function alive(chat: Chat, session: Session, request: Request, out: Outbox): void {
  if (!acked(chat, session, request, out)) return;
  out.append(session.kind === "plain" ? OK : encode(`ok ${session.received}\n`));
}

function logout(chat: Chat, session: Session, request: Request, out: Outbox): void {
  if (!acked(chat, session, request, out)) return;
  out.append(OK);
  chat.end(session, "logout");
}
