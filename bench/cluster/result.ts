/** The figures of one execution of bench:cluster, and how they are selected. */
import type { Result } from "../report/result.ts";
import { isBehind } from "../load/workload-spec.ts";
import { median } from "../report/statistics.ts";
import type { Cost } from "./model.ts";
import type { AppendOutcome, AppendTask } from "./raw-append.ts";
import type { Figures } from "./run.ts";
import { type Work, nameOf } from "./work.ts";

export interface WorkRun {
  round: number;
  /** Null for the server without a cluster. */
  engine: string | null;
  work: Work;
  /** As fast as messages arrive, or at a modest rate. */
  load: "closed" | "open";
  figures: Figures;
}

export interface AppendRun {
  round: number;
  engine: string;
  /** One record after another with pauses; back to back, with the size of a turn's record, or with large ones. */
  kind: "paced" | "turns" | "large";
  task: AppendTask;
  outcome: AppendOutcome;
}

/** The file of `--json`. */
export interface ClusterResult extends Pick<Result, "madeAt" | "commit" | "machine"> {
  /** By name: what the engine says of itself, and what an operator should change at it. */
  engines: Record<string, { engine: string; warnings: readonly string[] }>;
  runs: WorkRun[];
  appends: AppendRun[];
}

/** The figures of one engine, and those of the server without a cluster. */
export class EngineResult {
  readonly runs: readonly WorkRun[];
  readonly appends: readonly AppendRun[];

  constructor({ runs, appends }: ClusterResult, engine: string) {
    this.runs = runs.filter((run) => run.engine === engine || run.engine === null);
    this.appends = appends.filter((run) => run.engine === engine);
  }

  /** In the order of the report. */
  get works(): Work[] {
    const works = new Map(this.runs.map(({ work }) => [nameOf(work), work]));
    return [...works.values()].sort(
      (a, b) => a.shards - b.shards || b.traffic.localeCompare(a.traffic) || b.via.localeCompare(a.via),
    );
  }

  of(work: Work, load: WorkRun["load"]): WorkRun[] {
    return this.runs.filter((run) => nameOf(run.work) === nameOf(work) && run.load === load);
  }

  /** Open loops in which the load generator was not too late for this part of the latencies. */
  timely(work: Work, at: "p50" | "p99"): WorkRun[] {
    return this.of(work, "open").filter(({ figures: { lateness, ok } }) => !isBehind({ lateness, latency: ok }, at));
  }

  /** Median costs of a message at the highest rate; null when that was not measured, or no message has arrived. */
  cost(work: Work): Cost | null {
    const runs = this.of(work, "closed").filter(({ figures }) => figures.accepted > 0);
    const costs = runs.map(({ figures }) => figures.cost);
    if (costs.length === 0) return null;
    const of = (part: keyof Cost): number => median(costs.map((cost) => cost[part]));
    return { server: of("server"), engine: of("engine"), generator: of("generator"), logBytes: of("logBytes") };
  }

  appendsOf(kind: AppendRun["kind"]): AppendRun[] {
    return this.appends.filter((run) => run.kind === kind);
  }

  /** The most bytes of records that the engine takes per second; infinite when that was not measured. */
  get logBytesPerSecond(): number {
    const found = this.appendsOf("large").map(({ outcome }) => outcome.bytes);
    return found.length === 0 ? Number.POSITIVE_INFINITY : median(found);
  }
}
