import type { Session, SessionKind } from "../../src/chat/session.ts";

/** What the simulation found to be against the contract. */
export class Violation extends Error {}

/** A line about or from one user that another's stream must hold, in this order, exactly once. */
type Expected = "joined" | "left" | `left ${string}` | `message ${string}` | `broadcast ${string}`;

/** One session of a user, as the chat began and ended it. */
export class Stay {
  readonly user: string;
  readonly kind: SessionKind;
  readonly session: Session;
  /** By the other user: what must come, and how much of it came. */
  readonly expected = new Map<string, Expected[]>();
  reason = "";
  /** Its last line was heard: a goodbye, or the reply to a logout. */
  isOver = false;
  /** Wheel time at which a whole line of its client last reached the server. */
  heardMs: number;

  constructor(session: Session, nowMs: number) {
    this.user = session.account.name;
    this.kind = session.kind;
    this.session = session;
    this.heardMs = nowMs;
  }

  /** Returns what takes it back. */
  expect(about: string, line: Expected): () => void {
    const lines = this.expected.get(about) ?? [];
    this.expected.set(about, lines);
    lines.push(line);
    return () => void lines.pop();
  }

  /** What it did not take of the messages has left its stream. */
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
  /** Among those of this sender to this recipient. */
  index: number;
  unixMs: number;
}

/**
 * What the chat did, kept apart from it by watching its calls: who was in, who blocked whom, what was accepted. What
 * the users hear is held against it.
 */
export class Ledger {
  readonly online = new Map<string, Stay>();
  readonly stays = new Map<string, Stay>();
  /** `a b`: a has blocked b. */
  readonly #blocks = new Set<string>();
  readonly blocked = new Map<string, number>();
  readonly accepted = new Map<string, Accepted>();
  readonly broadcasts = new Map<string, number>();
  readonly #pairs = new Map<string, number>();
  /** By recipient and sender: the index of the last message heard. */
  readonly #heard = new Map<string, number>();
  heard = 0;
  /** What was done since the last record, and how to take it back: if the server dies now, it did not happen. */
  #undo: (() => void)[] = [];
  /** How often the server was killed; and for messages that a plain session heard, how often by then. */
  crashes = 0;
  readonly #heardPlain = new Map<string, number>();
  /** `a b`: a has or had blocked b. Whether the disk ever refused. */
  readonly #everBlocked = new Set<string>();
  hasRefused = false;

  /** The turn's record is on the disk. */
  recorded(): void {
    this.#undo.length = 0;
  }

  /** The server was killed: what was not recorded did not happen, and nobody is online. */
  crashed(): void {
    for (const undo of this.#undo.reverse()) undo();
    this.#undo = [];
    this.crashes++;
    for (const stay of this.online.values()) stay.reason = "crashed";
    this.online.clear();
  }

  /** A request was acted on, it is said; its reply was never seen. */
  checkActed(from: string, to: string, text: string): void {
    if (this.accepted.has(text) || this.hasRefused || this.#everBlocked.has(`${to} ${from}`)) return;
    throw new Violation(`a message of ${from} was acted on and lost: ${show(text)}`);
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
    const stay = new Stay(session, nowMs);
    if (!replaced) this.#announce(stay.user, "joined");
    this.online.set(stay.user, stay);
    this.stays.set(session.token, stay);
    this.#undo.push(() => {
      this.online.delete(stay.user);
      this.stays.delete(session.token);
    });
  }

