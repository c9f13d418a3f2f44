import { readFileSync, writeFileSync } from "node:fs";
import { cpus, release, totalmem } from "node:os";
import type { Task } from "../load/benchmark-runner.ts";
import { PATH, type Peer } from "../peers/peer.ts";
import { descriptorsMax } from "../../src/runtime/kernel.ts";
import { type Outcome, isBehind } from "../load/workload-spec.ts";
import { digits, median, range, ratios, spread } from "./statistics.ts";

/** A file of results: what was run where, and every run with all its figures. */
export interface Result {
  schema: 1;
  madeAt: string;
  /** The commit of this checkout; `+` behind it when files had changed since. */
  commit: string;
  machine: Record<string, string | number | boolean>;
  /** What was measured, by name: in words, and which version. Those left out: why. */
  peers: Record<string, { about: string; version: string }>;
  leftOut: Record<string, string>;
  seed: number;
  runs: Run[];
}

export interface Run {
  peer: string;
  /** What was to be done, in words; and the same as numbers. */
  work: string;
  task: Omit<Task, "users"> & { clients: number };
  round: number;
  outcome: Outcome;
}

export function runsOf(result: Result, work: string, peer: string): Run[] {
  return result.runs.filter((run) => run.work === work && run.peer === peer);
}

/** How many times `others` go into `runs`, round by round: a round that one of them failed in does not count. */
export function ratiosByRound(runs: readonly Run[], others: readonly Run[], of: (run: Run) => number): number[] {
  const pairs = runs.flatMap((run) => {
    const other = others.find(({ round }) => round === run.round);
    return other === undefined ? [] : [[of(run), of(other)] as const];
  });
  return ratios(
    pairs.map(([value]) => value),
    pairs.map(([, other]) => other),
  );
}

/** The same in words; none where there is none. */
export function ratioText(runs: readonly Run[], others: readonly Run[], of: (run: Run) => number): string {
  const shares = ratiosByRound(runs, others, of);
  return shares.length === 0 ? "" : range(spread(shares));
}

/** Medians of p50, p99 and p99.9, of those runs in which the swarm did not measure itself. */
export function latencyCells(runs: readonly Run[]): string[] {
  const valid = runs.filter(({ outcome }) => outcome.latency.count > 0 && !isBehind(outcome));
  return (["p50", "p99", "p999"] as const).map((which) =>
    digits(median(valid.map(({ outcome }) => outcome.latency[which]))),
  );
}

export function newResult(seed: number): Result {
  const commit = output(["git", "rev-parse", "--short", "HEAD"]);
  const isChanged = output(["git", "status", "--porcelain", "--", "src", "bench", "package-lock.json"]) !== "";
  const read = (file: string): string => {
    try {
      return readFileSync(file, "latin1").trim();
    } catch {
      return "unknown";
    }
  };
  return {
    schema: 1,
    madeAt: new Date().toISOString(),
    commit: commit === "" ? "unknown" : commit + (isChanged ? "+" : ""),
    machine: {
      cpu: cpus()[0]?.model.trim() ?? "unknown",
      cores: cpus().length,
      memoryGiB: Math.round(totalmem() / 2 ** 30),
      kernel: release(),
      bun: Bun.version,
      descriptors: descriptorsMax(),
      congestionControl: read("/proc/sys/net/ipv4/tcp_congestion_control"),
      clocksource: read("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
      pinned: Bun.which("taskset") !== null && cpus().length > 1,
    },
    peers: {},
    leftOut: {},
    seed,
    runs: [],
  };
}

/** The peer's version; the word itself where it is part of this checkout. */
export function versionOf({ version }: Peer): string {
  if (version === null) return "of this checkout";
  const [line = ""] = output(version).split("\n");
  return line.replace(/ sha=.*| \(.*/, "");
}

function output(command: string[]): string {
  try {
    return Bun.spawnSync(command, { cwd: import.meta.dir, stderr: "ignore", env: { ...process.env, PATH } })
      .stdout.toString()
      .trim();
  } catch {
    return "";
  }
}

/** Writes a file of results. Of closed loops, whose latencies nobody draws, it keeps the figures alone. */
export function writeResult(file: string, result: Result): void {
  const slim = (key: string, value: unknown): unknown =>
    key === "last" || key === "lateness" ? figures(value) : value;
  const runs = result.runs.map((run) =>
    run.task.rate > 0 ? run : { ...run, outcome: { ...run.outcome, latency: figures(run.outcome.latency) } },
  );
  writeFileSync(file, `${JSON.stringify({ ...result, runs }, slim)}\n`);
}

function figures(latency: unknown): unknown {
  return { ...(latency as object), buckets: [] };
}

/** Reads a file of results. Throws an error in words for a person. */
export function readResult(file: string): Result {
  let result: Result;
  try {
    result = JSON.parse(readFileSync(file, "utf8")) as Result;
  } catch (error) {
    throw new Error(`cannot read ${file}: ${(error as Error).message}`);
  }
  const isResult = result?.schema === 1 && Array.isArray(result.runs) && typeof result.peers === "object";
  if (!isResult) throw new Error(`${file} is no file of results`);
  return result;
}
