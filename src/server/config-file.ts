/**
 * Reads the configuration file (TOML). A key is the name of an option without dashes in front. Sections only group
 * keys: their names have no meaning. Which keys and values are valid is in options.ts.
 */
import { statSync } from "node:fs";
import { TomlError, parse } from "smol-toml";
import { CONFIG_BYTES_MAX } from "../limits.ts";
import { readInput, whyUnreadable } from "../runtime/input-file.ts";
import { ConfigError } from "../usage-error.ts";

/** How the parser begins its message about a key or a section that is given twice. */
const REDEFINED = "trying to redefine";

/** The value of a key, and `<file>:<line>: <key>` for error messages. */
export interface FileValue {
  value: unknown;
  name: () => string;
}

/** The values by key. Throws ConfigError when the file cannot be read, is not TOML, or has a key twice. */
export function readConfigFile(file: string): Map<string, FileValue> {
  const text = read(file);
  const values = new Map<string, FileValue>();
  for (const [key, value] of keysOf(parseFile(text, file))) {
    if (values.has(key)) {
      const [, second] = positionsOf(key, text);
      throw new ConfigError(`${at(file, second?.line, second?.column)}: ${key} is given twice`);
    }
    values.set(key, { value, name: () => `${at(file, positionsOf(key, text).next().value?.line)}: ${key}` });
  }
  return values;
}

/** A byte order mark at the beginning is skipped. */
function read(file: string): string {
  let bytes: Buffer;
  try {
    const found = statSync(file);
    if (!found.isFile() && !found.isDirectory()) throw new Error("it is not a regular file");
    bytes = readInput(file, CONFIG_BYTES_MAX, "regular");
  } catch (error) {
    throw new ConfigError(`cannot read the configuration ${file}: ${whyUnreadable(error)}`);
  }
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw new ConfigError(`cannot read the configuration ${file}: it is not UTF-8 text`);
  }
}

function parseFile(text: string, file: string): Record<string, unknown> {
  try {
    return parse(text);
  } catch (error) {
    if (!(error instanceof TomlError)) throw error;
    const [, why = ""] = /^Invalid TOML document: (.*)/.exec(error.message) ?? [];
    const fault = why.startsWith(REDEFINED) ? "a key or a section is given twice" : why;
    throw new ConfigError(`${at(file, error.line, error.column)}: ${fault}`);
  }
}

/** All keys with values, in any section. */
function* keysOf(root: Record<string, unknown>): Generator<[string, unknown]> {
  const tables = [root];
  for (const table of tables) {
    for (const [key, value] of Object.entries(table)) {
      if (isTable(value)) tables.push(value);
      else yield [key, value];
    }
  }
}

/** Arrays and dates have a prototype, tables have none. */
function isTable(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && Object.getPrototypeOf(value) === null;
}

/**
 * Where values are given to a key; the parser has no positions. A line counts where the text before it is complete, so
 * not within a value of several lines.
 */
function* positionsOf(key: string, text: string): Generator<{ line: number; column: number }, undefined> {
  const assignment = new RegExp(`^([^#"']*?)(?<![\\w-])(["']?)${RegExp.escape(key)}\\2\\s*=`);
  const lines = text.split("\n");
  for (const [index, line] of lines.entries()) {
    const found = assignment.exec(line);
    if (found === null || !isComplete(lines.slice(0, index).join("\n"))) continue;
    yield { line: index + 1, column: found[1]!.length + 1 };
  }
}

function isComplete(text: string): boolean {
  try {
    parse(text);
    return true;
  } catch {
    return false;
  }
}

function at(file: string, line?: number, column?: number): string {
  return [file, line, column].filter((each) => each !== undefined).join(":");
}
