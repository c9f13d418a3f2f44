import { type AdminRequest, type AdminVerb } from "../protocol/admin.ts";
import type { AdminReply } from "./admin-client.ts";

/** Replies of the admin socket as text for people, and as JSON for programs. */

interface Format {
  text: (request: AdminRequest, reply: AdminReply) => string;
  json: (request: AdminRequest, reply: AdminReply) => unknown;
}

const done = (text: (user: string, words: string, request: AdminRequest) => string): Format => ({
  text: (request, { words }) => text(request.user, words, request),
  json: () => ({ ok: true }),
});

export const FORMATS: Record<Exclude<AdminVerb, "help">, Format> = {
  who: {
    text: (_request, { lines }) => {
      const sessions = sessionsOf(lines);
      return [...table(HEADS, sessions.map(cells)), count(sessions.length, "session")].join("\n");
    },
    json: (_request, { lines }) => sessionsOf(lines),
  },
  user: { text: (_request, { lines }) => userText(userOf(lines)), json: (_request, { lines }) => userOf(lines) },
  kick: done((user) => `the session of ${user} has ended`),
  ban: done(
    (user, _words, { number }) =>
      `${user} is banned ${number === null ? "for good" : `for ${count(number, "second")}`}`,
  ),
  unban: done((user) => `${user} is no longer banned`),
  unlock: {
    text: ({ user }, { words }) =>
      `forgot the wrong passwords of ${user} from ${count(Number(words), "address", "es")}`,
    json: (_request, { words }) => ({ addresses: Number(words) }),
  },
  purge: {
    text: (_request, { words }) => {
      const [messages = 0, bytes = 0] = words.split(" ").map(Number);
      return `deleted ${count(messages, "message")} with ${count(bytes, "byte")}`;
    },
    json: (_request, { words }) => {
      const [messages, bytes] = words.split(" ").map(Number);
      return { messages, bytes };
    },
  },
  announce: {
    text: (_request, { words }) => `sent to ${count(Number(words), "user")}`,
    json: (_request, { words }) => ({ users: Number(words) }),
  },
  stats: {
    text: (_request, { lines }) => table([], figures(lines)).join("\n"),
    json: (_request, { lines }) => Object.fromEntries(figures(lines).map(([name, value]) => [name, numberOf(value!)])),
  },
  reload: {
    text: (_request, reply) => ["reloaded", ...warningsOf(reply)].join("\n"),
    json: (_request, reply) => {
      const warnings = warningsOf(reply);
      return warnings.length > 0 ? { ok: true, warnings } : { ok: true };
    },
  },
  drain: done(
    (_user, _words, { number }) =>
      `the server ends its sessions ${number === null ? "" : `over ${count(number, "second")} `}and stops`,
  ),
  cluster: {
    text: (_request, { lines }) => clusterText(clusterOf(lines)),
    json: (_request, { lines }) => clusterOf(lines),
  },
  backup: done((_user, _words, { text }) => `backed up to ${Buffer.from(text, "latin1").toString()}`),
};

/** Why a request was refused, in words for people. */
export function explain({ user, verb }: AdminRequest, { code, words }: AdminReply): string {
  if (code === "unknown_user") return `there is no user ${user}`;
  if (code === "offline") return `${user} is not online`;
  if (code === "not_banned") return `${user} is not banned`;
  if (code === "unknown_command") return `the server does not know ${verb}: it has another version`;
  if (code === "busy") return `the server is busy: ${words}`;
  return words === "" ? `the server refused: ${code}` : words;
}

/** What the server reported although it did what was requested. */
function warningsOf({ lines }: AdminReply): string[] {
  return lines.filter((line) => line.startsWith("warning ")).map((line) => line.replace("warning ", ""));
}

interface SessionRow {
  user: string;
  kind: string;
  address: string;
  state: string;
  since_unix_ms: number;
  idle_ms: number;
  unacked_bytes: number;
  mailbox_messages: number;
}

const HEADS = ["USER", "KIND", "ADDRESS", "STATE", "SINCE", "IDLE", "UNACKED", "MAILBOX"];

function sessionOf(line: string): SessionRow {
  const [, user = "", kind = "", address = "", state = "", since, idle, unacked, mailbox] = line.split(" ");
  return {
    user,
    kind,
    address,
    state,
    since_unix_ms: Number(since),
    idle_ms: Number(idle),
    unacked_bytes: Number(unacked),
    mailbox_messages: Number(mailbox),
  };
}

/** In the order of names. */
function sessionsOf(lines: readonly string[]): SessionRow[] {
  return lines.map(sessionOf).sort((a, b) => (a.user < b.user ? -1 : 1));
}

