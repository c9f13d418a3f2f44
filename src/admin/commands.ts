import { isAbsolute } from "node:path";
import { secondsIn } from "../auth/addresses.ts";
import type { LoginRecord } from "../auth/lockouts.ts";
import { FOREVER, type Account, type Session } from "../chat/session.ts";
import type { Chat } from "../chat/chat.ts";
import { ban, kick, notify, purge, unban } from "../chat/operator.ts";
import { DRAIN_SECONDS_MAX, OPERATOR_TEXT_BYTES_MAX, WRONG_PASSWORDS_MAX } from "../limits.ts";
import { ADMIN_SHAPES, type AdminErrorCode, type AdminRequest, type AdminVerb } from "../protocol/admin.ts";
import { BackupBusyError } from "../storage/backup.ts";
import { StoreError } from "../storage/database.ts";
import { TICK_MS } from "../timer-wheel.ts";
import type { LoopTurn } from "../stream/turn.ts";

/** The table of admin commands: what each does to the chat, and its reply. Connections are in connection.ts. */

/** The server, as the admin socket sees it. */
export interface Administered {
  readonly chat: Chat;
  readonly turn: LoopTurn;
  /** The figures of the metrics, as lines `<name> <value>`. */
  stats(): Promise<string[]>;
  /** Reads files again, as SIGHUP does. Resolves with the errors, one line each; with an error nothing has changed. */
  reload(): Promise<string[]>;
  /** What the last reload read and only a restart can change, a line for each option. */
  restarts(): readonly string[];
  /** Ends the sessions over that time, then the process. False when that is under way already. */
  drain(seconds?: number): boolean;
  /** Copies the data folder to a new folder. Throws StoreError. */
  backup(folder: string): Promise<void>;
}

/** A refusal, `err <code> [<words>]`. */
export class AdminError extends Error {
  readonly code: AdminErrorCode;

  constructor(code: AdminErrorCode, words = "") {
    super(words);
    this.code = code;
  }
}

/** Takes the lines before the last one of a reply. */
export interface Reply {
  /** `text` is latin1. */
  line(text: string): void;
  /** The event loop was held long enough, or the reader is behind: `pause` should be called. */
  readonly isPauseDue: boolean;
  /** Resolves in a later turn, when the reader has caught up. Rejects when the connection is closed. */
  pause(): Promise<void>;
  /** Resolves in the next turn, or in one after that time, whatever the reader does. */
  nextTurn(delayMs?: number): Promise<void>;
}

/** Returns the words after `ok`, or throws AdminError. It runs in a turn, and after each pause in another one. */
type Run = (server: Administered, request: AdminRequest, reply: Reply) => string | Promise<string>;

interface AdminCommand {
  run: Run;
  /** It changes something: it is logged, and its `ok` leaves when everything of its turn is durable. */
  isChange: boolean;
  /** In a cluster it is for all shards, and replies with a count. */
  isForAll: boolean;
}

/** The commands that need a server that serves clients. */
export type ServedVerb = Exclude<AdminVerb, "help" | "cluster">;

export const ADMIN_COMMANDS: Record<ServedVerb, AdminCommand> = {
  who: { run: who, isChange: false, isForAll: true },
  user: { run: user, isChange: false, isForAll: false },
  kick: { run: kickUser, isChange: true, isForAll: false },
  ban: { run: banUser, isChange: true, isForAll: false },
  unban: { run: unbanUser, isChange: true, isForAll: false },
  unlock: { run: unlock, isChange: true, isForAll: false },
  purge: { run: purgeMailbox, isChange: true, isForAll: false },
  announce: { run: announce, isChange: true, isForAll: true },
  stats: { run: stats, isChange: false, isForAll: false },
  reload: { run: reload, isChange: true, isForAll: false },
  drain: { run: drain, isChange: true, isForAll: false },
  backup: { run: backup, isChange: true, isForAll: false },
};

/** The lines of `help`. It needs no server, so it works during recovery too. */
export const HELP_LINES = Object.values(ADMIN_SHAPES).map(({ usage, help }) => `${usage}: ${help}`);

async function who({ chat }: Administered, _request: AdminRequest, reply: Reply): Promise<string> {
  let count = 0;
  for (const session of [...chat.presence.online]) {
    if (reply.isPauseDue) await reply.pause();
    if (session.ended) continue;
    reply.line(sessionLine(chat, session));
    count++;
  }
  return `${count}`;
}

function sessionLine({ wheel }: Chat, session: Session): string {
  const { account, kind, address, peer, beganUnixMs, lastActivityMs, outbox } = session;
  const idleMs = Math.max(0, Math.round(wheel.nowMs - lastActivityMs));
  const state = peer === null ? "detached" : "attached";
  const { name, waiting } = account;
  return `session ${name} ${kind} ${address} ${state} ${beganUnixMs} ${idleMs} ${outbox.unacked} ${waiting}`;
}

