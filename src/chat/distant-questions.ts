/**
 * Private chats between users of different shards. The question and the ticket are those of `Introductions`, at the
 * shard of the asked user, where the asker is a `DistantAsker`. The asker's shard has a `Question`, so that both sides
 * end when a link between the shards is lost. Lines on links, besides the forwarded `getaddress`:
 *
 *     tell <number> <line>      from the asked user's shard: an event for the asker's session of that number
 *     gone <number>             from the asker's shard: that session has ended
 */
import { encode, startsWith } from "../protocol/ascii.ts";
import { type ErrorCode, OK_ASKED, type Replies } from "../protocol/reply.ts";
import type { Chat } from "./chat.ts";
import { forward } from "./forward.ts";
import type { Party } from "./introductions.ts";
import type { Account, Neighbour, Session } from "./session.ts";

const ADDRESS = encode("address ");
const DENIED = encode("denied ");
/** Stands for a missing key in a forwarded `getaddress`. */
const NO_KEY = "-";

/** A session of another shard whose user asks for an address. */
class DistantAsker implements Party {
  readonly account: Account;
  readonly address: string;
  readonly listenPort = 0;
  ended = false;
  readonly outbox: Party["outbox"];

  constructor(account: Account, address: string, number: number) {
    this.account = account;
    this.address = address;
    const head = encode(`tell ${number} `);
    const { neighbour } = account;
    this.outbox = { append: (line) => void neighbour!.session?.outbox.appendLine(head, line, 0, line.length - 1) };
  }
}

/** A question of a session of this shard to a user of another one, or the ticket that it got. */
interface Question {
  asked: Account;
  /** Its `getaddress` was answered with `ok`. Until then events wait in `held`. */
  isAccepted: boolean;
  held: Uint8Array[];
}

/** A session of this shard that has asked users of others. */
interface AskingSession {
  number: number;
  questions: Map<Account, Question>;
  /** The shards that know its number. */
  shards: Set<Neighbour>;
}

export class DistantQuestions {
  readonly #chat: Chat;
  readonly #askers = new Map<Session, AskingSession>();
  readonly #byNumber = new Map<number, Session>();
  /** By shard, then by the number that the shard gave. */
  readonly #distant = new Map<Neighbour, Map<number, DistantAsker>>();

  constructor(chat: Chat) {
    this.#chat = chat;
  }

  /** The request `getaddress` for a user of another shard. */
  ask(session: Session, asked: Account, key: string, out: Replies): void {
    const { neighbour } = asked;
    const asker = this.#asker(session);
    const ip = session.address.replace(/%.*/, "");
    const line = encode(`getaddress ${asked.name} ${key === "" ? NO_KEY : key} ${asker.number} ${ip}`);
    const slot = forward(this.#chat, session, neighbour!, out, line, 0, line.length);
    if (typeof slot === "string") return;
    asker.shards.add(neighbour!);
    const question = asker.questions.get(asked) ?? { asked, isAccepted: false, held: [] };
    asker.questions.set(asked, question);
    slot.filled = (reply) => {
      if (reply === OK_ASKED) question.isAccepted = true;
      else if (!question.isAccepted) asker.questions.delete(asked);
      // After a denial nothing more is said of it.
      const isOpen = (): boolean => asker.questions.get(asked) === question;
      for (const held of question.held.splice(0)) if (isOpen()) this.#pass(session, question, held);
    };
  }

  #asker(session: Session): AskingSession {
    let asker = this.#askers.get(session);
    if (asker === undefined) {
      asker = { number: this.#chat.store.newNumber(), questions: new Map(), shards: new Set() };
      this.#askers.set(session, asker);
      this.#byNumber.set(asker.number, session);
    }
    return asker;
  }

  /** The same request, forwarded by the asker's shard. Returns an error code, or null. */
  asked(by: Account, number: number, ip: string, asked: Account, key: string): ErrorCode | null {
    const { neighbour } = by;
    if (asked.session === null) return "offline";
    if (asked.session.listenPort === 0) return "not_listening";
    if (neighbour?.session == null) return "busy"; // The answer could not be told.
    const { introductions } = this.#chat;
    let ofShard = this.#distant.get(neighbour);
    if (ofShard === undefined) this.#distant.set(neighbour, (ofShard = new Map()));
    const asker = ofShard.get(number) ?? new DistantAsker(by, ip, number);
    ofShard.set(number, asker);
    return introductions.ask(asker, asked.session, key === NO_KEY ? "" : key);
  }

  /** `tell`: the line bytes[start..end) is an event for the session of that number. False: it is none. */
  told(from: Neighbour, number: number, bytes: Uint8Array, start: number, end: number): boolean {
    if (!startsWith(bytes, start, end, ADDRESS) && !startsWith(bytes, start, end, DENIED)) return false;
    const session = this.#byNumber.get(number);
    if (session === undefined) return true;
    const line = Buffer.concat([bytes.subarray(start, end), encode("\n")]);
    const name = line.toString("latin1").split(/[ \n]/, 2)[1]!;
    const asked = this.#chat.accounts.named(name);
    const question = asked === undefined ? undefined : this.#askers.get(session)!.questions.get(asked);
    if (question?.asked.neighbour === from) this.#tell(session, question, line);
    return true;
  }

  /** An event must not come before the reply to the question. */
  #tell(session: Session, question: Question, line: Uint8Array): void {
    if (question.isAccepted) this.#pass(session, question, line);
    else question.held.push(line);
  }

  #pass(session: Session, { asked }: Question, line: Uint8Array): void {
    if (startsWith(line, 0, line.length, DENIED)) this.#askers.get(session)?.questions.delete(asked);
    session.outbox.append(line);
  }

  /** A session of this shard has ended. */
  ended(session: Session): void {
    const asker = this.#askers.get(session);
    if (asker === undefined) return;
    this.#askers.delete(session);
    this.#byNumber.delete(asker.number);
    for (const { session: link } of asker.shards) link?.outbox.append(encode(`gone ${asker.number}\n`));
  }

  /** `gone`: the session of that number has ended. */
  gone(from: Neighbour, number: number): void {
    const asker = this.#distant.get(from)?.get(number);
    if (asker === undefined) return;
    this.#distant.get(from)!.delete(number);
    asker.ended = true;
    this.#chat.introductions.end(asker);
  }

  /** A link to that shard or from it is lost: the other side ends its part too. */
  linkLost(neighbour: Neighbour): void {
    for (const number of [...(this.#distant.get(neighbour)?.keys() ?? [])]) this.gone(neighbour, number);
    for (const [session, { questions }] of this.#askers) {
      for (const question of [...questions.values()]) {
        const { asked } = question;
        if (asked.neighbour === neighbour) this.#tell(session, question, encode(`denied ${asked.name}\n`));
      }
    }
  }
}
