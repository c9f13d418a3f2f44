import { parseArgs } from "node:util";
import { LINE_BYTES_DEFAULT, LINE_BYTES_MAX, LINE_BYTES_MIN } from "../limits.ts";
import type { Durability } from "./database.ts";

/** What the operator chose. */
export interface Config {
  host: string;
  port: number;
  credentials: string;
  /** A folder, or ":memory:". */
  data: string;
  lineBytesMax: number;
  blockMs: number;
  silenceMs: number;
  durability: Durability;
  rateLimit: number;
  /** A damaged journal is read as far as it can be. */
  salvage: boolean;
}

/** A command line that cannot be meant. */
export class UsageError extends Error {}

const DURABILITIES: readonly string[] = ["none", "process", "power"] satisfies Durability[];

interface Option {
  value: string;
  fallback: string;
  help: string;
}

const OPTIONS = {
  host: { value: "<address>", fallback: "0.0.0.0", help: "the address to listen on" },
  port: { value: "<port>", fallback: "6001", help: "the port to listen on; 0 takes a free one" },
  credentials: { value: "<file>", fallback: "credentials.txt", help: "who may log in: a line is <user> <password>" },
  data: { value: "<folder>", fallback: "data", help: "where mailboxes and blocks rest; :memory: keeps nothing" },
  "buffer-size": { value: "<bytes>", fallback: String(LINE_BYTES_DEFAULT), help: "the longest request line" },
  "block-time": { value: "<seconds>", fallback: "60", help: "how long three wrong passwords lock a user out" },
  "heartbeat-interval": { value: "<seconds>", fallback: "35", help: "the silence after which a session ends" },
  durability: { value: "<level>", fallback: "process", help: "what ok survives: none, process or power" },
  "rate-limit": { value: "<number>", fallback: "0", help: "requests a second and session, 0 for no limit" },
} satisfies Record<string, Option>;

type Name = keyof typeof OPTIONS;

export const USAGE = `Usage: bun start [options]

Runs a Heartline chat server. It prints one line when it is ready, and logs to stderr. Ctrl+C stops it.

${(Object.keys(OPTIONS) as Name[])
  .map((name) => {
    const { value, fallback, help } = OPTIONS[name];
    return `  ${`--${name} ${value}`.padEnd(32)} ${help} (${fallback})`;
  })
  .join("\n")}
  ${"--salvage".padEnd(32)} keep what can be read of a damaged journal, and give up the rest
  ${"--help".padEnd(32)} this page
`;

/** The configuration that a command line asks for; null for `--help`. Throws UsageError. */
export function parseConfig(args: readonly string[]): Config | null {
  const given = parseOptions(args);
  if (given.has("help")) return null;
  const text = (name: Name): string => given.get(name) ?? OPTIONS[name].fallback;
  const number = (name: Name, least: number, most: number, whole: boolean): number => {
    const value = /^\d+(\.\d+)?$/.test(text(name)) ? Number(text(name)) : Number.NaN;
    if (value >= least && value <= most && (!whole || Number.isInteger(value))) return value;
    throw new UsageError(
      `--${name} takes a ${whole ? "whole " : ""}number from ${least} to ${most}, not "${text(name)}"`,
    );
  };
  if (!DURABILITIES.includes(text("durability"))) {
    throw new UsageError(`--durability takes none, process or power, not "${text("durability")}"`);
  }
  if (text("data") === ":memory:" && (given.get("durability") ?? "none") !== "none") {
    throw new UsageError("--data :memory: keeps nothing, so --durability can only be none with it");
  }
  for (const name of ["host", "credentials", "data"] as const) {
    if (text(name) === "") throw new UsageError(`--${name} takes a ${OPTIONS[name].value}, not nothing`);
  }
  return {
    host: text("host"),
    port: number("port", 0, 65535, true),
    credentials: text("credentials"),
    data: text("data"),
    lineBytesMax: number("buffer-size", LINE_BYTES_MIN, LINE_BYTES_MAX, true),
    blockMs: number("block-time", 0.1, 86_400, false) * 1000,
    silenceMs: number("heartbeat-interval", 0.1, 86_400, false) * 1000,
    durability: text("durability") as Durability,
    rateLimit: number("rate-limit", 0, 1_000_000, false),
    salvage: given.has("salvage"),
  };
}

function parseOptions(args: readonly string[]): Map<string, string> {
  const options: Record<string, { type: "string" | "boolean"; short?: string }> = {
    help: { type: "boolean", short: "h" },
    salvage: { type: "boolean" },
  };
  for (const name of Object.keys(OPTIONS)) options[name] = { type: "string" };
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
    if (ambiguous !== null) throw new UsageError(`${ambiguous[1]} needs a value behind it`);
    throw new UsageError((error as Error).message.split(/\.\s/)[0]!.replace(/^\w/, (letter) => letter.toLowerCase()));
  }
  return given;
}
