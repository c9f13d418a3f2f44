import { Fifo } from "../fifo.ts";

/**
 * What a shard remembers of the requests that another shard, the neighbour, has forwarded to it: the highest number
 * that was acted on, and the replies that the neighbour has not answered. Requests arrive in the order of their
 * numbers. The store makes it durable; the rules are in foreign-requests.ts.
 */
export class Outcomes implements Iterable<[number: number, reply: Uint8Array]> {
  /** Each request up to that number was acted on; 0 before the first one. */
  heard = 0;
  /** The neighbour has answered the replies up to that number. A crash may lose the last changes of this field. */
  answered = 0;
  /** Numbers and replies of the requests after that: no object for each request. */
  readonly #numbers = new Fifo<number>();
  readonly #replies = new Fifo<Uint8Array>();

  /** How many replies are kept. */
  get size(): number {
    return this.#numbers.size;
  }

  /** A request was acted on. `reply` ends with LF and does not change. False when that was known. */
  add(number: number, reply: Uint8Array): boolean {
    if (number <= this.heard) return false;
    this.heard = number;
    this.#numbers.push(number);
    this.#replies.push(reply);
    return true;
  }

  /** The reply to a request that was acted on; null when it is not kept. */
  reply(number: number): Uint8Array | null {
    const place = this.#numbers.indexOf(number);
    return place < 0 ? null : this.#replies.at(place)!;
  }

  /** The neighbour has answered the replies up to that number. */
  forget(upTo: number): void {
    this.answered = Math.max(this.answered, upTo);
    while (this.size > 0 && this.#numbers.first! <= upTo) {
      this.#numbers.shift();
      this.#replies.shift();
    }
  }

  /** The replies that are kept, in the order of their numbers. */
  *[Symbol.iterator](): Iterator<[number: number, reply: Uint8Array]> {
    for (let place = 0; place < this.size; place++) yield [this.#numbers.at(place)!, this.#replies.at(place)!];
  }
}
