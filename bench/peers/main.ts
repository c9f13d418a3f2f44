/** `bun run bench:peers`: measures this server and others with the same works, and prints a table. */
import { type CommandLine, Progress, onInterrupt, runProgram } from "../command-line.ts";
import { UsageError } from "../../src/usage-error.ts";
import { COMPILER } from "../program.ts";
import { isForNative } from "../load/native-swarm.ts";
import { BenchmarkRunner, BenchmarkError, clientsMax } from "../load/benchmark-runner.ts";
import { type Peer, isInstalled } from "./peer.ts";
import { PEERS } from "./peers.ts";
import {
  type Result,
  type Run,
  newResult,
  runsOf,
  ratioText,
  latencyCells,
  versionOf,
  writeResult,
} from "../report/result.ts";
import { digits, median, range, spread } from "../report/statistics.ts";
import { isClean } from "../load/workload-spec.ts";
import { WORKS, WORK_GROUPS, type Work } from "./work.ts";

const OPTIONS = ["peers", "works", "rounds", "seconds", "warmup", "generator", "json"] as const;
const GROUPS_DEFAULT = Object.keys(WORK_GROUPS).filter((group) => group !== "windows");
const PEERS_DEFAULT = PEERS.map(({ name }) => name).filter((name) => !/-(none|power|resumable)$/.test(name));

/** Messages after which the code of a server is compiled, and the time limit for them. */
const WARM_MESSAGES = 100_000;
const WARM_MS = 6_000;

const USAGE = `Usage: bun run bench:peers [options]

Compares this server with others on this machine: the same works with the same load generator, in alternating runs. Each
run starts a new server on one core and the load generator on another. Ratios are relative to the first peer and taken
round by round. A peer that is not installed is skipped, with a line that names it.

  --peers <list>       ${PEERS.map(({ name }) => name).join(", ")}
                       (${PEERS_DEFAULT.join(",")})
  --works <list>       groups of works, or names of works (${GROUPS_DEFAULT.join(",")}):
${WORKS.map(({ name, group, title }) => `                         ${group.padEnd(9)} ${name.padEnd(16)} ${title}`).join("\n")}
  --rounds <number>    number of runs per work and peer (5)
  --seconds <number>   duration of the measurement in each run (3)
  --warmup <number>    seconds before the measurement (1.5)
  --generator <kind>   native, the load generator in C, except for idle clients; or typescript, that of bench
                       (native where ${COMPILER.program} is installed)
  --json <file>        writes all figures to this file, for bench:report
  --help               prints this page

Exit code: 0; 1 when no peer could be measured, or a run of this server failed; 2 for an invalid command line.
`;

/** The values that a list of names selects. Throws UsageError for a name that selects none. */
function chosen<T>(given: string | null, fallback: string[], option: string, find: (name: string) => T[]): T[] {
  return (given?.split(",") ?? fallback).flatMap((name) => {
    const found = find(name);
    if (found.length === 0) throw new UsageError(`--${option} knows no "${name}"`);
    return found;
  });
}

const COLUMNS = [16, 34, 22, 11, 22, 9, 9, 9];

function row(...cells: string[]): string {
  return `  ${cells.map((cell, i) => (i === 0 ? cell.padEnd(COLUMNS[i]!) : cell.padStart(COLUMNS[i]!))).join("")}`;
}

/** One table per work with one row per peer: medians, and the ranges of the compared figures. */
function report(result: Result, works: readonly Work[]): string {
  const lines: string[] = [];
  for (const { name, title, task } of works) {
    const peers = Object.keys(result.peers).filter((peer) => runsOf(result, name, peer).length > 0);
    const [first] = peers;
    if (first === undefined) continue;
    const isIdle = task.scenario.instead === "idle";
    const amount = ({ outcome }: Run): number => (isIdle ? outcome.server!.resident : outcome.delivered);
    const cost = ({ outcome }: Run): number => outcome.server!.cpuMicros;
    lines.push("", title);
    const what = isIdle ? ["bytes per client", `${first} / peer`] : ["deliveries/s", `${first} / peer`];
    lines.push(row("", ...what, ...(isIdle ? [] : ["server µs", `${first} / peer`, "p50 µs", "p99 µs", "p99.9 µs"])));
    for (const peer of peers) {
      const runs = runsOf(result, name, peer);
      const share = (of: (run: Run) => number): string =>
        peer === first ? "" : ratioText(runsOf(result, name, first), runs, of);
      const cells = [peer, range(spread(runs.map(amount))), share(amount)];
      if (!isIdle) cells.push(digits(median(runs.map(cost))), share(cost), ...latencyCells(runs));
      lines.push(row(...cells).trimEnd());
    }
  }
  for (const [peer, why] of Object.entries(result.leftOut)) lines.push("", `left out: ${peer}: ${why}`);
  return `${lines.join("\n")}\n`;
}

