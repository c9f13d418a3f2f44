import { Appender, type OwnershipEnd } from "../../src/cluster/appender.ts";
import type { OwnerInfo } from "../../src/cluster/shared-log.ts";
import { ModelledLog, type ModelledEngine } from "./modelled-log.ts";

export const INFO: OwnerInfo = { address: "10.0.0.1:6010", version: "1.0.0", credentials: "c" };
export const OTHER: OwnerInfo = { address: "10.0.0.2:6010", version: "1.0.0", credentials: "c" };

/** A process that owns a shard of a modelled log, or tries to, under a clock that the test moves. */
export class ShardOwner {
  readonly log: ModelledLog;
  readonly appender: Appender;
  readonly #shard: number;
  /** How the ownership ended; one element at most. */
  readonly ends: OwnershipEnd[] = [];
  /** Pauses between repetitions, in ms. The clock moves on by each. */
  readonly pauses: number[] = [];
  clockMs = 10_000;
  nowMs = (): number => this.clockMs;
  pause = (ms: number): Promise<void> => {
    this.pauses.push(ms);
    this.clockMs += ms;
    return later();
  };

  constructor(data?: ModelledEngine, recordBytesMax?: number, shard = 0) {
    this.#shard = shard;
    this.log = new ModelledLog(data, recordBytesMax);
    this.appender = new Appender({
      log: this.log,
      shard,
      ended: (end) => void this.ends.push(end),
      nowMs: () => this.nowMs(),
      pause: (ms) => this.pause(ms),
    });
  }

  /** Claims the shard after the last record. */
  claim(info = INFO): Promise<boolean> {
    return this.appender.claim(this.log.data.shards[this.#shard]!.head, info);
  }

  /** Claims a new shard. */
  static async claimed(recordBytesMax?: number): Promise<ShardOwner> {
    const owner = new ShardOwner(undefined, recordBytesMax);
    if (!(await owner.claim())) throw new Error("the claim was refused");
    return owner;
  }

  append(text: string): Promise<void> {
    return this.appender.append(this.appender.encode(Buffer.from(text)));
  }
}

/** Promises that are resolved have been acted on. */
export async function later(): Promise<void> {
  await new Promise((resolve) => setImmediate(resolve));
}

/** Whether a promise resolves, when everything that can happen now has happened. */
export async function resolves(promise: Promise<unknown>): Promise<boolean> {
  let isResolved = false;
  void promise.then(() => (isResolved = true));
  for (let i = 0; i < 50; i++) await later();
  return isResolved;
}
