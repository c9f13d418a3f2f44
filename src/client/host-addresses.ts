import dns from "node:dns/promises";
import { readHost } from "../runtime/host.ts";

/**
 * Which address of a host a client connects to. A name may have the addresses of several servers, of which one serves
 * clients and the others refuse them (docs/cluster.md). The system always takes the first address that accepts a
 * connection, so after a refusal the client chooses among the others.
 */
export class HostAddresses {
  readonly #host: string;
  readonly #addresses: () => Promise<string[]>;
  /** Those that have refused since another one accepted. */
  readonly #refused = new Set<string>();
  /** The one that accepted after others had refused; null: the system chooses. */
  #chosen: string | null = null;

  /** `addresses`: the addresses of the host; tests bring their own. */
  constructor(host: string, addresses: () => Promise<string[]> = () => addressesOf(host)) {
    this.#host = host;
    this.#addresses = addresses;
  }

  /** What to connect to: an address, or the host. */
  async next(): Promise<string> {
    if (this.#chosen !== null) return this.#chosen;
    if (this.#refused.size === 0) return this.#host;
    const other = (await this.#addresses()).find((address) => !this.#refused.has(address));
    if (other === undefined) this.#refused.clear();
    return other ?? this.#host;
  }

  /** The server at this address has replied. */
  accepted(address: string): void {
    if (this.#refused.size === 0) return;
    this.#refused.clear();
    this.#chosen = address;
  }

  /** The server at this address is busy, gives no reply or cannot be reached. */
  refused(address: string): void {
    if (this.#chosen === address) this.#chosen = null;
    this.#refused.add(address);
  }
}

/** None for a name that cannot be resolved now. */
async function addressesOf(host: string): Promise<string[]> {
  const found = await dns.lookup(readHost(host), { all: true }).catch(() => []);
  return found.map(({ address }) => address);
}
