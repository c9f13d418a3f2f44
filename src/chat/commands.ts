import {
  NAMES_PER_REQUEST,
  ONLINE_NAMES_MAX,
  RECEIVERS_PER_REQUEST,
  RECEIVERS_PER_WORK,
  WORK_BYTES,
} from "../limits.ts";
import { encode } from "../protocol/ascii.ts";
import type { LineReader } from "../protocol/line-reader.ts";
import { type ErrorCode, OK, OK_ASKED, type Replies, refuse } from "../protocol/reply.ts";
import { Request, SHAPES, type Verb, isOtherProtocol } from "../protocol/request.ts";
import type { Chat } from "./chat.ts";
import { fault } from "./fault.ts";
import { alsoForwarded } from "./forward.ts";
import { login } from "./login.ts";
import { type Requester, message, sameRecipient, send } from "./message.ts";
import { ReplySlots } from "./reply-slots.ts";
import { type Account, NOT_WAITED, type Peer, type Session, type SessionKind } from "./session.ts";

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
 * Appends exactly one reply, as the last thing, to `out`: the session's own outbox or its slots, except in callback
 * sessions. Or another shard gives the reply later: see `forward`. `user` is the one that the first word names.
 */
type Run<From, Out> = (chat: Chat, session: From, request: Request, out: Out, user: Account) => void;

/** A request of a session. All rows have one shape, so that the hot path reads them from fixed offsets. */
export interface SessionCommand<From = Session, Out = Replies> extends Preconditions {
  needsSession: true;
  run: Run<From, Out>;
}

/** A request of a connection without a session. It replies by itself, perhaps later. */
interface ConnectionCommand {
  needsSession: false;
  run: (chat: Chat, peer: Peer, request: Request) => void;
}

export function withSession<From, Out>(
  run: Run<From, Out>,
  preconditions: Partial<Preconditions> = {},
): SessionCommand<From, Out> {
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
  block: withSession(alsoForwarded(block), {
    user: true,
    hasBlocked: false,
    notSelf: "nobody blocks themselves",
    stored: "change",
  }),
  unblock: withSession(alsoForwarded(unblock), { user: true, hasBlocked: true, stored: "change" }),
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
  let out: Replies = replies;
  if (session !== null && session.slots !== null) {
    if (session.kind === "link") return chat.neighbours!.receive(session, line);
    if (session.slots.mustWait(line)) {
      peer.refund();
      return line.hold();
    }
    out = session.slots;
  }
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
  if (line.tooLong) refuseInvalid(out, "line_too_long");
  else if (line.start === line.end) refuseInvalid(out, "bad_request", "the line is empty");
  else {
    try {
      isValid = dispatch(chat, peer, session, out, line.bytes, line.start, line.end);
    } catch (error) {
      return fault(chat, peer, error);
    }
  }
  if (session !== null) return countInvalid(chat, session, isValid);
  peer.waited = NOT_WAITED; // A login, or a relay of it, has read it.
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
  out: Replies,
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
    if (verb === "as" && peer.isWebSocket) return refuseInvalid(out, "bad_request", "over WebSocket: resume <token> …");
    if (chat.loginRelay?.relay(peer, verb, request, start) !== true) command.run(chat, peer, request);
  }
  return true;
}

function refuseInvalid(out: Replies, code: ErrorCode, detail?: string): false {
  refuse(out, code, detail);
  return false;
}

