import { writeFileSync } from "node:fs";
import { cpus, release } from "node:os";
import { parseArgs } from "node:util";
import type { Latency, Order, Outcome } from "./swarm.ts";
import { TARGETS, type Target, TargetError, Workshop, pinned } from "./target.ts";

const USAGE = `Usage: bun run bench [options]

Measures servers with pairs of clients who write to each other, on this machine only. Each run has a server of its own,
on one core, and one process of clients, on another; the servers take turns. Every message is checked: none may be
lost, twice or out of order. Closed: each client has so many messages on their way. Open: messages are sent at a fixed
rate, and late ones count from when they were due.

  --targets <list>      ${TARGETS.join(", ")}: this server by durability, and a plain C server (none,process,c)
  --rounds <number>     how often each of them has its turn (5)
  --seconds <number>    how long a run is measured, after a warm-up (3)
  --clients <number>    how many, an even number (64)
  --inflight <list>     messages that each client has on their way, in the closed runs (1,64)
  --rate <number>       messages a second of all clients together, in the open run; 0 for none (20000)
  --sessions <kind>     plain or resumable (plain)
  --json <file>         writes every run's figures there
  --help                this page

Exit code: 0, 1 when a run failed or a message did, 2 for a command line that cannot be meant.
`;

const WARMUP_MS = 1500;
const PAYLOAD_BYTES = 64;

class UsageError extends Error {}

interface Options {
  targets: Target[];
  rounds: number;
  seconds: number;
  clients: number;
  inflight: number[];
  rate: number;
  resumable: boolean;
  json: string | null;
}

interface Scenario {
  name: string;
  inflight: number;
  rate: number;
}

interface Run {
  target: Target;
  scenario: string;
  round: number;
  outcome: Outcome;
}

function parseOptions(args: string[]): Options | null {
  const text = { type: "string" } as const;
  const options = {
    ...{ targets: text, rounds: text, seconds: text, clients: text, inflight: text, rate: text, sessions: text },
    json: text,
    help: { type: "boolean", short: "h" },
  } as const;
  let values: { [name in Exclude<keyof typeof options, "help">]?: string } & { help?: boolean };
  try {
    ({ values } = parseArgs({ args, options }));
  } catch (error) {
    throw new UsageError((error as Error).message.split(/\.\s/)[0]?.replace(/^\w/, (letter) => letter.toLowerCase()));
  }
  if (values.help === true) return null;
  const number = (name: string, given: string, least: number, most: number): number => {
    if (/^\d+(\.\d+)?$/.test(given) && Number(given) >= least && Number(given) <= most) return Number(given);
    throw new UsageError(`--${name} takes a number from ${least} to ${most}, not "${given}"`);
  };
  const targets = (values.targets ?? "none,process,c").split(",");
  for (const target of targets) {
    if (!TARGETS.includes(target as Target))
      throw new UsageError(`--targets knows ${TARGETS.join(", ")}, not "${target}"`);
  }
  const sessions = values.sessions ?? "plain";
  if (!["plain", "resumable"].includes(sessions)) throw new UsageError(`--sessions takes plain or resumable`);
  const clients = number("clients", values.clients ?? "64", 2, 10_000);
  if (clients % 2 !== 0) throw new UsageError("--clients takes an even number, since they come in pairs");
  return {
    targets: targets as Target[],
    rounds: number("rounds", values.rounds ?? "5", 1, 1000),
    seconds: number("seconds", values.seconds ?? "3", 0.1, 120),
    clients,
    inflight: (values.inflight ?? "1,64").split(",").map((each) => number("inflight", each, 1, 1024)),
    rate: number("rate", values.rate ?? "20000", 0, 1_000_000),
    resumable: sessions === "resumable",
    json: values.json ?? null,
  };
}

/** One run: a fresh server, a swarm, its outcome. */
async function measure(workshop: Workshop, target: Target, scenario: Scenario, options: Options): Promise<Outcome> {
  const server = await workshop.start(target);
  const order: Order = {
    ...{ port: server.port, pid: server.pid, clients: options.clients, payloadBytes: PAYLOAD_BYTES },
    ...{ inflight: scenario.inflight, rate: scenario.rate, resumable: options.resumable },
    ...{ warmupMs: WARMUP_MS, measureMs: options.seconds * 1000 },
  };
  try {
    const swarm = workshop.run(pinned(1, [process.execPath, "bench/swarm.ts", JSON.stringify(order)]));
    const said = await new Response(swarm.stdout).text();
    if ((await swarm.exited) !== 0) throw new TargetError(`the clients of "${target}" failed`);
    return JSON.parse(said) as Outcome;
  } finally {
    await server.stop();
  }
}

