/**
 * Which lines users get who come and go: every one, only those whom this user talks with, or none. In a crowd the lines
 * are gathered.
 */

export type PresenceMode = "off" | "brief" | "on";
export const PRESENCE_MODES: readonly PresenceMode[] = ["off", "brief", "on"];

/** With more users than this the changes of GATHER_MS become one line. */
export const CROWD = 20;
export const GATHER_MS = 10_000;
/** Names in a gathered line. */
const NAMES_MAX = 8;

export class PresenceLines {
  mode: PresenceMode;
  readonly #print: (text: string) => void;
  /** The last change of each user since the last gathered line: reason to leave, or null for a user who came. */
  readonly #changes = new Map<string, string | null>();
  #timer: Timer | null = null;

  constructor(mode: PresenceMode, print: (text: string) => void) {
    this.mode = mode;
    this.#print = print;
  }

  /** A user came, or left for a reason. `isPartner`: this user talks with that one. */
  changed(name: string, reason: string | null, isPartner: boolean, onlineCount: number): void {
    if (this.mode === "off" || (this.mode === "brief" && !isPartner)) return;
    if (onlineCount <= CROWD && this.#timer === null)
      return this.#print(reason === null ? `* ${name} is here` : `* ${name} left (${reason})`);
    this.#changes.set(name, reason);
    this.#timer ??= setTimeout(() => this.#gather(), GATHER_MS);
  }

  stop(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
  }

  #gather(): void {
    this.#timer = null;
    const [came, left]: [string[], string[]] = [[], []];
    for (const [name, reason] of this.#changes) (reason === null ? came : left).push(name);
    this.#changes.clear();
    const parts: string[] = [];
    if (came.length > 0) parts.push(`${some(came)} came`);
    if (left.length > 0) parts.push(`${some(left)} left`);
    this.#print(`* ${parts.join("; ")}`);
  }
}

/** The first names of many, and how many there are. */
function some(names: readonly string[]): string {
  if (names.length <= NAMES_MAX) return names.join(", ");
  return `${names.slice(0, NAMES_MAX).join(", ")} and ${names.length - NAMES_MAX} more`;
}
