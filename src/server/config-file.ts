/**
 * Reads the configuration file (TOML). A key is the name of an option without dashes in front. Sections only group
 * keys: their names have no meaning. Which keys and values are valid is in options.ts.
 */
import { statSync } from "node:fs";
import { TomlError, parse } from "smol-toml";
import { CONFIG_BYTES_MAX } from "../limits.ts";
import { decodeText, readInput, whyUnreadable } from "../runtime/input-file.ts";
import { ConfigError, quoted } from "../usage-error.ts";

/** How the parser begins its message about a key or a section that is given twice. */
const REDEFINED = "trying to redefine";

/** A statement of more lines is not searched for keys. */
const STATEMENT_LINES_MAX = 64;

interface Position {
  line: number;
  column: number;
}

/** The value of a key, and `<file>:<line>: <key>` for error messages. */
export interface FileValue {
  value: unknown;
  name: () => string;
}

/** The values by key. Throws ConfigError when the file cannot be read, is not TOML, or has a key twice. */
export function readConfigFile(file: string): Map<string, FileValue> {
  const text = read(file);
  const values = new Map<string, FileValue>();
  let positions: Map<string, Position[]> | null = null; // They are needed for errors only.
  const position = (key: string, index: number): Position | undefined =>
    (positions ??= positionsOf(text)).get(key)?.[index];
  for (const [key, value] of keysOf(parseFile(text, file))) {
    if (values.has(key)) {
      const { line, column } = position(key, 1) ?? {};
      throw new ConfigError(`${at(file, line, column)}: ${printed(key)} is given twice`);
    }
    values.set(key, { value, name: () => `${at(file, position(key, 0)?.line)}: ${printed(key)}` });
  }
  return values;
}

function read(file: string): string {
  try {
    const found = statSync(file);
    if (!found.isFile() && !found.isDirectory()) throw new Error("it is not a regular file");
    return decodeText(readInput(file, CONFIG_BYTES_MAX, "regular"));
  } catch (error) {
    throw new ConfigError(`cannot read the configuration ${file}: ${whyUnreadable(error)}`);
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
 * Where values are given to each key, in order; the parser has no positions. The text is valid, so a statement ends
 * with the first line up to which it can be parsed alone.
 */
function positionsOf(text: string): Map<string, Position[]> {
  const positions = new Map<string, Position[]>();
  const lines = text.split("\n");
  let first = 0;
  for (let last = 0; last < lines.length && last - first < STATEMENT_LINES_MAX; last++) {
    const statement = parseStatement(`${lines.slice(first, last + 1).join("\n")}\n`);
    if (statement === null) continue;
    for (const [key] of keysOf(statement)) {
      const column = 1 + Math.max(0, lines[first]!.search(new RegExp(`(?<![\\w-])${RegExp.escape(key)}(?![\\w-])`)));
      const all = positions.get(key);
      if (all === undefined) positions.set(key, [{ line: first + 1, column }]);
      else all.push({ line: first + 1, column });
    }
    first = last + 1;
  }
  return positions;
}

function parseStatement(text: string): Record<string, unknown> | null {
  try {
    return parse(text);
  } catch {
    return null;
  }
}

/** Any text may be a key. */
function printed(key: string): string {
  return /^[\w-]{1,40}$/.test(key) ? key : quoted(key);
}

function at(file: string, line?: number, column?: number): string {
  return [file, line, column].filter((each) => each !== undefined).join(":");
}
