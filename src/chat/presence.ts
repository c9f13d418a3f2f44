import { encode } from "../protocol/ascii.ts";
import type { Account, Session } from "./session.ts";

/** Who is online. */
export class Presence {
  readonly online: Session[] = [];
  #sorted: Account[] | null = null;
  /** The line for whom nobody has blocked, but that it has the asker's name too; null when it is not known. */
  #line: Buffer | null = null;

  add(session: Session): void {
    session.place = this.online.push(session) - 1;
    session.account.session = session;
    this.#sorted = this.#line = null;
  }

  remove(session: Session): void {
    const last = this.online.pop()!;
    if (last !== session) {
      this.online[session.place] = last;
      last.place = session.place;
    }
    session.account.session = null;
    this.#sorted = this.#line = null;
  }

  /** The line `ok [<user> ...]`, `most` names in byte order: without the asker and those who blocked the asker. */
  list(asker: Account, most: number): Uint8Array {
    this.#sorted ??= this.online.map(({ account }) => account).sort((a, b) => (a.name < b.name ? -1 : 1));
    if (asker.blockedBy.size > 0 || this.#sorted.length > most) {
      const seen = this.#sorted.filter((account) => account !== asker && !asker.blockedBy.has(account));
      return lineOf(seen.slice(0, most), seen.length - most);
    }
    // Whoever asks again and again must not make the same line be put together each time.
    this.#line ??= lineOf(this.#sorted, 0);
    const at = this.#line.indexOf(` ${asker.name}`);
    return Buffer.concat([this.#line.subarray(0, at), this.#line.subarray(at + 1 + asker.name.length)]);
  }
}

function lineOf(accounts: readonly Account[], more: number): Buffer {
  const names = accounts.map(({ name }) => ` ${name}`).join("");
  return encode(`ok${names}${more > 0 ? ` +${more}` : ""}\n`);
}
