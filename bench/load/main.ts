import { readFileSync } from "node:fs";
import { Random } from "../../test/support/random.ts";
import { type CommandLine, Progress, onInterrupt, runProgram } from "../command-line.ts";
import { UsageError } from "../../src/usage-error.ts";
import { BenchmarkRunner, BenchmarkError, type Task, clientsMax } from "./benchmark-runner.ts";
import { PAYLOAD_BYTES_MIN } from "./payload.ts";
import { heartline } from "../peers/heartline.ts";
import { newResult, versionOf, writeResult } from "../report/result.ts";
import { SCENARIOS, SCENARIO_NAMES } from "./scenario.ts";
import { digits } from "../report/statistics.ts";
import { type Outcome, isBehind, isClean } from "./workload-spec.ts";

const CLIENTS_DEFAULT = 5000;
const VISITORS_DEFAULT = 32;
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
  "target",
  "credentials",
  "json",
] as const;

const USAGE = `Usage: bun run bench [options]

Measures a Heartline server on this machine: starts one of its own, on one core, and a swarm of clients on another, who
write to each other. Every payload is numbered and timed: none may be lost, twice or out of order. Unless a rate or a
window is given, it measures first how much is possible, and then the latencies at half of that.

  --scenario <name>      what the clients do (mixed):
${SCENARIO_NAMES.map((name) => `                           ${name.padEnd(10)} ${SCENARIOS[name].help}`).join("\n")}
  --clients <number>     how many, an even number (as many as descriptors allow, up to ${CLIENTS_DEFAULT})
  --crowd <number>       so many more who are online and say nothing (0)
  --window <number>      messages that each client has on its way; a new one for each that arrived (1);
                         in the scenario login, how many people come and go beside --clients (${VISITORS_DEFAULT})
  --rate <number>        messages a second of all clients together, whatever comes back; late ones count from when they
                         were due
  --payload <bytes>      the text of a message, at least ${PAYLOAD_BYTES_MIN} (64)
  --seconds <number>     how long it is measured (8)
  --warmup <number>      seconds before that, which do not count (3)
  --senders <number>     who broadcasts, in the scenario broadcast (1)
  --beat <seconds>       how often each client says alive, in the scenario alive (30)
  --sessions <kind>      plain, or resumable: then clients confirm every second (plain)
  --durability <level>   of the server: none, process or power (process)
  --seed <number>        decides who writes to whom (1)
  --target <host:port>   measures a server that runs already, instead of one of its own; without its time and memory
  --credentials <file>   the users of that server
  --json <file>          writes all figures there
  --help                 this page

Exit code: 0, 1 when something was lost, twice, out of order or otherwise failed, 2 for a command line that cannot be
meant.
`;

interface Options {
  task: Omit<Task, "users">;
  scenario: string;
  clients: number;
  visitors: number;
  /** Given by the user; else it is found out. */
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
    throw new UsageError("--durability is of a server of its own, and --target has it already");
  if (target !== null && (host === undefined || Number(port) > 65535))
    throw new UsageError(`--target takes <host>:<port>, not "${target}"`);
  const users = file === null ? null : readUsers(file);
  const most = Math.min(users?.length ?? Number.POSITIVE_INFINITY, clientsMax()) & ~1;
  const clients = line.number("clients", Math.min(most, CLIENTS_DEFAULT), 2, most);
  if (clients % 2 !== 0) throw new UsageError("--clients takes an even number, since they write in pairs");
  const isBroadcast = scenario === "broadcast";
  const senders = line.number("senders", isBroadcast ? 1 : SCENARIOS[scenario].broadcasters, 1, 64);
  const rate = line.number("rate", 0, 1, 2_000_000);
  const window = line.number("window", null, 1, 1024);
  if (rate > 0 && window !== null) throw new UsageError("--rate sends by time and --window by what arrives: give one");
  const broadcasters = SCENARIOS[scenario].broadcasters === 0 ? 0 : Math.min(senders, clients);
  // Those of --clients stay, others come and go.
  const visitors = scenario === "login" ? (window ?? VISITORS_DEFAULT) : 0;
  if (visitors > 0 && line.text("crowd") !== null)
    throw new UsageError("--crowd is not for login: --clients stay there");
  if (clients + visitors > most) throw new UsageError(`--clients and who comes and goes are more than ${most}`);
  return {
    task: {
      scenario: { ...SCENARIOS[scenario], broadcasters },
      crowd: visitors > 0 ? clients : line.number("crowd", 0, 0, most - clients),
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
    visitors,
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
    if (users.length < 2) throw new Error("it needs two users at least, a line each: <user> <password>");
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

/** What a run came to, by row; `-` where it does not apply. */
const ROWS: [name: string, of: (outcome: Outcome) => string][] = [
  ["accepted messages/s", ({ accepted }) => digits(Math.round(accepted))],
  ["deliveries/s", ({ delivered }) => digits(Math.round(delivered))],
  ["latency p50", (outcome) => micros(outcome, outcome.latency.p50)],
  ["        p99", (outcome) => micros(outcome, outcome.latency.p99)],
  ["        p99.9", (outcome) => micros(outcome, outcome.latency.p999)],
  ["        max", (outcome) => micros(outcome, outcome.latency.max)],
  [
    "server CPU a delivery",
    ({ server, accepted }) => (server === null || accepted === 0 ? "-" : `${digits(server.cpuMicros)} µs`),
  ],
  ["server CPU, of a core", ({ server }) => (server === null ? "-" : `${digits(100 * server.core)} %`)],
  // Of a few, what the server itself grows by meanwhile would be most of it.
  [
    "memory a client",
    ({ server, clients }) => (server === null || clients < 1000 ? "-" : `${digits(Math.round(server.resident))} B`),
  ],
  ["swarm busy", ({ busy }) => `${digits(100 * busy)} %`],
];

function micros(outcome: Outcome, value: number): string {
  if (outcome.latency.count === 0) return "-";
  if (isBehind(outcome)) return "not told";
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

/** What must be known to read the figures rightly. */
function remarks({ server, lateness, ...outcome }: Outcome, { rate, scenario }: Options["task"]): string[] {
  const lines: string[] = [];
  if (isBehind({ server, lateness, ...outcome })) {
    const late = digits(lateness.p99 / 1000);
    lines.push(`  the swarm fell behind (p99 ${late} ms late), so its latencies are not the server's and are not told`);
  } else if (outcome.accepted < 0.99 * rate) {
    lines.push(`  the server took only ${digits(outcome.accepted)} of ${digits(rate)} messages a second`);
  } else if (rate === 0 && scenario.instead === null && server !== null && server.core < 0.9) {
    lines.push(
      `  the server used only ${digits(100 * server.core)} % of its core: more in flight may be more a second`,
    );
  }
  if (outcome.stolen > 0.02) lines.push(`  others took ${digits(100 * outcome.stolen)} % of this machine meanwhile`);
  for (const fault of outcome.faults) lines.push(`  FAULT: ${fault}`);
  if (outcome.faults.length > 0) lines.push("  what was under way then is not counted, neither as arrived nor as lost");
  return lines;
}

async function main(line: CommandLine<(typeof OPTIONS)[number]>): Promise<number> {
  const options = parseOptions(line);
  const { task, clients, target, seed, json } = options;
  const count = clients + (options.visitors > 0 ? options.visitors : task.crowd);
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
    const first = await run(task.rate > 0 ? `${digits(task.rate)} a second` : titleOf(task), task);
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
await runProgram({ name: "bench", usage: USAGE, options: OPTIONS, failures }, main);
