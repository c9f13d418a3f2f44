/**
 * The links of this shard's owner to all its neighbours: to whom it connects and when, what is logged, and what is
 * counted. Each neighbour has its own link to this shard too, which arrives at the port for other servers
 * (relayed-connections.ts); here those that are silent are closed.
 */
import { LINK_BEAT_MS, LINK_DIALS_MAX, LINK_RETRY_MAX_MS, LINK_RETRY_MIN_MS, NEIGHBOUR_AWAY_MS } from "../limits.ts";
import { formatAddress } from "../runtime/host.ts";
import type { Logger } from "../runtime/log.ts";
import { type TimerKind, type TimerWheel, WheelTimer } from "../timer-wheel.ts";
import { Connection } from "./connection.ts";
import type { Directory } from "./directory.ts";
import { LINK_ENDS, type LinkEnd, type LinkOwner, NeighbourLink, type NeighbourLinkOptions } from "./neighbour-link.ts";

export interface NeighbourLinksOptions extends NeighbourLinkOptions {
  directory: Directory;
  log: Logger;
}

export class NeighbourLinks {
  readonly options: NeighbourLinksOptions;
  /** By shard; this one has no link to itself. */
  readonly all: (Dialer | undefined)[];
  /** Links that have ended since the start, by reason. */
  readonly lost = new Map<LinkEnd, number>(LINK_ENDS.map((reason) => [reason, 0]));
  readonly retry: TimerKind<Dialer>;
  readonly #timer = new WheelTimer<NeighbourLinks>(this);
  readonly #beat: TimerKind<NeighbourLinks>;
  readonly #changed: (shard: number) => void;

  constructor(options: NeighbourLinksOptions) {
    const { directory, connections, self } = options;
    this.options = options;
    this.all = Array.from({ length: directory.shards }, (_, shard) =>
      shard === self.shard ? undefined : new Dialer(this, shard),
    );
    this.retry = connections.wheel.kind((dialer) => dialer.dial());
    this.#beat = connections.wheel.kind((links) => links.#beatAll());
    this.#changed = (shard) => this.all[shard]?.ownerChanged();
  }

  get wheel(): TimerWheel {
    return this.options.connections.wheel;
  }

  /** Links that are up. */
  get up(): number {
    return this.all.reduce((sum, dialer) => sum + (dialer?.link?.isUp === true ? 1 : 0), 0);
  }

  /** By shard: requests that were forwarded to it and have no outcome yet. */
  get forwards(): [shard: string, count: number][] {
    const { neighbours } = this.options.connections.chat;
    return neighbours!.all.flatMap((each) =>
      each === undefined ? [] : [[`${each.shard}`, Math.max(each.slots.size, each.account.waiting)]],
    );
  }

  /** Since the request was forwarded that has waited longest for a reply; 0 without one. */
  get oldestForwardMs(): number {
    return Math.max(0, this.wheel.nowMs - this.options.connections.chat.neighbours!.oldestSlotMs);
  }

  start(): void {
    this.options.directory.changed.add(this.#changed);
    for (const dialer of this.all) dialer?.dial();
    this.#beatAll();
  }

  #beatAll(): void {
    this.wheel.schedule(this.#timer, this.#beat, LINK_BEAT_MS);
    for (const dialer of this.all) dialer?.link?.beat();
    for (const neighbour of this.options.connections.chat.neighbours!.all) {
      const { session = null } = neighbour ?? {};
      if (session === null || this.wheel.nowMs - session.lastActivityMs <= NEIGHBOUR_AWAY_MS) continue;
      if (session.peer instanceof Connection) session.peer.hangUp();
    }
  }

  /** Ends all links. Their neighbours keep what was not answered. */
  stop(): void {
    this.options.directory.changed.delete(this.#changed);
    this.wheel.cancel(this.#timer);
    for (const dialer of this.all) dialer?.stop();
  }
}

/** The link to one neighbour: at most one, and a new one some time after its end. */
class Dialer implements LinkOwner {
  readonly #all: NeighbourLinks;
  readonly #shard: number;
  link: NeighbourLink | null = null;
  /** Attempts to connect to the present owner, also of links that were given up. */
  #dials = { pending: 0 };
  readonly #timer = new WheelTimer<Dialer>(this);
  /** The pause after the next link that ends early. */
  #pauseMs = LINK_RETRY_MIN_MS;
  /** The ends that were logged, since the last link that worked for NEIGHBOUR_AWAY_MS. */
  readonly #logged = new Set<string>();

  constructor(all: NeighbourLinks, shard: number) {
    this.#all = all;
    this.#shard = shard;
  }

  /** Connects to the owner of the shard, when there is one and no link yet. */
  dial(): void {
    const { directory } = this.#all.options;
    const owner = directory.ownerOf(this.#shard);
    const dials = this.#dials;
    if (this.link !== null || owner === null || dials.pending >= LINK_DIALS_MAX) return;
    dials.pending++;
    this.link = new NeighbourLink(owner, this.#all.options, this, () => {
      if (dials.pending-- === LINK_DIALS_MAX && dials === this.#dials) this.dial();
    });
  }

  /** A link to an earlier owner ends, and the present one gets its link at once. */
  ownerChanged(): void {
    const isOutdated = this.link !== null && this.link.epoch < this.#all.options.directory.epochOf(this.#shard);
    this.#pauseMs = LINK_RETRY_MIN_MS;
    this.#dials = { pending: 0 };
    if (isOutdated) this.link!.replace();
    this.#all.wheel.cancel(this.#timer);
    this.dial();
  }

  up(link: NeighbourLink): void {
    const { log } = this.#all.options;
    const { host, port } = link.owner;
    const owner = formatAddress(host, port);
    log.info(
      { event: "link_up", shard: this.#shard, owner, epoch: link.epoch },
      `connected to the owner of shard ${this.#shard} at ${owner}`,
    );
  }

  lostRequests(heard: number, answered: number): void {
    this.#all.options.log.error(
      { event: "neighbour_error", shard: this.#shard, heard, answered },
      `this shard has lost records: shard ${this.#shard} has its replies to requests up to ${answered}, and its log ` +
        `has requests up to ${heard}; it continues after ${answered}`,
    );
  }

  lost(link: NeighbourLink, reason: LinkEnd, why: string): void {
    const { lost, wheel, retry } = this.#all;
    lost.set(reason, (lost.get(reason) ?? 0) + 1);
    this.link = null;
    if (link.upMs > 0 && link.lastLineMs - link.upMs >= NEIGHBOUR_AWAY_MS) {
      this.#pauseMs = LINK_RETRY_MIN_MS;
      this.#logged.clear();
    }
    this.#log(link, reason, why);
    wheel.schedule(this.#timer, retry, this.#pauseMs);
    this.#pauseMs = Math.min(2 * this.#pauseMs, LINK_RETRY_MAX_MS);
  }

  /** The same end is logged once, until a link has lasted. */
  #log({ owner: { host, port } }: NeighbourLink, reason: LinkEnd, why: string): void {
    const owner = formatAddress(host, port);
    if (this.#logged.has(`${owner} ${reason}`)) return;
    this.#logged.add(`${owner} ${reason}`);
    const fields = { event: "link_lost", shard: this.#shard, owner, reason } as const;
    const message = `no link to shard ${this.#shard} at ${owner}: ${why}; it is dialed again`;
    if (reason === "gap") this.#all.options.log.error(fields, message);
    else this.#all.options.log.warn(fields, message);
  }

  stop(): void {
    this.#all.wheel.cancel(this.#timer);
    this.#dials = { pending: 0 };
    this.link?.hangUp();
    this.link = null;
  }
}
