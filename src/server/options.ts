/**
 * The table of the options of `serve`. The command line, the environment, the configuration file, the help text and the
 * validation of values come from it. How the three sources are combined is in settings.ts.
 */
import { BlockList, isIPv4, isIPv6 } from "node:net";
import { LIMITS_DEFAULT, LINE_BYTES_MAX, LINE_BYTES_MIN, type Limits, UNACKED_BYTES_MIN } from "../limits.ts";
import { ADMIN_SOCKET } from "../protocol/admin.ts";
import { UsageError, quoted } from "../usage-error.ts";

export interface Option<T> {
  /** Placeholder for the value in the help text; null for a flag, whose value is `true` or `false`. */
  value: string | null;
  /** The default, as the help text shows it. */
  fallback: string;
  help: string;
  /** The value of a text. Throws UsageError with a message that completes the name of the option: "takes ...". */
  read: (text: string) => T;
  /** A reload changes it. Otherwise a reload logs that it needs a restart. */
  isLive: boolean;
  /** The value has a password: it is never printed. */
  isSecret?: boolean;
}

export interface TcpAddress {
  host: string;
  port: number;
}

/** A TCP port, or the path of a Unix domain socket. */
export type HttpAddress = TcpAddress | { path: string };

const LOG_LEVELS = ["trace", "debug", "info", "warn", "error", "fatal"] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

const port = number(0, 65_535, true);
const seconds = number(0.1, 86_400, false, 1000);

export const OPTIONS = {
  config: live("<file>", "none", "file with options (TOML): port = 6001", words("<file>")),
  host: atStart("<address>", "0.0.0.0", "address to listen on; :: for all of IPv4 and IPv6", words("<address>")),
  port: atStart("<port>", "6001", "port to listen on; 0 selects a free one", port),
  credentials: live("<file>", "credentials.txt", "users and passwords: lines <user> <password>", words("<file>")),
  data: atStart("<folder>", "data", "data folder; :memory: stores nothing on disk", words("<folder>")),
  durability: atStart(
    "<level>",
    "process",
    "the failure that ok survives: none, process or power",
    oneOf("none", "process", "power"),
  ),
  "heartbeat-interval": atStart("<seconds>", "35", "a session without a request for this long ends", seconds),
  "block-time": live("<seconds>", "60", "duration of a lockout after three wrong passwords", seconds),
  "lockout-scope": atStart(
    "<scope>",
    "address",
    "lock a user out from the address, or with user everywhere",
    oneOf("address", "user"),
  ),
  "tls-cert": live("<file>", "none", "certificate and chain (PEM); turns TLS on", words("<file>")),
  "tls-key": live("<file>", "none", "private key of the certificate (PEM)", words("<file>")),
  "tls-port": atStart("<port>", "6002", "TLS port, next to the plain port; 0 selects a free one", port),
  "proxy-from": live("<addresses>", "none", "proxies that send PROXY protocol v2: 10.0.0.0/8,::1", addresses),
  http: atStart(
    "<address>",
    "none",
    "metrics and health: <port> (on 127.0.0.1), <address>:<port> or unix:<path>",
    httpAddress,
  ),
  web: atStart("<address>", "none", "chat in a browser: <port> (on 127.0.0.1) or <address>:<port>", webAddress),
  "web-origin": live(
    "<origins>",
    "none",
    "pages that may connect, in place of its own: https://chat.example.org",
    origins,
  ),
  cluster: {
    ...atStart("<url>", "none", "shared log of several servers: postgres://… or nats://…", clusterUrl),
    isSecret: true,
  },
  "cluster-listen": atStart(
    "<address:port>",
    "none",
    "address at which the other servers reach this one",
    clusterAddress,
  ),
  "direct-listen": atStart(
    "<address:port>",
    "none",
    "address at which clients of this server's shard reach it directly",
    clientAddress,
  ),
  "cluster-ca": atStart("<file>", "none", "authorities of the certificates of all servers (PEM)", words("<file>")),
  "cluster-cert": atStart("<file>", "none", "this server's certificate for the other servers (PEM)", words("<file>")),
  "cluster-key": atStart("<file>", "none", "private key of that certificate (PEM)", words("<file>")),
  workers: atStart("<number>", "1", "servers of a cluster in this process group, at one port", number(1, 256, true)),
  "admin-socket": atStart("<path>", `<data>/${ADMIN_SOCKET}`, "socket for heartline ctl", words("<path>")),
  "log-level": live("<level>", "info", "least level that is logged: trace to fatal", oneOf(...LOG_LEVELS)),
  "tls-only": { ...flag("TLS at --port, and no plain port"), isLive: false },
  "limit-loopback": flag("apply the limits on addresses to 127.0.0.0/8 and ::1, too"),
  salvage: { ...flag("keep what is readable of a damaged journal, drop the rest"), isLive: false },
};

