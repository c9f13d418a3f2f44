import { BlockList, isIPv4, isIPv6 } from "node:net";
import { parseArgs } from "node:util";
import type { LockoutScope } from "../auth/lockouts.ts";
import { LIMITS_DEFAULT, LINE_BYTES_MAX, LINE_BYTES_MIN, type Limits, UNACKED_BYTES_MIN } from "../limits.ts";
import type { Durability } from "../storage/database.ts";
import { UsageError, usageError } from "../usage-error.ts";

/** What the operator chose. */
export interface Config {
  host: string;
  port: number;
  credentials: string;
  /** A folder, or ":memory:". */
  data: string;
  durability: Durability;
  idleTimeoutMs: number;
  blockMs: number;
  lockoutScope: LockoutScope;
  limits: Limits;
  /** From there connections begin with a PROXY header; null is from nowhere. */
  proxyFrom: BlockList | null;
  tls: TlsConfig | null;
  /** A damaged journal is read as far as it can be. */
  salvage: boolean;
}

/** Files with a certificate and its key, and where TLS is spoken: at a port of its own, or null at the main one. */
export interface TlsConfig {
  chain: string;
  key: string;
  port: number | null;
}

interface Option {
  value: string;
  fallback: string;
  help: string;
}

const OPTIONS = {
  host: { value: "<address>", fallback: "0.0.0.0", help: "the address to listen on; :: is all, IPv6 too" },
  port: { value: "<port>", fallback: "6001", help: "the port to listen on; 0 takes a free one" },
  credentials: { value: "<file>", fallback: "credentials.txt", help: "who may log in: a line is <user> <password>" },
  data: { value: "<folder>", fallback: "data", help: "where mailboxes and blocks rest; :memory: keeps nothing" },
  durability: { value: "<level>", fallback: "process", help: "what ok survives: none, process or power" },
  "heartbeat-interval": { value: "<seconds>", fallback: "35", help: "the silence after which a session ends" },
  "block-time": { value: "<seconds>", fallback: "60", help: "how long three wrong passwords lock a user out" },
  "lockout-scope": { value: "<scope>", fallback: "address", help: "from that address, or with user from everywhere" },
  "tls-cert": { value: "<file>", fallback: "none", help: "a certificate and its chain (PEM): TLS is spoken" },
  "tls-key": { value: "<file>", fallback: "none", help: "its private key (PEM)" },
  "tls-port": { value: "<port>", fallback: "6002", help: "the port for TLS, beside the plain one; 0 takes a free one" },
  "proxy-from": { value: "<addresses>", fallback: "none", help: "who speaks PROXY protocol 2, like 10.0.0.0/8,::1" },
} satisfies Record<string, Option>;

/** An option for a limit, which is `unit` times what is given. */
interface LimitOption {
  name: string;
  value: string;
  least: number;
  most: number;
  isWhole: boolean;
  unit: number;
  help: string;
}

const MANY = 1_000_000;
const GIBIBYTE = 1 << 30;

