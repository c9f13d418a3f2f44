/**
 * Whom this client knows: who is here, with whom the user talks, and the partner of plain lines. Names come from the
 * server: only valid ones are passed in.
 */

/** More names than the list of a server has. */
const NAMES_MAX = 20_000;

export class People {
  /** To whom plain lines go; null: plain lines are commands. */
  partner: string | null = null;
  /** The user who wrote last, and whether that text did not go through the server. */
  lastSender: { user: string; isPrivate: boolean } | null = null;
  readonly #online = new Set<string>();
  /** Users whom this user talked with in this run, the latest first. */
  #recent: string[] = [];

  /** The reply to `online` replaces what was known. */
  setOnline(names: readonly string[]): void {
    this.#online.clear();
    for (const name of names) this.#online.add(name);
  }

  get onlineCount(): number {
    return this.#online.size;
  }

  joined(name: string): void {
    if (this.#online.size < NAMES_MAX) this.#online.add(name);
  }

  left(name: string): void {
    this.#online.delete(name);
  }

  /** That user wrote to this one. */
  wrote(name: string, isPrivate: boolean): void {
    this.lastSender = { user: name, isPrivate };
    this.talkedWith(name);
  }

  talkedWith(name: string): void {
    if (this.#recent[0] === name) return;
    this.#recent = [name, ...this.#recent.filter((each) => each !== name)].slice(0, NAMES_MAX);
  }

  hasTalkedWith(name: string): boolean {
    return this.#recent.includes(name);
  }

  isKnown(name: string): boolean {
    return this.#online.has(name) || this.#recent.includes(name);
  }

  /** The next recent partner after the present one; null when there is none. */
  nextPartner(): string | null {
    const at = this.partner === null ? -1 : this.#recent.indexOf(this.partner);
    return this.#recent[(at + 1) % this.#recent.length] ?? null;
  }

  /** The name that a typed one means: that name, else the only known one that differs in case only, else as typed. */
  resolve(typed: string): string {
    if (this.isKnown(typed)) return typed;
    const lower = typed.toLowerCase();
    const same = new Set([...this.#online, ...this.#recent].filter((name) => name.toLowerCase() === lower));
    const [only] = same;
    return same.size === 1 ? only! : typed;
  }

  /** Names that begin with a text in any case: those who are here, then others; each by recency, then by name. */
  complete(typed: string): string[] {
    const lower = typed.toLowerCase();
    const fits = (name: string): boolean => name.toLowerCase().startsWith(lower);
    const recent = this.#recent.filter(fits);
    const here = recent.filter((name) => this.#online.has(name));
    const others = [...this.#online].filter((name) => fits(name) && !here.includes(name)).sort();
    return [...here, ...others, ...recent.filter((name) => !this.#online.has(name))];
  }
}