function median(values: number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

function spread(values: number[], digits: number): string {
  const show = (value: number): string => value.toFixed(digits);
  return `${show(median(values))} [${show(Math.min(...values))}..${show(Math.max(...values))}]`;
}

/** What is told of a scenario, by target: a name, its figure of a run, and how many digits are worth showing. */
const FIGURES: [name: string, of: (outcome: Outcome) => number, digits: number][] = [
  ["messages/s", ({ delivered }) => delivered, 0],
  ["server µs CPU a message", ({ serverMicrosPerMessage }) => serverMicrosPerMessage, 2],
  ...latencies("latency", ({ latency }) => latency),
  ["  over 5 ms, in a million", ({ latency: { pauses, count } }) => (1e6 * pauses) / count, 0],
];

function latencies(name: string, of: (outcome: Outcome) => Latency): typeof FIGURES {
  return [
    [`${name} p50 µs`, (outcome) => of(outcome).p50, 0],
    ["  p99 µs", (outcome) => of(outcome).p99, 0],
    ["  p99.9 µs", (outcome) => of(outcome).p999, 0],
    ["  max µs", (outcome) => of(outcome).max, 0],
  ];
}

function report(runs: Run[], targets: readonly Target[], scenarios: readonly Scenario[]): string {
  const lines: string[] = [];
  for (const { name } of scenarios) {
    const of = (target: Target): Outcome[] =>
      runs.filter((run) => run.scenario === name && run.target === target).map(({ outcome }) => outcome);
    const [first] = targets;
    lines.push(
      "",
      name,
      row("", ...targets.flatMap((target) => (target === first ? [target] : [target, `to ${first}`]))),
    );
    for (const [figure, value, digits] of FIGURES) {
      const base = of(first!).map(value);
      const cells = targets.flatMap((target) => {
        const values = of(target).map(value);
        const ratios = values.map((each, round) => each / base[round]!).filter(Number.isFinite);
        const ratio = ratios.length === 0 ? "" : spread(ratios, 2);
        return target === first ? [spread(values, digits)] : [spread(values, digits), ratio];
      });
      lines.push(row(figure, ...cells));
    }
    const late = runs.filter(({ scenario, outcome }) => scenario === name && isLate(outcome)).length;
    if (late > 0)
      lines.push(`  in ${late} runs messages were sent so late that the latencies are as much the clients'`);
  }
  return lines.join("\n");
}

/** More than a tenth of what is told is the load generator's own. */
function isLate({ lateness, latency }: Outcome): boolean {
  return lateness.count > 0 && lateness.p99 > latency.p99 / 10;
}

function row(name: string, ...cells: string[]): string {
  return `  ${name.padEnd(26)}${cells.map((cell) => cell.padStart(26)).join("")}`;
}

async function main(): Promise<number> {
  const options = parseOptions(process.argv.slice(2));
  if (options === null) {
    process.stdout.write(USAGE);
    return 0;
  }
  const workshop = new Workshop(options.clients);
  const quit = (): void => {
    workshop.remove();
    process.exit(130);
  };
  process.once("SIGINT", quit).once("SIGTERM", quit);
  const scenarios: Scenario[] = options.inflight.map((inflight) => {
    return { name: `closed, ${inflight} in flight`, inflight, rate: 0 };
  });
  if (options.rate > 0) scenarios.push({ name: `open, ${options.rate} a second`, inflight: 0, rate: options.rate });
  try {
    const targets = await available(options, workshop);
    const runs: Run[] = [];
    for (let round = 0; round < options.rounds; round++) {
      for (const scenario of scenarios) {
        for (const target of round % 2 === 0 ? targets : targets.toReversed()) {
          const at = `round ${round + 1} of ${options.rounds}, ${scenario.name}, ${target}`;
          const outcome = await measure(workshop, target, scenario, options);
          const { delivered, latency, faults } = outcome;
          process.stderr.write(`${at}: ${Math.round(delivered)} messages/s, p99.9 ${Math.round(latency.p999)} µs\n`);
          if (faults.length > 0) throw new TargetError(`${at}: ${faults.join("; ")}`);
          runs.push({ target, scenario: scenario.name, round, outcome });
        }
      }
    }
    const machine = { cpu: cpus()[0]?.model, cores: cpus().length, kernel: release(), bun: Bun.version };
    if (options.json !== null) writeFileSync(options.json, `${JSON.stringify({ machine, options, runs }, null, 1)}\n`);
    process.stdout.write(
      `${options.clients} clients, ${options.rounds} rounds of ${options.seconds} s: median [range]\n`,
    );
    process.stdout.write(`${Object.values(machine).join(", ")}${report(runs, targets, scenarios)}\n`);
    return 0;
  } finally {
    workshop.remove();
  }
}

/** The targets that can be run here. */
async function available({ targets, resumable }: Options, workshop: Workshop): Promise<Target[]> {
  if (!targets.includes("c")) return targets;
  const why = resumable
    ? "it knows plain sessions only"
    : (await workshop.compile())
      ? ""
      : "there is no C compiler (cc)";
  if (why === "") return targets;
  process.stderr.write(`SKIPPED: c, since ${why}\n`);
  return targets.filter((target) => target !== "c");
}

try {
  process.exitCode = await main();
} catch (error) {
  const isUsage = error instanceof UsageError;
  if (!isUsage && !(error instanceof TargetError)) throw error;
  process.stderr.write(`bench: ${error.message}${isUsage ? " (--help lists the options)" : ""}\n`);
  process.exitCode = isUsage ? 2 : 1;
}
