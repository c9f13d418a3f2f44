/**
 * The spare's side of spares.ts: one connection to the owner of each shard, over which this spare says that it is
 * there. One that fails, or is silent, is dialed again with the next beat. Nothing else depends on these connections.
 */
import { CLUSTER_LINE_BYTES_MAX, LINK_DIALS_MAX } from "../limits.ts";
import { LineReader } from "../protocol/line-reader.ts";
import { formatAddress } from "../runtime/host.ts";
import type { Logger } from "../runtime/log.ts";
import { numberOf, wordsOf } from "./cluster-handshake.ts";
import type { Directory } from "./directory.ts";
import { type LinkEvents, type LinkFailure, type Owner, OwnerLink, type OwnerLinkOptions } from "./owner-link.ts";
import { type KnownSpares, SPARE_BEAT_MS, isSpareWord } from "./spares.ts";
import type { Transport } from "./transport.ts";

/** A connection without a reply for that many beats is closed. */
export const ANSWER_BEATS = 5;
/** An owner that has not replied for that many beats is logged. */
export const UNSEEN_BEATS = 10;

export interface SpareLinksOptions extends Pick<OwnerLinkOptions, "secret" | "dial"> {
  directory: Directory;
  /** What this process knows. */
  spares: KnownSpares;
  /** Of this spare: the address of `--cluster-listen`. */
  self: { address: string; version: string };
  log: Logger;
}

export class SpareLinks {
  readonly #options: SpareLinksOptions;
  readonly #all: SpareLink[];
  #timer: Timer | null = null;

  constructor(options: SpareLinksOptions) {
    this.#options = options;
    this.#all = options.directory.except(null).map((shard) => new SpareLink(options, shard));
  }

  start(): void {
    this.#timer = setInterval(() => this.beat(), SPARE_BEAT_MS);
  }

  /** A sign of life to all owners. */
  beat(): void {
    const { spares, self } = this.#options;
    spares.heard(self.address, self.version);
    for (const link of this.#all) link.beat();
  }

  /** This process is no spare any more. */
  stop(): void {
    clearInterval(this.#timer!);
    for (const link of this.#all) link.stop();
  }
}

const NO_REPLY = "it does not answer";

/** The connection to the owner of one shard, and those after it. */
class SpareLink implements LinkEvents {
  readonly #options: SpareLinksOptions;
  readonly #shard: number;
  #owner: Owner | null = null;
  #link: OwnerLink | null = null;
  #transport: Transport | null = null;
  #reader = new LineReader(CLUSTER_LINE_BYTES_MAX);
  /** Attempts to connect that have not ended, also those that were given up. */
  #dials = 0;
  /** Something was sent, or the connection is not there yet: beats since then. Null when the owner has replied. */
  #waited: number | null = null;
  /** Beats since the last reply of this owner, or since it is the owner. */
  #unseen = 0;
  #why = NO_REPLY;

  constructor(options: SpareLinksOptions, shard: number) {
    this.#options = options;
    this.#shard = shard;
  }

  beat(): void {
    const owner = this.#options.directory.ownerOf(this.#shard);
    if (owner !== this.#owner) this.#useOwner(owner);
    if (owner === null) return;
    if (this.#waited !== null && ++this.#waited >= ANSWER_BEATS && this.#dials < LINK_DIALS_MAX) this.#drop(NO_REPLY);
    if (this.#link === null) this.#dial(owner);
    else if (this.#waited === null) this.#say();
    if (++this.#unseen === UNSEEN_BEATS) this.#report(owner);
  }

  #useOwner(owner: Owner | null): void {
    this.#drop(NO_REPLY);
    this.#owner = owner;
    this.#unseen = 0;
  }

  #dial(owner: Owner): void {
    const { secret, dial } = this.#options;
    this.#dials++;
    this.#waited = 0;
    this.#reader = new LineReader(CLUSTER_LINE_BYTES_MAX);
    this.#link = new OwnerLink(owner, { secret, dial, self: "spare" }, this, () => void this.#dials--);
  }

  ready(transport: Transport, _epoch: number, proof: string): void {
    this.#transport = transport;
    this.#say(`proof ${proof}\n`);
  }

  #say(before = ""): void {
    const { address, version } = this.#options.self;
    const line = Buffer.from(`${before}spare ${address} ${version}\n`);
    this.#waited = 0;
    this.#transport!.write(line, 0, line.length); // The line before was answered: the buffer of the socket is empty.
  }

  data(chunk: Buffer): void {
    this.#reader.feed(chunk);
    while (this.#link !== null && this.#reader.next()) this.#receive(wordsOf(this.#reader) ?? []);
  }

  #receive([verb, address, version, ms, ...more]: string[]): void {
    if (verb === "spare" && isSpareWord(address) && isSpareWord(version) && numberOf(ms) >= 0 && more.length === 0)
      return this.#options.spares.heard(address, version, Number(ms));
    if (verb !== "ok" || address !== undefined) return this.#drop("it sends what no server of this version sends");
    this.#waited = null;
    this.#unseen = 0;
  }

  failed(_reason: LinkFailure, why: string): void {
    this.#drop(why);
  }

  drain(): void {}

  end(): void {
    this.#drop("it closes the connection");
  }

  closed(): void {
    this.#drop("it closes the connection");
  }

  hangUp(): void {
    this.stop();
  }

  stop(): void {
    this.#drop(NO_REPLY);
  }

  /** `why`: for the log, if there is no reply for long. */
  #drop(why: string): void {
    this.#why = why;
    this.#waited = null;
    this.#transport = null;
    const link = this.#link;
    this.#link = null;
    link?.hangUp();
  }

  #report({ host, port }: Owner): void {
    const owner = formatAddress(host, port);
    const text =
      `the owner of shard ${this.#shard} at ${owner} does not list this spare, which cannot relay clients to it ` +
      `either: ${this.#why}; compare the options --cluster… of both servers, and let them reach each other`;
    this.#options.log.warn({ event: "spare_unseen", shard: this.#shard, owner }, text);
  }
}
