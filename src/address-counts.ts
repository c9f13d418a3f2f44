import { LOG_ADDRESSES_LISTED, LOG_ADDRESSES_MAX } from "./limits.ts";

/** How often something happened, by source address, for a summary. Its memory is bounded, whatever arrives. */
export class AddressCounts {
  total = 0;
  readonly #counts = new Map<string, number>();

  add(address: string): void {
    this.total++;
    const count = this.#counts.get(address) ?? 0;
    if (count > 0 || this.#counts.size < LOG_ADDRESSES_MAX) this.#counts.set(address, count + 1);
  }

  /** The addresses with the highest counts, and the count of all others together. */
  summary(): { addresses: [address: string, count: number][]; others: number } {
    const addresses = [...this.#counts].sort((a, b) => b[1] - a[1]).slice(0, LOG_ADDRESSES_LISTED);
    return { addresses, others: addresses.reduce((others, [, count]) => others - count, this.total) };
  }
}
