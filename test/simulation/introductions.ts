import { Violation } from "./ledger.ts";

/** What a client knows of private chats in one session, by the other user. */
export class Introductions {
  readonly #user: string;
  /** Replies to requests are not part of the stream, so events may come before them. */
  readonly #isUnordered: boolean;
  /** Questions of this session that were accepted and not answered. */
  readonly #asked = new Set<string>();
  /** Tickets that its questions got. False: an event `denied` may have been about it. */
  readonly granted = new Map<string, boolean>();
  /** Questions of others. */
  readonly requests = new Set<string>();
  /** Tickets for the questions of others. */
  readonly given = new Set<string>();

  constructor(user: string, isUnordered: boolean) {
    this.#user = user;
    this.#isUnordered = isUnordered;
  }

  /** `getaddress` was answered with `ok`. */
  accepted(other: string): void {
    if (this.#isUnordered) return;
    if (this.#asked.has(other)) this.#unexpected("ok asked", other);
    this.#asked.add(other);
  }

  /** Returns false when the event is about something else. */
  event(verb: string, other: string): boolean {
    if (verb === "private_request") this.requests.add(other);
    else if (verb === "address") {
      if (!this.#asked.delete(other)) this.#unexpected(verb, other);
      this.granted.set(other, true);
    } else if (verb === "expect") {
      if (!this.requests.has(other)) this.#unexpected(verb, other);
      this.requests.delete(other);
      this.given.add(other);
    } else if (verb === "denied") this.#denied(other);
    else return false;
    return true;
  }

  /** It may be about any of them. */
  #denied(other: string): void {
    if (this.#asked.delete(other)) {
      if (this.granted.has(other)) this.granted.set(other, false);
    } else if (!this.granted.delete(other) && !this.given.delete(other)) this.#unexpected("denied", other);
    else if (this.given.has(other)) this.granted.delete(other);
  }

  #unexpected(verb: string, other: string): void {
    if (!this.#isUnordered) throw new Violation(`${this.#user} received an unexpected "${verb} ${other}"`);
  }
}
