import { ByteQueue, copy } from "../byte-queue.ts";
import type { Transport } from "./transport.ts";

/**
 * One direction of a relay. What `to` does not accept waits here, and meanwhile `from` is not read: at most what
 * arrived in one read waits.
 */
export class Flow {
  /** Null: not yet. Without `to` everything waits. */
  from: Transport | null = null;
  to: Transport | null = null;
  /** Nothing more comes. */
  isEnded = false;
  readonly #queue = new ByteQueue();
  /** Nothing is written any more: everything was, or `to` is closed. */
  #isOver = false;
  readonly #done: () => void;

  /** `done`: it has ended, and everything is written. */
  constructor(done: () => void) {
    this.#done = done;
  }

  /** Bytes that wait. */
  get length(): number {
    return this.#queue.length;
  }

  /** Takes a chunk, and owns it. */
  write(chunk: Uint8Array): void {
    if (this.#isOver) return;
    const count = chunk.length;
    const isBlocked = this.to === null || this.length > 0;
    const taken = isBlocked ? 0 : Math.max(0, this.to!.write(chunk as Buffer, 0, count));
    if (taken === count) return void this.from?.release(chunk);
    const at = this.#queue.reserve(count - taken);
    copy(chunk, this.#queue.bytes, at, taken, count);
    this.from?.pause();
  }

  /** `to` accepts bytes again. */
  flush(): void {
    if (this.#isOver || this.to === null) return;
    const queue = this.#queue;
    const isFull = queue.length > 0;
    while (queue.length > 0) {
      const count = queue.length;
      const taken = this.to.write(queue.bytes, queue.head, count);
      if (taken < 0 || this.#isOver) return; // `closed` follows, or has come.
      queue.drop(taken);
      if (taken < count) return;
    }
    if (isFull && !this.isEnded) this.from?.resume();
    this.#finish();
  }

  end(): void {
    this.isEnded = true;
    this.#finish();
  }

  #finish(): void {
    if (!this.isEnded || this.#isOver || this.to === null || this.length > 0) return;
    this.#isOver = true;
    this.#done();
  }

  /** `to` is closed: what waits is dropped. */
  stop(): void {
    this.#isOver = true;
    this.#queue.clear();
    this.from?.resume();
  }
}
