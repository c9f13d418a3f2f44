import { statSync } from "node:fs";
import { decodeText, readInput, whyUnreadable } from "../runtime/input-file.ts";

/** Reads the file of `--password-file`: the password is its first line. */

/** The password and an end of line. A password has at most 1,024 bytes, but a file may have lines after it. */
const FILE_BYTES_MAX = 64 << 10;
/** Permission bits: the group or others may read. */
const READ_BY_OTHERS = 0o044;

export interface FilePassword {
  password: string;
  /** Others can read the file: a line for the user; null when they cannot. */
  warning: string | null;
}

/** Throws an error with a message for the user. */
export function readPasswordFile(file: string): FilePassword {
  let bytes: Buffer;
  let mode: number;
  try {
    bytes = readInput(file, FILE_BYTES_MAX, "any");
    mode = statSync(file).mode;
  } catch (error) {
    throw new Error(`cannot read --password-file ${file}: ${whyUnreadable(error)}`);
  }
  const [password = ""] = decode(bytes, file).split(/\r?\n/, 1);
  if (password === "") throw new Error(`--password-file ${file}: its first line is empty; it must be the password`);
  const isOpen = (mode & READ_BY_OTHERS) !== 0;
  return { password, warning: isOpen ? `others can read ${file}; make it private with chmod 600` : null };
}

function decode(bytes: Buffer, file: string): string {
  try {
    return decodeText(bytes);
  } catch (error) {
    throw new Error(`--password-file ${file}: ${(error as Error).message}`);
  }
}
