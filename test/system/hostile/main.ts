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

/** Users of the attackers. */
const HOSTILE_USERS = 500;
const HASHED_USERS = 4;
/** One broadcast for so many messages of ordinary users, by turns. */
const BROADCAST_EACH = 50;
/** So many times as many rounds are made at most, where some say nothing. */
const ATTEMPTS = 2;
/** What is still closing when attackers have left belongs to the attack. */
const SETTLE_MS = 1_000;
const SAMPLE_MS = 100;

const USAGE = `Usage: bun run bench:hostile [options] [-- <options of the server>]

Measures what hostile clients cost ordinary users: ${ORDINARY_USERS} of them, every other one with a resumable session, write to each
other and broadcast while an attack goes on beside them. For each attack a server is started, on one core, with the
ordinary users on another and the hostile ones on what the server leaves of its own; quiet and hostile slices alternate.
None of the ordinary users may be dropped, none of their messages lost, twice or out of order, and the median of their p99
beside the attack may be ${RATIO_MAX} times the quiet one of the same round. The first round warms the server up, since the runtime
compiles on that core what runs for the first time: its p99 beside the attack is told, and does not count. A round in
whose quiet slice the users' own process was late says nothing, and is made again. Jumps of the clock cannot be made for
one process from outside: test/simulation makes them.

  --attacks <list>       which (all of them):
${FAULT_SCENARIO_NAMES.map((name) => `                           ${name.padEnd(10)} ${faultScenario(name).help}`).join("\n")}
  --seconds <number>     how long a slice is (8)
  --rounds <number>      a quiet and a hostile slice each, behind the first one (5)
  --rate <number>        messages a second of all ordinary users together (1,000)
  --strength <number>    so many times as many connections of each attack, and as much said on them (1)
  --warmup <number>      seconds before the first slice (3)
  --recovery <number>    seconds from when the attackers left until memory is looked at again (12)
  --stop <seconds>       how long the server is stopped (10)
  --json <file>          writes all figures there
  --help                 this page

Exit code: 0, 1 when somebody ordinary was harmed, 2 for an invalid command line.
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

/** One attack: what ordinary users noticed, and what it did to the server. */
interface Report {
  attack: FaultScenarioName;
  impact: Impact;
  /** The 99th percentile beside the first attack, in µs. */
  firstP99: number;
  wrong: string[];
  /** Bytes of resident memory: before the first attack, at most during one, and when the attackers have been away. */
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

/** Runs one attack against a server of its own. Throws TargetError. */
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
    return { attack, impact: impact, firstP99, wrong, resident, stats: sumOf(stats) };
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
    row("", "quiet p50", "quiet p99", "first", "p99 beside it", "to quiet", "max", "MB before/peak/after", "core"),
  ];
  for (const { attack, impact: impact, firstP99, resident } of reports) {
    const found = p99Ratios(impact);
    const megabytes = [resident.before, resident.peak, resident.after].map((bytes) => Math.round(bytes / 1e6));
    lines.push(
      row(
        attack,
        digits(spreadOf(impact, "quiet", ({ latency }) => latency.p50).median),
        digits(spreadOf(impact, "quiet", ({ latency }) => latency.p99).median),
        digits(firstP99),
        range(spreadOf(impact, "hostile", ({ latency }) => latency.p99)),
        found.length === 0 ? "not told" : range(spread(found)),
        digits(spreadOf(impact, "hostile", ({ latency }) => latency.max).max),
        megabytes.join("/"),
        digits(spreadOf(impact, "hostile", ({ server }) => server?.core ?? Number.NaN).median),
      ),
    );
  }
  lines.push("", `  µs; median [range] of ${rounds} rounds or more of ${digits(sliceMs / 1000)} s`);
  for (const { attack, stats: stats, impact: impact } of reports) {
    const seconds = impact.rounds.reduce((sum, { hostile }) => sum + hostile.seconds, 0);
    const per = (count: number): string => digits(Math.round(count / seconds));
    const { sent, lost, refused, twice, disordered, dropped } = impact.outcome;
    lines.push(
      `  ${attack.padEnd(12)}${per(stats.connects)} connections a second, ${per(stats.closedByServer)} thrown out, ` +
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
