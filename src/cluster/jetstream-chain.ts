/**
 * The records of one shard, in a chain of streams. The name of a stream has its base, the number of the last record
 * before it: record number = base + sequence number in the stream. A stream is closed by a message `next`, which has no
 * record number and names the stream that continues the log. That stream is created before, under a new name, by the
 * process that closes: so no reader ever has to create one, and no stream that was deleted comes back. Who loses the
 * race for the `next` leaves a stream that nobody links to; `trim` deletes it.
 */
import { StreamMissing, Unserved } from "./jetstream-errors.ts";
import { kindOf, type MessageKind, numberOf, type ShardNames } from "./jetstream-names.ts";
import type { ShardRecords } from "./jetstream-state.ts";
import type { StoredMessage, Streams } from "./jetstream-streams.ts";
import { type AppendResult, ClusterError } from "./shared-log.ts";

/** The end of the log. */
export interface Tail {
  stream: string;
  /** Number of the last record. */
  head: number;
  /** The last message of the stream; null for an empty one. */
  last: StoredMessage | null;
  /** Size of the stream. */
  bytes: number;
}

/** A stream of the chain, as it was when it was read. */
interface Link extends Tail {
  /** The stream that continues the log; null when this one is not closed. */
  next: string | null;
}

/** Pause after a new stream could not be created: for three copies, all three servers are needed. */
const CLOSE_AGAIN_MS = 10_000;
/** Streams that were closed one after another during one append, after which the caller must repeat. */
const CLOSED_MAX = 10;

export class Chain {
  readonly #streams: Streams;
  readonly #names: ShardNames;
  readonly #records: ShardRecords;
  readonly #streamBytesMax: number;
  /** The last stream of the chain, as far as this process knows. */
  #last: string | null = null;
  /** Size of that stream, roughly. */
  #bytes = 0;
  #closeAfterMs = 0;
  /** The last message that was read, which does not change. */
  #message: { stream: string; message: StoredMessage } | null = null;

  constructor(streams: Streams, names: ShardNames, records: ShardRecords, streamBytesMax: number) {
    this.#streams = streams;
    this.#names = names;
    this.#records = records;
    this.#streamBytesMax = streamBytesMax;
  }

  async tail(): Promise<Tail> {
    let stream = this.#last ?? (await this.#records.read()).first;
    for (;;) {
      const link = await this.#link(stream).catch((error) => {
        if (!(error instanceof StreamMissing) || this.#last === null) throw error;
        return null;
      });
      if (link === null) {
        // The stream was deleted since it was the last one.
        this.#last = null;
        stream = (await this.#records.read()).first;
      } else if (link.next === null) {
        this.#become(stream, link.bytes);
        return link;
      } else {
        stream = link.next;
      }
    }
  }

