import { encode } from "../protocol/ascii.ts";
import type { Account, Session } from "./session.ts";

/** Who is online. */
export class Presence {
  readonly online: Session[] = [];
  #sorted: Account[] | null = null;

  add(session: Session): void {
    session.place = this.online.push(session) - 1;
    session.account.session = session;
    this.#sorted = null;
  }

  remove(session: Session): void {
    const last = this.online.pop()!;
    if (last !== session) {
      this.online[session.place] = last;
      last.place = session.place;
    }
    session.account.session = null;
    this.#sorted = null;
  }

  /** The line `ok [<user> ...]`, `most` names in byte order: without the asker and those who blocked the asker. */
  list(asker: Account, most: number): Uint8Array {
    this.#sorted ??= this.online.map(({ account }) => account).sort((a, b) => (a.name < b.name ? -1 : 1));
    let line = "ok";
    let names = 0;
    for (const account of this.#sorted) {
      if (account === asker || asker.blockedBy.has(account)) continue;
      if (names++ < most) line += ` ${account.name}`;
    }
    return encode(names > most ? `${line} +${names - most}\n` : `${line}\n`);
  }
}