  ended(session: Session, reason: string): void {
    const stay = this.stays.get(session.token)!;
    stay.reason = reason;
    this.online.delete(stay.user);
    this.#undo.push(() => {
      stay.reason = "";
      this.online.set(stay.user, stay);
    });
    if (reason !== "replaced" && reason !== "shutdown") this.#announce(stay.user, `left ${reason}`);
  }

  #announce(about: string, line: Expected): void {
    for (const stay of this.online.values()) {
      if (stay.user !== about && !this.blocks(about, stay.user)) this.#undo.push(stay.expect(about, line));
    }
  }

  accept(from: string, to: string, text: string, sent: boolean, unixMs: number): void {
    if (this.blocks(to, from)) throw new Violation(`a message of ${from} was accepted for ${to}, who has a block`);
    if (this.accepted.has(text)) throw new Violation(`a message was acted on twice: ${show(text)}`);
    const pair = `${from} ${to}`;
    const index = this.#pairs.get(pair) ?? 0;
    this.#pairs.set(pair, index + 1);
    this.accepted.set(text, { from, to, index, unixMs });
    this.#undo.push(() => {
      this.accepted.delete(text);
      this.#pairs.set(pair, index);
    });
    if (!sent) return;
    const stay = this.online.get(to);
    if (stay === undefined) throw new Violation(`a message was "sent" to ${to}, who is offline`);
    this.#undo.push(stay.expect(from, `message ${text}`));
  }

  /** A message was refused: as blocked only when it is. */
  refuse(from: string, to: string, code: string): void {
    if (code === "blocked" && !this.blocks(to, from)) throw new Violation(`${from} is not blocked by ${to}`);
  }

  broadcast(from: string, text: string, count: number): void {
    if (this.broadcasts.has(text)) throw new Violation(`a broadcast was acted on twice: ${show(text)}`);
    let expected = 0;
    for (const stay of this.online.values()) {
      if (stay.user === from || this.blocks(stay.user, from)) continue;
      this.#undo.push(stay.expect(from, `broadcast ${text}`));
      expected++;
    }
    if (count !== expected) throw new Violation(`a broadcast went to ${count} instead of ${expected}`);
    this.broadcasts.set(text, count);
    this.#undo.push(() => void this.broadcasts.delete(text));
  }

  /** The names that `online` must list to that user. */
  seenBy(asker: string): string {
    const names = [...this.online.keys()].filter((name) => name !== asker && !this.blocks(name, asker));
    return ["ok", ...names.sort()].join(" ");
  }

  /** A user heard a line about or of another one in that session: it is the next of those that must come. */
  hears(stay: Stay, about: string, line: Expected): void {
    const lines = stay.expected.get(about);
    if (lines?.shift() !== line) throw new Violation(`${stay.user} heard of ${about} what is not next: ${show(line)}`);
  }

  /**
   * A user has shown a message: it was accepted, comes in its order and not for the second time, unless it was a plain
   * session that heard it before, and the server was killed since.
   */
  shown(user: string, from: string, text: string, isPlain: boolean, unixMs?: number): void {
    const message = this.accepted.get(text);
    if (message === undefined || message.from !== from || message.to !== user) {
      throw new Violation(`${user} heard what nobody said: ${show(text)}`);
    }
    if (unixMs !== undefined && unixMs !== message.unixMs) throw new Violation(`${show(text)} has a wrong time`);
    const pair = `${from} ${user}`;
    const next = this.#heard.get(pair) ?? 0;
    const mayRepeat = (this.#heardPlain.get(text) ?? this.crashes) < this.crashes;
    if (isPlain && (message.index === next || mayRepeat)) this.#heardPlain.set(text, this.crashes);
    if (message.index < next && mayRepeat) return;
    if (message.index < next) throw new Violation(`${user} heard twice: ${show(text)}`);
    if (message.index > next) throw new Violation(`${user} heard too early, or lost one before: ${show(text)}`);
    this.#heard.set(pair, next + 1);
    this.heard++;
  }

  /** Everybody has read everything: what was accepted was heard, and every stream held what it had to. */
  checkAllHeard(): void {
    for (const [pair, count] of this.#pairs) {
      const heard = this.#heard.get(pair) ?? 0;
      if (heard < count) throw new Violation(`${count - heard} of ${count} messages were lost between ${pair}`);
    }
    for (const stay of this.online.values()) {
      for (const [about, [line]] of stay.expected) {
        if (line !== undefined) throw new Violation(`${stay.user} never heard of ${about}: ${show(line)}`);
      }
    }
  }
}

/** A line as a person wants to see it. */
export function show(line: string): string {
  return line.length > 60 ? `${line.slice(0, 60)}... (${line.length} bytes)` : line;
}
