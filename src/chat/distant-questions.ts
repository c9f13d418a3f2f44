/**
 * Private chats between users of different shards. The question and the ticket are those of `Introductions`, at the
 * shard of the asked user, where the asker is a `DistantAsker`. The asker's shard has an `AskingSession`, so that both
 * sides end when their link is lost. It is the one that carries the `getaddress` and its outcome, in order with these
 * lines:
 *
 *     tell <number> <line>      from the asked user's shard: an event for the asker's session of that number
 *     gone <number>             from the asker's shard: that session has ended, or the shard has ended what it asked
 */
import { encode, startsWith } from "../protocol/ascii.ts";
import { type ErrorCode, OK_ASKED, type Replies } from "../protocol/reply.ts";
import type { Outbox } from "../stream/outbox.ts";
import type { Chat } from "./chat.ts";
import { forward } from "./forward.ts";
import type { Party } from "./introductions.ts";
import type { Account, Neighbour, Session } from "./session.ts";

const DENIED = encode("denied ");
/** Stands for a missing key in a forwarded `getaddress`. */
const NO_KEY = "-";

/** What is sent to another shard on this shard's link to it. */
export type LinkOutbox = Pick<Outbox, "appendLine">;

/** A session of another shard whose user asks for an address. */
class DistantAsker implements Party {
  readonly account: Account;
  readonly address: string;
  readonly listenPort = 0;
  ended = false;
  readonly outbox: Party["outbox"];

  constructor(account: Account, address: string, number: number, link: LinkOutbox) {
    this.account = account;
    this.address = address;
    const head = encode(`tell ${number} `);
    this.outbox = { append: (line) => link.appendLine(head, line, 0, line.length - 1) };
  }
}

/** A session of this shard, and what it asks users of another one. */
interface AskingSession {
  readonly session: Session;
  readonly neighbour: Neighbour;
  readonly number: number;
  /** By the asked user: how many are open there, a question and a ticket. As many events `denied` are to come. */
  readonly open: Map<Account, number>;
  /** The session has ended, or the link of the other shard was lost: all that it asked has ended here. */
  isOver: boolean;
}

export class DistantQuestions {
  readonly #chat: Chat;
  readonly #askers = new Map<number, AskingSession>();
  /** By session, then by the other shard. */
  readonly #ofSession = new Map<Session, Map<Neighbour, AskingSession>>();
  /** By shard: this shard's link to it, and its askers by the number that it gave. */
  readonly #links = new Map<Neighbour, { outbox: LinkOutbox; askers: Map<number, DistantAsker> }>();

  constructor(chat: Chat) {
    this.#chat = chat;
  }

  /** The request `getaddress` for a user of another shard. */
  ask(session: Session, asked: Account, key: string, out: Replies): void {
    const neighbour = asked.neighbour!;
    const asker = this.#asker(session, neighbour);
    const ip = session.address.replace(/%.*/, "");
    const line = encode(`getaddress ${asked.name} ${key === "" ? NO_KEY : key} ${asker.number} ${ip}`);
    const slot = forward(this.#chat, session, neighbour, out, line, 0, line.length);
    if (typeof slot === "string") return;
    slot.filled = (reply) => {
      if (reply !== OK_ASKED) return;
      asker.open.set(asked, openOf(asker, asked) + 1);
      if (!asker.isOver) return;
      this.#deny(asker);
      sayGone(neighbour, asker.number);
    };
  }

  #asker(session: Session, neighbour: Neighbour): AskingSession {
    let ofSession = this.#ofSession.get(session);
    if (ofSession === undefined) this.#ofSession.set(session, (ofSession = new Map()));
    let asker = ofSession.get(neighbour);
    if (asker === undefined) {
      const number = this.#chat.store.newNumber();
      asker = { session, neighbour, number, open: new Map(), isOver: false };
      ofSession.set(neighbour, asker);
      this.#askers.set(number, asker);
    }
    return asker;
  }

  /** The same request, forwarded by the asker's shard. Returns an error code, or null. */
  asked(by: Account, number: number, ip: string, asked: Account, key: string): ErrorCode | null {
    const link = this.#links.get(by.neighbour!);
    if (asked.session === null) return "offline";
    if (asked.session.listenPort === 0) return "not_listening";
    if (link === undefined) return "busy"; // The answer could not be told.
    const asker = link.askers.get(number) ?? new DistantAsker(by, ip, number, link.outbox);
    link.askers.set(number, asker);
    return this.#chat.introductions.ask(asker, asked.session, key === NO_KEY ? "" : key);
  }

  /** `tell`: the line bytes[start..end) is an event for the session of that number. */
  told(from: Neighbour, number: number, bytes: Uint8Array, start: number, end: number): void {
    const asker = this.#askers.get(number);
    // Its question was forwarded before it ended, or by an earlier run of this server, and arrived later.
    if (asker?.neighbour !== from) return sayGone(from, number);
    const line = Buffer.concat([bytes.subarray(start, end), encode("\n")]);
    const asked = this.#chat.accounts.named(line.toString("latin1").split(/[ \n]/, 2)[1]!);
    if (asked === undefined || openOf(asker, asked) === 0) return;
    // After a yes the question is a ticket, which replaces an earlier one.
    asker.open.set(asked, startsWith(line, 0, line.length, DENIED) ? openOf(asker, asked) - 1 : 1);
    asker.session.outbox.append(line);
  }

  /** A session of this shard has ended. */
  ended(session: Session): void {
    for (const asker of this.#ofSession.get(session)?.values() ?? []) this.#end(asker);
  }

  /** What it has asked ends here, and at the other shard. */
  #end(asker: AskingSession): void {
    const { session, neighbour, number } = asker;
    asker.isOver = true;
    this.#askers.delete(number);
    const ofSession = this.#ofSession.get(session)!;
    ofSession.delete(neighbour);
    if (ofSession.size === 0) this.#ofSession.delete(session);
    this.#deny(asker);
    sayGone(neighbour, number);
  }

  #deny({ session, open }: AskingSession): void {
    for (const [asked, count] of open)
      for (let i = 0; i < count && !session.ended; i++) session.outbox.append(encode(`denied ${asked.name}\n`));
    open.clear();
  }

  /** `gone`: all that the session of that number has asked ends. */
  gone(from: Neighbour, number: number): void {
    const askers = this.#links.get(from)?.askers;
    const asker = askers?.get(number);
    if (asker === undefined) return;
    askers!.delete(number);
    asker.ended = true;
    this.#chat.introductions.end(asker);
  }

  /** The link of that shard is lost: what was asked ends. What is asked again has another number. */
  linkEnded(neighbour: Neighbour): void {
    for (const asker of [...this.#askers.values()]) if (asker.neighbour === neighbour) this.#end(asker);
  }

  /** This shard's link to that one has begun. */
  linkUp(neighbour: Neighbour, outbox: LinkOutbox): void {
    this.#links.set(neighbour, { outbox, askers: new Map() });
  }

  /** It is lost: the other shard ends its part too, and asks nothing on the next link before it has. */
  linkLost(neighbour: Neighbour): void {
    for (const number of [...(this.#links.get(neighbour)?.askers.keys() ?? [])]) this.gone(neighbour, number);
    this.#links.delete(neighbour);
  }
}

function openOf({ open }: AskingSession, asked: Account): number {
  return open.get(asked) ?? 0;
}

function sayGone({ session: link }: Neighbour, number: number): void {
  link?.outbox.append(encode(`gone ${number}\n`));
}
