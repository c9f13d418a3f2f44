import type { Session, SessionKind } from "../../src/chat/session.ts";
import { Introductions } from "./introductions.ts";

/** A behaviour that breaks the contract. */
export class Violation extends Error {}

/** An event about or from one user that a stream of another user must contain exactly once, in this order. */
export type Expected = "joined" | "left" | `left ${string}` | `message ${string}` | `broadcast ${string}`;

/** One session, as the observer saw it begin and end. */
export class ObservedSession {
  readonly user: string;
  readonly kind: SessionKind;
  readonly session: Session;
  /** By the user that they are about: events that the stream must still deliver. */
  readonly expected = new Map<string, Expected[]>();
  readonly introductions: Introductions;
  reason = "";
  /** The client has received the last line: a goodbye, or the reply to a logout. */
  isOver = false;
  /** Wheel time at which a whole line of its client last reached the server. */
  lastLineMs: number;
  /** Kills of the server before it began. */
  readonly crashes: number;

  constructor(session: Session, nowMs: number, crashes: number) {
    this.crashes = crashes;
    this.user = session.account.name;
    this.kind = session.kind;
    this.introductions = new Introductions(this.user, this.kind === "callback");
    this.session = session;
    this.lastLineMs = nowMs;
  }

  /** Returns a function that takes the event back. */
  expect(about: string, line: Expected): () => void {
    const lines = this.expected.get(about) ?? [];
    this.expected.set(about, lines);
    lines.push(line);
    return () => void lines.pop();
  }

  /** Messages that were not delivered are no longer in the stream: they moved to the mailbox. */
  withdrawn(): void {
    for (const [about, lines] of this.expected) {
      this.expected.set(
        about,
        lines.filter((line) => !line.startsWith("message ")),
      );
    }
  }
}

export interface Accepted {
  from: string;
  to: string;
  /** Its index among the messages of this sender to this recipient. */
  index: number;
  unixMs: number;
}

/**
 * The reference model: sessions, blocks and accepted messages, recorded through the observer and the store. The lines
 * that clients receive are compared with it.
 */
export class Ledger {
  readonly online = new Map<string, ObservedSession>();
  readonly sessions = new Map<string, ObservedSession>();
  /** `a b`: a blocks b. */
  readonly #blocks = new Set<string>();
  readonly blocked = new Map<string, number>();
  readonly accepted = new Map<string, Accepted>();
  readonly broadcasts = new Map<string, number>();
  readonly #pairs = new Map<string, number>();
  /** By sender and recipient: the index of the next message that the recipient must be shown. */
  readonly #nextShown = new Map<string, number>();
  /** `<sender> <recipient> <index>` of messages that an operator may have deleted. */
  readonly #purged = new Set<string>();
  shownCount = 0;
  /** Functions that take back what happened since the last durable record: a kill undoes it. */
  #undo: (() => void)[] = [];
  /** Records of a shared log that are not durable yet, and how many of the functions belong to what is up to them. */
  #records: { sequence: number; count: number }[] = [];
  /** The texts of messages that a kill would undo. */
  readonly #pending = new Map<() => void, string>();
  /** Kills of the server; and the count of kills before the plain session began that was shown a message. */
  crashes = 0;
  readonly #shownPlain = new Map<string, number>();
  /** `a b`: a blocks or has blocked b. */
  readonly #everBlocked = new Set<string>();
  /** Another shard may owe a reply for a while, or be away. */
  readonly hasNeighbours: boolean = false;
  /** The disk was full at some time. */
  hasRefused = false;

  /** The turn's record is complete on the disk. */
  recorded(): void {
    this.#undo.length = this.#records.length = 0;
    this.#pending.clear();
  }

  /** Everything so far is in records up to `sequence`. */
  written(sequence: number): void {
    this.#records.push({ sequence, count: this.#undo.length });
  }

