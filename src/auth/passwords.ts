import { createHmac, timingSafeEqual } from "node:crypto";
import { HASHES_WAITING_MAX } from "../limits.ts";
import { isHash } from "./credentials.ts";
import type { Question } from "./hash-worker.ts";
import { Thread } from "../runtime/thread.ts";
import { WORKERS } from "../workers.ts";

/** A user as the credentials file has it. */
interface KnownUser {
  readonly name: string;
  /** Null for a removed user: such a login is not verified. */
  readonly password: string | null;
}

/** Proofs that sessions of users left in the store, by token. */
interface Proofs {
  /** Empty without one. */
  proof(user: string, token: string): Uint8Array;
}

/** A password that waits for its comparison with a hash. */
interface Waiting extends Question {
  isGone: () => boolean;
  verdict: PromiseWithResolvers<boolean | null>;
}

/**
 * Verifies passwords against the credentials file. A plain password is compared at once, in constant time; a hash in a
 * worker thread, one at a time, since each takes 64 MiB and a sixth of a second.
 *
 * A login with a valid token of an earlier session skips the hash: token and password together give a proof (HMAC) that
 * the store has. So thousands of clients return after a restart without thousands of hashes.
 */
export class Passwords {
  readonly #proofs: Proofs;
  readonly #waiting: Waiting[] = [];
  readonly #thread = new Thread<Question, boolean | string>(
    WORKERS.hash,
    (answer) =>
      this.#answered(({ verdict }) => {
        if (typeof answer === "boolean") verdict.resolve(answer);
        else verdict.reject(new Error(answer));
      }),
    (fault) =>
      this.#answered(({ verdict }) => verdict.reject(new Error(`the thread that verifies hashes has ended: ${fault}`))),
  );

  constructor(proofs: Proofs) {
    this.#proofs = proofs;
  }

  /** See `Passwords` in chat/accounts.ts. */
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
    if (this.#waiting.length === 1) this.#askNext();
    return verdict.promise;
  }

  /** The store has only a hash of the token, 128 random bits: nobody can try passwords on the proof without it. */
  prove(user: KnownUser, password: Uint8Array, token: string): Uint8Array {
    const known = user.password!;
    return isHash(known)
      ? createHmac("sha256", token).update(`${known}\n`).update(password).digest()
      : new Uint8Array(0);
  }

  /** Gives the first waiting password to the thread. Passwords of closed connections are not compared. */
  #askNext(): void {
    while (this.#waiting[0]?.isGone()) this.#waiting.shift()!.verdict.resolve(null);
    if (this.#waiting.length === 0) return;
    const { password, hash } = this.#waiting[0]!;
    this.#thread.ask({ password, hash });
  }

  #answered(conclude: (first: Waiting) => void): void {
    const first = this.#waiting.shift();
    this.#askNext();
    if (first !== undefined) conclude(first);
  }
}

function isEqual(known: Uint8Array, given: Uint8Array): boolean {
  const padded = new Uint8Array(known.length);
  padded.set(given.subarray(0, known.length));
  return timingSafeEqual(known, padded) && known.length === given.length;
}