function cells(row: SessionRow): string[] {
  const { user, kind, address, state, since_unix_ms, idle_ms, unacked_bytes, mailbox_messages } = row;
  const idle = `${Math.floor(idle_ms / 1000)} s`;
  return [user, kind, address, state, time(since_unix_ms), idle, `${unacked_bytes}`, `${mailbox_messages}`];
}

interface UserRow {
  user: string;
  session: SessionRow | null;
  mailbox: { messages: number; bytes: number };
  last_login: { unix_ms: number; address: string } | null;
  /** Unix time in ms at which the ban ends; "forever"; null without a ban. */
  banned: number | "forever" | null;
  lockouts: { address: string; seconds_left: number }[];
  wrong_passwords: { address: string; count: number; seconds_left: number }[];
  senders: { user: string; messages: number; bytes: number }[];
  blocks: string[];
  blocked_by: string[];
}

function userOf(lines: readonly string[]): UserRow {
  const row: UserRow = {
    user: "",
    session: null,
    mailbox: { messages: 0, bytes: 0 },
    last_login: null,
    banned: null,
    lockouts: [],
    wrong_passwords: [],
    senders: [],
    blocks: [],
    blocked_by: [],
  };
  for (const line of lines) {
    const [key, a = "", b = "", c = ""] = line.split(" ");
    if (key === "user") row.user = a;
    else if (key === "session") row.session = sessionOf(line);
    else if (key === "mailbox") row.mailbox = { messages: Number(a), bytes: Number(b) };
    else if (key === "last_login") row.last_login = { unix_ms: Number(a), address: b };
    else if (key === "banned") row.banned = a === "forever" ? a : Number(a);
    else if (key === "lockout") row.lockouts.push({ address: a, seconds_left: Number(b) });
    else if (key === "wrong_passwords")
      row.wrong_passwords.push({ address: b, count: Number(a), seconds_left: Number(c) });
    else if (key === "sender") row.senders.push({ user: a, messages: Number(b), bytes: Number(c) });
    else if (key === "blocks") row.blocks.push(a);
    else if (key === "blocked_by") row.blocked_by.push(a);
  }
  return row;
}

function userText(row: UserRow): string {
  const { user, session, mailbox, last_login, banned, lockouts, wrong_passwords, senders, blocks, blocked_by } = row;
  const facts: [string, string][] = [["user", user]];
  if (session === null) facts.push(["session", "none"]);
  else {
    const { kind, address, state, since_unix_ms, idle_ms } = session;
    const idle = `idle ${Math.floor(idle_ms / 1000)} s`;
    facts.push(["session", `${kind}, ${state}, from ${address} since ${time(since_unix_ms)}, ${idle}`]);
  }
  facts.push(["last login", last_login === null ? "none" : `${time(last_login.unix_ms)} from ${last_login.address}`]);
  facts.push(["mailbox", `${count(mailbox.messages, "message")} with ${count(mailbox.bytes, "byte")}`]);
  for (const { user, messages, bytes } of senders)
    facts.push(["", `${count(messages, "message")} with ${count(bytes, "byte")} from ${user}`]);
  if (banned !== null) facts.push(["banned", banned === "forever" ? "for good" : `until ${time(banned)}`]);
  for (const { address, seconds_left } of lockouts)
    facts.push(["locked out", `from ${address} for ${count(seconds_left, "second")}`]);
  for (const { address, count: wrong, seconds_left } of wrong_passwords)
    facts.push(["wrong passwords", `${wrong} from ${address}, forgotten in ${count(seconds_left, "second")}`]);
  if (blocks.length > 0) facts.push(["blocks", blocks.toSorted().join(", ")]);
  if (blocked_by.length > 0) facts.push(["blocked by", blocked_by.toSorted().join(", ")]);
  return table([], facts).join("\n");
}

interface ClusterView {
  engine: string;
  /** The process that was asked. */
  node: { role: string; address: string; version: string; silent_ms: number; shard: number | null };
  shards: ShardRow[];
  spares: SpareRow[];
}

interface ShardRow {
  shard: number;
  /** Null while nobody owns it. */
  owner: string | null;
  version: string | null;
  epoch: number;
  head: number;
  snapshot: number;
  /** Records that are not in the snapshot. */
  lag: number;
  /** Since the last sign of life of the owner, as the server that was asked sees it. */
  silent_ms: number;
}

interface SpareRow {
  address: string;
  version: string;
  silent_ms: number;
}

