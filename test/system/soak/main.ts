/** `bun run soak`: options, the three kinds of clients, readings of memory, the rows and the report. */
import { writeFileSync } from "node:fs";
import { ChatClient, ChatError } from "../../../src/client/client.ts";
import { Attackers } from "../hostile/attack.ts";
import type { AttackName } from "../hostile/attacks.ts";
import { type CommandLine, Progress, onInterrupt, runProgram } from "../../../bench/command-line.ts";
import { UsageError } from "../../../src/usage-error.ts";
import { clientsMax } from "../../../bench/load/benchmark-runner.ts";
import type { AttackStats } from "../hostile/attack-client.ts";
import type { Outcome, Slice } from "../../../bench/load/workload-spec.ts";
import { BackgroundLoad } from "../hostile/background-load.ts";
import { newResult } from "../../../bench/report/result.ts";
import { JUDGED_MS_MIN, type Findings, MARKS, SPREAD_MAX, spreadOf, verdict } from "./verdict.ts";
import { digits, median } from "../../../bench/report/statistics.ts";
import { PASSWORD, Target, TargetError } from "../target.ts";
import { type ChurnStats, ChurnClients, churnClientName } from "./churn-clients.ts";

const OPTIONS = ["clients", "minutes", "rate", "seed", "json"] as const;

const CLIENTS_DEFAULT = 5_000;
/** Messages per second of each client: the default, and the minimum, at which no session times out. */
const RATE_DEFAULT = 0.4;
const RATE_MIN = 1 / 15;
const BROADCASTERS = 8;
/** One further client logs in and out per this many clients. */
const CLIENTS_PER_CHURN_CLIENT = 50;
const CHURN_CLIENTS_MIN = 6;
/**
 * The attacks run all the time at a low strength, so that the load is the same at each mark. Attacks that use all the
 * rest of a core are left out, and `hashes`, since one hash needs 64 MB while it is computed.
 */
const ATTACKS: AttackName[] = ["drip", "deaf", "mute", "logins", "hoard", "callbacks", "escapes", "flapping"];
const STRENGTH = 0.05;
const HOSTILE_USERS = 50 * ATTACKS.length;
const WARMUP_MS = 1_000;
const ROW_MS = 60_000;
/**
 * A mark is the median of READINGS readings, READING_MS apart. A single reading differs from it by up to 5 %: the
 * runtime alternates between half a minute with a collection per second and half a minute with few, which leaves more
 * memory with its allocator.
 */
const READINGS = 20;
const READING_MS = 6_000;
const SAMPLE_MS = 1_000;
/** By then the sessions of disconnected clients have expired, and all connections are closed. */
const GONE_MS = 45_000;

const USAGE = `Usage: bun run soak [options] [-- <options of the server>]

Runs a server under constant load and checks that it leaks nothing. Ordinary clients, half of them with resumable
sessions, stay online, send messages to each other and broadcast. Churn clients log in and out, lose connections, and
receive what was sent to them while they were absent. Hostile clients attack all the time.

Resident memory after a full garbage collection is read at the end of each third of the time: the median of
${READINGS} readings in ${(READINGS * READING_MS) / 1000} s. The three may be ${SPREAD_MAX} % apart, which is judged from ${JUDGED_MS_MIN / 60_000} minutes on. Afterwards the server must have
the same descriptors open as before, apart from up to six segments of the journal. No ordinary client may be
disconnected, and no message may be lost, twice or out of order.

  --clients <number>     ordinary clients, an even number (${CLIENTS_DEFAULT}); one churn client per ${CLIENTS_PER_CHURN_CLIENT} of them
  --minutes <number>     duration (30)
  --rate <number>        messages per second of all ordinary clients together (${RATE_DEFAULT} of each)
  --seed <number>        seed of the churn clients (1)
  --json <file>          writes all samples and the verdict to this file
  --help                 prints this page

Exit code: 0; 1 when a check fails; 2 for an invalid command line.
`;

interface Options {
  clients: number;
  churnClients: number;
  lengthMs: number;
  rate: number;
  seed: number;
  json: string | null;
  server: readonly string[];
}

/** One row of the output: the state of the server, and what happened since the previous row. */
interface Row {
  atMs: number;
  resident: number;
  mapped: number;
  descriptors: number;
  sessions: number;
  slice: Omit<Slice, "series">;
  churn: ChurnStats;
}

interface Soak extends Findings {
  /** The readings of each mark, in bytes. */
  readings: number[][];
  /** Resident bytes over time, and the part of them that is mapped from files. */
  samples: { atMs: number; resident: number; mapped: number }[];
  ordinary: Outcome;
  churn: ChurnStats;
  hostile: AttackStats;
}

