/**
 * What happens to the users of a shard, for its neighbours: the lines on links that need no outcome. A lost link loses
 * those that were on their way; the next one begins with the list of the users who are online.
 *
 *     present [<user> ...]                 a part of that list; the empty one is its end
 *     joined <user>, left <user> <reason>
 *     broadcast <user> <text>
 *     gone <number>                        see distant-questions.ts, also for `tell`, on the other shard's link
 */
import { LINK_NAMES_MAX } from "../limits.ts";
import { encode, equals, parseNumber, wordEnd } from "../protocol/ascii.ts";
import { type ErrorCode, LEFT_REASONS, type LeftReason, type Replies } from "../protocol/reply.ts";
import type { Chat } from "./chat.ts";
import { DistantQuestions, type LinkOutbox } from "./distant-questions.ts";
import { NeighbourPresence } from "./neighbour-presence.ts";
import type { LinkObserver, Neighbours } from "./neighbours.ts";
import type { Account, Neighbour, Session } from "./session.ts";

const VERBS = ["present", "joined", "left", "broadcast", "gone"] as const;
const WORDS = VERBS.map((verb) => ({ verb, word: encode(verb) }));

export class NeighbourEvents implements LinkObserver {
  readonly #introductions: DistantQuestions;
  readonly #chat: Chat;
  readonly #neighbours: Neighbours;
  readonly #presence = new Map<Neighbour, NeighbourPresence>();

  constructor(chat: Chat, neighbours: Neighbours) {
    this.#chat = chat;
    this.#neighbours = neighbours;
    this.#introductions = new DistantQuestions(chat);
    const { presence, announcements, wheel } = chat;
    for (const each of neighbours.all)
      if (each !== undefined) this.#presence.set(each, new NeighbourPresence(presence, announcements, wheel));
    neighbours.observer = this;
    announcements.toNeighbours = (head, bytes, start, end) => {
      for (const each of neighbours.all) each?.session?.outbox.appendLine(head, bytes, start, end);
    };
  }

  began({ outbox }: Session): void {
    const { online } = this.#chat.presence;
    for (let at = 0; at < online.length; at += LINK_NAMES_MAX) {
      const names = online.slice(at, at + LINK_NAMES_MAX).map(({ account }) => account.name);
      outbox.append(encode(`present ${names.join(" ")}\n`));
    }
    outbox.append(encode("present\n"));
  }

  ended(neighbour: Neighbour): void {
    this.#introductions.linkEnded(neighbour);
  }

  told(from: Neighbour, bytes: Uint8Array, start: number, end: number): boolean {
    const numberEnd = wordEnd(bytes, start, end);
    const number = parseNumber(bytes, start, numberEnd);
    if (number < 0 || numberEnd + 1 >= end) return false;
    this.#introductions.told(from, number, bytes, numberEnd + 1, end);
    return true;
  }

  sessionEnded(session: Session): void {
    this.#introductions.ended(session);
  }

  ask(session: Session, asked: Account, key: string, out: Replies): void {
    this.#introductions.ask(session, asked, key, out);
  }

  asked(by: Account, number: number, ip: string, asked: Account, key: string): ErrorCode | null {
    return this.#introductions.asked(by, number, ip, asked, key);
  }

  /** The link to that shard has begun: the list follows. */
  linkUp(shard: number, outbox: LinkOutbox): void {
    const neighbour = this.#neighbours.all[shard]!;
    this.#presence.get(neighbour)!.linkUp();
    this.#introductions.linkUp(neighbour, outbox);
  }

  linkLost(shard: number): void {
    const neighbour = this.#neighbours.all[shard]!;
    this.#presence.get(neighbour)!.linkLost();
    this.#introductions.linkLost(neighbour);
  }

  /** The line bytes[start..end) of a neighbour. False: no neighbour sends it. */
  receive(shard: number, bytes: Uint8Array, start: number, end: number): boolean {
    const neighbour = this.#neighbours.all[shard]!;
    const presence = this.#presence.get(neighbour)!;
    const verbEnd = wordEnd(bytes, start, end);
    const verb = WORDS.find(({ word }) => equals(bytes, start, verbEnd, word))?.verb;
    const firstEnd = wordEnd(bytes, verbEnd + 1, end);
    const isWhole = verbEnd < end && firstEnd > verbEnd + 1;
    if (verb === "gone") {
      const number = isWhole ? parseNumber(bytes, verbEnd + 1, firstEnd) : -1;
      if (number < 0 || firstEnd < end) return false;
      this.#introductions.gone(neighbour, number);
      return true;
    }
    if (verb === "present") {
      const names = verbEnd < end ? textOf(bytes, verbEnd + 1, end).split(" ") : [];
      const users = names.map((name) => this.#user(neighbour, name)).filter((user) => user !== null);
      // The empty list is the end; one of unknown users is not.
      if (users.length > 0 || names.length === 0) presence.listed(users);
      return true;
    }
    if (verb === undefined || !isWhole) return false;
    const user = this.#user(neighbour, textOf(bytes, verbEnd + 1, firstEnd));
    const rest = firstEnd + 1;
    if (verb === "joined") {
      if (user !== null) presence.joined(user);
      return firstEnd === end;
    }
    if (rest >= end) return false;
    if (verb === "broadcast") {
      if (user !== null) this.#chat.announcements.relayBroadcast(user, bytes, rest, end);
      return true;
    }
    const reason = textOf(bytes, rest, end);
    if (!LEFT_REASONS.includes(reason as LeftReason)) return false;
    if (user !== null) presence.left(user, reason as LeftReason);
    return true;
  }

  /** Null: the user is not of that shard, or not known here, since the credentials differ. */
  #user(neighbour: Neighbour, name: string): Account | null {
    const user = this.#chat.accounts.named(name);
    return user?.neighbour === neighbour ? user : null;
  }
}

function textOf(bytes: Uint8Array, start: number, end: number): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset + start, end - start).toString("latin1");
}
