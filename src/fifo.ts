/**
 * A queue whose elements are taken in their order. To take one moves no other; the places of taken ones are freed in
 * runs.
 */
export class Fifo<Item> implements Iterable<Item> {
  readonly #items: Item[] = [];
  /** Index of the oldest element: those before it were taken. */
  #first = 0;

  get size(): number {
    return this.#items.length - this.#first;
  }

  /** The oldest element; undefined without one. */
  get first(): Item | undefined {
    return this.#items[this.#first];
  }

  push(item: Item): void {
    this.#items.push(item);
  }

  /** Takes the oldest element; undefined without one. */
  shift(): Item | undefined {
    if (this.size === 0) return undefined;
    const item = this.#items[this.#first++];
    if (this.#first * 2 > this.#items.length) {
      this.#items.splice(0, this.#first);
      this.#first = 0;
    }
    return item;
  }

  /** The place of an element, 0 for the oldest; -1 when it is not there. */
  indexOf(item: Item): number {
    const index = this.#items.indexOf(item, this.#first);
    return index < 0 ? -1 : index - this.#first;
  }

  /** The element at a place. */
  at(place: number): Item | undefined {
    return this.#items[this.#first + place];
  }

  *[Symbol.iterator](): Iterator<Item> {
    for (let place = 0; place < this.size; place++) yield this.at(place)!;
  }
}
