/**
 * The command line of `serve`: its options with their defaults, its help text, and its validation. Nothing is opened
 * or read here.
 */
import { BlockList, isIPv4, isIPv6 } from "node:net";
import { parseArgs } from "node:util";
import type { LockoutScope } from "../auth/lockouts.ts";
import { LIMITS_DEFAULT, LINE_BYTES_MAX, LINE_BYTES_MIN, type Limits, UNACKED_BYTES_MIN } from "../limits.ts";
import { typed } from "../runtime/invocation.ts";
import type { Durability } from "../storage/database.ts";
import { UsageError, usageError } from "../usage-error.ts";

export interface Config {
  host: string;
  port: number;
  credentials: string;
  /** A folder, or ":memory:" for none. */
  data: string;
  durability: Durability;
  idleTimeoutMs: number;
  blockMs: number;
  lockoutScope: LockoutScope;
  limits: Limits;
  /** Addresses of proxies, whose connections begin with a PROXY header; null: no connection does. */
  proxyFrom: BlockList | null;
  tls: TlsConfig | null;
  /** Recovery keeps what it can read of a damaged journal, and drops the rest. */
  salvage: boolean;
}

export interface TlsConfig {
  /** PEM file with the certificate and its chain. */
  chain: string;
  /** PEM file with the private key. */
  key: string;
  /** Null: TLS at the main port, and no plain port. */
  port: number | null;
}

interface Option {
  /** Placeholder for the value in the help text. */
  value: string;
  fallback: string;
  help: string;
}

const OPTIONS = {
  host: { value: "<address>", fallback: "0.0.0.0", help: "address to listen on; :: for all of IPv4 and IPv6" },
  port: { value: "<port>", fallback: "6001", help: "port to listen on; 0 selects a free one" },
  credentials: { value: "<file>", fallback: "credentials.txt", help: "users and passwords: lines <user> <password>" },
  data: { value: "<folder>", fallback: "data", help: "data folder; :memory: stores nothing on disk" },
  durability: { value: "<level>", fallback: "process", help: "the failure that ok survives: none, process or power" },
  "heartbeat-interval": { value: "<seconds>", fallback: "35", help: "a session without a request for this long ends" },
  "block-time": { value: "<seconds>", fallback: "60", help: "duration of a lockout after three wrong passwords" },
  "lockout-scope": {
    value: "<scope>",
    fallback: "address",
    help: "lock a user out from the address, or with user everywhere",
  },
  "tls-cert": { value: "<file>", fallback: "none", help: "certificate and chain (PEM); turns TLS on" },
  "tls-key": { value: "<file>", fallback: "none", help: "private key of the certificate (PEM)" },
  "tls-port": { value: "<port>", fallback: "6002", help: "TLS port, next to the plain port; 0 selects a free one" },
  "proxy-from": { value: "<addresses>", fallback: "none", help: "proxies that send PROXY protocol v2: 10.0.0.0/8,::1" },
} satisfies Record<string, Option>;

interface LimitOption {
  name: string;
  /** Placeholder for the value in the help text. */
  value: string;
  least: number;
  most: number;
  isWhole: boolean;
  /** The limit is the option's value times this. */
  unit: number;
  help: string;
}

const MANY = 1_000_000;
const GIBIBYTE = 1 << 30;

