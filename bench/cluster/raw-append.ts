/** Appends to the log of an engine without a server: what the engine alone allows. */
import { randomBytes } from "node:crypto";
import { openLog } from "../../src/cluster/open-log.ts";
import type { SharedLog } from "../../src/cluster/shared-log.ts";
import { BenchmarkError } from "../load/benchmark-runner.ts";
import { latencyOf } from "../load/figures.ts";
import type { Latency } from "../load/workload-spec.ts";
import { Histogram } from "../report/histogram.ts";

export interface AppendTask {
  /** Shards, to each of which one record is appended after another. */
  writers: number;
  recordBytes: number;
  /** Records per second of each writer, where the engine allows it; 0 for back to back. */
  rate: number;
  warmupMs: number;
  measureMs: number;
}

export interface AppendOutcome {
  /** Records and their bytes per second, of all writers together. */
  records: number;
  bytes: number;
  latency: Latency;
}

/** Appends to the new cluster of that URL, whose shards have no owner. Throws BenchmarkError. */
export async function measureAppends(url: string, task: AppendTask): Promise<AppendOutcome> {
  const logs = await Promise.all(Array.from({ length: task.writers }, () => openLog(url)));
  try {
    const histogram = new Histogram();
    const beginMs = performance.now() + task.warmupMs;
    await Promise.all(logs.map((log, shard) => append(log, shard, task, beginMs, histogram)));
    const records = histogram.count / (task.measureMs / 1000);
    return { records, bytes: records * task.recordBytes, latency: latencyOf(histogram) };
  } finally {
    await Promise.all(logs.map((log) => log.close()));
  }
}

/** Appends to one shard until the end; what ends after `beginMs` counts. */
async function append(
  log: SharedLog,
  shard: number,
  { recordBytes, rate, measureMs }: AppendTask,
  beginMs: number,
  histogram: Histogram,
): Promise<void> {
  const record = randomBytes(recordBytes);
  const endMs = beginMs + measureMs;
  for (let head = 0; ; head++) {
    const atMs = performance.now();
    const { stored } = await log.append(shard, head, record);
    if (!stored) throw new BenchmarkError(`the engine has refused record ${head + 1} of shard ${shard}`);
    const nowMs = performance.now();
    if (nowMs >= endMs) return;
    if (nowMs >= beginMs) histogram.record(Math.round(10_000 * (nowMs - atMs)));
    if (rate > 0) await Bun.sleep(Math.max(0, atMs + 1000 / rate - nowMs));
  }
}
