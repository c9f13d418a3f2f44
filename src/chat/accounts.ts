import { encode, equals } from "../protocol/ascii.ts";
import { Account } from "./session.ts";

/** Judges passwords. */
export interface Passwords {
  /**
   * Now or later; null when too many are being judged. With the `token` of a session that the same password began it
   * may go faster; `isGone` is asked when its turn has come, and who has gone is not judged: a promise of null.
   */
  verify(
    account: Account,
    password: Uint8Array,
    token: string | null,
    isGone: () => boolean,
  ): boolean | Promise<boolean | null> | null;
  /** What a session that this password begins leaves for that; empty when nothing is needed. */
  prove(account: Account, password: Uint8Array, token: string): Uint8Array;
}

/**
 * All users, and those who were, by the bytes of their name, in an open hash table (FNV-1a, linear probing): no name is
 * ever decoded.
 */
export class Accounts {
  readonly all: Account[] = [];
  #slots: (Account | undefined)[] = new Array(1024);

  /** Adds a user, or takes one back; null when there is one of that name. */
  add(name: string, password: string): Account | null {
    const account = this.recall(name);
    if (account.password !== null) return null;
    account.password = password;
    return account;
  }

  /** Who is, was or may become a user of that name: what is known of them waits for it. */
  recall(name: string): Account {
    const bytes = encode(name);
    const known = this.#at(bytes, 0, bytes.length);
    if (known !== undefined) return known;
    const account = new Account(name);
    this.all.push(account);
    if (this.all.length * 2 > this.#slots.length) {
      this.#slots = new Array(this.#slots.length * 4);
      for (const each of this.all) this.#place(each);
    } else this.#place(account);
    return account;
  }

  named(name: string): Account | undefined {
    const bytes = encode(name);
    return this.find(bytes, 0, bytes.length);
  }

  find(bytes: Uint8Array, start: number, end: number): Account | undefined {
    const account = this.#at(bytes, start, end);
    return account?.password == null ? undefined : account;
  }

  #at(bytes: Uint8Array, start: number, end: number): Account | undefined {
    const slots = this.#slots;
    for (let at = hash(bytes, start, end) & (slots.length - 1); ; at = (at + 1) & (slots.length - 1)) {
      const account = slots[at];
      if (account === undefined || equals(bytes, start, end, account.nameBytes)) return account;
    }
  }

  #place(account: Account): void {
    const slots = this.#slots;
    let at = hash(account.nameBytes, 0, account.nameBytes.length) & (slots.length - 1);
    while (slots[at] !== undefined) at = (at + 1) & (slots.length - 1);
    slots[at] = account;
  }
}

function hash(bytes: Uint8Array, start: number, end: number): number {
  let value = 0x811c9dc5;
  for (let i = start; i < end; i++) value = Math.imul(value ^ bytes[i]!, 0x01000193);
  return (value ^ (value >>> 15)) >>> 0;
}
