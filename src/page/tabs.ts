/**
 * Other pages of this browser: which user a new page continues with, and whether another page shows that user already.
 * Which page may use the data of a user is decided by database.ts alone.
 */

const NAME = "heartline";
/** Within this time a page answers that shows a user. */
const ANSWER_MS = 300;

type Note = { kind: "who"; user: string } | { kind: "here"; user: string };

export class Tabs {
  readonly #channel = new BroadcastChannel(NAME);
  /** The user of this page; null before the login. */
  #user: string | null = null;
  #heard: (user: string) => void = () => {};

  /** `shared`: another page shows the user of this one. */
  constructor(shared: () => void) {
    this.#channel.onmessage = ({ data: { kind, user } }: MessageEvent<Note>) => {
      if (kind === "here") this.#heard(user);
      if (user !== this.#user) return;
      if (kind === "here") shared();
      else this.#tell({ kind: "here", user });
    };
  }

  /** The user of this tab before a reload; null in a new one. */
  get ownUser(): string | null {
    return sessionStorage.getItem(NAME);
  }

  /** The last user of this browser who has not logged out; null without one. */
  get lastUser(): string | null {
    return localStorage.getItem(NAME);
  }

  /** This page shows a user; null: none. */
  show(user: string | null): void {
    this.#user = user;
    if (user === null) return;
    sessionStorage.setItem(NAME, user);
    localStorage.setItem(NAME, user);
    this.#tell({ kind: "here", user });
  }

  /** The user has logged out. */
  forget(user: string): void {
    sessionStorage.removeItem(NAME);
    if (localStorage.getItem(NAME) === user) localStorage.removeItem(NAME);
  }

  /** Whether another page shows this user. */
  isShownElsewhere(user: string): Promise<boolean> {
    return new Promise((resolve) => {
      this.#heard = (other) => {
        if (other === user) resolve(true);
      };
      setTimeout(() => resolve(false), ANSWER_MS);
      this.#tell({ kind: "who", user });
    });
  }

  #tell(note: Note): void {
    this.#channel.postMessage(note);
  }
}
