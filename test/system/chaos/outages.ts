/** The times without service of each shard of a cluster, and the faults around each of them. */

interface Span {
  what: string;
  beganMs: number;
  /** Infinite while it lasts. */
  endedMs: number;
}

/** A fault that ended earlier than this before an outage has nothing to do with it. */
const BEFORE_MS = 10_000;

/**
 * So long after the last fault the servers are back: an election of the engine takes up to 12 s, then the owner must be
 * silent for 3 s, and a server starts in some seconds on a busy machine.
 */
const EXPLAINED_MS = 25_000;

export class Outages {
  readonly #startMs: number;
  readonly #faults: Span[] = [];
  readonly #outages: Span[] = [];
  readonly #nowMs: () => number;
  /** By shard: when it was last seen with service; missing before the first time and during an outage. */
  readonly #servedMs = new Map<number, number>();

  constructor(nowMs = () => performance.now()) {
    this.#nowMs = nowMs;
    this.#startMs = nowMs();
  }

  /** A fault begins. The caller sets its end. */
  fault(what: string): Span {
    const span = { what, beganMs: this.#nowMs(), endedMs: Number.POSITIVE_INFINITY };
    this.#faults.push(span);
    return span;
  }

  ended(span: Span): void {
    span.endedMs = this.#nowMs();
  }

  /** A look at the servers has shown whether one of them serves that shard. Nothing counts before the first one does. */
  seen(shard: number, isServed: boolean, nowMs = this.#nowMs()): void {
    const what = `shard ${shard}`;
    const servedMs = this.#servedMs.get(shard);
    if (isServed) {
      const last = this.#outages.findLast((outage) => outage.what === what);
      if (last?.endedMs === Number.POSITIVE_INFINITY) last.endedMs = nowMs;
      this.#servedMs.set(shard, nowMs);
    } else if (servedMs !== undefined) {
      this.#outages.push({ what, beganMs: servedMs, endedMs: Number.POSITIVE_INFINITY });
      this.#servedMs.delete(shard);
    }
  }

  /** Every outage with its faults, the longest first. */
  get lines(): string[] {
    return this.#outages.toSorted((a, b) => lengthOf(b) - lengthOf(a)).map((outage) => this.#describe(outage));
  }

  /** Those that lasted longer than their faults explain. */
  get unexplained(): string[] {
    return this.#outages.filter((outage) => this.#sinceFaultMs(outage) > EXPLAINED_MS).map((it) => this.#describe(it));
  }

  /** From the end of its last fault to the end of an outage. */
  #sinceFaultMs({ beganMs, endedMs }: Span): number {
    const untilMs = Math.min(endedMs, this.#nowMs());
    const ends = this.#faults
      .filter((fault) => fault.beganMs < untilMs)
      .map((fault) => Math.min(fault.endedMs, untilMs));
    return untilMs - Math.max(beganMs, ...ends);
  }

  #describe(outage: Span): string {
    const { what, beganMs, endedMs } = outage;
    const near = this.#faults.filter((fault) => fault.endedMs > beganMs - BEFORE_MS && fault.beganMs < endedMs);
    const faults = near.map((fault) => {
      const at = fault.beganMs - beganMs;
      const length = lengthOf(fault);
      return `${fault.what} at ${at < 0 ? "" : "+"}${seconds(at)}${length < 100 ? "" : ` for ${seconds(length)}`}`;
    });
    const length = seconds(Math.min(endedMs, this.#nowMs()) - beganMs);
    return `${what}, ${length} at ${seconds(beganMs - this.#startMs)}: ${faults.join(", ")}`;
  }
}

function lengthOf({ beganMs, endedMs }: Span): number {
  return endedMs - beganMs;
}

function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(1)} s`;
}
