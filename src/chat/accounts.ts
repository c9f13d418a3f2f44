import { encode, equals, fnv1a } from "../protocol/ascii.ts";
import { Account, type Neighbour, type Waiting } from "./session.ts";

/** Verifies passwords; src/auth/passwords.ts implements it. */
export interface Passwords {
  /**
   * The verdict, at once or as a promise; null when too many wait already. The `token` of a session that began with
   * the same password can make it faster. `isGone` is called before a waiting password is compared; when it returns
   * true, the promise resolves to null.
   */
  verify(
    account: Account,
    password: Uint8Array,
    token: string | null,
    isGone: () => boolean,
  ): boolean | Promise<boolean | null> | null;
  /** The proof that a later login with that token needs; empty when the password is not kept as a hash. */
  prove(account: Account, password: Uint8Array, token: string): Uint8Array;
}

/**
 * All users, also removed ones, by the bytes of their names: an open hash table (FNV-1a, linear probing), so that names
 * in requests are not decoded.
 */
export class Accounts {
  readonly all: Account[] = [];
  /** What waits in all mailboxes together. */
  readonly waiting: Waiting = { messages: 0, bytes: 0 };
  /** The shard of the user with that name; null for this one. */
  neighbourOf: (name: Uint8Array) => Neighbour | null = () => null;
  #slots: (Account | undefined)[] = new Array(1024);

  /** Adds a user, also one who was removed; null when there is a user of that name. */
  add(name: string, password: string): Account | null {
    const account = this.recall(name);
    if (account.password !== null) return null;
    account.password = password;
    return account;
  }

  /** The account of a present, removed or future user: the store may have messages and blocks for each of them. */
  recall(name: string): Account {
    const bytes = encode(name);
    const known = this.#at(bytes, 0, bytes.length);
    if (known !== undefined) return known;
    const account = new Account(name, this.waiting, this.neighbourOf(bytes), bytes);
    this.all.push(account);
    if (this.all.length * 2 > this.#slots.length) {
      this.#slots = new Array(this.#slots.length * 4);
      for (const each of this.all) this.#insert(each);
    } else this.#insert(account);
    return account;
  }

  named(name: string): Account | undefined {
    const account = this.remembered(name);
    return account?.password == null ? undefined : account;
  }

  /** Also one who was removed. */
  remembered(name: string): Account | undefined {
    const bytes = encode(name);
    return this.#at(bytes, 0, bytes.length);
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

  #insert(account: Account): void {
    const slots = this.#slots;
    let at = hash(account.nameBytes, 0, account.nameBytes.length) & (slots.length - 1);
    while (slots[at] !== undefined) at = (at + 1) & (slots.length - 1);
    slots[at] = account;
  }
}

function hash(bytes: Uint8Array, start: number, end: number): number {
  const value = fnv1a(bytes, start, end);
  return (value ^ (value >>> 15)) >>> 0;
}