function clusterOf(lines: readonly string[]): ClusterView {
  const node = { role: "", address: "", version: "", silent_ms: 0, shard: null };
  const view: ClusterView = { engine: "", node, shards: [], spares: [] };
  const known = (word: string): string | null => (word === "-" ? null : word);
  const numberOrNull = (word: string): number | null => (word === "" || word === "-" ? null : Number(word));
  for (const line of lines) {
    const [key, a = "", b = "", c = "", d = "", e = "", f = "", g = ""] = line.split(" ");
    if (key === "engine") view.engine = line.slice(key.length + 1);
    else if (key === "node")
      view.node = { role: a, address: b, version: c, silent_ms: Number(d), shard: numberOrNull(e) };
    else if (key === "shard") {
      const [epoch = 0, head = 0, snapshot = 0, silent_ms = 0] = [d, e, f, g].map(Number);
      const numbers = { epoch, head, snapshot, lag: Math.max(0, head - snapshot), silent_ms };
      view.shards.push({ shard: Number(a), owner: known(b), version: known(c), ...numbers });
    } else if (key === "spare") view.spares.push({ address: a, version: b, silent_ms: Number(c) });
  }
  return view;
}

/** At most 80 columns wide with usual addresses and versions. What needs attention comes last. */
function clusterText(view: ClusterView): string {
  const { engine, node, shards, spares } = view;
  const seconds = (ms: number): string => `${(ms / 1000).toFixed(1)} s`;
  const owners = shards.map(({ shard, owner, version, epoch, head, lag, silent_ms }) =>
    [shard, owner ?? "nobody", version ?? "", epoch, head, lag, seconds(silent_ms)].map(String),
  );
  const others = spares.map(({ address, version, silent_ms }) => [address, version, seconds(silent_ms)]);
  const { role, address, silent_ms, shard } = node;
  const what = shard === null ? role : `${role} of shard ${shard}`;
  const heard = role === "owner" ? "last write confirmed" : "last read answered";
  return [
    ...table(["SHARD", "OWNER", "VERSION", "EPOCH", "HEAD", "LAG", "SILENT"], owners),
    ...(others.length === 0 ? ["no spares"] : table(["SPARE", "VERSION", "SILENT"], others)),
    `this server: ${what}, ${address}; ${heard} ${seconds(silent_ms)} ago`,
    `engine: ${engine}`,
    ...versionsOf(view),
  ].join("\n");
}

/** A warning while servers of several versions run. */
function versionsOf({ shards, spares }: ClusterView): string[] {
  const owners = shards.flatMap(({ version }) => (version === null ? [] : [version]));
  const others = spares.map(({ version }) => version);
  const versions = [...new Set([...owners, ...others])];
  if (versions.length < 2) return [];
  const described = versions
    .sort((a, b) => a.localeCompare(b, "en", { numeric: true }))
    .map((version) => {
      const parts = Object.entries({ owner: owners, spare: others }).flatMap(([what, all]) => {
        const { length } = all.filter((each) => each === version);
        return length === 0 ? [] : [count(length, what)];
      });
      return `${version} (${parts.join(", ")})`;
    });
  return [`warning: versions differ: ${described.join(", ")}`];
}

/** `<name> <value>`; a label in the name may have spaces. */
function figures(lines: readonly string[]): string[][] {
  return lines.map((line) => [line.slice(0, line.lastIndexOf(" ")), line.slice(line.lastIndexOf(" ") + 1)]);
}

/** JSON has no NaN and no infinity. */
function numberOf(text: string): number | null {
  const value = Number(text);
  return Number.isFinite(value) ? value : null;
}

/** Rows with aligned columns, after a row of heads if there are any. */
function table(heads: readonly string[], rows: readonly (readonly string[])[]): string[] {
  const all = heads.length === 0 ? rows : [heads, ...rows];
  const widths: number[] = [];
  for (const row of all) for (const [i, cell] of row.entries()) widths[i] = Math.max(widths[i] ?? 0, cell.length);
  return all.map((row) =>
    row
      .map((cell, i) => cell.padEnd(widths[i]!))
      .join("  ")
      .trimEnd(),
  );
}

function count(number: number, what: string, plural = "s"): string {
  return `${number} ${what}${number === 1 ? "" : plural}`;
}

/** A local time in the form 2026-11-22 21:58:03. */
function time(unixMs: number): string {
  const local = new Date(unixMs - new Date(unixMs).getTimezoneOffset() * 60_000);
  return Number.isNaN(local.getTime()) ? "?" : local.toISOString().slice(0, 19).replace("T", " ");
}
