/** `heartline bench`: options, the runs of one benchmark, and its report on stdout. */
import { readFileSync } from "node:fs";
import { typed } from "../../src/runtime/invocation.ts";
import { UsageError } from "../../src/usage-error.ts";
import { type CommandLine, Progress, onInterrupt, runProgram } from "../command-line.ts";
import { COMPILER } from "../program.ts";
import { Random } from "../random.ts";
import { BenchmarkRunner, BenchmarkError, SWARM, type Task, clientsMax } from "./benchmark-runner.ts";
import { isForNative } from "./native-swarm.ts";
import { PAYLOAD_BYTES_MIN } from "./payload.ts";
import { heartline } from "../peers/heartline.ts";
import { newResult, versionOf, writeResult } from "../report/result.ts";
import { SCENARIOS, SCENARIO_NAMES } from "./scenario.ts";
import { digits } from "../report/statistics.ts";
import { type Outcome, isBehind, isClean } from "./workload-spec.ts";

const CLIENTS_DEFAULT = 5000;
const CHURN_CLIENTS_DEFAULT = 32;
const OPTIONS = [
  "scenario",
  "clients",
  "crowd",
  "window",
  "rate",
  "payload",
  "seconds",
  "warmup",
  "senders",
  "beat",
  "sessions",
  "durability",
  "seed",
  "generator",
  "target",
  "credentials",
  "json",
] as const;

const USAGE = `Usage: ${typed("bench")} [options]

Measures a Heartline server on this machine. It starts a server on one core and a load generator on another, whose
clients send messages to each other. Every payload has a number and a time: none may be lost, twice or out of order.
Without --rate and --window it measures first the highest rate, and then the latencies at half of that rate.

  --scenario <name>      what the clients do (mixed):
${SCENARIO_NAMES.map((name) => `                           ${name.padEnd(10)} ${SCENARIOS[name].help}`).join("\n")}
  --clients <number>     number of clients, even (as many as descriptors allow, up to ${CLIENTS_DEFAULT})
  --crowd <number>       further clients that are online and send nothing (0)
  --window <number>      messages in flight per client: each delivery sends the next one (1);
                         in the scenario login: clients that log in and out, besides --clients (${CHURN_CLIENTS_DEFAULT})
  --rate <number>        messages per second of all clients together, sent on time whether or not earlier ones have
                         arrived; latencies count from the time at which a message was due
  --payload <bytes>      length of a message's text, at least ${PAYLOAD_BYTES_MIN} (64)
  --seconds <number>     duration of the measurement (8)
  --warmup <number>      seconds before the measurement (3)
  --senders <number>     number of clients that broadcast, in the scenario broadcast (1)
  --beat <seconds>       interval between two alive of a client, in the scenario alive (30)
  --sessions <kind>      plain, or resumable with an acknowledgement per second (plain)
  --durability <level>   durability of the server: none, process or power (process)
  --seed <number>        seed that pairs the clients (1)
  --generator <kind>     typescript, or native: a load generator in C, which needs ${COMPILER.program} (Debian package
                         ${COMPILER.package}) and tells latencies at higher rates (typescript)
  --target <host:port>   measures a server that runs already, without its CPU time and memory
  --credentials <file>   credentials file with users of that server
  --json <file>          writes all figures to this file
  --help                 prints this page

Exit code: 0; 1 when a message was lost, twice or out of order, or something else failed; 2 for an invalid command line.
`;

interface Options {
  task: Omit<Task, "users">;
  scenario: string;
  clients: number;
  /** Clients that log in and out, in the scenario login. */
  churnClients: number;
  /** The rate or the window was given, or the scenario has none: one run only. */
  isFixed: boolean;
  durability: "none" | "process" | "power";
  seed: number;
  target: { host: string; port: number } | null;
  users: [name: string, password: string][] | null;
  json: string | null;
}

