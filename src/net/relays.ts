/**
 * All relays of a server: which requests are for other shards, and the connections to their owners. What happens with
 * one client is in relay.ts.
 */
import type { Chat } from "../chat/chat.ts";
import type { LoginRelay, Peer } from "../chat/session.ts";
import { RELAY_DIALS_MAX } from "../limits.ts";
import type { Request, Verb } from "../protocol/request.ts";
import { shardOf, shardOfToken } from "../protocol/shard.ts";
import { formatAddress } from "../runtime/host.ts";
import type { Logger } from "../runtime/log.ts";
import type { TimerKind, TimerWheel } from "../timer-wheel.ts";
import { Connection } from "./connection.ts";
import type { Directory } from "./directory.ts";
import { type LinkEvents, type LinkFailure, type Owner, OwnerLink, type OwnerLinkOptions } from "./owner-link.ts";
import { Relay, type RelayCounts, type RelayHub } from "./relay.ts";

const NONE: readonly number[] = [];

export interface RelaysOptions extends Pick<OwnerLinkOptions, "secret" | "dial"> {
  chat: Chat;
  /** The shard whose sessions `chat` has; null for a gateway, also when its process owns a shard by now. */
  home: number | null;
  directory: Directory;
  counts: RelayCounts;
  log: Logger;
}

export class Relays implements LoginRelay, RelayHub {
  readonly directory: Directory;
  readonly counts: RelayCounts;
  readonly wheel: TimerWheel;
  readonly all = new Set<Relay>();
  readonly retry: TimerKind<Relay>;
  readonly late: TimerKind<Relay>;
  readonly #chat: Chat;
  readonly #home: number | null;
  readonly #options: OwnerLinkOptions;
  readonly #log: Logger;
  /** By shard: attempts to connect to the present owner. */
  readonly #dials: number[];
  /** By shard: the failures that were logged, since the last success. */
  readonly #logged: readonly Set<string>[];

  constructor({ chat, home, directory, secret, dial, counts, log }: RelaysOptions) {
    this.directory = directory;
    this.counts = counts;
    this.wheel = chat.wheel;
    this.#chat = chat;
    this.#home = home;
    this.#options = { secret, dial, self: "relay" };
    this.#log = log;
    this.#dials = Array.from({ length: directory.shards }, () => 0);
    this.#logged = Array.from({ length: directory.shards }, () => new Set());
    this.retry = this.wheel.kind((relay) => relay.attempt());
    this.late = this.wheel.kind((relay) => relay.timedOut());
    directory.changed.add(this.#ownerChanged);
  }

  relay(peer: Peer, verb: Verb, request: Request, start: number): boolean {
    if (!(peer instanceof Connection)) throw new Error("only connections are relayed");
    const shards = peer.isRelayed ? NONE : this.#shardsFor(verb, request);
    if (shards.length === 0) return false;
    const { bytes, end } = request;
    peer.pause();
    new Relay(this, peer, verb, Buffer.from(bytes.subarray(start, end)), shards).attempt();
    return true;
  }

  /** The shards to ask, one after another; none when the rules of this server apply. */
  #shardsFor(verb: Verb, request: Request): readonly number[] {
    const { shards } = this.directory;
    const home = this.#home;
    if (verb === "login") {
      const shard = shardOf(request.bytes, request.starts[0]!, request.ends[0]!, shards);
      return shard === home ? NONE : [shard];
    }
    const token = request.word(0);
    const shard = shardOfToken(token, shards);
    if (shard === null || shard === home) return NONE;
    if (shard !== "any") return [shard];
    if (this.#chat.hasSession(token)) return NONE;
    return this.directory.except(home);
  }

  readonly #ownerChanged = (shard: number): void => {
    this.#dials[shard] = 0;
    const epoch = this.directory.epochOf(shard);
    for (const relay of [...this.all]) if (relay.shard === shard) relay.ownerChanged(epoch);
  };

  /** Null when too many attempts are in progress. */
  connect(owner: Owner, receiver: LinkEvents): OwnerLink | null {
    const { shard } = owner;
    if (this.#dials[shard]! >= RELAY_DIALS_MAX) return null;
    this.#dials[shard]!++;
    const settled = (): void => void (this.directory.ownerOf(shard) === owner && this.#dials[shard]!--);
    return new OwnerLink(owner, this.#options, receiver, settled);
  }

  failed({ shard, host, port }: Owner, reason: LinkFailure, why: string): void {
    const address = formatAddress(host, port);
    const failure = `${address} ${reason}`;
    const logged = this.#logged[shard]!;
    if (logged.has(failure)) return;
    logged.add(failure);
    const advice = reason === "unreachable" ? "" : "; if it goes on, compare the options --cluster… of both servers";
    const text = `cannot relay to ${address}, the owner of shard ${shard}: ${why}${advice}`;
    this.#log.warn({ event: "relay_failed", shard, owner: address, reason }, text);
  }

  succeeded(shard: number): void {
    this.#logged[shard]!.clear();
  }

  /** Gives up those that wait for an owner. Returns their lines, by their connections, which stay open. */
  giveUp(): Map<Connection, Buffer> {
    return new Map([...this.all].flatMap((relay) => relay.giveUp()));
  }

  /** Ends all relays, with a reset of both connections. */
  stop(): void {
    this.directory.changed.delete(this.#ownerChanged);
    for (const relay of [...this.all]) relay.hangUp();
  }
}
