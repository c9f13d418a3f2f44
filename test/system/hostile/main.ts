/** `bun run bench:hostile`: options, the rounds of each attack, the verdict and the report. */
import { writeFileSync } from "node:fs";
import { Attackers } from "./attack.ts";
import { type CommandLine, Progress, onInterrupt, runProgram } from "../../../bench/command-line.ts";
import { UsageError } from "../../../src/usage-error.ts";
import { type Impact, RATIO_MAX, p99Ratios, spreadOf, verdict } from "./impact.ts";
import { type AttackStats, sumOf } from "./attack-client.ts";
import { ORDINARY_USERS, BackgroundLoad } from "./background-load.ts";
import { newResult } from "../../../bench/report/result.ts";
import { digits, range, spread } from "../../../bench/report/statistics.ts";
import { Target, TargetError } from "../target.ts";
import { FAULT_SCENARIO_NAMES, type FaultScenarioName, faultScenario } from "./fault-scenarios.ts";

const OPTIONS = ["attacks", "seconds", "rounds", "rate", "strength", "warmup", "recovery", "stop", "json"] as const;
type OptionName = (typeof OPTIONS)[number];

/** Users of the attackers, with plain passwords and with hashes. */
const HOSTILE_USERS = 500;
const HASHED_USERS = 4;
/** One broadcast per this many messages of the ordinary users. */
const BROADCAST_EACH = 50;
/** Rounds with a late quiet slice are repeated: at most this many times the requested number of rounds. */
const ATTEMPTS = 2;
/** Pause after an attack, in which its connections close, before the next quiet slice. */
const SETTLE_MS = 1_000;
const SAMPLE_MS = 100;

const USAGE = `Usage: bun run bench:hostile [options] [-- <options of the server>]

Measures what hostile clients cost ordinary users. ${ORDINARY_USERS} ordinary users, half of them with resumable sessions,
send messages to each other and broadcast. For each attack a new server runs on one core and the load generator of the
ordinary users on another; the hostile clients run at idle priority on the server's core. Slices without and with the
attack alternate.

No ordinary user may be disconnected, and none of their messages may be lost, twice or out of order. The median p99 with
the attack may be ${RATIO_MAX} times the quiet p99 of the same round. The first round warms the server up: its p99 is
reported and does not count. A round in which the load generator was late in the quiet slice is repeated. Jumps of the
clock are tested in test/simulation.

  --attacks <list>       attacks to run (all):
${FAULT_SCENARIO_NAMES.map((name) => `                           ${name.padEnd(10)} ${faultScenario(name).help}`).join("\n")}
  --seconds <number>     duration of a slice (8)
  --rounds <number>      rounds of a quiet and a hostile slice, after the first one (5)
  --rate <number>        messages per second of all ordinary users together (1,000)
  --strength <number>    factor for the connections and rates of each attack (1)
  --warmup <number>      seconds before the first slice (3)
  --recovery <number>    seconds between the end of the last attack and the last reading of memory (12)
  --stop <seconds>       how long the attack stop stops the server (10)
  --json <file>          writes all figures to this file
  --help                 prints this page

Exit code: 0; 1 when an ordinary user was harmed; 2 for an invalid command line.
`;

interface Options {
  attacks: FaultScenarioName[];
  sliceMs: number;
  rounds: number;
  rate: number;
  strength: number;
  warmupMs: number;
  recoveryMs: number;
  stopMs: number;
  json: string | null;
  server: readonly string[];
}

/** The result of one attack. */
interface Report {
  attack: FaultScenarioName;
  impact: Impact;
  /** The 99th percentile with the attack in the first round, in µs. */
  firstP99: number;
  /** The errors; see `verdict`. */
  wrong: string[];
  /** Resident memory of the server in bytes: before the attack, the maximum during it, after the recovery. */
  resident: { before: number; peak: number; after: number };
  stats: AttackStats;
}

function parseOptions(line: CommandLine<OptionName>): Options {
  const attacks = line.text("attacks")?.split(",") ?? FAULT_SCENARIO_NAMES;
  for (const name of attacks)
    if (!(FAULT_SCENARIO_NAMES as string[]).includes(name)) throw new UsageError(`--attacks knows no "${name}"`);
  return {
    attacks: attacks as FaultScenarioName[],
    sliceMs: 1000 * line.number("seconds", 8, 0.1, 600, true),
    rounds: line.number("rounds", 5, 1, 1000),
    rate: line.number("rate", 1000, 1, 100_000),
    strength: line.number("strength", 1, 0.01, 100, true),
    warmupMs: 1000 * line.number("warmup", 3, 0, 600, true),
    recoveryMs: 1000 * line.number("recovery", 12, 0, 600, true),
    stopMs: 1000 * line.number("stop", 10, 0.1, 30, true),
    json: line.output("json"),
    server: line.rest,
  };
}

