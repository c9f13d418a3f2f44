import { INTRODUCTION_MS, type Limits } from "../limits.ts";
import { encode } from "../protocol/ascii.ts";
import { WheelTimer, type TimerKind, type TimerWheel } from "../timer-wheel.ts";
import type { Account, Session } from "./session.ts";

/** A session as introductions see it; it may be one of another shard. */
export interface Party extends Pick<Session, "account" | "address" | "listenPort" | "ended"> {
  readonly outbox: { append(line: Uint8Array): void };
}

/** A question for an address; after a yes, the ticket for that pair of sessions, valid until one of them ends. */
class Introduction {
  readonly asker: Party;
  readonly asked: Party;
  /** The asker's certificate, passed on unchanged; empty without one. */
  readonly key: string;
  /** Empty until the question is granted. */
  ticket = "";
  /** Armed until the question is granted. */
  readonly timer = new WheelTimer<Introduction>(this);

  constructor(asker: Party, asked: Party, key: string) {
    this.asker = asker;
    this.asked = asked;
    this.key = key;
  }
}

/**
 * Introduces clients to each other for private chats: questions for addresses, and granted tickets. Both belong to two
 * sessions and end with either of them or with a block. The private chat itself does not pass through the server.
 */
export class Introductions {
  readonly #of = new Map<Party, Set<Introduction>>();
  readonly #wheel: TimerWheel;
  readonly #limits: Limits;
  readonly #newTicket: () => string;
  readonly #expiry: TimerKind<Introduction>;

  constructor(wheel: TimerWheel, limits: Limits, newTicket: () => string) {
    this.#wheel = wheel;
    this.#limits = limits;
    this.#newTicket = newTicket;
    this.#expiry = wheel.kind((introduction) => this.#revoke(introduction));
  }

  /** Asks for the address of `asked`, who has 60 s to answer. Returns an error code, or null. */
  ask(asker: Party, asked: Party, key: string): "already_asked" | "busy" | null {
    if (this.#find(asked, asker.account, true) !== undefined) return "already_asked";
    if (this.#isFull(asker) || this.#isFull(asked)) return "busy";
    const introduction = new Introduction(asker, asked, key);
    this.#wheel.schedule(introduction.timer, this.#expiry, INTRODUCTION_MS);
    for (const session of [asker, asked]) this.#ofSession(session).add(introduction);
    notify(asked, "private_request", asker.account.name, key);
    return null;
  }

  /** Answers a question; false when there is no open one of `by`. `key` is the certificate of `asked`. */
  answer(asked: Party, by: Account, yes: boolean, key: string): boolean {
    const question = this.#find(asked, by, true);
    if (question === undefined) return false;
    const { asker } = question;
    if (!yes) {
      this.#revoke(question);
      return true;
    }
    this.#wheel.cancel(question.timer);
    const earlier = this.#find(asked, by, false);
    if (earlier !== undefined) this.#forget(earlier);
    question.ticket = this.#newTicket();
    // First the client that is called: it must know the ticket before the other client presents it.
    notify(asked, "expect", asker.account.name, ipOf(asker), question.ticket, question.key);
    notify(asker, "address", asked.account.name, ipOf(asked), asked.listenPort, question.ticket, key);
    return true;
  }

  /** Ends all questions and tickets of a session that has ended. */
  end(session: Party): void {
    for (const introduction of this.#of.get(session) ?? []) this.#revoke(introduction);
  }

  /** A block between two users ends their questions and tickets. */
  part(one: Party, other: Account): void {
    for (const introduction of this.#of.get(one) ?? []) {
      if (introduction.asker.account === other || introduction.asked.account === other) this.#revoke(introduction);
    }
  }

  /** Ends a question or a ticket and notifies the live sessions. The event is the same for each reason. */
  #revoke(introduction: Introduction): void {
    const { asker, asked, ticket } = introduction;
    this.#forget(introduction);
    if (!asker.ended) notify(asker, "denied", asked.account.name);
    if (ticket !== "" && !asked.ended) notify(asked, "denied", asker.account.name);
  }

  #forget(introduction: Introduction): void {
    this.#wheel.cancel(introduction.timer);
    for (const session of [introduction.asker, introduction.asked]) {
      const all = this.#of.get(session);
      all?.delete(introduction);
      if (all?.size === 0) this.#of.delete(session);
    }
  }

  /** The open question, or the ticket, of that user to a session. */
  #find(asked: Party, by: Account, isQuestion: boolean): Introduction | undefined {
    for (const introduction of this.#of.get(asked) ?? []) {
      const { asker, ticket } = introduction;
      if (introduction.asked === asked && asker.account === by && (ticket === "") === isQuestion) return introduction;
    }
    return undefined;
  }

  #ofSession(session: Party): Set<Introduction> {
    let all = this.#of.get(session);
    if (all === undefined) this.#of.set(session, (all = new Set()));
    return all;
  }

  #isFull(session: Party): boolean {
    return (this.#of.get(session)?.size ?? 0) >= this.#limits.introductionsMax;
  }
}

/** Without the zone of a link-local address, which has a meaning on this machine only. */
function ipOf({ address }: Party): string {
  return address.replace(/%.*/, "");
}

/** Appends an event; an empty key at the end is left out. */
function notify(to: Party, ...words: (string | number)[]): void {
  to.outbox.append(encode(`${words.join(" ").trimEnd()}\n`));
}