  /** The shared log has the records up to `sequence`. */
  stored(sequence: number): void {
    const count = this.#records.findLast((record) => record.sequence <= sequence)?.count ?? 0;
    for (const undo of this.#undo.splice(0, count)) this.#pending.delete(undo);
    this.#records = this.#records.filter((record) => record.sequence > sequence);
    for (const record of this.#records) record.count -= count;
  }

  /** Nothing has happened that is not in a durable record. */
  get isRecorded(): boolean {
    return this.#undo.length === 0;
  }

  /** What follows is taken back by a kill before its record; `text` is that of a message. */
  protected undoes(undo: () => void, text?: string): void {
    this.#undo.push(undo);
    if (text !== undefined) this.#pending.set(undo, text);
  }

  /** The message is not in a record yet. */
  isPending(text: string): boolean {
    return [...this.#pending.values()].includes(text);
  }

  /** That user is of another shard. */
  isElsewhere(_user: string): boolean {
    return false;
  }

  isAccepted(text: string): boolean {
    return this.accepted.has(text);
  }

  wasBlocked(by: string, other: string): boolean {
    return this.#everBlocked.has(`${by} ${other}`);
  }

  /** A line about that message has arrived: it must be in a record. */
  checkDurable(text: string): void {
    if (this.isPending(text)) throw new Violation(`a line left before its record: ${show(text)}`);
  }

  /** The server was killed: everything after the last record is undone, and all sessions are over. */
  crashed(): void {
    for (const undo of this.#undo.reverse()) undo();
    this.recorded();
    this.crashes++;
    for (const observed of this.online.values()) observed.reason = "crashed";
    this.online.clear();
  }

  /** `received=` of a login covers that message, whose reply the client never received. */
  checkActed(from: string, to: string, text: string): void {
    if (this.accepted.has(text) || this.hasRefused || this.wasBlocked(to, from)) return;
    throw new Violation(`a message of ${from} was processed and lost: ${show(text)}`);
  }

  blocks(by: string, other: string): boolean {
    return this.#blocks.has(`${by} ${other}`);
  }

  block(by: string, other: string, on: boolean): void {
    if (this.blocks(by, other) === on) throw new Violation(`${by} (un)blocked ${other} twice`);
    this.#set(by, other, on);
    this.#everBlocked.add(`${by} ${other}`);
    this.blocked.set(by, (this.blocked.get(by) ?? 0) + 1);
    this.#undo.push(() => {
      this.#set(by, other, !on);
      this.blocked.set(by, this.blocked.get(by)! - 1);
    });
  }

  #set(by: string, other: string, on: boolean): void {
    if (on) this.#blocks.add(`${by} ${other}`);
    else this.#blocks.delete(`${by} ${other}`);
  }

  began(session: Session, nowMs: number, replaced: boolean): void {
    const observed = new ObservedSession(session, nowMs, this.crashes);
    if (!replaced) this.#announce(observed.user, "joined");
    this.online.set(observed.user, observed);
    this.sessions.set(session.token, observed);
    this.#undo.push(() => {
      this.online.delete(observed.user);
      this.sessions.delete(session.token);
    });
  }

  ended(session: Session, reason: string): void {
    const observed = this.sessions.get(session.token)!;
    observed.reason = reason;
    this.online.delete(observed.user);
    this.#undo.push(() => {
      observed.reason = "";
      this.online.set(observed.user, observed);
    });
    if (reason !== "replaced" && reason !== "shutdown") this.#announce(observed.user, `left ${reason}`);
  }

  #announce(about: string, line: Expected): void {
    for (const observed of this.online.values()) {
      if (observed.user !== about && !this.blocks(about, observed.user)) this.#undo.push(observed.expect(about, line));
    }
  }

  /** A request leaves for another shard. */
  forwards(_from: string, _line: string): void {}

  accepts(from: string, to: string, text: string, sent: boolean, unixMs: number): void {
    if (this.blocks(to, from))
      throw new Violation(`a message of ${from} was accepted for ${to}, who has blocked the sender`);
    if (this.accepted.has(text)) throw new Violation(`a message was accepted twice: ${show(text)}`);
    const pair = `${from} ${to}`;
    const index = this.#pairs.get(pair) ?? 0;
    this.#pairs.set(pair, index + 1);
    this.accepted.set(text, { from, to, index, unixMs });
    const undo = (): void => {
      this.accepted.delete(text);
      this.#pairs.set(pair, index);
    };
    this.undoes(undo, text);
    if (!sent) return;
    const observed = this.online.get(to);
    if (observed === undefined) throw new Violation(`a message was "sent" to ${to}, who is offline`);
    this.#undo.push(observed.expect(from, `message ${text}`));
  }

  /** A message was refused: as blocked only when it is. */
  refuse(from: string, to: string, code: string): void {
    if (code === "blocked" && !this.blocks(to, from)) throw new Violation(`${from} is not blocked by ${to}`);
  }

  broadcast(from: string, text: string, count: number): void {
    if (this.broadcasts.has(text)) throw new Violation(`a broadcast was accepted twice: ${show(text)}`);
    let expected = 0;
    for (const observed of this.online.values()) {
      if (observed.user === from || this.blocks(observed.user, from)) continue;
      this.#undo.push(observed.expect(from, `broadcast ${text}`));
      expected++;
    }
    this.checkReceivers(count, expected);
    this.broadcasts.set(text, count);
    this.#undo.push(() => void this.broadcasts.delete(text));
  }

  protected checkReceivers(count: number, expected: number): void {
    if (count !== expected) throw new Violation(`a broadcast went to ${count} instead of ${expected}`);
  }

  /** A reply to `online`. */
  checkListed(asker: string, line: string): void {
    const expected = this.seenBy(asker);
    if (line !== expected) throw new Violation(`${asker} saw "${line}" for "${expected}"`);
  }

  /** The reply to `online` that this user must get. */
  protected seenBy(asker: string): string {
    const names = [...this.online.keys()].filter((name) => name !== asker && !this.blocks(name, asker));
    return ["ok", ...names.sort()].join(" ");
  }

  /** A session received an event about or from another user: it must be the next expected one. */
  received(observed: ObservedSession, about: string, line: Expected): void {
    const lines = observed.expected.get(about);
    if (lines?.shift() !== line)
      throw new Violation(`${observed.user} received an unexpected event about ${about}: ${show(line)}`);
  }

  /**
   * A client has shown a message to its user. It must have been accepted, and come once and in order. Exception: a
   * message of a plain session may be repeated after a kill of the server.
   */
  shown({ user, kind, crashes }: ObservedSession, from: string, text: string, unixMs?: number): void {
    const message = this.accepted.get(text);
    if (message === undefined || message.from !== from || message.to !== user) {
      throw new Violation(`${user} received a message that was never accepted: ${show(text)}`);
    }
    if (unixMs !== undefined && unixMs !== message.unixMs) throw new Violation(`${show(text)} has a wrong time`);
    const pair = `${from} ${user}`;
    const next = this.#nextShown.get(pair) ?? 0;
    const mayRepeat = (this.#shownPlain.get(text) ?? this.crashes) < this.crashes;
    if (kind === "plain" && (message.index >= next || mayRepeat)) this.#shownPlain.set(text, crashes);
    if (message.index < next && mayRepeat) return;
    if (message.index < next) throw new Violation(`${user} received a message twice: ${show(text)}`);
    if (this.#firstMissing(pair, next, message.index) < message.index)
      throw new Violation(`${user} received a message too early, or lost the one before: ${show(text)}`);
    this.#nextShown.set(pair, message.index + 1);
    this.shownCount++;
  }

  /** An operator has purged a mailbox: of the messages that were not shown, only those in the stream must come. */
  purged(user: string, inStream: ReadonlySet<string>): void {
    for (const [text, { from, to, index }] of this.accepted)
      if (to === user && !inStream.has(text)) this.#purged.add(`${from} ${to} ${index}`);
  }

  /** The first message of a pair from `index` on that was not purged; `end` when all before that were. */
  #firstMissing(pair: string, index: number, end: number): number {
    while (index < end && this.#purged.has(`${pair} ${index}`)) index++;
    return index;
  }

  /** At the end: every accepted message was shown, and every stream has delivered all expected events. */
  checkAllReceived(): void {
    for (const [pair, count] of this.#pairs) {
      const shown = this.#nextShown.get(pair) ?? 0;
      if (this.#firstMissing(pair, shown, count) < count)
        throw new Violation(`${count - shown} of ${count} messages were lost between ${pair}`);
    }
    for (const observed of this.online.values()) {
      for (const [about, [line]] of observed.expected) {
        if (line !== undefined)
          throw new Violation(`${observed.user} never received an event about ${about}: ${show(line)}`);
      }
    }
  }
}

/** A line, shortened for an error message. */
export function show(line: string): string {
  return line.length > 60 ? `${line.slice(0, 60)}... (${line.length} bytes)` : line;
}
