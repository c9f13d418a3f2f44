import { JOURNAL_MOVES_MAX } from "../limits.ts";
import type { Accounts } from "./accounts.ts";
import type { Mailbox } from "./mailbox.ts";
import type { ChatStore } from "./store.ts";

/**
 * Lets the store forget its oldest records: what only they know, messages that nobody has confirmed for long, moves to
 * the mailboxes, some in each turn, so that no turn is long.
 */
export class Checkpoint {
  readonly #accounts: Accounts;
  readonly #mailbox: Mailbox;
  readonly #store: ChatStore;
  /** The next user to look at. */
  #next = 0;

  constructor(accounts: Accounts, mailbox: Mailbox, store: ChatStore) {
    this.#accounts = accounts;
    this.#mailbox = mailbox;
    this.#store = store;
  }

  step(): void {
    const upTo = this.#store.restUpTo;
    if (upTo === null) return;
    const { all } = this.#accounts;
    let left = JOURNAL_MOVES_MAX;
    for (; this.#next < all.length; this.#next++) {
      const { session, leaving } = all[this.#next]!;
      for (const each of [leaving, session])
        if (each !== null && left > 0) left -= this.#mailbox.rest(each, upTo, left);
      if (left <= 0) return; // There may be more of this one.
    }
    this.#next = 0;
    this.#store.rested();
  }
}
