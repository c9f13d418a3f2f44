import { closeSync, constants, fstatSync, openSync, readSync, statSync } from "node:fs";

/** Reads files that the user or operator names, with a size limit, and explains why a file cannot be read. */

const CHUNK_BYTES = 64 << 10;

/** Which files may be read: "regular" ones while the server runs, "any" (also pipes) when a program starts. */
export type InputKind = "regular" | "any";

/**
 * The bytes of a file. Reading a pipe, a terminal or a device can block the event loop for ever: with "regular" only
 * regular files are read. Throws the system's error, or an error with a message for the user; see `whyUnreadable`.
 */
export function readInput(file: string, bytesMax: number, kind: InputKind): Buffer {
  let descriptor = -1;
  try {
    if (statSync(file).isDirectory()) throw new Error("it is a folder");
    // O_NONBLOCK: the file may be replaced by a pipe at any moment, and opening a pipe blocks, too.
    descriptor = openSync(file, kind === "any" ? constants.O_RDONLY : constants.O_RDONLY | constants.O_NONBLOCK);
    const before = fstatSync(descriptor);
    const isRegular = before.isFile();
    if (!isRegular && kind === "regular")
      throw new Error("not a regular file; a pipe can only be read when the server starts");
    const bytes = isRegular && before.size > bytesMax ? null : readAll(descriptor, bytesMax);
    if (bytes === null) throw new Error(`it has more than ${bytesMax} bytes`);
    const after = fstatSync(descriptor);
    if (isRegular && (after.size !== before.size || after.mtimeMs !== before.mtimeMs))
      throw new Error("it was changed while it was read; try again");
    return bytes;
  } finally {
    if (descriptor >= 0) closeSync(descriptor);
  }
}

/** Reads to the end; returns null when there are more than `bytesMax` bytes. */
function readAll(descriptor: number, bytesMax: number): Buffer | null {
  const chunks: Buffer[] = [];
  for (let length = 0; length <= bytesMax;) {
    const chunk = Buffer.alloc(CHUNK_BYTES);
    const count = readSync(descriptor, chunk);
    if (count === 0) return Buffer.concat(chunks);
    chunks.push(chunk.subarray(0, count));
    length += count;
  }
  return null;
}

/** The text of a file in UTF-8; a byte order mark at its beginning is skipped. Throws an error for other bytes. */
export function decodeText(bytes: Uint8Array): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw new Error("it is not UTF-8 text");
  }
}

/** The reason why `readInput` failed, in words for the user. */
export function whyUnreadable(error: unknown): string {
  const { code, message } = error as NodeJS.ErrnoException;
  if (code === "ENOENT") return "there is no such file";
  if (code === "EACCES") return "permission denied";
  return code ?? message;
}
