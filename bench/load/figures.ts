/** The figures of an Outcome that are computed in the same way for both load generators: swarm.ts and native-swarm.c. */
import { cpuNs, memoryOf } from "../process-figures.ts";
import type { Histogram } from "../report/histogram.ts";
import type { Latency, Slice } from "./workload-spec.ts";

/** What a load generator has counted by a time, and the CPU time of the server by then. */
export interface Counters {
  ms: number;
  accepted: number;
  delivered: number;
  cpuNs: number;
}

export type Memory = ReturnType<typeof memoryOf>;

/** A server's process, or one that was not started here (null), or has ended: then there are no figures. */
export class MeasuredServer {
  readonly #pid: number | null;
  readonly #ended: () => void;

  constructor(pid: number | null, ended: () => void) {
    this.#pid = pid;
    this.#ended = ended;
  }

  get cpuNs(): number {
    return this.#read(cpuNs) ?? 0;
  }

  get memory(): Memory | null {
    return this.#read(memoryOf);
  }

  #read<T>(read: (pid: number) => T): T | null {
    try {
      return this.#pid === null ? null : read(this.#pid);
    } catch {
      this.#ended();
      return null;
    }
  }
}

/** One second of a series. */
export function pointOf(from: Counters, to: Counters): Slice["series"][number] {
  const passedMs = to.ms - from.ms;
  const delivered = Math.round((1000 * (to.delivered - from.delivered)) / passedMs);
  return { delivered, core: (to.cpuNs - from.cpuNs) / 1e6 / passedMs };
}

/** The rates of a period, and what it cost the server, whose memory grew by that of `clients` clients. */
export function ratesOf(
  from: Counters,
  to: Counters,
  memory: { before: Memory | null; after: Memory | null; clients: number },
): Pick<Slice, "seconds" | "accepted" | "delivered" | "server"> {
  const { before, after, clients } = memory;
  const seconds = (to.ms - from.ms) / 1000;
  const [accepted, delivered] = [to.accepted - from.accepted, to.delivered - from.delivered];
  const counted = Math.max(1, delivered || accepted);
  const rates = { seconds, accepted: accepted / seconds, delivered: delivered / seconds };
  if (before === null || after === null) return { ...rates, server: null };
  const server = {
    cpuMicros: (to.cpuNs - from.cpuNs) / 1000 / counted,
    core: (to.cpuNs - from.cpuNs) / 1e6 / (to.ms - from.ms),
    resident: (after.resident - before.resident) / clients,
    anonymous: (after.anonymous - before.anonymous) / clients,
  };
  return { ...rates, server };
}

/** Percentiles of a histogram of tenths of µs. */
export function latencyOf(histogram: Histogram): Latency {
  const micros = (part: number): number => histogram.percentile(part) / 10;
  const { count, max, buckets } = histogram;
  return { count, p50: micros(0.5), p99: micros(0.99), p999: micros(0.999), max: max / 10, buckets };
}
