import { readFileSync } from "node:fs";
import { isName } from "../protocol/ascii.ts";

/** The sample file's first line. Whoever makes the file their own deletes it, and with it the warning. */
export const SAMPLE_MARK = "# SAMPLE: everybody knows these passwords.";

export interface Credentials {
  users: { name: string; password: string }[];
  /** It is the file that came with the program. */
  sample: boolean;
}

/** A credentials file that cannot be used: names the file, and the line where one is to blame. */
export class CredentialsError extends Error {}

/**
 * Reads a file of lines `<user> <password>`; blank lines and those that begin with `#` do not count. A bad line or a
 * name that comes twice makes the whole file bad, since a user who silently does not exist helps nobody.
 */
export function readCredentials(file: string): Credentials {
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    const why = code === "ENOENT" ? "there is no such file" : code === "EISDIR" ? "it is a folder" : String(code);
    throw new CredentialsError(`cannot read the credentials ${file}: ${why} (--credentials names another one)`);
  }
  return parseCredentials(text, file);
}

export function parseCredentials(text: string, file: string): Credentials {
  const lineOf = new Map<string, number>();
  const users: Credentials["users"] = [];
  const lines = text.replace(/^\ufeff/, "").split(/\r?\n/);
  for (const [index, line] of lines.entries()) {
    if (line.trim() === "" || line.startsWith("#")) continue;
    const bad = (why: string): CredentialsError => new CredentialsError(`${file}:${index + 1}: ${why}`);
    const [name = "", password = "", ...rest] = line.trimEnd().split(" ");
    const bytes = Buffer.from(name);
    if (!isName(bytes, 0, bytes.length)) throw bad(`"${printable(name)}" cannot be a user name`);
    if (password === "" || rest.length > 0) throw bad("a line is a user, one space and a password without spaces");
    if (lineOf.has(name)) throw bad(`the user ${name} stands in line ${lineOf.get(name)} already`);
    lineOf.set(name, index + 1);
    users.push({ name, password });
  }
  if (users.length === 0) throw new CredentialsError(`${file}: there are no users in it; a line is <user> <password>`);
  return { users, sample: lines[0]!.startsWith(SAMPLE_MARK) };
}

function printable(text: string): string {
  return text.slice(0, 40).replace(/[^\x20-\x7e]/g, "?");
}
