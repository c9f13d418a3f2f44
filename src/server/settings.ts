/**
 * Where the value of each option comes from: the command line, the environment, the configuration file, in this order.
 * All given values are checked, also those that another source overrides. The defaults are in options.ts.
 */
import { parseArgs } from "node:util";
import { type Environment, unknownVariables, variableOf } from "../environment.ts";
import { ConfigError, UsageError, usageError } from "../usage-error.ts";
import { readConfigFile } from "./config-file.ts";
import { type Option, TABLE } from "./options.ts";

/** A given value. */
export interface Setting {
  text: string;
  /** The option as the user wrote it, for errors: `--port`, `HEARTLINE_PORT` or `heartline.toml:3: port`. */
  name: () => string;
  /** Errors are those of the command line. */
  isArgument: boolean;
}

export type Settings = ReadonlyMap<string, Setting>;

export interface Sources {
  settings: Settings;
  /** Null without a configuration file. */
  file: string | null;
  warnings: string[];
}

/** Null for `--help`. Throws UsageError for an invalid command line, ConfigError for the other sources. */
export function readSettings(args: readonly string[], env: Environment): Sources | null {
  const given = parseOptions(args);
  if (given.has("help")) return null;
  const settings = new Map<string, Setting>();
  for (const [name, text] of given) {
    const setting = { text, name: () => `--${name}`, isArgument: true };
    const fault = faultOf(TABLE.get(name)!, setting);
    if (fault !== null) throw new UsageError(fault);
    settings.set(name, setting);
  }
  const findings: string[] = [];
  const offer = (name: string, setting: Setting): void => {
    const fault = faultOf(TABLE.get(name)!, setting);
    if (fault !== null) findings.push(fault);
    if (!settings.has(name)) settings.set(name, setting);
  };
  for (const name of TABLE.keys()) {
    const variable = variableOf(name);
    const text = env[variable];
    if (text !== undefined) offer(name, { text, name: () => variable, isArgument: false });
  }
  const file = settings.get("config")?.text ?? null;
  if (file !== null && findings.length === 0) readFile(file, offer, findings);
  if (findings.length > 0) throw new ConfigError(...findings);
  const warnings = unknownVariables(env, TABLE.keys()).map((name) => `${name} belongs to no option: it has no effect`);
  return { settings, file, warnings };
}

function readFile(file: string, offer: (name: string, setting: Setting) => void, findings: string[]): void {
  for (const [key, { value, name }] of readConfigFile(file)) {
    const option = key === "config" ? undefined : TABLE.get(key);
    if (option === undefined) findings.push(`${name()} is not an option`);
    else if (!isText(value, option)) findings.push(`${name()} takes ${expected(option)}`);
    else offer(key, { text: String(value), name, isArgument: false });
  }
}

/** Whether a value of the file can be the text of an option. */
function isText(value: unknown, option: Option<unknown>): boolean {
  if (typeof value === "boolean") return option.value === null;
  return typeof value === "string" || typeof value === "number";
}

function expected({ value }: Option<unknown>): string {
  return value === null ? "true or false" : `one value, ${value}, as a string or a number`;
}

/** Why the value of a setting is invalid; null when it is valid. */
function faultOf({ read }: Option<unknown>, { text, name }: Setting): string | null {
  try {
    read(text);
    return null;
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    return `${name()} ${error.message}`;
  }
}

/** The options of a command line. A flag has the text "true". */
function parseOptions(args: readonly string[]): Map<string, string> {
  const options: Record<string, { type: "string" | "boolean"; short?: string }> = {
    help: { type: "boolean", short: "h" },
  };
  for (const [name, { value }] of TABLE) options[name] = { type: value === null ? "boolean" : "string" };
  const given = new Map<string, string>();
  try {
    const { tokens } = parseArgs({ args: [...args], options, tokens: true });
    for (const token of tokens) {
      if (token.kind !== "option") continue;
      if (given.has(token.name) && token.name !== "help") throw new UsageError(`--${token.name} is given twice`);
      given.set(token.name, token.value ?? "true");
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
