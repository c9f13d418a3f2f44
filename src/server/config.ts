/**
 * The configuration of `serve` and `check`: the options of settings.ts as one object, the rules between options, and
 * the help text. No file but the configuration file is read here.
 */
import type { BlockList } from "node:net";
import { join } from "node:path";
import { ADMIN_SOCKET } from "../protocol/admin.ts";
import type { LockoutScope } from "../auth/lockouts.ts";
import type { Environment } from "../environment.ts";
import { LIMITS_DEFAULT, type Limits } from "../limits.ts";
import { isLoopback } from "../runtime/host.ts";
import { typed } from "../runtime/invocation.ts";
import type { Durability } from "../storage/database.ts";
import { ConfigError, UsageError } from "../usage-error.ts";
import {
  type HttpAddress,
  LIMIT_KEYS,
  LIMIT_OPTIONS,
  type LogLevel,
  OPTIONS,
  TABLE,
  type TcpAddress,
} from "./options.ts";
import { type Settings, type Sources, readSettings } from "./settings.ts";

export interface Config {
  host: string;
  /** Otherwise the server listens on loopback only while the sample credentials are in use. */
  isHostGiven: boolean;
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
  /** Null: no HTTP. */
  http: HttpAddress | null;
  /** The port for browsers; null: there is none. */
  web: WebConfig | null;
  /** Path of the admin socket; null for none. */
  adminSocket: string | null;
  logLevel: LogLevel;
  /** Recovery keeps what it can read of a damaged journal, and drops the rest. */
  salvage: boolean;
  /** Null for a server with its own journal. */
  cluster: ClusterConfig | null;
  /** Servers that this program starts; with more than one they share the ports for clients. */
  workers: number;
}

export interface ClusterConfig {
  /** Of the engine that keeps the shared log. It may contain a password. */
  url: string;
  /** Where other servers reach this one. */
  listen: { host: string; port: number };
  /** Where clients reach this server and no other one: the login reply of those that are relayed says so; or null. */
  direct: { host: string; port: number } | null;
  /** Mutual TLS between the servers; null: plain TCP, on loopback only. */
  tls: ClusterTlsConfig | null;
  /** Where `--data` says that the working copy is; null: in the system's folder for temporary files. */
  folder: string | null;
}

export interface ClusterTlsConfig {
  /** PEM files: the authorities of all servers' certificates, this server's certificate, and its private key. */
  authorities: string;
  chain: string;
  key: string;
}

export interface WebConfig extends TcpAddress {
  /** Origins of the pages that may connect; null: those of its own addresses. */
  origins: string[] | null;
}

export interface TlsConfig {
  /** PEM file with the certificate and its chain. */
  chain: string;
  /** PEM file with the private key. */
  key: string;
  /** Null: TLS at the main port, and no plain port. */
  port: number | null;
}

/** A configuration with what it was made of. */
export interface Configuration extends Sources {
  config: Config;
}

const ROWS = [...TABLE].map(([name, { value, help, fallback }]) => ({
  option: value === null ? `--${name}` : `--${name} ${value}`,
  help: value === null ? help : `${help} (${fallback})`,
  isFlag: value === null,
  isLimit: LIMIT_KEYS.some((key) => LIMIT_OPTIONS[key].name === name),
}));

export const USAGE = `Usage: ${typed("serve")} [options]

Runs a Heartline chat server. It prints one line when it is ready and logs to stderr. Ctrl+C stops it.
Each option can also be a variable (HEARTLINE_PORT=6001 for --port 6001; true or false for an option
without a value) or a line of the file of --config (port = 6001). The command line has precedence over
variables, and these over the file. Defaults are in parentheses.

${page(ROWS.filter(({ isLimit, isFlag }) => !isLimit && !isFlag))}

Limits:
${page(ROWS.filter(({ isLimit }) => isLimit))}

${page([...ROWS.filter(({ isFlag }) => isFlag), { option: "--help", help: "show this page" }])}
`;

function page(rows: readonly { option: string; help: string }[]): string {
  return rows.map(({ option, help }) => `  ${option.padEnd(35)} ${help}`).join("\n");
}

/** Null for `--help`. Throws UsageError for an invalid command line, ConfigError for the other sources. */
export function readConfiguration(args: readonly string[], env: Environment): Configuration | null {
  const sources = readSettings(args, env);
  return sources === null ? null : { ...sources, config: configOf(sources.settings) };
}

/** The configuration of a command line alone; null for `--help`. Throws UsageError. */
export function parseConfig(args: readonly string[]): Config | null {
  return readConfiguration(args, {})?.config ?? null;
}

type Options = typeof OPTIONS;
type Value<Name extends keyof Options> = ReturnType<Options[Name]["read"]>;

