/**
 * The owner's side of the shared log: appends one record at a time, and finds out what became of each. It knows the
 * last record that is stored, and how old the last proof is that this process still owns the shard. When to claim, to
 * beat and to append is decided elsewhere (ownership.ts, shared-journal.ts).
 */
import { randomBytes } from "node:crypto";
import { APPEND_PAUSE_MAX_MS, APPEND_PAUSE_MIN_MS, OWNERSHIP_PROVEN_MS } from "../limits.ts";
import { OWNER_BYTES, RECORD_HEAD_BYTES, RecordKind, encodeRecord, partsOf } from "./log-record.ts";
import { type AppendResult, ClusterError, type OwnerInfo, type SharedLog, lostRecords } from "./shared-log.ts";

/**
 * Why a process stops being the owner, after which it must end at once without another reply:
 * - `deposed`: another process owns the shard.
 * - `behind`: the engine has lost records that it had acknowledged.
 * - `refused`: the engine refuses what this process does, and an operator has to solve that.
 */
export interface OwnershipEnd {
  kind: "deposed" | "behind" | "refused";
  /** One line for the log. */
  message: string;
}

export interface AppenderOptions {
  log: SharedLog;
  shard: number;
  /** Called once. */
  ended: (end: OwnershipEnd) => void;
  /** Monotonic. */
  nowMs?: () => number;
  pause?: (ms: number) => Promise<void>;
}

/**
 * The outcome of a write is unknown after any error of the engine: it may be done, or be executed later. So the same
 * bytes with the same expectation are appended again until the engine stores or refuses them. After a refusal the
 * record with the next number decides: it is this one, or another process owns the shard.
 *
 * After `ended` was called no promise of this object resolves.
 */
export class Appender {
  readonly log: SharedLog;
  readonly shard: number;
  /** Number of the last record that is stored. */
  head = 0;
  /** Number of this owner's `Opened`; 0 before the claim has succeeded. */
  epoch = 0;
  /** What the other processes see of this one. */
  info: OwnerInfo = { address: "", version: "", credentials: "" };
  /** When the last call to the engine that was acknowledged, and proves the ownership, began. */
  provenMs = Number.NEGATIVE_INFINITY;
  /** When the write began that is not acknowledged yet; null without one. */
  waitingSinceMs: number | null = null;
  /** Why the engine failed last, since its last success; null when it did not. */
  error: unknown = null;
  readonly #owner = randomBytes(OWNER_BYTES);
  readonly #nowMs: () => number;
  readonly #pause: (ms: number) => Promise<void>;
  readonly #ended: (end: OwnershipEnd) => void;
  /** The last record of the engine at its last refusal. */
  #refusedHead = Number.POSITIVE_INFINITY;
  /** Records that were encoded. */
  #counter = 0;
  /** Resolves after the writes that have been asked for: there is only one at a time. */
  #last: Promise<unknown> = Promise.resolve();

  constructor({ log, shard, ended, nowMs = () => performance.now(), pause = (ms) => Bun.sleep(ms) }: AppenderOptions) {
    this.log = log;
    this.shard = shard;
    this.#ended = ended;
    this.#nowMs = nowMs;
    this.#pause = pause;
  }

  /** The last proof of the ownership is so new that no other process can own the shard without a paused clock. */
  get isProven(): boolean {
    return this.#nowMs() - this.provenMs <= OWNERSHIP_PROVEN_MS;
  }

