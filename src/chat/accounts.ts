import { encode, equals } from "../protocol/ascii.ts";
import { Account } from "./session.ts";

/** All users by the bytes of their name, in an open hash table (FNV-1a, linear probing): no name is ever decoded. */
export class Accounts {
  readonly all: Account[] = [];
  #slots: (Account | undefined)[] = new Array(1024);

  /** Adds a user; null when the name is taken. */
  add(name: string, password: string): Account | null {
    if (this.named(name) !== undefined) return null;
    const account = new Account(name, password);
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