export type LimitKey = Exclude<keyof Limits, "limitsLoopback">;

/** An option that sets a limit. The default is in `LIMITS_DEFAULT`. */
interface LimitOption extends Omit<Option<number>, "fallback"> {
  name: string;
  /** The limit is the option's value times this. */
  unit: number;
}

const MANY = 1_000_000;
const GIBIBYTE = 1 << 30;

/** By the limit that each option sets. */
export const LIMIT_OPTIONS: Record<LimitKey, LimitOption> = {
  connectionsMax: count("connections", 0, "open connections; 0: as the open-file limit allows"),
  connectionsPerAddressMax: count(
    "connections-per-address",
    0,
    "open connections of one address (IPv6: /64); 0: no limit",
  ),
  connectionsPerSecondMax: count("connection-rate", 0, "new connections per second of one address; 0: no limit"),
  loginMs: {
    ...count("login-time", 0, "time of a connection to log in"),
    value: "<seconds>",
    unit: 1000,
    read: seconds,
  },
  failedLoginsPerMinuteMax: count("login-failures", 0, "failed logins per minute of one address; 0: no limit"),
  requestsPerSecondMax: {
    ...count("rate-limit", 0, "requests per second of a user; more are read later; 0: no limit"),
    read: number(0, MANY, false),
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

export const LIMIT_KEYS = Object.keys(LIMIT_OPTIONS) as LimitKey[];

/** All options by name, in the order of the help text. */
export const TABLE: ReadonlyMap<string, Option<unknown>> = new Map<string, Option<unknown>>([
  ...Object.entries(OPTIONS).filter(([, { value }]) => value !== null),
  ...LIMIT_KEYS.map((key): [string, Option<unknown>] => {
    const { name, unit, ...option } = LIMIT_OPTIONS[key];
    return [name, { ...option, fallback: String(LIMITS_DEFAULT[key] / unit) }];
  }),
  ...Object.entries(OPTIONS).filter(([, { value }]) => value === null),
]);

function live<T>(value: string, fallback: string, help: string, read: Option<T>["read"]): Option<T> {
  return { value, fallback, help, read, isLive: true };
}

function atStart<T>(value: string, fallback: string, help: string, read: Option<T>["read"]): Option<T> {
  return { value, fallback, help, read, isLive: false };
}

function flag(help: string): Option<boolean> {
  const choose = oneOf("true", "false");
  return { value: null, fallback: "false", help, read: (text) => choose(text) === "true", isLive: true };
}

function count(name: string, least: number, help: string, most = MANY): LimitOption {
  return { name, value: "<number>", unit: 1, help, read: number(least, most, true), isLive: true };
}

function bytes(name: string, least: number, most: number, help: string): LimitOption {
  return { ...count(name, least, help, most), value: "<bytes>" };
}

/** Reads a number in decimal digits; the result is that number times `unit`. */
function number(least: number, most: number, isWhole: boolean, unit = 1): (text: string) => number {
  return (text) => {
    const value = /^\d+(\.\d+)?$/.test(text) ? Number(text) : Number.NaN;
    if (value >= least && value <= most && (!isWhole || Number.isInteger(value))) return value * unit;
    throw new UsageError(`takes a ${isWhole ? "whole " : ""}number from ${least} to ${most}, not ${quoted(text)}`);
  };
}

function oneOf<T extends string>(...choices: T[]): (text: string) => T {
  return (text) => {
    const choice = choices.find((each) => each === text);
    if (choice !== undefined) return choice;
    throw new UsageError(`takes ${choices.join(", ").replace(/, (?=\w+$)/, " or ")}, not ${quoted(text)}`);
  };
}

/** Any text that is not empty and has no control characters. */
function words(what: string): (text: string) => string {
  return (text) => {
    if (text !== "" && !/\p{Cc}/u.test(text)) return text;
    throw new UsageError(`takes a ${what}, not ${quoted(text)}`);
  };
}

/** Comma-separated addresses, each with an optional prefix length. */
function addresses(text: string): BlockList {
  const list = new BlockList();
  for (const each of text.split(",")) {
    const [, address = "", bits] = /^([^/]*)(?:\/(\d{1,3}))?$/.exec(each) ?? [];
    const most = isIPv4(address) ? 32 : isIPv6(address) ? 128 : -1;
    const prefix = bits === undefined ? most : Number(bits);
    if (prefix < 0 || prefix > most) throw new UsageError(`takes addresses like 10.0.0.0/8,::1, not ${quoted(each)}`);
    list.addSubnet(address, prefix, most === 32 ? "ipv4" : "ipv6");
  }
  return list;
}

/** The engine reads the URL further. The message has no part of it, since it may contain a password. */
function clusterUrl(text: string): string {
  if (/^(postgres|postgresql|nats):\/\/[^\s\p{Cc}]+$/u.test(text)) return text;
  throw new UsageError("takes a URL that begins with postgres:// or nats://");
}

function clusterAddress(text: string): { host: string; port: number } {
  return reachable(text, "other servers");
}

function clientAddress(text: string): { host: string; port: number } {
  return reachable(text, "clients");
}

/** `<address>:<port>` with brackets around IPv6; not an address that stands for all of them. */
function reachable(text: string, who: string): { host: string; port: number } {
  const [, ipv6, ipv4, port] = /^(?:\[([\da-fA-F:.]+)\]|([\d.]+)):(\d{1,5})$/.exec(text) ?? [];
  const host = ipv6 ?? ipv4 ?? "";
  const isAddress = (isIPv4(host) || isIPv6(host)) && !["0.0.0.0", "::"].includes(host);
  if (isAddress && Number(port) <= 65_535) return { host, port: Number(port) };
  throw new UsageError(
    `takes <address>:<port> at which ${who} reach this server (IPv6 in brackets), not ${quoted(text)}`,
  );
}

/** `<port>` on 127.0.0.1, `<address>:<port>` with brackets around IPv6, or `unix:<path>`. */
function httpAddress(text: string): HttpAddress {
  const [, path] = /^unix:(\P{Cc}+)$/u.exec(text) ?? [];
  const address = path === undefined ? tcpAddress(text) : { path };
  if (address !== null) return address;
  throw new UsageError(`takes <port>, <address>:<port> (IPv6 in brackets) or unix:<path>, not ${quoted(text)}`);
}

function webAddress(text: string): TcpAddress {
  const address = tcpAddress(text);
  if (address !== null) return address;
  throw new UsageError(`takes <port> or <address>:<port> (IPv6 in brackets), not ${quoted(text)}`);
}

/** Null when it is neither `<port>` nor `<address>:<port>`. */
function tcpAddress(text: string): TcpAddress | null {
  const [, ipv6, ipv4, port] = /^(?:\[([\da-fA-F:.]+)\]:|([\d.]+):)?(\d{1,5})$/.exec(text) ?? [];
  const host = ipv6 ?? ipv4 ?? "127.0.0.1";
  const isAddress = ipv6 === undefined ? isIPv4(host) : isIPv6(host);
  return isAddress && Number(port) <= 65_535 ? { host, port: Number(port) } : null;
}

/** Comma-separated origins, in the form in which browsers send them. */
function origins(text: string): string[] {
  return text.split(",").map((each) => {
    const url = URL.canParse(each) ? new URL(each) : null;
    const isOrigin = url !== null && /^https?:$/.test(url.protocol) && /^https?:\/\/[^/?#@]+\/?$/i.test(each);
    if (isOrigin) return url.origin;
    throw new UsageError(`takes origins like https://chat.example.org,http://10.0.0.5:8080, not ${quoted(each)}`);
  });
}
