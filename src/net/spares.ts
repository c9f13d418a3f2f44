/**
 * Who the spares of a cluster are, for operators. Each spare tells the owners of all shards that it is there, over one
 * connection to each of them, and receives what the owner knows of all spares. So every server has the list in memory,
 * and asks nobody when an operator wants to see it.
 *
 *     spare <address> <version>                   from the spare, each SPARE_BEAT_MS
 *     spare <address> <version> <ms>              from the owner, for each spare: the time since its last sign of life
 *     ok                                          after these
 *
 * The owner's side is here, that of the spare is in spare-links.ts.
 */
import { CLUSTER_LINE_BYTES_MAX } from "../limits.ts";
import { LineReader } from "../protocol/line-reader.ts";
import { wordsOf } from "./cluster-handshake.ts";
import type { AcceptedSocket } from "./tcp-transport.ts";
import type { SocketEvents } from "./transport.ts";

/** The interval of signs of life. */
export const SPARE_BEAT_MS = 1_000;
/** A spare counts as alive for this long after the last one, and is listed for that long. */
const ALIVE_MS = 3_000;
export const SPARE_FORGOTTEN_MS = 10_000;
/** No more are listed. */
export const SPARES_MAX = 256;

export interface Spare {
  /** `host:port` of `--cluster-listen`. */
  address: string;
  /** Version of the program. */
  version: string;
  /** When it last gave a sign of life, by the clock of `KnownSpares`. */
  heardMs: number;
}

/** The spares that gave a sign of life in the last SPARE_FORGOTTEN_MS, up to SPARES_MAX. */
export class KnownSpares {
  /** Monotonic. */
  readonly nowMs: () => number;
  readonly #byAddress = new Map<string, Spare>();

  constructor(nowMs = () => performance.now()) {
    this.nowMs = nowMs;
  }

  /** A spare gave a sign of life `agoMs` ago. An older one than the last changes nothing. */
  heard(address: string, version: string, agoMs = 0): void {
    const known = this.#byAddress.get(address);
    if (known === undefined) this.#forget();
    const heardMs = this.nowMs() - agoMs;
    if (known === undefined ? this.#byAddress.size < SPARES_MAX : heardMs > known.heardMs)
      this.#byAddress.set(address, { address, version, heardMs });
  }

  /** In the order of addresses. */
  get all(): Spare[] {
    this.#forget();
    return [...this.#byAddress.values()].sort((a, b) => (a.address < b.address ? -1 : 1));
  }

  isAlive({ heardMs }: Spare): boolean {
    return this.nowMs() - heardMs < ALIVE_MS;
  }

  #forget(): void {
    const sinceMs = this.nowMs() - SPARE_FORGOTTEN_MS;
    for (const { address, heardMs } of this.#byAddress.values()) if (heardMs < sinceMs) this.#byAddress.delete(address);
  }
}

/** An address or a version. */
export function isSpareWord(word: string | undefined): word is string {
  return word !== undefined && /^[\x21-\x7e]+$/.test(word);
}

/** The connection of a spare to the owner of a shard, after the handshake. */
export class SpareConnection implements SocketEvents {
  readonly #socket: Pick<AcceptedSocket, "write" | "end" | "terminate">;
  readonly #spares: KnownSpares;
  readonly #reader = new LineReader(CLUSTER_LINE_BYTES_MAX);
  readonly #late: Timer;

  /** It is closed after `silentMs` without a line. */
  constructor(
    socket: Pick<AcceptedSocket, "write" | "end" | "terminate">,
    spares: KnownSpares,
    silentMs = SPARE_FORGOTTEN_MS,
  ) {
    this.#socket = socket;
    this.#spares = spares;
    this.#late = setTimeout(() => this.hangUp(), silentMs);
  }

  data(chunk: Buffer): void {
    this.#reader.feed(chunk);
    let hasLine = false;
    while (this.#reader.next()) {
      const [verb, address, version, ...more] = wordsOf(this.#reader) ?? [];
      if (verb !== "spare" || !isSpareWord(address) || !isSpareWord(version) || more.length > 0) return this.hangUp();
      this.#spares.heard(address, version);
      hasLine = true;
    }
    if (this.#reader.takeSkipped() > 0) return this.hangUp();
    if (hasLine) this.#reply();
  }

  #reply(): void {
    this.#late.refresh();
    const nowMs = this.#spares.nowMs();
    const lines = this.#spares.all.map(
      ({ address, version, heardMs }) => `spare ${address} ${version} ${Math.round(nowMs - heardMs)}\n`,
    );
    const reply = Buffer.from(`${lines.join("")}ok\n`);
    // It fits into the buffer of a socket whose reader takes the replies.
    if (this.#socket.write(reply) < reply.length) this.hangUp();
  }

  drain(): void {}

  end(): void {
    this.#socket.end();
  }

  closed(): void {
    clearTimeout(this.#late);
  }

  hangUp(): void {
    this.#socket.terminate();
  }
}
