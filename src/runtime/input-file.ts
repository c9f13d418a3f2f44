import { closeSync, constants, fstatSync, openSync, readSync, statSync } from "node:fs";

const CHUNK_BYTES = 64 << 10;

/** Kinds of files that may be read: "regular" while the server runs, "any" when it starts. */
export type InputKind = "regular" | "any";

/**
 * The bytes of a file that an operator named. Reading a pipe, a terminal or a device may block the event loop for ever:
 * with "regular" only regular files are read. Throws the system's error, or one with words for the operator.
 */
export function readInput(file: string, bytesMax: number, kind: InputKind): Buffer {
  let descriptor = -1;
  try {
    if (statSync(file).isDirectory()) throw new Error("it is a folder");
    // Opening must not block either: a pipe may take the file's place at any moment.
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

/** Everything up to the end; null when that is more than `bytesMax`. */
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

/** Why a file could not be read, in words. */
export function whyUnreadable(error: unknown): string {
  const { code, message } = error as NodeJS.ErrnoException;
  if (code === "ENOENT") return "there is no such file";
  if (code === "EACCES") return "permission denied";
  return code ?? message;
}