const LIMITS: Record<Exclude<keyof Limits, "limitsLoopback">, LimitOption> = {
  connectionsMax: count("connections", 0, "open connections; 0: as the open-file limit allows"),
  connectionsPerAddressMax: count(
    "connections-per-address",
    0,
    "open connections of one address (IPv6: /64); 0: no limit",
  ),
  connectionsPerSecondMax: count("connection-rate", 0, "new connections per second of one address; 0: no limit"),
  loginMs: {
    ...count("login-time", 0.1, "time of a connection to log in", 86_400),
    value: "<seconds>",
    isWhole: false,
    unit: 1000,
  },
  failedLoginsPerMinuteMax: count("login-failures", 0, "failed logins per minute of one address; 0: no limit"),
  requestsPerSecondMax: {
    ...count("rate-limit", 0, "requests per second of a user; more are read later; 0: no limit"),
    isWhole: false,
  },
  badLinesMax: count("bad-lines", 0, "consecutive invalid lines before goodbye flood; 0: no limit"),
  lineBytesMax: bytes("buffer-size", LINE_BYTES_MIN, LINE_BYTES_MAX, "length of a request line"),
  unackedBytesMax: bytes(
    "outbox-size",
    UNACKED_BYTES_MIN,
    GIBIBYTE,
    "unacknowledged output of a session before goodbye slow",
  ),
  streamsBytesMax: bytes(
    "outboxes-size",
    UNACKED_BYTES_MIN,
    64 * GIBIBYTE,
    "the same of all sessions; the largest end first",
  ),
  mailboxMessagesMax: count("mailbox-messages", 1, "messages in one mailbox"),
  mailboxBytesMax: bytes("mailbox-size", LINE_BYTES_MIN, GIBIBYTE, "text in one mailbox"),
  mailboxSharePercent: { ...count("mailbox-share", 1, "share of one sender in a mailbox", 100), value: "<percent>" },
  introductionsMax: count("consents", 1, "private chat requests and grants of a session"),
  callbacksMax: count("callbacks", 1, "simultaneous calls to callback clients"),
};

function count(name: string, least: number, help: string, most = MANY): LimitOption {
  return { name, value: "<number>", least, most, isWhole: true, unit: 1, help };
}

function bytes(name: string, least: number, most: number, help: string): LimitOption {
  return { ...count(name, least, help, most), value: "<bytes>" };
}

const FLAGS = {
  "tls-only": "TLS at --port, and no plain port",
  "limit-loopback": "apply the limits on addresses to 127.0.0.0/8 and ::1, too",
  salvage: "keep what is readable of a damaged journal, drop the rest",
  help: "show this page",
};

type Name = keyof typeof OPTIONS;
type LimitKey = keyof typeof LIMITS;

const LIMIT_KEYS = Object.keys(LIMITS) as LimitKey[];

export const USAGE = `Usage: ${typed("serve")} [options]

Runs a Heartline chat server. It prints one line when it is ready and logs to stderr. Ctrl+C stops it.
Defaults are in parentheses.

${Object.entries(OPTIONS)
  .map(([name, { value, help, fallback }]) => row(`--${name} ${value}`, `${help} (${fallback})`))
  .join("\n")}

Limits:
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

/** Null for `--help`. Throws UsageError. */
export function parseConfig(args: readonly string[]): Config | null {
  const given = parseOptions(args);
  if (given.has("help")) return null;
  const text = (name: Name): string => given.get(name) ?? OPTIONS[name].fallback;
  const seconds = (name: Name): number => number(name, text(name), 0.1, 86_400, false) * 1000;
  if (text("data") === ":memory:" && (given.get("durability") ?? "none") !== "none") {
    throw new UsageError("--data :memory: stores nothing on disk: it takes no --durability but none");
  }
  for (const name of ["host", "credentials", "data"] as const) {
    if (text(name) === "") throw new UsageError(`--${name} takes a ${OPTIONS[name].value}, not ""`);
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
  if (given.has("tls-port")) throw new UsageError("--tls-only puts TLS at --port: it takes no --tls-port");
  if (given.has("proxy-from"))
    throw new UsageError("--proxy-from is for the plain port: with --tls-only there is none");
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

/** Comma-separated addresses, each with an optional prefix length. */
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
      const value = args.find((each, at) => args[at - 1] === name && each.startsWith("-"));
      throw new UsageError(`${name} takes a value, not "${value}"`);
    }
    throw usageError(error);
  }
  return given;
}
