import { RecordKind, decodeRecord } from "../../src/cluster/log-record.ts";
import type { AppendResult, OwnerInfo } from "../../src/cluster/shared-log.ts";
import { ModelledEngine, ModelledLog, type Write } from "../support/modelled-log.ts";
import type { Random } from "../support/random.ts";
import { type Ledger, Violation } from "./ledger.ts";

/** So few that some turns are several records. */
const RECORD_BYTES_MAX = 300;
/** Each part of a snapshot is a call, and a write to a file. */
const PART_BYTES_MAX = 16 << 10;
/** Of a write. An owner reads no requests after one second, and replies to nothing after two. */
const SLOW_MS_MAX = 1500;

/** The engine, and a witness of everything that it stores. */
export class WatchedEngine extends ModelledEngine {
  /** By shard: the current owner saw it as silent or free at that time, and claimed it. */
  readonly silentMs: number[] = [];
  /** By shard: of the last `Opened`. */
  readonly owners: Buffer[] = [];
  readonly #ledgers: readonly Ledger[];
  readonly #claimed: (shard: number, epoch: number) => void;
  readonly #failed: (error: unknown) => void;

  /** A ledger for each shard. `claimed` is called when an `Opened` is stored, with its number. */
  constructor(
    ledgers: readonly Ledger[],
    claimed: (shard: number, epoch: number) => void,
    failed: (error: unknown) => void,
  ) {
    super(ledgers.length);
    this.#ledgers = ledgers;
    this.#claimed = claimed;
    this.#failed = failed;
    for (const number of ledgers.keys()) this.#watch(number);
  }

  #watch(number: number): void {
    const shard = this.shards[number]!;
    const { append, claim } = shard;
    shard.claim = (expected, bytes, info) => {
      const result = claim.call(shard, expected, bytes, info);
      if (result.stored) this.silentMs[number] = Number(info.version);
      return result;
    };
    shard.append = (expected, bytes) => {
      const result = append.call(shard, expected, bytes);
      if (result.stored) this.#stored(number, shard.head, bytes);
      return result;
    };
  }

  #stored(shard: number, head: number, bytes: Uint8Array): void {
    const { kind, owner, part, parts } = decodeRecord(bytes);
    if (kind === RecordKind.Opened) {
      this.owners[shard] = owner;
      this.#ledgers[shard]!.crashed();
      this.#claimed(shard, head);
    } else if (!owner.equals(this.owners[shard]!)) {
      this.#failed(new Violation(`record ${head} of shard ${shard} is of an owner that was deposed before`));
    } else if (part === parts) this.#ledgers[shard]!.stored(head);
  }
}

interface EngineWorld {
  readonly calm: boolean;
  /** Writes are lost or late more often. */
  readonly isHarsh: boolean;
  readonly nowMs: number;
  /** The engine answers writes of that shard slowly; null: of none. */
  readonly slowShard: number | null;
}

/** The connection of one process to the engine, and what becomes of its calls by chance. */
export class SimulatedLog extends ModelledLog {
  readonly #random: Random;
  readonly #world: EngineWorld;
  /** The owners of several shards write more, and depend on each other. */
  readonly #rarity: number;
  /** Steps after which a late write is executed, on average. */
  readonly lateness: number;
  /** When the process saw the state for which it claims the shard; its first call follows at once. */
  readonly #claims = new Map<Uint8Array, number>();
  #staleSinceMs = Number.POSITIVE_INFINITY;
  #staleUntilMs = 0;
  /** Meanwhile other calls go on. */
  #proofsLostUntilMs = 0;
  /** The shard that the process has claimed. */
  #shard = 0;
  /** Until then, the answer to the last write waits. */
  #slowUntilMs = 0;
  /** A takeover reads, and no step of the simulation comes before its end. */
  isTakingOver = false;
  /** Called between the records that a takeover reads. */
  between: () => void = () => {};

  constructor(engine: WatchedEngine, random: Random, world: EngineWorld) {
    super(engine, RECORD_BYTES_MAX, PART_BYTES_MAX);
    this.#random = random;
    this.#world = world;
    this.#rarity = engine.shards.length;
    this.lateness = random.pick([10, 10, 200]);
    this.outcome = (write) => this.#outcome(write);
  }

  /** Reads see what the engine has now for that long. */
  readStaleFor(ms: number): void {
    this.#staleSinceMs = this.#world.nowMs;
    this.#staleUntilMs = this.#world.nowMs + ms;
    this.readStale();
  }

  /** Ends stale reads in time. */
  refresh(): void {
    if (this.#world.nowMs < this.#staleUntilMs) return;
    this.#staleSinceMs = Number.POSITIVE_INFINITY;
    this.readFresh();
  }

  /** An answer waits longer than others. */
  get isSlow(): boolean {
    return this.#world.nowMs < this.#slowUntilMs;
  }

  #outcome(write: Write): ReturnType<ModelledLog["outcome"]> {
    const random = this.#random;
    const { calm, nowMs, isHarsh, slowShard } = this.#world;
    if (calm) return "done";
    if (slowShard === this.#shard && !this.isTakingOver) {
      this.#slowUntilMs = nowMs + random.below(SLOW_MS_MAX);
      this.stop();
    }
    const isProof = write === "append" || write === "beat";
    if (isProof && this.#proofsLostUntilMs < nowMs && random.oneIn((isHarsh ? 6 : 40) * this.#rarity))
      this.#proofsLostUntilMs = nowMs + random.below(8000);
    if (isProof && nowMs < this.#proofsLostUntilMs) return "lost";
    if (write === "publish" && isHarsh) return random.pick(["done", "late"]);
    if (random.oneIn(6 * this.#rarity) && !this.isTakingOver) this.stop(); // The answer waits.
    if (!random.oneIn(write === "publish" ? 3 : 8 * this.#rarity)) return "done";
    return random.pick(["answer lost", "lost", "late"]);
  }

  override claim(shard: number, expected: number, record: Uint8Array, info: OwnerInfo): Promise<AppendResult> {
    const sentMs = this.#claims.get(record) ?? Math.min(this.#world.nowMs, this.#staleSinceMs);
    this.#claims.set(record, sentMs);
    this.#shard = shard;
    return super.claim(shard, expected, record, { ...info, version: String(sentMs) });
  }

  override async *read(
    shard: number,
    from: number,
    upTo: number,
  ): AsyncIterable<{ sequence: number; record: Uint8Array }> {
    for await (const read of super.read(shard, from, upTo)) {
      yield read;
      this.between();
    }
  }
}