function parseOptions(line: CommandLine<(typeof OPTIONS)[number]>): Options {
  const scenario = line.choice("scenario", "mixed", SCENARIO_NAMES);
  const [target, file] = [line.text("target"), line.text("credentials")];
  if ((target === null) !== (file === null)) throw new UsageError("--target and --credentials go together");
  const [, host, port] = /^(.+):(\d+)$/.exec(target ?? "") ?? [];
  if (target !== null && line.text("durability") !== null)
    throw new UsageError("--durability cannot be combined with --target: the server runs already");
  if (target !== null && (host === undefined || Number(port) > 65535))
    throw new UsageError(`--target takes <host>:<port>, not "${target}"`);
  const users = file === null ? null : readUsers(file);
  const clientsLimit = Math.min(users?.length ?? Number.POSITIVE_INFINITY, clientsMax()) & ~1;
  const clients = line.number("clients", Math.min(clientsLimit, CLIENTS_DEFAULT), 2, clientsLimit);
  if (clients % 2 !== 0) throw new UsageError("--clients takes an even number: clients exchange messages in pairs");
  const isBroadcast = scenario === "broadcast";
  const senders = line.number("senders", isBroadcast ? 1 : SCENARIOS[scenario].broadcasters, 1, 64);
  const rate = line.number("rate", 0, 1, 2_000_000);
  const window = line.number("window", null, 1, 1024);
  if (rate > 0 && window !== null) throw new UsageError("--rate and --window exclude each other: give one");
  const broadcasters = SCENARIOS[scenario].broadcasters === 0 ? 0 : Math.min(senders, clients);
  // In the scenario login, --clients stay online while others log in and out.
  const churnClients = scenario === "login" ? (window ?? CHURN_CLIENTS_DEFAULT) : 0;
  if (churnClients > 0 && line.text("crowd") !== null)
    throw new UsageError("--crowd is not for login: --clients stay online there");
  if (clients + churnClients > clientsLimit)
    throw new UsageError(`--clients and the clients that log in and out are more than ${clientsLimit}: give fewer`);
  const generator = line.choice("generator", "typescript", ["typescript", "native"]);
  if (generator === "native" && !isForNative(SCENARIOS[scenario]))
    throw new UsageError(`--generator native does not measure ${scenario}: use typescript`);
  if (generator === "native" && Bun.which(COMPILER.program) === null)
    throw new UsageError(
      `--generator native needs ${COMPILER.program}: install the Debian package ${COMPILER.package}`,
    );
  return {
    task: {
      generator,
      scenario: { ...SCENARIOS[scenario], broadcasters },
      crowd: churnClients > 0 ? clients : line.number("crowd", 0, 0, clientsLimit - clients),
      window: window ?? 1,
      rate,
      payloadBytes: line.number("payload", 64, PAYLOAD_BYTES_MIN, 400_000),
      beatMs: line.number("beat", 30, 0.1, 3600, true) * 1000,
      warmupMs: line.number("warmup", 3, 0, 600, true) * 1000,
      measureMs: line.number("seconds", 8, 0.1, 3600, true) * 1000,
      resumable: line.choice("sessions", "plain", ["plain", "resumable"]) === "resumable",
    },
    scenario,
    clients,
    churnClients,
    isFixed: rate > 0 || window !== null || SCENARIOS[scenario].instead !== null,
    durability: line.choice("durability", "process", ["none", "process", "power"]),
    seed: line.number("seed", 1, 0, 2 ** 31),
    target: target === null ? null : { host: host!, port: Number(port) },
    users,
    json: line.output("json"),
  };
}

