import { readFileSync } from "node:fs";
import { homedir } from "node:os";
import { isAbsolute, join } from "node:path";
import type * as Toml from "smol-toml";
import { PRESENCE_MODES, type PresenceMode } from "./presence.ts";

/**
 * The settings of the terminal client: a TOML file of the user. Keys at the top hold for all servers; a section
 * `[servers.<name>]` has a server with a short name, and its own values for the same keys.
 */

/** Settings that the file may have at the top and in each section. */
export interface Settings {
  user?: string;
  tls?: boolean;
  ca?: string;
  presence?: PresenceMode;
  bell?: boolean;
  colours?: boolean;
  log?: string;
}

export interface Profile {
  settings: Settings;
  servers: Map<string, Settings & { host: string; port?: number }>;
}

const TYPES: Record<string, string> = {
  user: "string",
  tls: "boolean",
  ca: "string",
  presence: "string",
  bell: "boolean",
  colours: "boolean",
  log: "string",
};
const SERVER_TYPES: Record<string, string> = { ...TYPES, host: "string", port: "number" };

/** `$XDG_CONFIG_HOME/heartline/chat.toml`; `~/.config/heartline/chat.toml` when that is not set or is relative. */
export function profileFile(): string {
  const { XDG_CONFIG_HOME: base = "" } = process.env;
  return join(isAbsolute(base) ? base : join(homedir(), ".config"), "heartline", "chat.toml");
}

/** The profile; an empty one when there is no file. Throws an error that names the file and what is wrong. */
export function readProfile(file = profileFile()): Profile {
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return { settings: {}, servers: new Map() };
    throw new Error(`cannot read ${file}: ${(error as NodeJS.ErrnoException).code ?? (error as Error).message}`);
  }
  return parseProfile(text, file);
}

export function parseProfile(text: string, file: string): Profile {
  // Loaded only when there is a file: a start without one is faster. `bun build` includes a literal `require`.
  const { parse, TomlError } = require("smol-toml") as typeof Toml;
  let table: Record<string, unknown>;
  try {
    table = parse(text);
  } catch (error) {
    if (!(error instanceof TomlError)) throw error;
    const [what = ""] = error.message.replace(/^Invalid TOML document: /, "").split("\n");
    throw new Error(`${file}: line ${error.line}, column ${error.column}: ${what}`);
  }
  const { servers = {}, ...rest } = table;
  const settings = check(rest, TYPES, "", file);
  if (!isTable(servers)) throw new Error(`${file}: servers is not a section`);
  const named = Object.entries(servers).map(([name, section]): [string, Settings & { host: string; port?: number }] => {
    if (!isTable(section)) throw new Error(`${file}: servers.${name} is not a section`);
    const server = check(section, SERVER_TYPES, `servers.${name}.`, file) as Settings & { host: string; port?: number };
    if (server.host === undefined) throw new Error(`${file}: servers.${name} has no host`);
    return [name, server];
  });
  return { settings, servers: new Map(named) };
}

function check(table: Record<string, unknown>, types: Record<string, string>, prefix: string, file: string): Settings {
  for (const [key, value] of Object.entries(table)) {
    if (!Object.hasOwn(types, key)) throw new Error(`${file}: unknown key ${prefix}${key}`);
    if (typeof value !== types[key]) throw new Error(`${file}: ${prefix}${key} must be a ${types[key]}`);
    if (key === "presence" && !PRESENCE_MODES.includes(value as PresenceMode))
      throw new Error(`${file}: ${prefix}presence must be one of ${PRESENCE_MODES.join(", ")}`);
  }
  return table as Settings;
}

function isTable(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value) && !(value instanceof Date);
}
