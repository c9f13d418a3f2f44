import { timingSafeEqual } from "node:crypto";
import type { Account } from "../chat/session.ts";

/**
 * Compares a password with what the credentials file has. A hash is verified off the loop, one at a time, since each
 * takes 64 MiB; a plain one at once, in a time that does not depend on how much of it is right.
 */
export class Passwords {
  #last: Promise<unknown> = Promise.resolve();

  readonly verify = (account: Account, password: Uint8Array): boolean | Promise<boolean> => {
    const known = account.password;
    if (!known.startsWith("$")) return isEqual(Buffer.from(known), password);
    const verdict = this.#last.then(() => Bun.password.verify(password, known));
    this.#last = verdict.catch(() => {});
    return verdict;
  };
}

function isEqual(known: Uint8Array, given: Uint8Array): boolean {
  const padded = new Uint8Array(known.length);
  padded.set(given.subarray(0, known.length));
  return timingSafeEqual(known, padded) && known.length === given.length;
}