/** Runs one attack against a new server. Throws TargetError. */
async function run(attack: FaultScenarioName, options: Options, report: (text: string) => void): Promise<Report> {
  const names = (letter: string, count: number): string[] => Array.from({ length: count }, (_, i) => `${letter}${i}`);
  const [ordinary, users, hashed] = [names("u", ORDINARY_USERS), names("x", HOSTILE_USERS), names("h", HASHED_USERS)];
  report("starting");
  const scenario = faultScenario(attack);
  const { descriptorsMax, isJudged, mayRefuse } = scenario;
  const target = await Target.start({
    users: [...ordinary, ...users],
    hashed,
    options: [...scenario.options, ...options.server],
    descriptorsMax,
  });
  const loadSpec = { users: ordinary, rate: options.rate, broadcastEach: BROADCAST_EACH, broadcasters: ORDINARY_USERS };
  const load = new BackgroundLoad(target, { ...loadSpec, warmupMs: options.warmupMs, mayRefuse });
  const { strength } = options;
  const { port, tlsPort } = target;
  const spec = { attacks: [...scenario.attacks], port, tlsPort, users, hashed, ordinary, strength };
  const attackers = new Attackers(spec);
  const rounds: Impact["rounds"] = [];
  const resident = { before: 0, peak: 0, after: 0 };
  const stats: AttackStats[] = [];
  let firstP99 = 0;
  try {
    await load.ready();
    const isDone = (): boolean =>
      rounds.length === ATTEMPTS * options.rounds || p99Ratios({ rounds }).length === options.rounds;
    for (let round = 0; !isDone(); round++) {
      report(`round ${round}, quiet`);
      const quiet = await load.measure(options.sliceMs);
      if (round === 0) resident.before = target.resident;
      report(`round ${round}, attack`);
      const sampler = setInterval(() => (resident.peak = Math.max(resident.peak, target.resident)), SAMPLE_MS);
      scenario.start(target);
      attackers.start();
      if (attack === "stop") setTimeout(() => scenario.end(target), options.stopMs);
      const hostile = await load.measure(options.sliceMs + (attack === "stop" ? options.stopMs : 0));
      scenario.end(target);
      clearInterval(sampler);
      stats.push(await attackers.pause());
      if (round === 0) firstP99 = hostile.latency.p99;
      else rounds.push({ quiet, hostile });
      await Bun.sleep(SETTLE_MS);
    }
    report("recovery");
    target.collectGarbage();
    await Bun.sleep(options.recoveryMs);
    resident.after = target.resident;
    const impact: Impact = { rounds, outcome: await load.finish(), isJudged };
    const wrong = verdict(impact);
    if (!target.isRunning) wrong.push("the server has ended");
    if (!mayRefuse)
      wrong.push(...target.loggedErrors.slice(0, 3).map((line) => `the server logged: ${line.slice(0, 200)}`));
    return { attack, impact, firstP99, wrong, resident, stats: sumOf(stats) };
  } finally {
    await attackers.stop();
    await target.remove();
  }
}

const COLUMNS = [11, 11, 11, 12, 34, 24, 12, 22, 12];

function row(...cells: string[]): string {
  return `  ${cells.map((cell, i) => (i === 0 ? cell.padEnd(COLUMNS[i]!) : cell.padStart(COLUMNS[i]!))).join("")}`.trimEnd();
}

function table(reports: readonly Report[], { sliceMs, rounds }: Options): string {
  const lines = [
    row("", "quiet p50", "quiet p99", "first", "p99 with it", "ratio", "max", "MB before/peak/after", "core"),
  ];
  for (const { attack, impact, firstP99, resident } of reports) {
    const found = p99Ratios(impact);
    const megabytes = [resident.before, resident.peak, resident.after].map((bytes) => Math.round(bytes / 1e6));
    lines.push(
      row(
        attack,
        digits(spreadOf(impact, "quiet", ({ latency }) => latency.p50).median),
        digits(spreadOf(impact, "quiet", ({ latency }) => latency.p99).median),
        digits(firstP99),
        range(spreadOf(impact, "hostile", ({ latency }) => latency.p99)),
        found.length === 0 ? "not shown" : range(spread(found)),
        digits(spreadOf(impact, "hostile", ({ latency }) => latency.max).max),
        megabytes.join("/"),
        digits(spreadOf(impact, "hostile", ({ server }) => server?.core ?? Number.NaN).median),
      ),
    );
  }
  lines.push("", `  µs; median [range] of ${rounds} rounds or more of ${digits(sliceMs / 1000)} s`);
  for (const { attack, stats, impact } of reports) {
    const seconds = impact.rounds.reduce((sum, { hostile }) => sum + hostile.seconds, 0);
    const per = (count: number): string => digits(Math.round(count / seconds));
    const { sent, lost, refused, twice, disordered, dropped } = impact.outcome;
    lines.push(
      `  ${attack.padEnd(12)}${per(stats.connects)} connections/s, ${per(stats.closedByServer)} closed by the server, ` +
        `${per(stats.bytes / 1000)} KB; of ${digits(sent)} messages lost ${lost - refused}, twice ${twice}, ` +
        `out of order ${disordered}${refused > 0 ? `, refused ${refused}` : ""}; dropped ${dropped}`,
    );
  }
  for (const { attack, wrong } of reports) for (const what of wrong) lines.push(`  HARM: ${attack}: ${what}`);
  return `${lines.join("\n")}\n`;
}

async function main(line: CommandLine<OptionName>): Promise<number> {
  const options = parseOptions(line);
  const progress = new Progress();
  onInterrupt(() => {
    progress.clear();
    Target.killAll();
  });
  const reports: Report[] = [];
  const failed: string[] = [];
  for (const attack of options.attacks) {
    try {
      reports.push(await run(attack, options, (text) => progress.show(`${attack}: ${text}`)));
    } catch (error) {
      if (!(error instanceof TargetError)) throw error;
      failed.push(`  HARM: ${attack}: ${error.message}\n`);
    }
    if (options.json !== null) writeFileSync(options.json, `${JSON.stringify({ ...newResult(0), reports })}\n`);
  }
  progress.clear();
  process.stdout.write(table(reports, options) + failed.join(""));
  return failed.length === 0 && reports.every(({ wrong }) => wrong.length === 0) ? 0 : 1;
}

const failures = (error: unknown): boolean => error instanceof TargetError;
await runProgram({ name: "bench:hostile", usage: USAGE, options: OPTIONS, takesRest: true, failures }, main);