async function main(line: CommandLine<(typeof OPTIONS)[number]>): Promise<number> {
  const peers = chosen(line.text("peers"), PEERS_DEFAULT, "peers", (name) =>
    PEERS.filter((peer) => peer.name === name),
  );
  const works = chosen(line.text("works"), GROUPS_DEFAULT, "works", (name) =>
    WORKS.filter((work) => work.name === name || work.group === name),
  );
  const [rounds, seconds] = [line.number("rounds", 5, 1, 1000), line.number("seconds", 3, 0.1, 600, true)];
  const hasCompiler = Bun.which(COMPILER.program) !== null;
  const generator = line.choice("generator", hasCompiler ? "native" : "typescript", ["native", "typescript"]);
  if (generator === "native" && !hasCompiler)
    throw new UsageError(
      `--generator native needs ${COMPILER.program}: install the Debian package ${COMPILER.package}`,
    );
  if (generator !== "native" && works.some(({ task }) => task.chunk !== undefined))
    throw new UsageError("the works of windows need --generator native");
  const json = line.output("json");
  const warmup = line.number("warmup", 1.5, 0, 600, true);
  const connectionsMax = clientsMax();
  const progress = new Progress();
  const result = newResult(0);
  const present = peers.filter((peer) => isHere(peer, result, progress));
  const fitting = works.filter((work) => work.clients + work.crowd <= connectionsMax);
  for (const { title } of works.filter((work) => !fitting.includes(work)))
    progress.log(`SKIPPED: ${title}: a process can have only ${connectionsMax} connections here`);
  const runner = new BenchmarkRunner(Math.max(2, ...fitting.map(({ clients, crowd }) => clients + crowd)));
  onInterrupt(() => {
    progress.clear();
    runner.remove();
  });
  let todo = 0;
  for (const work of fitting) todo += (work.once ? 1 : rounds) * present.filter((peer) => work.fits(peer)).length;
  const minutes = Math.ceil((todo * (seconds + warmup + 1.5)) / 60);
  progress.log(`${todo} runs, about ${minutes} ${minutes === 1 ? "minute" : "minutes"}`);
  let isFaulty = false;
  try {
    let done = 0;
    for (let round = 0; round < rounds; round++) {
      for (const work of fitting) {
        if (work.once && round > 0) continue;
        const fits = present.filter((peer) => work.fits(peer));
        for (const peer of round % 2 === 0 ? fits : fits.toReversed()) {
          const at = `${++done} of ${todo}: ${work.title}, ${peer.name}`;
          const task = {
            ...work.task,
            generator: isForNative(work.task.scenario) ? generator : ("typescript" as const),
            resumable: peer.resumable === true,
            crowd: work.crowd,
            warmupMs: warmupMs(work, warmup),
            measureMs: seconds * 1000,
          };
          const users = runner.users.slice(0, work.clients + work.crowd);
          try {
            const outcome = await runner.run(peer, { ...task, users }, (text) => progress.show(`${at}: ${text}`));
            result.runs.push({
              peer: peer.name,
              work: work.name,
              task: { ...task, clients: work.clients },
              round,
              outcome,
            });
            if (isClean(outcome)) continue;
            isFaulty ||= peer.name.startsWith("heartline");
            const { lost, twice, disordered, faults } = outcome;
            const what = [...faults, `lost ${lost}, twice ${twice}, out of order ${disordered}`].join("; ");
            progress.log(`${at}: ${what}`);
          } catch (error) {
            if (!(error instanceof BenchmarkError)) throw error;
            progress.log(`${at}: FAILED: ${error.message}`);
            isFaulty ||= peer.name.startsWith("heartline");
          }
        }
        if (json !== null) writeResult(json, result);
      }
    }
    progress.clear();
    const { machine, commit } = result;
    process.stdout.write(
      `${rounds} rounds of ${digits(seconds)} s, commit ${commit}: median [range], -: the load generator was late\n`,
    );
    process.stdout.write(
      `${Object.entries(machine)
        .map(([name, value]) => `${name} ${value}`)
        .join(", ")}\n`,
    );
    process.stdout.write(report(result, fitting));
    return isFaulty || result.runs.length === 0 ? 1 : 0;
  } finally {
    progress.clear();
    runner.remove();
  }
}

/** At a low rate the warm-up is longer, so that the server's code is compiled before it is measured. */
function warmupMs({ task }: Work, seconds: number): number {
  const messagesMs = task.rate > 0 ? Math.min(1000 * (WARM_MESSAGES / task.rate), WARM_MS) : 0;
  return Math.max(1000 * seconds, messagesMs);
}

/** Whether a peer is installed. Its version, or the reason to leave it out, is added to the result. */
function isHere(peer: Peer, result: Result, progress: Progress): boolean {
  const { name, needs, about } = peer;
  if (needs !== null && !isInstalled(peer)) {
    result.leftOut[name] = `needs ${needs.program} (Debian package ${needs.package})`;
    progress.log(`SKIPPED: ${name}: ${result.leftOut[name]}`);
    return false;
  }
  result.peers[name] = { about, version: versionOf(peer) };
  return true;
}

const failures = (error: unknown): boolean => error instanceof BenchmarkError;
await runProgram({ name: "bench:peers", usage: USAGE, options: OPTIONS, failures }, main);
