import { setPriority } from "node:os";
import { BCRYPT_BYTES } from "../limits.ts";
import { WORKER_READY } from "../runtime/thread.ts";

/** A worker thread that verifies one password after another, with a lower priority than the chat. */

/** A message to the thread. It answers with the verdict, or with the error message of a bad hash. */
export interface Question {
  password: Uint8Array;
  hash: string;
}

declare const self: Worker;

/** Of this thread alone (Linux). Not the lowest: logins must continue while another process uses the whole core. */
setPriority(10);

self.onmessage = ({ data: { password, hash } }: MessageEvent<Question>) => {
  try {
    self.postMessage(verify(password, hash));
  } catch (error) {
    self.postMessage((error as Error).message);
  }
};
self.postMessage(WORKER_READY);

/**
 * Standard bcrypt uses the first 72 bytes of a password, up to a NUL. Bun uses the SHA-512 of a longer password and
 * treats NUL as any other byte. A hash that Bun made of a longer password is accepted too.
 */
function verify(password: Uint8Array, hash: string): boolean {
  if (!hash.startsWith("$2") || password.length === 0) return Bun.password.verifySync(password, hash);
  if (password.includes(0)) return false;
  if (Bun.password.verifySync(password.subarray(0, BCRYPT_BYTES), hash)) return true;
  return password.length > BCRYPT_BYTES && Bun.password.verifySync(password, hash);
}