function readUsers(file: string): [string, string][] {
  try {
    const lines = readFileSync(file, "utf8").split(/\r?\n/);
    const users = lines.filter((line) => /^[^#\s]\S* \S+$/.test(line)).map((line) => line.split(" "));
    if (users.length < 2) throw new Error("it needs two users, one per line: <user> <password>");
    return users as [string, string][];
  } catch (error) {
    throw new UsageError(`cannot use ${file}: ${(error as Error).message}`);
  }
}

function shuffled<T>(list: readonly T[], seed: number): T[] {
  const random = new Random(seed);
  const all = [...list];
  for (let i = all.length - 1; i > 0; i--) {
    const j = random.below(i + 1);
    [all[i], all[j]] = [all[j]!, all[i]!];
  }
  return all;
}

/** The rows of the report; `-` where one does not apply. */
const ROWS: [name: string, of: (outcome: Outcome) => string][] = [
  ["accepted messages/s", ({ accepted }) => digits(Math.round(accepted))],
  ["deliveries/s", ({ delivered }) => digits(Math.round(delivered))],
  ["latency p50", (outcome) => micros(outcome, outcome.latency.p50)],
  ["        p99", (outcome) => micros(outcome, outcome.latency.p99)],
  ["        p99.9", (outcome) => micros(outcome, outcome.latency.p999)],
  ["        max", (outcome) => micros(outcome, outcome.latency.max)],
  ["broadcast, last receiver", (outcome) => micros(outcome, outcome.last.p50, outcome.last)],
  ["                    p99", (outcome) => micros(outcome, outcome.last.p99, outcome.last)],
  [
    "server CPU per delivery",
    ({ server, accepted }) => (server === null || accepted === 0 ? "-" : `${digits(server.cpuMicros)} µs`),
  ],
  ["server CPU, of one core", ({ server }) => (server === null ? "-" : `${digits(100 * server.core)} %`)],
  // With few clients, the growth of the server itself would be most of it.
  [
    "memory per client",
    ({ server, clients }) => (server === null || clients < 1000 ? "-" : `${digits(Math.round(server.resident))} B`),
  ],
  ["load generator busy", ({ busy }) => `${digits(100 * busy)} %`],
];

function micros(outcome: Outcome, value: number, { count } = outcome.latency): string {
  if (count === 0) return "-";
  if (isBehind(outcome)) return "not shown";
  return value >= 10_000 ? `${digits(value / 1000)} ms` : `${digits(value)} µs`;
}

function rowName(name: string, { instead }: Options["task"]["scenario"]): string {
  if (instead === null) return name;
  const one = instead === "login" ? "login" : "reply";
  return name.replace("accepted messages", instead === "login" ? "logins" : "replies").replace("delivery", one);
}

function report(options: Options, runs: { title: string; task: Options["task"]; outcome: Outcome }[]): string {
  const { scenario, clients, task, durability, target, seed } = options;
  const lines = [
    `${scenario}: ${digits(clients)} clients, ${task.payloadBytes} bytes, ` +
      `${task.resumable ? "resumable" : "plain"} sessions, ` +
      (target === null ? `durability ${durability}` : `at ${target.host}:${target.port}`) +
      `, seed ${seed}`,
    "",
    `  ${"".padEnd(24)}${runs.map(({ title }) => title.padStart(26)).join("")}`,
  ];
  for (const [name, of] of ROWS) {
    const cells = runs.map(({ outcome }) => of(outcome));
    if (cells.every((cell) => cell === "-" || cell === "0")) continue;
    lines.push(`  ${rowName(name, task.scenario).padEnd(24)}${cells.map((cell) => cell.padStart(26)).join("")}`);
  }
  const sum = (of: (outcome: Outcome) => number): number => runs.reduce((all, { outcome }) => all + of(outcome), 0);
  const [sent, lost, twice] = [sum((each) => each.sent), sum((each) => each.lost), sum((each) => each.twice)];
  const disordered = sum((each) => each.disordered);
  if (sent > 0)
    lines.push("", `  lost ${lost}, twice ${twice}, out of order ${disordered} of ${digits(sent)} messages`);
  for (const { outcome, task } of runs) lines.push(...remarks(outcome, task));
  return `${lines.join("\n")}\n`;
}

/** Remarks on a run: why figures are missing or lower than they could be, and its faults. */
function remarks({ server, lateness, ...outcome }: Outcome, { rate, scenario }: Options["task"]): string[] {
  const lines: string[] = [];
  if (isBehind({ lateness, ...outcome })) {
    const late = digits(lateness.p99 / 1000);
    lines.push(`  the load generator was late (p99 ${late} ms): its latencies are not the server's and are not shown`);
  } else if (outcome.accepted < 0.99 * rate) {
    lines.push(`  the server accepted only ${digits(outcome.accepted)} of ${digits(rate)} messages per second`);
  } else if (rate === 0 && scenario.instead === null && server !== null && server.core < 0.9) {
    lines.push(
      `  the server used only ${digits(100 * server.core)} % of its core: a larger --window may give a higher rate`,
    );
  }
  if (outcome.stolen > 0.02)
    lines.push(`  the hypervisor gave ${digits(100 * outcome.stolen)} % of this machine's time to others`);
  for (const fault of outcome.faults) lines.push(`  FAULT: ${fault}`);
  if (outcome.faults.length > 0) lines.push("  messages in flight at the fault count neither as delivered nor as lost");
  return lines;
}

async function bench(line: CommandLine<(typeof OPTIONS)[number]>): Promise<number> {
  const options = parseOptions(line);
  const { task, clients, target, seed, json } = options;
  const count = clients + (options.churnClients > 0 ? options.churnClients : task.crowd);
  const runner = new BenchmarkRunner(count);
  const progress = new Progress();
  onInterrupt(() => {
    progress.clear();
    runner.remove();
  });
  const peer = heartline(options.durability);
  const users = shuffled(options.users ?? runner.users, seed).slice(0, count);
  const result = newResult(seed);
  result.peers[peer.name] =
    target === null
      ? { about: peer.about, version: versionOf(peer) }
      : { about: `the server at ${target.host}:${target.port}`, version: "unknown" };
  try {
    const runs: { title: string; task: Options["task"]; outcome: Outcome }[] = [];
    const run = async (title: string, task: Options["task"]): Promise<Outcome> => {
      const showProgress = (text: string): void => progress.show(`${title}: ${text}`);
      showProgress("starting");
      const spec = { ...task, users };
      const outcome =
        target === null
          ? await runner.run(peer, spec, showProgress)
          : await runner
              .swarm({ ...spec, ...target, protocol: "heartline", loginsAtOnce: 64, pid: null }, showProgress)
              .catch((error: Error) => {
                throw new BenchmarkError(`${target.host}:${target.port}: ${error.message}`);
              });
      runs.push({ title, task, outcome });
      result.runs.push({ peer: peer.name, work: title, task: { ...task, clients }, round: 0, outcome });
      return outcome;
    };
    const first = await run(task.rate > 0 ? `${digits(task.rate)} per second` : titleOf(task), task);
    if (!options.isFixed && first.faults.length === 0) {
      const rate = Math.max(1, Math.round(first.accepted / 2));
      await run(`half of that: ${digits(rate)}/s`, { ...task, rate });
    }
    progress.clear();
    process.stdout.write(report(options, runs));
    if (json !== null) writeResult(json, result);
    return runs.every(({ outcome }) => isClean(outcome)) ? 0 : 1;
  } finally {
    progress.clear();
    runner.remove();
  }
}

function titleOf({ scenario, window, beatMs }: Options["task"]): string {
  if (scenario.instead === "alive") return `alive every ${digits(beatMs / 1000)} s`;
  if (scenario.instead !== null) return scenario.instead;
  return `${window} in flight`;
}

const failures = (error: unknown): boolean => error instanceof BenchmarkError;

/** `heartline bench`, or the load generator that it starts as a process of its own. */
export async function main(args: string[]): Promise<void> {
  if (args[0] === SWARM) return (await import("./swarm.ts")).main();
  await runProgram({ name: "bench", usage: USAGE, options: OPTIONS, failures }, bench, args);
}
