import { INTRODUCTION_MS } from "../limits.ts";
import { encode } from "../protocol/ascii.ts";
import { WheelTimer, type TimerKind, type TimerWheel } from "../timer-wheel.ts";
import type { Session } from "./session.ts";

/** That one session may call another's client: a question until it is granted, then good for as long as both live. */
class Consent {
  readonly asker: Session;
  readonly asked: Session;
  /** The asker's certificate, passed on as it came; empty for none. */
  readonly key: string;
  /** Empty while it is a question. */
  ticket = "";
  /** Armed while it is a question. */
  readonly timer = new WheelTimer<Consent>(this);

  constructor(asker: Session, asked: Session, key: string) {
    this.asker = asker;
    this.asked = asked;
    this.key = key;
  }
}

/**
 * Introduces clients to each other for private chats: who asked whom for their address, and who was granted it. It all
 * belongs to the two sessions, and goes with either of them or with a block. What the two say then, nobody here sees.
 */
export class Introductions {
  readonly #of = new Map<Session, Set<Consent>>();
  readonly #wheel: TimerWheel;
  readonly #most: number;
  readonly #newTicket: () => string;
  readonly #expiry: TimerKind<Consent>;

  /** `most` questions and tickets of one session. */
  constructor(wheel: TimerWheel, most: number, newTicket: () => string) {
    this.#wheel = wheel;
    this.#most = most;
    this.#newTicket = newTicket;
    this.#expiry = wheel.kind((consent) => this.#revoke(consent));
  }

  /** Asks for the address of `asked`, who has 60 s to answer. Returns why that cannot be, or null. */
  ask(asker: Session, asked: Session, key: string): "already_asked" | "busy" | null {
    if (this.#find(asker, asked, true) !== undefined) return "already_asked";
    if (this.#isFull(asker) || this.#isFull(asked)) return "busy";
    const consent = new Consent(asker, asked, key);
    this.#wheel.schedule(consent.timer, this.#expiry, INTRODUCTION_MS);
    for (const session of [asker, asked]) this.#consentsOf(session).add(consent);
    say(asked, "private_request", asker.account.name, key);
    return null;
  }

  /** Answers a question; false when `asker` has not asked, or not lately. `key`: the certificate of who was asked. */
  answer(asked: Session, asker: Session | null, yes: boolean, key: string): boolean {
    const question = asker === null ? undefined : this.#find(asker, asked, true);
    if (question === undefined || asker === null) return false;
    if (!yes) {
      this.#revoke(question);
      return true;
    }
    this.#wheel.cancel(question.timer);
    const earlier = this.#find(asker, asked, false);
    if (earlier !== undefined) this.#forget(earlier);
    question.ticket = this.#newTicket();
    // First who is called, then who calls: the ticket should be known where it is shown.
    say(asked, "expect", asker.account.name, ipOf(asker), question.ticket, question.key);
    say(asker, "address", asked.account.name, ipOf(asked), asked.listenPort, question.ticket, key);
    return true;
  }

  /** A session has ended, and with it whatever it had asked or granted. */
  end(session: Session): void {
    for (const consent of this.#of.get(session) ?? []) this.#revoke(consent);
  }

  /** A block between two users ends what there was between them. */
  part(one: Session, other: Session): void {
    for (const consent of this.#of.get(one) ?? []) {
      if (consent.asker === other || consent.asked === other) this.#revoke(consent);
    }
  }

  /** Ends a question or a ticket, and says so to those who rely on it: whatever the reason was, it looks the same. */
  #revoke(consent: Consent): void {
    const { asker, asked, ticket } = consent;
    this.#forget(consent);
    if (!asker.ended) say(asker, "denied", asked.account.name);
    if (ticket !== "" && !asked.ended) say(asked, "denied", asker.account.name);
  }

  #forget(consent: Consent): void {
    this.#wheel.cancel(consent.timer);
    for (const session of [consent.asker, consent.asked]) {
      const all = this.#of.get(session);
      all?.delete(consent);
      if (all?.size === 0) this.#of.delete(session);
    }
  }

  #find(asker: Session, asked: Session, isQuestion: boolean): Consent | undefined {
    for (const consent of this.#of.get(asker) ?? []) {
      if (consent.asker === asker && consent.asked === asked && (consent.ticket === "") === isQuestion) return consent;
    }
    return undefined;
  }

  #consentsOf(session: Session): Set<Consent> {
    let all = this.#of.get(session);
    if (all === undefined) this.#of.set(session, (all = new Set()));
    return all;
  }

  #isFull(session: Session): boolean {
    return (this.#of.get(session)?.size ?? 0) >= this.#most;
  }
}

/** Without the zone of a link-local address, which means something on this machine only. */
function ipOf({ address }: Session): string {
  return address.replace(/%.*/, "");
}

/** An event of these words; a key that there is not is no word. */
function say(to: Session, ...words: (string | number)[]): void {
  to.outbox.append(encode(`${words.join(" ").trimEnd()}\n`));
}
