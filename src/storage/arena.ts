import { copy } from "../byte-queue.ts";

/**
 * Copies of bytes in one buffer that are all freed at once (region-based memory). A buffer for each copy would make
 * garbage, and new memory costs page faults.
 */
export class Arena {
  readonly #bytes: Buffer;
  #end = 0;

  constructor(bytes: number) {
    this.#bytes = Buffer.allocUnsafeSlow(bytes);
  }

  /** A copy that does not fit gets its own memory. */
  copy(source: Uint8Array): Buffer {
    const at = this.#end;
    if (at + source.length > this.#bytes.length) return Buffer.from(source);
    this.#end += source.length;
    copy(source, this.#bytes, at, 0, source.length);
    return this.#bytes.subarray(at, this.#end);
  }

  /** Frees all copies: the next ones overwrite them. */
  clear(): void {
    this.#end = 0;
  }
}