const LIMITS: Record<Exclude<keyof Limits, "limitsLoopback">, LimitOption> = {
  connectionsMax: count("connections", 0, "connections at once, 0 for as many as open files allow"),
  connectionsPerAddressMax: count("connections-per-address", 0, "of them from one address (IPv6: /64), 0 for any"),
  connectionsPerSecondMax: count("connection-rate", 0, "new ones a second and address, 0 for any"),
  loginMs: {
    ...count("login-time", 0.1, "how long one may be without a session", 86_400),
    value: "<seconds>",
    isWhole: false,
    unit: 1000,
  },
  failedLoginsPerMinuteMax: count("login-failures", 0, "logins that fail a minute and address, 0 for any"),
  requestsPerSecondMax: {
    ...count("rate-limit", 0, "requests a second and user, more are read later; 0 for any"),
    isWhole: false,
  },
  badLinesMax: count("bad-lines", 0, "lines in a row that are no requests, then goodbye flood; 0 for any"),
  lineBytesMax: bytes("buffer-size", LINE_BYTES_MIN, LINE_BYTES_MAX, "the longest request line"),
  unackedBytesMax: bytes("outbox-size", UNACKED_BYTES_MIN, GIBIBYTE, "unread of one session, then it is slow"),
  streamsBytesMax: bytes("outboxes-size", UNACKED_BYTES_MIN, 64 * GIBIBYTE, "of all, then those with most are"),
  mailboxMessagesMax: count("mailbox-messages", 1, "messages that wait for one user"),
  mailboxBytesMax: bytes("mailbox-size", LINE_BYTES_MIN, GIBIBYTE, "bytes of their text"),
  mailboxSharePercent: { ...count("mailbox-share", 1, "of both, for one sender", 100), value: "<percent>" },
  introductionsMax: count("consents", 1, "private chats of one session, asked for or granted"),
  callbacksMax: count("callbacks", 1, "calls of callback clients at once"),
};

function count(name: string, least: number, help: string, most = MANY): LimitOption {
  return { name, value: "<number>", least, most, isWhole: true, unit: 1, help };
}

function bytes(name: string, least: number, most: number, help: string): LimitOption {
  return { ...count(name, least, help, most), value: "<bytes>" };
}

const FLAGS = {
  "tls-only": "speaks TLS at --port, and nothing in the clear",
  "limit-loopback": "holds the limits on addresses against this machine's own, too",
  salvage: "keep what can be read of a damaged journal, and give up the rest",
  help: "this page",
};

type Name = keyof typeof OPTIONS;
type LimitKey = keyof typeof LIMITS;

const LIMIT_KEYS = Object.keys(LIMITS) as LimitKey[];

export const USAGE = `Usage: bun start [options]

Runs a Heartline chat server. It prints one line when it is ready, and logs to stderr. Ctrl+C stops it.

${Object.entries(OPTIONS)
  .map(([name, { value, help, fallback }]) => row(`--${name} ${value}`, `${help} (${fallback})`))
  .join("\n")}

What anybody may take:
${LIMIT_KEYS.map((key) => [LIMITS[key], LIMITS_DEFAULT[key]] as const)
  .map(([{ name, value, help, unit }, fallback]) => row(`--${name} ${value}`, `${help} (${fallback / unit})`))
  .join("\n")}

${Object.entries(FLAGS)
  .map(([name, help]) => row(`--${name}`, help))
  .join("\n")}
`;

function row(option: string, help: string): string {
  return `  ${option.padEnd(35)} ${help}`;
}

/** The configuration that a command line asks for; null for `--help`. Throws UsageError. */
export function parseConfig(args: readonly string[]): Config | null {
  const given = parseOptions(args);
  if (given.has("help")) return null;
  const text = (name: Name): string => given.get(name) ?? OPTIONS[name].fallback;
  const seconds = (name: Name): number => number(name, text(name), 0.1, 86_400, false) * 1000;
  if (text("data") === ":memory:" && (given.get("durability") ?? "none") !== "none") {
    throw new UsageError("--data :memory: keeps nothing, so --durability can only be none with it");
  }
  for (const name of ["host", "credentials", "data"] as const) {
    if (text(name) === "") throw new UsageError(`--${name} takes a ${OPTIONS[name].value}, not nothing`);
  }
  return {
    host: text("host"),
    port: number("port", text("port"), 0, 65535, true),
    credentials: text("credentials"),
    data: text("data"),
    durability: oneOf("durability", text("durability"), "none", "process", "power"),
    idleTimeoutMs: seconds("heartbeat-interval"),
    blockMs: seconds("block-time"),
    lockoutScope: oneOf("lockout-scope", text("lockout-scope"), "address", "user"),
    limits: parseLimits(given),
    tls: parseTls(given, text("tls-port")),
    proxyFrom: given.has("proxy-from") ? parseAddresses(text("proxy-from")) : null,
    salvage: given.has("salvage"),
  };
}

