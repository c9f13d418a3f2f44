/**
 * The requests of users of other shards that concern users of this one. The shard of such a user, the neighbour,
 * forwards each request with a number, perhaps again after a crash or on a new link. Each one is acted on once, and its
 * outcome, which is the reply, becomes durable together with its effect.
 *
 * The session of the user is at the neighbour. So its rate, its invalid lines and its position are counted there, and
 * accepted and refused messages are counted here (`ChatObserver`), where they are decided.
 */
import { OUTCOMES_MAX } from "../limits.ts";
import { encode } from "../protocol/ascii.ts";
import { OK_ASKED, type Replies, refuse } from "../protocol/reply.ts";
import { Request, SHAPES, type Shape, type Verb } from "../protocol/request.ts";
import type { Chat } from "./chat.ts";
import { type SessionCommand, act, block, unblock, withSession } from "./commands.ts";
import { type Requester, message } from "./message.ts";
import type { Outcomes } from "./outcomes.ts";
import type { Account } from "./session.ts";

/**
 * Why a forwarded request was not acted on, and the link must be closed: a request before it is missing, or the
 * neighbour has forwarded more than OUTCOMES_MAX without answering outcomes.
 */
export type ForwardRefusal = "gap" | "overflow";

/** Which requests are forwarded. The neighbour knows the blocks of its users, and checks `hasBlocked`. */
const COMMANDS: Partial<Record<Verb, SessionCommand<Requester, Replies>>> = {
  message: withSession(message),
  block: withSession(block, { user: true, stored: "change" }),
  unblock: withSession(unblock, { user: true, stored: "change" }),
  getaddress: withSession(getaddress, { user: true, unblocked: true }),
};
/** The words of the verbs that have others than those of a client. */
const WORDS: Partial<Record<Verb, Shape>> = {
  getaddress: { needed: ["name", "word", "number", "word"], rest: "nothing", usage: "" },
};
const request = new Request();

/** A request was acted on, and its outcome is not known any longer. */
const FORGOTTEN = encode("err internal the outcome of an earlier request is not known\n");

/** The neighbour is of another version, or faulty: this is no request of one of its users. */
const INVALID = encode("err internal the shard of that user does not take the request\n");

/** Takes the one reply to a request. */
class Reply implements Replies {
  line: Uint8Array = INVALID;

  append(line: Uint8Array): void {
    this.line = line;
  }
}

export class ForeignRequests {
  readonly #chat: Chat;

  constructor(chat: Chat) {
    this.#chat = chat;
  }

  /** The highest number of the shard's requests that this shard has acted on. */
  heard(shard: number): number {
    return this.#of(shard).heard;
  }

  /** The outcomes that the shard has not answered, in the order of their numbers. */
  kept(shard: number): Iterable<[number: number, reply: Uint8Array]> {
    return this.#of(shard);
  }

  /**
   * The shard has the outcomes up to that number, durably: it has answered them, or the handshake of a link said so.
   * False when this shard has not acted on that request: its log has lost records. Then it continues after the number.
   */
  answered(shard: number, upTo: number): boolean {
    const outcomes = this.#of(shard);
    const isKnown = upTo <= outcomes.heard;
    outcomes.heard = Math.max(outcomes.heard, upTo);
    outcomes.forget(upTo);
    return isKnown;
  }

  /**
   * Acts on the request bytes[start..end) of the user `from` of that shard, unless that happened before. `number` is
   * its number, and `previous` that of the request before it. Returns the outcome, which must not leave before the turn
   * is durable.
   */
  receive(
    shard: number,
    from: string,
    number: number,
    previous: number,
    bytes: Uint8Array,
    start: number,
    end: number,
  ): Uint8Array | ForwardRefusal {
    const outcomes = this.#of(shard);
    if (number <= outcomes.heard) return outcomes.reply(number) ?? FORGOTTEN;
    if (previous !== outcomes.heard) return "gap";
    if (outcomes.size >= OUTCOMES_MAX) return "overflow";
    const reply = this.#act(shard, from, bytes, start, end);
    this.#chat.store.heard(shard, number, reply);
    return reply;
  }

  #act(shard: number, from: string, bytes: Uint8Array, start: number, end: number): Uint8Array {
    const chat = this.#chat;
    const reply = new Reply();
    const verb = request.parseVerb(bytes, start, end);
    const command = verb === null ? undefined : COMMANDS[verb];
    if (verb === null || command === undefined || !request.parseWords(WORDS[verb] ?? SHAPES[verb])) return INVALID;
    const account = chat.accounts.recall(from);
    if (chat.neighbours !== null && account.neighbour?.shard !== shard) return INVALID;
    const requester: Requester = { account, kind: "plain", recipient: null, messagesIn: 0, slots: null };
    try {
      act(chat, requester, request, reply, command);
    } catch (error) {
      chat.report(error);
      refuse(reply, "internal");
    }
    return reply.line;
  }

  #of(shard: number): Outcomes {
    return this.#chat.store.outcomes(shard);
  }
}

/** `getaddress <user> <key or -> <number of the asking session> <its address>`: see distant-questions.ts. */
function getaddress(chat: Chat, { account }: Requester, request: Request, out: Replies, asked: Account): void {
  const [key, ip] = [request.word(1), request.word(3)];
  const code = chat.neighbours!.observer!.asked(account, request.number(2), ip, asked, key);
  if (code === null) out.append(OK_ASKED);
  else refuse(out, code);
}