function parseOptions(line: CommandLine<(typeof OPTIONS)[number]>): Options {
  const most = Math.floor((clientsMax() - HOSTILE_USERS) / (1 + 1 / CLIENTS_PER_CHURN_CLIENT));
  const clients = line.number("clients", CLIENTS_DEFAULT, BROADCASTERS, most);
  if (clients % 2 !== 0) throw new UsageError("--clients takes an even number: clients exchange messages in pairs");
  return {
    clients,
    churnClients: Math.max(CHURN_CLIENTS_MIN, Math.round(clients / CLIENTS_PER_CHURN_CLIENT)),
    lengthMs: 60_000 * line.number("minutes", 30, 0.01, 10_000, true),
    rate: line.number("rate", Math.ceil(clients * RATE_DEFAULT), Math.ceil(clients * RATE_MIN), 100_000),
    seed: line.number("seed", 1, 0, 2 ** 31),
    json: line.output("json"),
    server: line.rest,
  };
}

const COLUMNS = ["minute", "MB", "of files", "descriptors", "sessions", "deliveries/s", "p99 ms", "core"];
const WRONG = ["lost", "twice", "disordered", "dropped"] as const;

function row(cells: readonly string[]): string {
  return `${cells.map((cell, i) => cell.padStart(2 + Math.max(6, [...COLUMNS, ...WRONG][i]!.length))).join("")}\n`;
}

function rowOf({ atMs, resident, mapped, descriptors, sessions, slice, churn }: Row): string {
  const megabytes = (bytes: number): string => (bytes / 1e6).toFixed(1);
  const { delivered, latency, server } = slice;
  const wrong = WRONG.map((what) => digits(slice[what] + (what === "dropped" ? 0 : churn[what])));
  const core = server === null ? "-" : server.core.toFixed(2);
  return row([
    (atMs / 60_000).toFixed(2),
    megabytes(resident),
    megabytes(mapped),
    digits(descriptors),
    digits(sessions),
    digits(Math.round(delivered)),
    digits(latency.p99 / 1000),
    core,
    ...wrong,
  ]);
}

/** Starts the server and all clients, measures, and stops them. Throws TargetError. */
async function soak(options: Options, report: (text: string) => void, printRow: (row: Row) => void): Promise<Soak> {
  const { clients, churnClients: churnCount, lengthMs, rate, seed } = options;
  const names = (count: number, name: (index: number) => string): string[] =>
    Array.from({ length: count }, (_, index) => name(index));
  const ordinary = names(clients, (index) => `u${index}`);
  const hostile = names(HOSTILE_USERS, (index) => `x${index}`);
  report("starting");
  const users = [...ordinary, ...hostile, ...names(churnCount, churnClientName), "watcher"];
  const target = await Target.start({ users, hashed: [], options: options.server, descriptorsMax: null });
  const { port, tlsPort } = target;
  const before = target.openDescriptors;
  const loadSpec = { users: ordinary, rate, broadcastEach: rate, broadcasters: BROADCASTERS };
  const load = new BackgroundLoad(target, { ...loadSpec, warmupMs: WARMUP_MS, mayRefuse: false });
  const churnClients = new ChurnClients({ port, count: churnCount, seed });
  const spec = { attacks: ATTACKS, port, tlsPort, users: hostile, hashed: [], ordinary, strength: STRENGTH };
  const attackers = new Attackers(spec);
  try {
    const watcher = new ChatClient({ host: "127.0.0.1", port, session: "plain" });
    await watcher.login("watcher", PASSWORD);
    report("logging in");
    attackers.start();
    await load.ready();
    const watched = await watch(target, lengthMs, async (atMs, ms) => {
      const { series: _, ...slice } = await load.measure(ms);
      const { names: online, more } = await watcher.online();
      const { resident, mapped, descriptors } = target;
      const sessions = 1 + online.length + more;
      printRow({ atMs: atMs(), resident, mapped, descriptors, sessions, slice, churn: await churnClients.stats() });
      // A slice that ended early had a fault.
      return slice.seconds * 1000 >= 0.9 * ms;
    });
    report("logging out");
    const attackStats = await attackers.pause();
    await attackers.stop();
    const churn = await churnClients.finish();
    const outcome = await load.finish();
    await watcher.logout();
    await until(() => target.openDescriptors.length === before.length, GONE_MS);
    const { loggedErrors, isRunning, openDescriptors: after } = target;
    const state = { lengthMs, ...watched, descriptors: { before, after }, loggedErrors: [...loggedErrors], isRunning };
    return { ...state, ordinary: outcome, churn, hostile: attackStats };
  } finally {
    await attackers.stop();
    await churnClients.stop();
    await target.remove();
  }
}

