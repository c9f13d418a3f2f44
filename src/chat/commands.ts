import { ONLINE_NAMES_MAX } from "../limits.ts";
import { encode, parseNumber, startsWith } from "../protocol/ascii.ts";
import type { LineReader } from "../protocol/line-reader.ts";
import { OK, OK_SENT, OK_STORED, refuse } from "../protocol/reply.ts";
import { Request, SHAPES, type Verb } from "../protocol/request.ts";
import type { Chat } from "./chat.ts";
import type { LoginRecord } from "./lockouts.ts";
import type { Account, Peer, Session } from "./session.ts";

/** A verb's row: who may say it, and what it does. Its words have the shape of protocol/request.ts by then. */
type Command =
  | { stranger: (chat: Chat, peer: Peer, request: Request) => void }
  | { session: (chat: Chat, session: Session, request: Request) => void };

/** Every row answers with exactly one reply, as the last thing it appends. */
const COMMANDS: Record<Verb, Command> = {
  login: { stranger: login },
  message: { session: message },
  broadcast: { session: broadcast },
  online: { session: online },
  block: { session: block },
  unblock: { session: unblock },
  alive: { session: (_chat, { outbox }) => outbox.append(OK) },
  logout: { session: logout },
};

const request = new Request();

/** One line of a peer: PROTOCOL.md, Requests, in the order in which its errors are given. */
export function receive(chat: Chat, peer: Peer, line: LineReader): void {
  const { session, replies } = peer;
  if (session !== null) session.heardMs = chat.wheel.nowMs;
  if (line.tooLong) return refuse(replies, "line_too_long");
  if (line.start === line.end) return refuse(replies, "bad_request", "the line is empty");
  const verb = request.parseVerb(line.bytes, line.start, line.end);
  if (verb === null) return refuse(replies, "unknown_command");
  const command = COMMANDS[verb];
  if ("session" in command) {
    if (session === null) return refuse(replies, "not_logged_in");
    if (!request.parseWords(SHAPES[verb])) return refuse(replies, "bad_request", SHAPES[verb].usage);
    command.session(chat, session, request);
  } else {
    if (session !== null) return refuse(replies, "already_logged_in");
    if (!request.parseWords(SHAPES[verb])) return refuse(replies, "bad_request", SHAPES[verb].usage);
    command.stranger(chat, peer, request);
  }
}

/** The user that a word names; `unknown_user` when there is none. */
function named(chat: Chat, out: Session["outbox"], { bytes, starts, ends }: Request, word: number): Account | null {
  const account = chat.accounts.find(bytes, starts[word]!, ends[word]!);
  if (account === undefined) refuse(out, "unknown_user");
  return account ?? null;
}

const LISTEN = encode("listen=");

/** May be answered later, when the password is judged: until then the peer takes no further line. */
function login(chat: Chat, peer: Peer, request: Request): void {
  let listenPort = 0;
  for (let i = 2; i < request.words; i++) {
    const start = request.starts[i]!;
    const end = request.ends[i]!;
    const isListen = listenPort === 0 && startsWith(request.bytes, start, end, LISTEN);
    listenPort = isListen ? parseNumber(request.bytes, start + LISTEN.length, end) : 0;
    if (listenPort < 1 || listenPort > 65535) return refuse(peer.replies, "bad_request", `option ${request.word(i)}`);
  }
  const account = named(chat, peer.replies, request, 0);
  if (account === null) return;
  const password = Buffer.from(request.bytes.subarray(request.starts[1], request.ends[1]));
  peer.pause();
  const answer = (record: LoginRecord, right: boolean): void => {
    if (right) {
      chat.lockouts.right(record);
      if (!peer.gone) chat.login(peer, account, listenPort);
      return;
    }
    const triesLeft = chat.lockouts.wrong(record);
    if (triesLeft > 0) refuse(peer.replies, "wrong_password", triesLeft);
    else lockedOut(chat, peer, record);
  };
  const judge = (record: LoginRecord): void => {
    const failed = (error: unknown): void => {
      chat.report(error);
      refuse(peer.replies, "internal");
    };
    const done = (): void => {
      chat.lockouts.leave(record);
      peer.resume();
    };
    try {
      const verdict = chat.lockouts.secondsLeft(record) > 0 ? null : chat.verify(account, password);
      if (verdict === null) lockedOut(chat, peer, record);
      else if (typeof verdict === "boolean") answer(record, verdict);
      else
        return void verdict
          .then((right) => answer(record, right))
          .catch(failed)
          .then(done);
    } catch (error) {
      failed(error);
    }
    done();
  };
  if (!chat.lockouts.enter(account, peer.address, judge)) {
    refuse(peer.replies, "busy");
    peer.resume();
  }
}

function lockedOut(chat: Chat, peer: Peer, record: LoginRecord): void {
  refuse(peer.replies, "locked_out", chat.lockouts.secondsLeft(record));
  peer.close();
}

function message(chat: Chat, session: Session, request: Request): void {
  const { account, outbox } = session;
  const to = named(chat, outbox, request, 0);
  if (to === null) return;
  if (to.blocks.has(account)) return refuse(outbox, "blocked");
  const fate = chat.send(account, to, request.bytes, request.textStart, request.end);
  if (fate === "full") refuse(outbox, "mailbox_full");
  else outbox.append(fate === "sent" ? OK_SENT : OK_STORED);
}

function broadcast(chat: Chat, { account, outbox }: Session, request: Request): void {
  const count = chat.broadcast(account, request.bytes, request.textStart, request.end);
  outbox.append(encode(`ok ${count}\n`));
}

function online(chat: Chat, { account, outbox }: Session): void {
  outbox.append(chat.presence.list(account, ONLINE_NAMES_MAX));
}

function block(chat: Chat, { account, outbox }: Session, request: Request): void {
  const other = named(chat, outbox, request, 0);
  if (other === null) return;
  if (account.blocks.has(other)) return refuse(outbox, "already_blocked");
  if (account === other) return refuse(outbox, "bad_request", "nobody blocks themselves");
  chat.store.block(account.name, other.name);
  account.block(other);
  outbox.append(OK);
}

function unblock(chat: Chat, { account, outbox }: Session, request: Request): void {
  const other = named(chat, outbox, request, 0);
  if (other === null) return;
  if (!account.blocks.has(other)) return refuse(outbox, "not_blocked");
  chat.store.unblock(account.name, other.name);
  account.unblock(other);
  outbox.append(OK);
}

function logout(chat: Chat, session: Session): void {
  session.outbox.append(OK);
  chat.end(session, "logout");
}
