import { NAME_BYTES_MAX } from "../limits.ts";
import { SPACE, encode } from "../protocol/ascii.ts";
import { copy } from "../byte-queue.ts";
import type { Account, Session } from "./session.ts";

const OK = encode("ok");

/**
 * Who is online: the sessions of this server, and users of other shards. And the reply to `online`: encoded names are
 * kept between requests; a reply is a copy without the ranges that the asking user must not see, so that a request does
 * not encode thousands of names.
 */
export class Presence {
  /** The sessions of this server. */
  readonly online: Session[] = [];
  /** How many users of other shards are online. */
  #elsewhere = 0;
  /** The accounts that were online at the last request, in byte order; and those that have changed since. */
  #sorted: Account[] = [];
  readonly #changed = new Set<Account>();
  /** `ok <user> ...` with the first `#names` of them; `#starts` has the offset of each, and that of the end. */
  #line: Buffer = OK;
  #names = 0;
  readonly #starts = [OK.length];

  add(session: Session): void {
    session.onlineIndex = this.online.push(session) - 1;
    session.account.session = session;
    this.#changed.add(session.account);
  }

  remove(session: Session): void {
    const last = this.online.pop()!;
    if (last !== session) {
      this.online[session.onlineIndex] = last;
      last.onlineIndex = session.onlineIndex;
    }
    session.account.session = null;
    this.#changed.add(session.account);
  }

  /** How many users are online. */
  get count(): number {
    return this.online.length + this.#elsewhere;
  }

  /** Whether a user of another shard is online has changed. */
  setElsewhere(account: Account, isElsewhere: boolean): void {
    if (account.isElsewhere === isElsewhere) return;
    account.isElsewhere = isElsewhere;
    this.#elsewhere += isElsewhere ? 1 : -1;
    this.#changed.add(account);
  }

  /** The line `ok [<user> ...]`, `namesMax` names in byte order, without the asker and users who blocked the asker. */
  list(asker: Account, namesMax: number): Buffer {
    if (this.#changed.size > 0) this.#refresh();
    const hidden = this.#hiddenFrom(asker);
    let to = namesMax;
    for (const index of hidden) if (index < to) to++;
    to = Math.min(to, this.#sorted.length);
    this.#encode(to);
    const more = this.#sorted.length - hidden.length - namesMax;
    const tail = encode(more > 0 ? ` +${more}\n` : "\n");
    const starts = this.#starts;
    const line = Buffer.allocUnsafe(starts[to]! + tail.length);
    let at = 0;
    let from = 0;
    const copyTo = (end: number): void => {
      copy(this.#line, line, at, from, end);
      at += end - from;
    };
    for (const index of hidden) {
      if (index >= to) break;
      copyTo(starts[index]!);
      from = starts[index + 1]!;
    }
    copyTo(starts[to]!);
    copy(tail, line, at, 0, tail.length);
    return line.subarray(0, at + tail.length);
  }

  /** Indexes of the accounts that the asker must not see, ascending: by binary search, or for many by a scan. */
  #hiddenFrom(asker: Account): number[] {
    const { blockedBy } = asker;
    const hidden: number[] = [];
    if (blockedBy.size * 16 > this.#sorted.length) {
      for (const [index, account] of this.#sorted.entries())
        if (account === asker || blockedBy.has(account)) hidden.push(index);
      return hidden;
    }
    for (const account of [asker, ...blockedBy]) if (isOnline(account)) hidden.push(this.#indexOf(account));
    return hidden.sort((a, b) => a - b);
  }

  /** Applies the changes since the last request. Encoded names before the first change are kept. */
  #refresh(): void {
    const sorted = this.#sorted;
    const parts: Account[][] = [];
    let from = 0;
    for (const account of [...this.#changed].sort((a, b) => (a.name < b.name ? -1 : 1))) {
      const index = this.#indexOf(account);
      const isListed = sorted[index] === account;
      if (isListed === isOnline(account)) continue;
      this.#names = Math.min(this.#names, index);
      parts.push(sorted.slice(from, index), isListed ? [] : [account]);
      from = isListed ? index + 1 : index;
    }
    this.#changed.clear();
    if (parts.length > 0) this.#sorted = [...parts, sorted.slice(from)].flat();
  }

  /** Index of that user in the order of names, or where it would be inserted (binary search). */
  #indexOf({ name }: Account): number {
    const sorted = this.#sorted;
    let low = 0;
    let high = sorted.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (sorted[middle]!.name < name) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** Extends the line to at least that many names. */
  #encode(names: number): void {
    const starts = this.#starts;
    let at = starts[this.#names]!;
    const bytesMax = at + (names - this.#names) * (1 + NAME_BYTES_MAX);
    if (bytesMax > this.#line.length) {
      const line = Buffer.allocUnsafeSlow(2 * bytesMax);
      copy(this.#line, line, 0, 0, at);
      this.#line = line;
    }
    for (; this.#names < names; starts[++this.#names] = at) {
      const { nameBytes } = this.#sorted[this.#names]!;
      this.#line[at] = SPACE;
      copy(nameBytes, this.#line, at + 1, 0, nameBytes.length);
      at += 1 + nameBytes.length;
    }
  }
}

function isOnline({ session, isElsewhere }: Account): boolean {
  return session !== null || isElsewhere;
}
