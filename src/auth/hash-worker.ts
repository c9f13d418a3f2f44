import { setPriority } from "node:os";
import { BCRYPT_BYTES } from "../limits.ts";

/** A thread that verifies one password after the other, and gives way to the chat on a core that they share. */

/** What it is asked; it answers with the verdict, or says what is wrong with the hash. */
export interface Question {
  password: Uint8Array;
  hash: string;
}

declare const self: Worker;

/** Of this thread alone (Linux). Not the least: logins must go on while something else takes the whole core. */
setPriority(10);

self.onmessage = ({ data: { password, hash } }: MessageEvent<Question>) => {
  try {
    self.postMessage(verify(password, hash));
  } catch (error) {
    self.postMessage((error as Error).message);
  }
};

/**
 * bcrypt, as everybody else makes it, takes the first 72 bytes of a password, and what precedes a NUL; Bun takes the
 * SHA-512 of a longer one, and a NUL for what it is: its own hashes of long passwords are verified too.
 */
function verify(password: Uint8Array, hash: string): boolean {
  if (!hash.startsWith("$2") || password.length === 0) return Bun.password.verifySync(password, hash);
  if (password.includes(0)) return false;
  if (Bun.password.verifySync(password.subarray(0, BCRYPT_BYTES), hash)) return true;
  return password.length > BCRYPT_BYTES && Bun.password.verifySync(password, hash);
}