/** Checks the preconditions of a request, then runs it. */
export function act<From extends Requester, Out extends Replies>(
  chat: Chat,
  session: From,
  request: Request,
  out: Out,
  command: SessionCommand<From, Out>,
): void {
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

function refusal(account: Account, user: Account, command: Preconditions): ErrorCode | null {
  if (command.unblocked && user.blocks.has(account)) return "blocked";
  if (command.notSelf !== null && user === account) return "bad_request";
  if (command.hasBlocked === null || command.hasBlocked === account.blocks.has(user)) return null;
  return command.hasBlocked ? "not_blocked" : "already_blocked";
}

/** Reserves room in the journal, so that a full disk is known before a reply promises anything. */
function canStore({ store }: Chat, { kind }: Requester, stored: Stored): boolean {
  if (stored === "change") return store.accepts(0);
  // After a crash it must be known that the request was acted on, or the client would send it again.
  return kind !== "resumable" || store.hasRoom(0);
}

function resume(chat: Chat, peer: Peer, request: Request): void {
  const position = request.number(1);
  forSession(chat, peer, "resumable", request.word(0), (session) => {
    if (!chat.resume(peer, session, position)) refuse(peer.replies, "bad_request", "so much was never sent");
    return null;
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
    const slots = chat.neighbours === null ? null : new ReplySlots(replies);
    session.lastActivityMs = chat.wheel.nowMs;
    countInvalid(chat, session, dispatch(chat, peer, session, slots ?? replies, bytes, textStart, end));
    session.caller?.retry();
    return slots;
  });
}

/**
 * Calls `act` with the session of that kind and token when its user's rate allows it. A connection with a request of a
 * callback session is closed after it, and after the reply of another shard when `act` returns open slots.
 */
function forSession(
  chat: Chat,
  peer: Peer,
  kind: SessionKind,
  token: string,
  act: (session: Session) => ReplySlots | null,
): void {
  const attempt = (): void => {
    try {
      const session = chat.known(kind, token); // It may have ended while it waited.
      if (session === null)
        refuse(peer.replies, "unknown_session", chat.store.endedSession(token)?.finalReason ?? undefined);
      else {
        const slots = act(session);
        if (slots?.isOpen === true) return void (slots.whenClosed = () => peer.close());
      }
    } catch (error) {
      fault(chat, peer, error);
    }
    if (kind === "callback") peer.close();
    peer.resume();
  };
  const session = chat.known(kind, token);
  if (session === null) return attempt();
  chat.rates.take(session.account, peer, () => {
    if (peer.isClosed) peer.resume();
    else attempt();
  });
}

function broadcast(chat: Chat, { account }: Session, request: Request, out: Replies): void {
  const count = chat.announcements.broadcast(account, request.bytes, request.textStart, request.end);
  chat.observer?.broadcast(account, request.bytes, request.textStart, request.end, count);
  // A user who has blocked the sender costs as much as a receiver.
  const receivers = count + account.blockedBy.size;
  chat.rates.charge(account, receivers / RECEIVERS_PER_REQUEST, receivers / RECEIVERS_PER_WORK);
  out.append(encode(`ok ${count}\n`));
}

function online(chat: Chat, { account }: Session, _request: Request, out: Replies): void {
  const names = Math.min(chat.presence.count, ONLINE_NAMES_MAX) + account.blockedBy.size;
  chat.rates.charge(account, names / NAMES_PER_REQUEST, names / NAMES_PER_REQUEST);
  const line = chat.presence.list(account, ONLINE_NAMES_MAX);
  chat.observer?.listed(account, line);
  out.append(line);
}

export function block(chat: Chat, { account }: Requester, _request: Request, out: Replies, other: Account): void {
  chat.store.block(account.name, other.name);
  account.block(other);
  if (account.session !== null) chat.introductions.part(account.session, other);
  else if (other.session !== null) chat.introductions.part(other.session, account);
  out.append(OK);
}

export function unblock(chat: Chat, { account }: Requester, _request: Request, out: Replies, other: Account): void {
  chat.store.unblock(account.name, other.name);
  account.unblock(other);
  out.append(OK);
}

function getaddress(chat: Chat, session: Session, request: Request, out: Replies, other: Account): void {
  const key = request.words > 1 ? request.word(1) : "";
  if (other.neighbour !== null) return chat.neighbours!.observer!.ask(session, other, key, out);
  if (other.session === null) return refuse(out, "offline");
  if (other.session.listenPort === 0) return refuse(out, "not_listening");
  const refusal = chat.introductions.ask(session, other.session, key);
  if (refusal !== null) return refuse(out, refusal);
  out.append(OK_ASKED);
}

function privateAnswer(chat: Chat, session: Session, request: Request, out: Replies): void {
  const asker = chat.accounts.find(request.bytes, request.starts[0]!, request.ends[0]!);
  const key = request.words > 2 ? request.word(2) : "";
  if (asker !== undefined && chat.introductions.answer(session, asker, request.word(1) === "yes", key)) out.append(OK);
  else refuse(out, "no_request");
}

/** Takes the position that the client acknowledges, if there is one; false when that was never sent. */
function acked(chat: Chat, session: Session, request: Request, out: Replies): boolean {
  if (request.words === 0 || chat.ack(session, request.number(0))) return true;
  refuse(out, "bad_request", "so much was never sent");
  return false;
}

function alive(chat: Chat, session: Session, request: Request, out: Replies): void {
  if (!acked(chat, session, request, out)) return;
  out.append(session.kind === "plain" ? OK : encode(`ok ${session.received}\n`));
}

function logout(chat: Chat, session: Session, request: Request, out: Replies): void {
  if (!acked(chat, session, request, out)) return;
  out.append(OK);
  chat.end(session, "logout");
}
