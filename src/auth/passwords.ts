import { createHmac, timingSafeEqual } from "node:crypto";
import { HASHES_WAITING_MAX } from "../limits.ts";
import { isHash } from "./credentials.ts";
import type { Question } from "./hash-worker.ts";
import { Thread } from "../runtime/thread.ts";

/** A user as the credentials file has it. */
interface KnownUser {
  readonly name: string;
  /** Null for a user that is not in the file any more: such a login is not verified. */
  readonly password: string | null;
}

/** What sessions of users left, by their tokens. */
interface Proofs {
  /** Empty when there is none. */
  proof(user: string, token: string): Uint8Array;
}

/** A password that waits to be compared with a hash. */
interface Waiting extends Question {
  isGone: () => boolean;
  verdict: PromiseWithResolvers<boolean | null>;
}

/**
 * Compares passwords with what the credentials file has: a plain one at once, in a time that does not depend on how
 * much of it is right; a hash in a thread of its own, one at a time, since each takes 64 MiB and a sixth of a second.
 *
 * Whoever had a session shows its token with the password, and is judged by a proof that only both of them make: a
 * server that was restarted does not hash for thousands before they are back.
 */
export class Passwords {
  readonly #proofs: Proofs;
  readonly #waiting: Waiting[] = [];
  readonly #thread = new Thread<Question, boolean | string>(
    new URL("./hash-worker.ts", import.meta.url),
    (answer) =>
      this.#judged(({ verdict }) => {
        if (typeof answer === "boolean") verdict.resolve(answer);
        else verdict.reject(new Error(answer));
      }),
    (fault) =>
      this.#judged(({ verdict }) => verdict.reject(new Error(`the thread that verifies hashes has ended: ${fault}`))),
  );

  constructor(proofs: Proofs) {
    this.#proofs = proofs;
  }

  verify(
    user: KnownUser,
    password: Uint8Array,
    token: string | null,
    isGone: () => boolean,
  ): boolean | Promise<boolean | null> | null {
    const known = user.password!;
    if (!isHash(known)) return isEqual(Buffer.from(known), password);
    if (token !== null) {
      const proof = this.#proofs.proof(user.name, token);
      if (proof.length > 0 && timingSafeEqual(proof, this.prove(user, password, token))) return true;
    }
    if (this.#waiting.length >= HASHES_WAITING_MAX) return null;
    const verdict = Promise.withResolvers<boolean | null>();
    this.#waiting.push({ password, hash: known, isGone, verdict });
    if (this.#waiting.length === 1) this.#ask();
    return verdict.promise;
  }

  /** The token is 128 random bits, of which the store has a hash: without it nobody can try passwords on the proof. */
  prove(user: KnownUser, password: Uint8Array, token: string): Uint8Array {
    const known = user.password!;
    return isHash(known)
      ? createHmac("sha256", token).update(`${known}\n`).update(password).digest()
      : new Uint8Array(0);
  }

  /** Has the first of those that wait judged. Who has hung up meanwhile is not worth a hash. */
  #ask(): void {
    while (this.#waiting[0]?.isGone()) this.#waiting.shift()!.verdict.resolve(null);
    if (this.#waiting.length === 0) return;
    const { password, hash } = this.#waiting[0]!;
    this.#thread.ask({ password, hash });
  }

  #judged(conclude: (first: Waiting) => void): void {
    const first = this.#waiting.shift();
    this.#ask();
    if (first !== undefined) conclude(first);
  }
}

function isEqual(known: Uint8Array, given: Uint8Array): boolean {
  const padded = new Uint8Array(known.length);
  padded.set(given.subarray(0, known.length));
  return timingSafeEqual(known, padded) && known.length === given.length;
}
