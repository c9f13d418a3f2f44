/** The JSON file of `--json`: its fields, how it is written and read, and comparisons between its runs. */
import { readFileSync, writeFileSync } from "node:fs";
import { cpus, release, totalmem } from "node:os";
import type { Task } from "../load/benchmark-runner.ts";
import { PATH, type Peer } from "../peers/peer.ts";
import { descriptorsMax } from "../../src/runtime/kernel.ts";
import { type Outcome, isBehind } from "../load/workload-spec.ts";
import { digits, median, range, ratios, spread } from "./statistics.ts";

/** A file of results: the machine, the peers, and every run with all its figures. */
export interface Result {
  schema: 1;
  madeAt: string;
  /** The commit of this checkout, followed by `+` when files had changed since. */
  commit: string;
  machine: Record<string, string | number | boolean>;
  /** The measured peers, by name. */
  peers: Record<string, { about: string; version: string }>;
  /** Peers that were not measured, and the reason. */
  leftOut: Record<string, string>;
  seed: number;
  runs: Run[];
}

export interface Run {
  peer: string;
  /** The name of the work (of `bench`: the title of the run), and its parameters. */
  work: string;
  task: Omit<Task, "users"> & { clients: number };
  round: number;
  outcome: Outcome;
}

export function runsOf(result: Result, work: string, peer: string): Run[] {
  return result.runs.filter((run) => run.work === work && run.peer === peer);
}

interface Round {
  round: number;
}

/** Ratios of a figure of `runs` to that of `others`, round by round. A round without one of the two does not count. */
export function ratiosByRound<Run extends Round>(
  runs: readonly Run[],
  others: readonly Run[],
  of: (run: Run) => number,
): number[] {
  const pairs = runs.flatMap((run) => {
    const other = others.find(({ round }) => round === run.round);
    return other === undefined ? [] : [[of(run), of(other)] as const];
  });
  return ratios(
    pairs.map(([value]) => value),
    pairs.map(([, other]) => other),
  );
}

/** The median and range of these ratios; empty without any. */
export function ratioText<Run extends Round>(
  runs: readonly Run[],
  others: readonly Run[],
  of: (run: Run) => number,
): string {
  const found = ratiosByRound(runs, others, of);
  return found.length === 0 ? "" : range(spread(found));
}

/** Medians of p50, p99 and p99.9 in µs, from the runs in which the load generator was not late. */
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

/** The version of a peer, as its program prints it. */
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

/** Writes a file of results. Histograms are kept only for latencies of open loops, which bench:report draws. */
export function writeResult(file: string, result: Result): void {
  const slim = (key: string, value: unknown): unknown =>
    key === "last" || key === "lateness" || key === "reply" ? figures(value) : value;
  const runs = result.runs.map((run) =>
    run.task.rate > 0 ? run : { ...run, outcome: { ...run.outcome, latency: figures(run.outcome.latency) } },
  );
  writeFileSync(file, `${JSON.stringify({ ...result, runs }, slim)}\n`);
}

function figures(latency: unknown): unknown {
  return { ...(latency as object), buckets: [] };
}

/** Reads a file of results. Throws an Error with a message for users. */
export function readResult(file: string): Result {
  let result: Result;
  try {
    result = JSON.parse(readFileSync(file, "utf8")) as Result;
  } catch (error) {
    throw new Error(`cannot read ${file}: ${(error as Error).message}`);
  }
  const isResult = result?.schema === 1 && Array.isArray(result.runs) && typeof result.peers === "object";
  if (!isResult) throw new Error(`${file} is not a file of results: bench:peers --json writes one`);
  return result;
}