function configOf(settings: Settings): Config {
  const given = <Name extends keyof Options>(name: Name): Value<Name> | null => {
    const setting = settings.get(name);
    return setting === undefined ? null : (OPTIONS[name].read(setting.text) as Value<Name>);
  };
  const value = <Name extends keyof Options>(name: Name): Value<Name> =>
    given(name) ?? (OPTIONS[name].read(OPTIONS[name].fallback) as Value<Name>);
  const data = value("data");
  if (data === ":memory:" && (given("durability") ?? "none") !== "none") {
    throw conflict(settings, "durability", "--data :memory: stores nothing on disk: it takes no --durability but none");
  }
  const clusterTls = clusterTlsOf(settings, given("cluster-ca"), given("cluster-cert"), given("cluster-key"));
  const addresses = { listen: given("cluster-listen"), direct: given("direct-listen") };
  const cluster = clusterOf(settings, given("cluster"), addresses, clusterTls, given("data"));
  const hasFolder = data !== ":memory:" && (cluster === null || cluster.folder !== null);
  return {
    host: value("host"),
    isHostGiven: settings.has("host"),
    port: value("port"),
    credentials: value("credentials"),
    data,
    durability: value("durability"),
    idleTimeoutMs: value("heartbeat-interval"),
    blockMs: value("block-time"),
    lockoutScope: value("lockout-scope"),
    limits: limitsOf(settings, value("limit-loopback")),
    tls: tlsOf(settings, value("tls-only"), given("tls-cert"), given("tls-key"), value("tls-port")),
    proxyFrom: given("proxy-from"),
    http: given("http"),
    web: webOf(settings, given("web"), given("web-origin")),
    adminSocket: given("admin-socket") ?? (hasFolder ? join(data, ADMIN_SOCKET) : null),
    logLevel: value("log-level"),
    salvage: value("salvage"),
    cluster,
    workers: workersOf(settings, value("workers"), [value("port"), given("web")?.port ?? 1], cluster),
  };
}

function webOf(settings: Settings, address: TcpAddress | null, origins: string[] | null): WebConfig | null {
  if (address !== null) return { ...address, origins };
  if (origins === null) return null;
  throw conflict(settings, "web-origin", "--web-origin <origins> takes --web <address> too");
}

/** What these options choose for a server with its own journal, and why a cluster has no such choice. */
const NOT_IN_CLUSTER = {
  durability: "--cluster keeps messages in the shared log, whose engine decides what they survive",
  salvage: "--cluster keeps messages in the shared log, and has no journal of its own",
};

function clusterOf(
  settings: Settings,
  url: string | null,
  { listen, direct }: { [name in "listen" | "direct"]: { host: string; port: number } | null },
  tls: ClusterTlsConfig | null,
  folder: string | null,
): ClusterConfig | null {
  if (url === null) {
    const name = ["cluster-listen", "direct-listen", ...CLUSTER_TLS].find((each) => settings.has(each));
    if (name === undefined) return null;
    throw conflict(settings, name, `--${name} ${TABLE.get(name)!.value} takes --cluster <url> too`);
  }
  if (listen === null) throw conflict(settings, "cluster", "--cluster takes --cluster-listen <address:port> too");
  for (const [name, why] of Object.entries(NOT_IN_CLUSTER)) {
    const isDefault = settings.get(name)?.text === TABLE.get(name)!.fallback;
    if (settings.has(name) && !isDefault) throw conflict(settings, name, `${why}: it takes no --${name}`);
  }
  if (folder === ":memory:") {
    throw conflict(settings, "data", "--cluster makes its working copy in a folder: it takes no --data :memory:");
  }
  if (tls === null && !isLoopback(listen.host)) {
    const text = "between machines --cluster takes TLS: give --cluster-ca, --cluster-cert and --cluster-key";
    throw conflict(settings, "cluster-listen", text);
  }
  return { url, listen, direct, tls, folder };
}

const CLUSTER_TLS = ["cluster-ca", "cluster-cert", "cluster-key"];

function clusterTlsOf(
  settings: Settings,
  authorities: string | null,
  chain: string | null,
  key: string | null,
): ClusterTlsConfig | null {
  if (authorities !== null && chain !== null && key !== null) return { authorities, chain, key };
  const name = CLUSTER_TLS.find((each) => settings.has(each));
  if (name === undefined) return null;
  throw conflict(settings, name, "TLS between servers takes --cluster-ca, --cluster-cert and --cluster-key");
}

/** `ports`: those that all workers share. */
function workersOf(
  settings: Settings,
  workers: number,
  ports: readonly number[],
  cluster: ClusterConfig | null,
): number {
  if (workers === 1) return workers;
  if (cluster === null) throw conflict(settings, "workers", "--workers <number> takes --cluster <url> too");
  if (ports.includes(0))
    throw conflict(settings, "workers", "--workers takes no port 0 for --port and --web: all have the same one");
  return workers;
}

function tlsOf(
  settings: Settings,
  isOnly: boolean,
  chain: string | null,
  key: string | null,
  port: number,
): TlsConfig | null {
  const hasPort = settings.has("tls-port");
  if (chain === null && key === null && !isOnly && !hasPort) return null;
  if (chain === null || key === null) {
    const name = ["tls-cert", "tls-key", "tls-only", "tls-port"].find((each) => settings.has(each))!;
    throw conflict(settings, name, "TLS takes both --tls-cert <file> and --tls-key <file>");
  }
  if (!isOnly) return { chain, key, port };
  if (hasPort) throw conflict(settings, "tls-port", "--tls-only puts TLS at --port: it takes no --tls-port");
  if (settings.has("proxy-from") && !settings.has("web")) {
    const text = "--proxy-from is for the plain port and for --web: with --tls-only there is no plain port";
    throw conflict(settings, "proxy-from", text);
  }
  return { chain, key, port: null };
}

/** Options contradict each other, among them `name`. */
function conflict(settings: Settings, name: string, text: string): UsageError {
  const { isArgument, name: given } = settings.get(name)!;
  return isArgument ? new UsageError(text) : new ConfigError(`${given()}: ${text}`);
}

function limitsOf(settings: Settings, limitsLoopback: boolean): Limits {
  const limits: Limits = { ...LIMITS_DEFAULT, limitsLoopback };
  for (const key of LIMIT_KEYS) {
    const { name, read } = LIMIT_OPTIONS[key];
    const setting = settings.get(name);
    if (setting !== undefined) limits[key] = read(setting.text);
  }
  return limits;
}
