import { DISCARDED } from "./delivery.ts";
import type { ChatEvent } from "./event.ts";
import { later } from "./timing.ts";

/**
 * Without a loop, this many events are kept that the server does not send again at the next login; the oldest are
 * dropped. They are acknowledged, so that a client that only sends is never slow.
 */
const PASSING_EVENTS_MAX = 1_000;

/** An event that no loop has taken yet. */
interface Untaken {
  event: ChatEvent;
  /** Null for an event that is acknowledged, or does not come from the server. */
  resolve: ((result: unknown) => void) | null;
}

/**
 * The events of a client for `for await`, one loop at a time. An event is delivered when the loop asks for the next
 * one, so what a program had in hand when it was killed comes again. Without a loop, messages wait here.
 */
export class EventQueue implements AsyncIterator<ChatEvent, undefined> {
  #untaken: Untaken[] = [];
  /** Delivers the event that the loop has in hand. */
  #inHand: (() => void) | null = null;
  /** The loop waits for an event. */
  #waiting: ((result: IteratorResult<ChatEvent, undefined>) => void) | null = null;
  #hasLoop = false;
  #hasEnded = false;

  get hasLoop(): boolean {
    return this.#hasLoop;
  }

  /** A loop begins. */
  begin(): AsyncIterator<ChatEvent, undefined> {
    if (this.#hasLoop) throw new TypeError("another loop reads the events of this client");
    this.#hasLoop = true;
    return this;
  }

  /** The promise is resolved when the event is delivered; with DISCARDED when it is not. */
  put(event: ChatEvent): Promise<unknown> | undefined {
    if (!this.#hasLoop && event.kind !== "message" && event.kind !== "stored") return this.#keepPassing(event);
    const { promise, resolve } = Promise.withResolvers<unknown>();
    this.#untaken.push({ event, resolve });
    this.#take();
    return promise;
  }

  /** An event that does not come from the server. Without a loop it is dropped. */
  report(event: ChatEvent): void {
    if (!this.#hasLoop) return;
    this.#untaken.push({ event, resolve: null });
    this.#take();
  }

  #keepPassing(event: ChatEvent): undefined {
    const passing = this.#untaken.filter(({ resolve }) => resolve === null);
    if (passing.length >= PASSING_EVENTS_MAX) this.#untaken.splice(this.#untaken.indexOf(passing[0]!), 1);
    this.#untaken.push({ event, resolve: null });
  }

  next(): Promise<IteratorResult<ChatEvent, undefined>> {
    this.deliver();
    const { promise, resolve } = Promise.withResolvers<IteratorResult<ChatEvent, undefined>>();
    this.#waiting = resolve;
    this.#take();
    return promise;
  }

  /**
   * The loop was left, by `break` or by an error. An error that nobody catches ends the program before the event that
   * the loop had in hand is delivered.
   */
  async return(): Promise<IteratorResult<ChatEvent, undefined>> {
    this.#hasLoop = false;
    later(() => {
      if (!this.#hasLoop) this.deliver();
    });
    return { done: true, value: undefined };
  }

  /** Delivers the event that a loop has in hand. */
  deliver(): void {
    this.#inHand?.();
    this.#inHand = null;
  }

  /** See `SessionListener`. */
  discard(isEnd: boolean): void {
    if (isEnd && this.#hasLoop) return;
    for (const { resolve } of this.#untaken) resolve?.(DISCARDED);
    this.#untaken = this.#untaken.filter(({ resolve }) => resolve === null);
  }

  /** The session has ended: the loop gets no further event. */
  end(): void {
    this.#hasEnded = true;
    this.discard(false);
    this.#untaken.length = 0;
    this.#take();
  }

  #take(): void {
    if (this.#waiting === null) return;
    const next = this.#untaken.shift();
    if (next === undefined && !this.#hasEnded) return;
    const resolve = this.#waiting;
    this.#waiting = null;
    if (next === undefined) return resolve({ done: true, value: undefined });
    this.#inHand = () => next.resolve?.(undefined);
    resolve({ done: false, value: next.event });
  }
}