async function user({ chat }: Administered, request: AdminRequest, reply: Reply): Promise<string> {
  const account = known(chat, request);
  const { name, session, waiting, waitingBytes, bannedUntilMs } = account;
  reply.line(`user ${name}`);
  if (session !== null) reply.line(sessionLine(chat, session));
  reply.line(`mailbox ${waiting} ${waitingBytes}`);
  const login = chat.store.lastLogin(name);
  if (login !== null) reply.line(`last_login ${login.unixMs} ${login.address}`);
  if (account.isBanned(chat.unixMs)) reply.line(`banned ${bannedUntilMs === FOREVER ? "forever" : bannedUntilMs}`);
  const records = chat.lockouts.of(name);
  const details = function* (): Generator<string> {
    for (const record of records) if (record.count > 0) yield lockoutLine(chat, record);
    for (const [from, { messages, bytes }] of account.senders) yield `sender ${from} ${messages} ${bytes}`;
    for (const other of account.blocks) yield `blocks ${other.name}`;
    for (const other of account.blockedBy) yield `blocked_by ${other.name}`;
  };
  for (const line of details()) {
    if (reply.isPauseDue) await reply.pause();
    reply.line(line);
  }
  return "";
}

function lockoutLine({ wheel }: Chat, { source, count, untilMs }: LoginRecord): string {
  const kind = count < WRONG_PASSWORDS_MAX ? `wrong_passwords ${count}` : "lockout";
  return `${kind} ${source === "" ? "everywhere" : source} ${secondsIn(untilMs - wheel.nowMs)}`;
}

function kickUser({ chat }: Administered, request: AdminRequest): string {
  checkText(request.text);
  const words = request.text === "" ? null : Buffer.from(request.text, "latin1");
  if (!kick(chat, known(chat, request), words)) throw new AdminError("offline");
  return "";
}

function banUser({ chat }: Administered, request: AdminRequest): string {
  const account = known(chat, request);
  if (request.number === 0) throw new AdminError("bad_request", "a ban has at least 1 second");
  checkRoom(chat);
  ban(chat, account, request.number);
  return "";
}

/** A user who was removed from the credentials while banned can be unbanned too. */
function unbanUser({ chat }: Administered, request: AdminRequest): string {
  const remembered = chat.accounts.remembered(request.user);
  const account = remembered !== undefined && remembered.bannedUntilMs > 0 ? remembered : known(chat, request);
  checkRoom(chat);
  if (!unban(chat, account)) throw new AdminError("not_banned");
  return "";
}

async function unlock({ chat }: Administered, request: AdminRequest, reply: Reply): Promise<string> {
  const records = chat.lockouts.of(known(chat, request).name);
  for (const record of records) {
    if (reply.isPauseDue) await reply.nextTurn();
    chat.lockouts.forget(record);
  }
  return `${records.length}`;
}

async function purgeMailbox({ chat }: Administered, request: AdminRequest, reply: Reply): Promise<string> {
  const account = known(chat, request);
  const upTo = chat.store.newNumber();
  let [messages, bytes] = [0, 0];
  for (;;) {
    checkRoom(chat);
    const purged = purge(chat, account, upTo);
    messages += purged?.messages ?? 0;
    bytes += purged?.bytes ?? 0;
    if (purged?.messages === 0) return `${messages} ${bytes}`;
    await reply.nextTurn(purged === null ? TICK_MS : 0);
  }
}

async function announce({ chat }: Administered, { text }: AdminRequest, reply: Reply): Promise<string> {
  checkText(text);
  const line = Buffer.from(`notice ${text}\n`, "latin1");
  const sessions = [...chat.presence.online];
  for (let at = 0; at < sessions.length;) {
    if (at > 0) await reply.nextTurn();
    at = notify(line, sessions, at, () => reply.isPauseDue);
  }
  return `${sessions.length}`;
}

async function stats(server: Administered, _request: AdminRequest, reply: Reply): Promise<string> {
  for (const line of await server.stats()) reply.line(line);
  return "";
}

async function reload(server: Administered, _request: AdminRequest, reply: Reply): Promise<string> {
  const errors = await server.reload();
  for (const error of errors) reply.line(`error ${toLine(error)}`);
  if (errors.length > 0) throw new AdminError("failed", "nothing has changed");
  for (const restart of server.restarts()) reply.line(`warning ${toLine(restart)}`);
  return "";
}

function drain(server: Administered, { number }: AdminRequest): string {
  if (number !== null && number > DRAIN_SECONDS_MAX)
    throw new AdminError("bad_request", `a drain takes at most ${DRAIN_SECONDS_MAX} seconds`);
  if (!server.drain(number ?? undefined)) throw new AdminError("busy", "the server drains or stops already");
  return "";
}

async function backup(server: Administered, { text }: AdminRequest): Promise<string> {
  const folder = Buffer.from(text, "latin1").toString();
  if (!isAbsolute(folder)) throw new AdminError("bad_request", "a backup takes an absolute path");
  try {
    await server.backup(folder);
    return "";
  } catch (error) {
    if (!(error instanceof StoreError)) throw error;
    throw new AdminError(error instanceof BackupBusyError ? "busy" : "failed", toLine(error.message));
  }
}

/** A text for people as one line of a reply: latin1 of its UTF-8 bytes. */
function toLine(text: string): string {
  return Buffer.from(text.replace(/\s+/g, " ")).toString("latin1");
}

function known({ accounts }: Chat, { user }: AdminRequest): Account {
  const account = accounts.named(user);
  if (account === undefined) throw new AdminError("unknown_user");
  return account;
}

function checkText(text: string): void {
  if (text.length > OPERATOR_TEXT_BYTES_MAX)
    throw new AdminError("bad_request", `a text has at most ${OPERATOR_TEXT_BYTES_MAX} bytes`);
}

/** Reserves room in the journal for a change. */
function checkRoom({ store }: Chat): void {
  if (!store.accepts(0)) throw new AdminError("internal", toLine(store.writeError!));
}