/** Reads the server's memory for `lengthMs`, and makes rows until one returns false. */
async function watch(
  target: Target,
  lengthMs: number,
  makeRow: (atMs: () => number, ms: number) => Promise<boolean>,
): Promise<Pick<Soak, "marks" | "readings" | "samples">> {
  const samples: Soak["samples"] = [];
  const readings: number[][] = Array.from({ length: MARKS }, () => []);
  const startMs = performance.now();
  const atMs = (): number => performance.now() - startMs;
  const readingMs = Math.min(READING_MS, lengthMs / 10 / READINGS);
  const sampler = setInterval(
    () => {
      const { resident, mapped } = target;
      samples.push({ atMs: atMs(), resident, mapped });
    },
    Math.min(SAMPLE_MS, readingMs),
  );
  const collectors = readings.flatMap((mark, index) =>
    Array.from({ length: READINGS }, (_, reading) => {
      // Collected memory is returned to the kernel within half a second. Later there is new garbage.
      const collect = async (): Promise<void> => {
        target.collectGarbage();
        await Bun.sleep(readingMs / 6);
        mark.push(target.resident);
      };
      return setTimeout(collect, ((index + 1) * lengthMs) / MARKS - (READINGS - reading) * readingMs);
    }),
  );
  const everyMs = Math.min(ROW_MS, lengthMs / 10);
  try {
    let goesOn = true;
    for (let dueMs = everyMs; goesOn && dueMs < lengthMs + everyMs / 2; dueMs += everyMs)
      goesOn = await makeRow(atMs, Math.max(1, dueMs - atMs()));
    if (goesOn) await Bun.sleep(readingMs); // The last reading may be late.
  } finally {
    clearInterval(sampler);
    collectors.forEach(clearTimeout);
  }
  return { marks: readings.filter((mark) => mark.length === READINGS).map(median), readings, samples };
}

async function until(is: () => boolean, ms: number): Promise<void> {
  for (const endMs = performance.now() + ms; !is() && performance.now() < endMs;) await Bun.sleep(100);
}

function summary(found: Soak, wrong: readonly string[]): string {
  const { lengthMs, marks, samples, descriptors, ordinary, churn, hostile } = found;
  const megabytes = (all: number[]): string => all.map((bytes) => (bytes / 1e6).toFixed(1)).join(", ");
  const minutes = marks.map((_, index) => digits(((index + 1) * lengthMs) / marks.length / 60_000)).join(", ");
  const delivery = ({ lost, twice, disordered }: ChurnStats | Outcome): string =>
    `lost ${digits(lost)}, twice ${digits(twice)}, out of order ${digits(disordered)}`;
  const isJudged = lengthMs >= JUDGED_MS_MIN;
  const verdicts = wrong.length === 0 ? ["well"] : wrong.map((what) => `WRONG: ${what}`);
  const lines = [
    `resident at minutes ${minutes}: ${megabytes(marks)} MB, ` +
      `${digits(spreadOf(marks))} % apart${isJudged ? "" : " (not judged in so short a time)"}; ` +
      `with garbage at most ${megabytes([Math.max(...samples.map(({ resident }) => resident))])} MB`,
    `descriptors without the journal's: ${descriptors.before.length} before, ${descriptors.after.length} after`,
    `ordinary: ${digits(ordinary.sent)} messages and broadcasts, ${delivery(ordinary)}, dropped ${ordinary.dropped}`,
    `churn: ${digits(churn.logins)} logins, ${digits(churn.cuts)} lost connections, ` +
      `${digits(churn.sent)} messages, ${digits(churn.stored)} of them stored, ${delivery(churn)}`,
    `hostile: ${digits(hostile.connects)} connections, ${digits(hostile.closedByServer)} closed by the server, ` +
      `${digits(hostile.bytes / 1e6)} MB`,
  ];
  return ["", ...lines, ...verdicts].map((line) => `  ${line}`.trimEnd()).join("\n") + "\n";
}

async function main(line: CommandLine<(typeof OPTIONS)[number]>): Promise<number> {
  const options = parseOptions(line);
  const progress = new Progress();
  onInterrupt(() => {
    progress.clear();
    Target.killAll();
  });
  const { clients, churnClients, rate, seed, lengthMs, json } = options;
  process.stdout.write(
    `${digits(clients)} clients stay online, ${churnClients} log in and out, ${ATTACKS.length} attacks, ` +
      `${digits(rate)} messages per second, ${digits(lengthMs / 60_000)} minutes, seed ${seed}\n\n` +
      row([...COLUMNS, ...WRONG]),
  );
  const rows: Row[] = [];
  const printRow = (made: Row): void => {
    rows.push(made);
    progress.clear();
    process.stdout.write(rowOf(made));
  };
  const found = await soak(options, (text) => progress.show(text), printRow);
  const wrong = verdict(found);
  progress.clear();
  process.stdout.write(summary(found, wrong));
  const { madeAt, commit, machine } = newResult(seed);
  if (json !== null)
    writeFileSync(json, `${JSON.stringify({ madeAt, commit, machine, options, wrong, rows, ...found })}\n`);
  return wrong.length === 0 ? 0 : 1;
}

const failures = (error: unknown): boolean => error instanceof TargetError || error instanceof ChatError;
await runProgram({ name: "soak", usage: USAGE, options: OPTIONS, takesRest: true, failures }, main);
