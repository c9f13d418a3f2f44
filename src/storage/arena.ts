import { copy } from "../byte-queue.ts";

/**
 * Copies that are needed until all of them are let go at once, side by side in one buffer (region-based memory). One by
 * one they would be garbage, and memory that is new costs page faults.
 */
export class Arena {
  readonly #bytes: Buffer;
  #end = 0;

  constructor(bytes: number) {
    this.#bytes = Buffer.allocUnsafeSlow(bytes);
  }

  /** What there is no room for gets memory of its own. */
  copy(source: Uint8Array): Buffer {
    const at = this.#end;
    if (at + source.length > this.#bytes.length) return Buffer.from(source);
    this.#end += source.length;
    copy(source, this.#bytes, at, 0, source.length);
    return this.#bytes.subarray(at, this.#end);
  }

  /** Nobody needs them any more: the next ones take their place. */
  clear(): void {
    this.#end = 0;
  }
}