  /**
   * Appends `Opened` after record `expected`, and so becomes the owner. False when another record was appended before:
   * then this object is of no use any longer. Rejects with ClusterError.
   */
  claim(expected: number, info: OwnerInfo): Promise<boolean> {
    this.head = expected;
    this.info = info;
    const record = this.#encode(RecordKind.Opened, 1, 1, Buffer.from(JSON.stringify(info)));
    return this.#inTurn(async () => {
      const stored = await this.#store(record, () => this.log.claim(this.shard, expected, record, info));
      if (stored === "other") return false;
      this.epoch = this.head;
      return stored === "acknowledged" || (await this.#beat());
    });
  }

  /** The records for a turn's body, as many as it needs. They must be appended in the order in which they were made. */
  encode(body: Buffer): Buffer[] {
    const { recordBytesMax } = this.log;
    const parts = partsOf(body.length, recordBytesMax);
    const bytesMax = recordBytesMax - RECORD_HEAD_BYTES;
    return Array.from({ length: parts }, (_, i) =>
      this.#encode(RecordKind.Turn, i + 1, parts, body.subarray(i * bytesMax, (i + 1) * bytesMax)),
    );
  }

  #encode(kind: RecordKind, part: number, parts: number, body: Buffer): Buffer {
    return encodeRecord({ kind, owner: this.#owner, counter: ++this.#counter, part, parts, body });
  }

  /** Resolves when these records are stored, after those that were appended before. */
  append(records: readonly Buffer[]): Promise<void> {
    return this.#inTurn(async () => {
      for (const record of records) await this.#append(record);
    });
  }

  async #append(record: Buffer): Promise<void> {
    const stored = await this.#orEnd(() => this.#store(record, () => this.log.append(this.shard, this.head, record)));
    if (stored === "other") return this.#explain();
    if (stored === "found") await this.#prove();
  }

  /** Gives a sign of life, and resolves when the engine confirms that this process is the owner. */
  beat(info = this.info): Promise<void> {
    return this.#inTurn(() => {
      this.info = info;
      return this.#prove();
    });
  }

  /**
   * Ends the ownership when the engine has lost records. An append finds that out by itself; this is for an owner that
   * has nothing to append.
   */
  check(): Promise<void> {
    return this.#inTurn(async () => {
      const { result } = await this.#orEnd(() => this.#repeat(() => this.log.state(this.shard)));
      if (result.head < this.head) await this.#end("behind", lostRecords(this.shard, result.head, this.head));
    });
  }

  async #prove(): Promise<void> {
    if (!(await this.#orEnd(() => this.#beat()))) await this.#explain();
  }

  async #beat(): Promise<boolean> {
    const { shard, epoch, info } = this;
    const { result, beganMs } = await this.#repeat(() => this.log.beat(shard, epoch, info));
    if (result) this.provenMs = beganMs;
    return result;
  }

  /**
   * Stores a record with number `head` + 1. The result is `acknowledged`; or `found` after an unknown outcome: a
   * standby may not have the record yet, so another write must be acknowledged before it counts as durable. `other`:
   * it is refused, and not in the log.
   */
  async #store(record: Buffer, send: () => Promise<AppendResult>): Promise<"acknowledged" | "found" | "other"> {
    const { result, beganMs } = await this.#repeat(async () => {
      const answer = await send();
      if (answer.stored) return "acknowledged";
      if (answer.head === this.head)
        throw new Error(`the engine refuses record ${this.head + 1} after record ${this.head}`);
      this.#refusedHead = answer.head;
      return (await this.#isStored(record)) ? "found" : "other";
    });
    if (result === "other") return result;
    this.head++;
    this.#refusedHead = Number.POSITIVE_INFINITY;
    if (result === "acknowledged") this.provenMs = beganMs;
    return result;
  }

  /** Whether the record after `head` is this one. Another owner may have trimmed it. */
  async #isStored(record: Buffer): Promise<boolean> {
    const sequence = this.head + 1;
    try {
      for await (const found of this.log.read(this.shard, sequence, sequence)) return record.equals(found.record);
    } catch (error) {
      if (error instanceof ClusterError) return false;
      throw error;
    }
    throw new Error(`the engine returns no record ${sequence}`);
  }

  /** Calls the engine until it answers. Rejects only when repeating cannot help. */
  async #repeat<Result>(call: () => Promise<Result>): Promise<{ result: Result; beganMs: number }> {
    this.waitingSinceMs = this.#nowMs();
    for (let pauseMs = APPEND_PAUSE_MIN_MS; ; pauseMs = Math.min(pauseMs * 2, APPEND_PAUSE_MAX_MS)) {
      const beganMs = this.#nowMs();
      try {
        const result = await call();
        this.waitingSinceMs = this.error = null;
        return { result, beganMs };
      } catch (error) {
        if (error instanceof ClusterError) throw error;
        this.error = error;
      }
      await this.#pause(pauseMs);
    }
  }

  /** Calls `act` after the calls before. */
  #inTurn<Result>(act: () => Promise<Result>): Promise<Result> {
    const acted = this.#last.then(act);
    this.#last = acted.catch(() => {});
    return acted;
  }

  async #orEnd<Result>(act: () => Promise<Result>): Promise<Result> {
    try {
      return await act();
    } catch (error) {
      return this.#end("refused", (error as Error).message);
    }
  }

  /** Another record or epoch was found: the state of the shard says why. */
  async #explain(): Promise<never> {
    const { shard } = this;
    const state = await this.log.state(shard).catch(() => null);
    const head = Math.min(state?.head ?? Number.POSITIVE_INFINITY, this.#refusedHead);
    if (head < this.head || (state !== null && state.epoch < this.epoch)) {
      return this.#end("behind", lostRecords(shard, head, this.head));
    }
    const address = state?.owner?.address ?? "";
    const who = address === "" ? "another process" : `another process (${address})`;
    return this.#end(
      "deposed",
      `${who} owns shard ${shard} now: this one was paused, or could not reach the shared log; ` +
        "it exits without another reply",
    );
  }

  #end(kind: OwnershipEnd["kind"], message: string): Promise<never> {
    this.#ended({ kind, message });
    return new Promise(() => {}); // So no further call is made: each one waits for those before it.
  }
}