  async append(kind: "turn" | "opened", expected: number, record: Uint8Array, info?: string): Promise<AppendResult> {
    let stream = this.#last ?? (await this.tail()).stream;
    for (let i = 0; i < CLOSED_MAX; i++) {
      if (expected < numberOf(stream)) return { stored: false, head: (await this.tail()).head };
      if (kind === "turn" && this.#isFull(stream, expected)) stream = await this.#close(stream, expected);
      const isStored = await this.#publish(kind, stream, expected, record, info);
      if (isStored) return { stored: true };
      const { stream: last, head } = await this.tail();
      // The engine may refuse because of a message that it has not stored yet, and may never store.
      if (last === stream && head === expected) throw new Error("NATS refused a record after the last one");
      if (last === stream || head !== expected) return { stored: false, head };
      stream = last;
    }
    throw new Error("other processes close streams of the log all the time");
  }

  /** Records `from` to `upTo`. */
  async *read(from: number, upTo: number): AsyncGenerator<{ sequence: number; record: Uint8Array }> {
    if (from > upTo) return;
    const isLate = this.#last !== null && numberOf(this.#last) < from;
    let stream = isLate ? this.#last! : (await this.#records.read()).first;
    for (let next = from; ;) {
      const base = numberOf(stream);
      if (next <= base) throw missing(next, `the log begins after record ${base}`);
      const link = await this.#link(stream);
      const end = Math.min(upTo, link.head);
      if (next <= end) {
        for await (const { sequence, data } of this.#streams.read(stream, next - base, end - base))
          yield { sequence: base + sequence, record: data };
        next = end + 1;
      }
      if (next > upTo) return;
      if (link.next === null) throw missing(next, `the log ends at record ${link.head}`);
      stream = link.next;
    }
  }

  /** The stream from which a reader needs the log when it has a snapshot with all records up to `sequence`. */
  async firstAfter(sequence: number): Promise<string> {
    let stream = (await this.#records.read()).first;
    for (;;) {
      const { next } = await this.#link(stream);
      if (next === null || numberOf(next) > sequence) return stream;
      stream = next;
    }
  }

  /** Creates a stream that continues the log after record `base`, without a link to it. */
  async create(base: number): Promise<string> {
    const name = this.#names.newLog(base);
    await this.#streams.create(name, this.#names.logSubject(name, "*"));
    return name;
  }

  /**
   * Deletes the streams before `first` in the chain, and those that nobody links to. `first` may be old: whatever does
   * not begin after it is not needed any more.
   */
  async trim(first: string): Promise<void> {
    for (const name of await this.#streams.names(this.#names.logSubjects))
      if (name !== first && numberOf(name) <= numberOf(first)) await this.#streams.delete(name);
  }

  /** False when it was refused, or when the stream is gone. */
  async #publish(
    kind: MessageKind,
    stream: string,
    expected: number,
    data: Uint8Array,
    info?: string,
  ): Promise<boolean> {
    const subject = this.#names.logSubject(stream, kind);
    try {
      const { stored } = await this.#streams.publish(stream, subject, expected - numberOf(stream), data, info);
      if (stored) this.#bytes += data.length;
      return stored;
    } catch (error) {
      // The servers are starting, or the stream was deleted: then the tail is elsewhere.
      if (!(error instanceof Unserved) || (await this.tail()).stream === stream) throw error;
      return false;
    }
  }

  #isFull(stream: string, expected: number): boolean {
    const isFull = this.#bytes >= this.#streamBytesMax && expected > numberOf(stream);
    return isFull && performance.now() >= this.#closeAfterMs;
  }

  /** Closes a stream after record `expected`; returns the stream to append to. Rejects when the outcome is unknown. */
  async #close(stream: string, expected: number): Promise<string> {
    let next: string;
    try {
      next = await this.create(expected);
    } catch {
      this.#closeAfterMs = performance.now() + CLOSE_AGAIN_MS;
      return stream; // A stream may be larger.
    }
    if (await this.#publish("next", stream, expected, Buffer.from(next))) {
      this.#become(next, 0);
      return next;
    }
    await this.#streams.delete(next).catch(() => {}); // `trim` deletes it.
    return stream;
  }

  #become(stream: string, bytes: number): void {
    this.#last = stream;
    this.#bytes = bytes;
  }

  async #link(stream: string): Promise<Link> {
    const base = numberOf(stream);
    const { last: sequence, bytes } = await this.#streams.last(stream);
    if (sequence === 0) return { stream, head: base, last: null, next: null, bytes };
    const last = await this.#read(stream, sequence);
    const isClosed = last !== null && kindOf(last.subject) === "next";
    const next = isClosed ? Buffer.from(last.data).toString() : null;
    return { stream, head: base + sequence - (isClosed ? 1 : 0), last, next, bytes };
  }

  async #read(stream: string, sequence: number): Promise<StoredMessage | null> {
    const known = this.#message;
    if (known !== null && known.stream === stream && known.message.sequence === sequence) return known.message;
    const message = await this.#streams.get(stream, sequence);
    this.#message = message === null ? null : { stream, message };
    return message;
  }
}

function missing(sequence: number, reason: string): ClusterError {
  return new ClusterError(`record ${sequence} is missing: ${reason}`);
}
