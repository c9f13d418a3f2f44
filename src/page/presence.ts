/** Who is online: the reply to `online`, and the events before and after it. */
export class Presence {
  #online = new Set<string>();
  /** Users who are online and not in the list, which has a limit. */
  more = 0;
  /** Events since a request for the list: some are newer than its reply. Null without a request. */
  #since: { user: string; isOnline: boolean }[] | null = null;

  /** The list is requested. */
  requested(): void {
    this.#since = [];
  }

  /** The reply. The events since the request are applied again: those before the reply are in it already. */
  listed(names: readonly string[], more: number): void {
    this.#online = new Set(names);
    this.more = more;
    for (const { user, isOnline } of this.#since ?? []) this.#apply(user, isOnline);
    this.#since = null;
  }

  changed(user: string, isOnline: boolean): void {
    this.#since?.push({ user, isOnline });
    this.#apply(user, isOnline);
  }

  has(user: string): boolean {
    return this.#online.has(user);
  }

  /** In alphabetical order. */
  get names(): string[] {
    return [...this.#online].sort(compareNames);
  }

  #apply(user: string, isOnline: boolean): void {
    if (isOnline) this.#online.add(user);
    else this.#online.delete(user);
  }
}

/** Alphabetical order in any case; names that differ only in case have one order too. */
export function compareNames(a: string, b: string): number {
  const [lowerA, lowerB] = [a.toLowerCase(), b.toLowerCase()];
  if (lowerA !== lowerB) return lowerA < lowerB ? -1 : 1;
  return a < b ? -1 : a > b ? 1 : 0;
}
