/** Requests for a private chat that this user has not answered, and how long each can still be answered. */

/** The server waits this long for an answer. */
export const ANSWER_MS = 60_000;
/** When this much is left, the question is repeated. */
export const REMINDER_MS = 15_000;

export class Questions {
  readonly #open = new Map<string, Timer>();
  readonly #print: (text: string) => void;

  readonly #slash: () => string;

  /** `slash`: what a command in a hint begins with. */
  constructor(print: (text: string) => void, slash: () => string) {
    this.#print = print;
    this.#slash = slash;
  }

  /** The users who asked, the latest last. */
  get users(): string[] {
    return [...this.#open.keys()];
  }

  asked(user: string): void {
    this.closed(user);
    this.#print(`? ${user} asks for a private chat; ${this.#how(user)} (${ANSWER_MS / 1000} s left)`);
    this.#wait(user, ANSWER_MS - REMINDER_MS, () => {
      this.#print(`? ${user} still asks; ${this.#how(user)} (${REMINDER_MS / 1000} s left)`);
      this.#wait(user, REMINDER_MS, () => {
        this.#open.delete(user);
        this.#print(`* the question of ${user} has run out without an answer`);
      });
    });
  }

  /** It was answered, or can no longer be. */
  closed(user: string): void {
    clearTimeout(this.#open.get(user));
    this.#open.delete(user);
  }

  /** A new session begins: nothing of the earlier one can be answered. */
  clear(): void {
    for (const user of this.users) this.closed(user);
  }

  #wait(user: string, ms: number, then: () => void): void {
    this.#open.set(user, setTimeout(then, ms));
  }

  #how(user: string): string {
    return `answer with: ${this.#slash()}yes ${user}, or ${this.#slash()}no ${user}`;
  }
}
