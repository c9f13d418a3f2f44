import { shardOf } from "../../src/protocol/shard.ts";
import { type Expected, Ledger, type ObservedSession, Violation, show } from "./ledger.ts";

/**
 * The reference model of one of several shards. What happens to its own users is known exactly. What the users of other
 * shards cause arrives later, and on links that are cut: messages once and in order, broadcasts and presence at most
 * once and in order.
 */
export class ShardLedger extends Ledger {
  override readonly hasNeighbours = true;
  readonly shard: number;
  readonly #all: readonly ShardLedger[];
  readonly #names: readonly string[];
  /** Texts of messages to other shards, and their recipients. */
  readonly #forwarded = new Map<string, string>();
  /** `a b`: a request of a that concerns b was refused, since the shard of b was away. */
  readonly #refused = new Set<string>();
  /** `user text`: a broadcast that has come to that user. */
  readonly #arrived = new Set<string>();
  /**
   * By session and sender: the number in the last broadcast that came. A connection that its client has abandoned may
   * still be read while the next session is, so there is no order between sessions.
   */
  readonly #lastBroadcast = new WeakMap<ObservedSession, Map<string, number>>();
  /** By session: whether the users of other shards are online there, as the client knows. */
  readonly #presence = new WeakMap<ObservedSession, Map<string, boolean>>();

  private constructor(shard: number, all: readonly ShardLedger[], names: readonly string[]) {
    super();
    this.shard = shard;
    this.#all = all;
    this.#names = names;
  }

  /** One for each shard. */
  static all(count: number, names: readonly string[]): ShardLedger[] {
    const all: ShardLedger[] = [];
    for (let shard = 0; shard < count; shard++) all.push(new ShardLedger(shard, all, names));
    return all;
  }

  #of(user: string): ShardLedger {
    return this.#all[shardOf(Buffer.from(user), 0, user.length, this.#all.length)]!;
  }

  /** A request of a user of this shard leaves for another one. */
  override forwards(from: string, line: string): void {
    const [, verb, to, text] = /^(\S+) (\S+) ?(.*)$/s.exec(line) ?? [];
    if (verb !== "message" || to === undefined || text === undefined) return;
    if (this.#forwarded.has(text)) throw new Violation(`a message of ${from} was forwarded twice: ${show(text)}`);
    this.#forwarded.set(text, to);
    this.undoes(() => void this.#forwarded.delete(text), text);
  }

  override refuse(from: string, to: string, code: string): void {
    super.refuse(from, to, code);
    if (code === "busy") this.#refused.add(`${from} ${to}`);
  }

  override accepts(from: string, to: string, text: string, sent: boolean, unixMs: number): void {
    const sender = this.#of(from);
    if (sender !== this && (!sender.#forwarded.has(text) || sender.isPending(text)))
      throw new Violation(`a message of ${from} arrived that is in no record of its shard: ${show(text)}`);
    super.accepts(from, to, text, sent, unixMs);
  }

  override isElsewhere(user: string): boolean {
    return this.#of(user) !== this;
  }

  override isAccepted(text: string): boolean {
    return this.#all.some(({ accepted }) => accepted.has(text));
  }

  override checkDurable(text: string): void {
    if (this.#all.some((each) => each.isPending(text)))
      throw new Violation(`a line left before its record: ${show(text)}`);
  }

  override checkActed(from: string, to: string, text: string): void {
    if (this.#of(to) === this) return super.checkActed(from, to, text);
    if (this.#forwarded.has(text) || this.#refused.has(`${from} ${to}`)) return;
    throw new Violation(`a message of ${from} was processed and lost: ${show(text)}`);
  }

  /** The count has users of other shards, as this one sees them. */
  protected override checkReceivers(count: number, expected: number): void {
    const others = this.#names.filter((name) => this.#of(name) !== this).length;
    if (count < expected || count > expected + others)
      throw new Violation(`a broadcast went to ${count} instead of ${expected}`);
  }

  override checkListed(asker: string, line: string): void {
    const [ok, ...names] = line.split(" ");
    const expected = this.seenBy(asker);
    const own = [ok, ...names.filter((name) => this.#of(name) === this)].join(" ");
    if (own !== expected) throw new Violation(`${asker} saw "${line}" for "${expected}"`);
    const hidden = names.find((name) => this.blocks(name, asker));
    if (hidden !== undefined) throw new Violation(`${asker} saw ${hidden}, who has blocked the asker`);
  }

  override received(observed: ObservedSession, about: string, line: Expected): void {
    if (this.#of(about) === this || line.startsWith("message ")) return super.received(observed, about, line);
    if (line.startsWith("broadcast ")) this.#broadcastCame(observed, about, line.slice("broadcast ".length));
    else if (!this.wasBlocked(about, observed.user)) this.#presenceCame(observed, about, line.startsWith("joined"));
  }

  #broadcastCame(observed: ObservedSession, from: string, text: string): void {
    const { user } = observed;
    if (!this.#of(from).broadcasts.has(text))
      throw new Violation(`${user} received a broadcast of ${from} that was never accepted: ${show(text)}`);
    if (this.#arrived.has(`${user} ${text}`))
      throw new Violation(`${user} received a broadcast of ${from} twice: ${show(text)}`);
    this.#arrived.add(`${user} ${text}`);
    const last = this.#lastBroadcast.get(observed) ?? new Map<string, number>();
    this.#lastBroadcast.set(observed, last);
    const number = Number.parseInt(text.slice(1));
    if (number < (last.get(from) ?? 0))
      throw new Violation(`${user} received a broadcast of ${from} too late: ${show(text)}`);
    last.set(from, number);
  }

  #presenceCame(observed: ObservedSession, about: string, isOnline: boolean): void {
    const known = this.#presence.get(observed) ?? new Map<string, boolean>();
    this.#presence.set(observed, known);
    if (known.get(about) === isOnline)
      throw new Violation(`${observed.user} received twice that ${about} ${isOnline ? "joined" : "left"}`);
    known.set(about, isOnline);
  }

  /** At the end: what was forwarded has arrived, and both shards of two users know the same blocks. */
  override checkAllReceived(): void {
    super.checkAllReceived();
    for (const [text, to] of this.#forwarded)
      if (!this.#of(to).accepted.has(text) && !this.#of(to).#mayRefuse(to))
        throw new Violation(`a message that was forwarded to ${to} never arrived: ${show(text)}`);
    for (const by of this.#names) {
      for (const other of this.#names) {
        if (this.#of(by) !== this || this.blocks(by, other) === this.#of(other).blocks(by, other)) continue;
        throw new Violation(`the shards of ${by} and ${other} disagree whether ${by} blocks ${other}`);
      }
    }
  }

  #mayRefuse(to: string): boolean {
    return this.#names.some((name) => this.wasBlocked(to, name));
  }
}