function parseTls(given: Map<string, string>, port: string): TlsConfig | null {
  const [chain, key] = [given.get("tls-cert"), given.get("tls-key")];
  const isOnly = given.has("tls-only");
  if (chain === undefined && key === undefined && !isOnly && !given.has("tls-port")) return null;
  if (!chain || !key) throw new UsageError("TLS takes both --tls-cert <file> and --tls-key <file>");
  if (!isOnly) return { chain, key, port: number("tls-port", port, 0, 65535, true) };
  if (given.has("tls-port")) throw new UsageError("--tls-only is TLS at --port: it takes no --tls-port");
  if (given.has("proxy-from"))
    throw new UsageError("--proxy-from is for connections in the clear: with --tls-only there are none");
  return { chain, key, port: null };
}

function parseLimits(given: Map<string, string>): Limits {
  const limits: Limits = { ...LIMITS_DEFAULT, limitsLoopback: given.has("limit-loopback") };
  for (const key of LIMIT_KEYS) {
    const { name, least, most, isWhole, unit } = LIMITS[key];
    const value = given.get(name);
    if (value !== undefined) limits[key] = number(name, value, least, most, isWhole) * unit;
  }
  return limits;
}

function number(name: string, text: string, least: number, most: number, isWhole: boolean): number {
  const value = /^\d+(\.\d+)?$/.test(text) ? Number(text) : Number.NaN;
  if (value >= least && value <= most && (!isWhole || Number.isInteger(value))) return value;
  throw new UsageError(`--${name} takes a ${isWhole ? "whole " : ""}number from ${least} to ${most}, not "${text}"`);
}

function oneOf<T extends string>(name: string, text: string, ...choices: T[]): T {
  const choice = choices.find((each) => each === text);
  if (choice !== undefined) return choice;
  throw new UsageError(`--${name} takes ${choices.join(", ").replace(/, (?=\w+$)/, " or ")}, not "${text}"`);
}

/** Addresses with commas between them, each with how many bits of it count, if not all do. */
function parseAddresses(text: string): BlockList {
  const list = new BlockList();
  for (const each of text.split(",")) {
    const [, address = "", bits] = /^([^/]*)(?:\/(\d{1,3}))?$/.exec(each) ?? [];
    const most = isIPv4(address) ? 32 : isIPv6(address) ? 128 : -1;
    const prefix = bits === undefined ? most : Number(bits);
    if (prefix < 0 || prefix > most) {
      throw new UsageError(`--proxy-from takes addresses like 10.0.0.0/8,::1, not "${each}"`);
    }
    list.addSubnet(address, prefix, most === 32 ? "ipv4" : "ipv6");
  }
  return list;
}

function parseOptions(args: readonly string[]): Map<string, string> {
  const options: Record<string, { type: "string" | "boolean"; short?: string }> = {};
  for (const name of Object.keys(FLAGS)) options[name] = { type: "boolean" };
  options.help!.short = "h";
  for (const name of Object.keys(OPTIONS)) options[name] = { type: "string" };
  for (const { name } of Object.values(LIMITS)) options[name] = { type: "string" };
  const given = new Map<string, string>();
  try {
    const { tokens } = parseArgs({ args: [...args], options, tokens: true });
    for (const token of tokens) {
      if (token.kind !== "option") continue;
      if (given.has(token.name) && token.name !== "help") throw new UsageError(`--${token.name} is given twice`);
      given.set(token.name, token.value ?? "");
    }
  } catch (error) {
    if (error instanceof UsageError) throw error;
    const ambiguous = /'(--[\w-]+).*ambiguous/.exec((error as Error).message);
    if (ambiguous !== null) {
      const [, name = ""] = ambiguous;
      const behind = args.find((each, at) => args[at - 1] === name && each.startsWith("-"));
      throw new UsageError(`${name} needs a value behind it, and not "${behind}"`);
    }
    throw usageError(error);
  }
  return given;
}
