/**
 * What the tabs of a browser tell each other: which user a new one continues with, and that one wants the state of a
 * user which another one has. Who has it is decided by its lock (indexed-db-state.ts).
 */

const NAME = "heartline";

export class Tabs {
  readonly #channel = new BroadcastChannel(NAME);

  /** `wanted`: another tab wants the state of this user. */
  constructor(wanted: (user: string) => void) {
    this.#channel.onmessage = ({ data }: MessageEvent<string>) => wanted(data);
  }

  /** The user of this tab before a reload, or the last one of this browser; null without one. */
  get lastUser(): string | null {
    return sessionStorage.getItem(NAME) ?? localStorage.getItem(NAME);
  }

  /** This tab shows a user. */
  show(user: string): void {
    sessionStorage.setItem(NAME, user);
    localStorage.setItem(NAME, user);
  }

  /** The user has logged out. */
  forget(user: string): void {
    sessionStorage.removeItem(NAME);
    if (localStorage.getItem(NAME) === user) localStorage.removeItem(NAME);
  }

  /** Asks the tab that has the state of a user for it. */
  want(user: string): void {
    this.#channel.postMessage(user);
  }
}
