/**
 * `bun run drill`: what operators do to a cluster, and what networks do to it, under load: options, the choice of the
 * drill, the report. Each drill has a file of its own.
 */
import { type CommandLine, runProgram } from "../../../bench/command-line.ts";
import { UsageError } from "../../../src/usage-error.ts";
import { hasNats } from "../../support/nats-engine.ts";
import { postgresPrograms } from "../../support/postgres-engine.ts";
import { ENGINES } from "../chaos/cluster.ts";
import { INSIDE, checkHosts, cuts } from "./cuts.ts";
import { large } from "./large.ts";
import { PROMOTIONS, promotion } from "./promotion.ts";
import { rolling } from "./rolling.ts";
import { type DrillOptions, type Report, Stage } from "./stage.ts";

const USAGE = `Usage: bun run drill --drill <name> [options]

Runs a cluster on a real engine, with clients that send messages all the time, and does something to it. At the end it
compares what all users sent with what they were shown. Everything runs on this machine, in temporary folders that are
removed, unless something was wrong.

  upgrade    all servers are replaced by those of another version, one after another
  restart    all servers are restarted, one after another
  nats       the three servers of NATS are restarted, one after another
  cuts       the network between two machines drops all packets, one way or both ways; needs root
  promotion  the primary of PostgreSQL is killed or cut off, and a standby is promoted
  large      very many accounts, some with mail: import, start, snapshot, takeover, memory

  --drill <name>       one of these
  --seed <number>      seed of the random decisions, but not of the exact times (random, printed)
  --seconds <number>   upgrade, restart, nats: load before, between and after the replacements (10)
                       cuts: the length of each cut; several with commas (1,10,60)
                       promotion: load before and after it (10)
  --clients <number>   number of users, all with resumable sessions, 2 to 5000 (1000; cuts, promotion: 150);
                       large: number of accounts, up to 5000000 (1000000)
  --mailboxes <number> large: accounts with mail (100000)
  --rate <number>      messages per second of all users together (100; cuts, promotion: 60)
  --cluster <engine>   postgres or nats (postgres)
  --shards <number>    shards of the cluster, 1 to 8 (3; large: only 1)
  --steps <number>     at most that many replacements, cuts or promotions (all)
  --from <folder>      upgrade: a checkout of the older version (a copy of this one with another number)
  --p99 <ms>           upgrade, restart, nats: bound of the 99th percentile of replies (3000)
  --direct             the servers have --direct-listen, so clients leave the gateways
  --help               prints this page

Exit code: 0 when no message was lost, twice or out of order, no client lost its connection more than once for each
server that was replaced, and replies came in time; 1 otherwise; 2 for an invalid command line.
`;

const OPTIONS = [
  "drill",
  "seed",
  "seconds",
  "clients",
  "rate",
  "cluster",
  "shards",
  "steps",
  "from",
  "p99",
  "mailboxes",
] as const;
const DRILLS = ["upgrade", "restart", "nats", "cuts", "promotion", "large"] as const;

const RUNS: Record<Exclude<(typeof DRILLS)[number], "promotion">, (stage: Stage) => Promise<Report>> = {
  upgrade: (stage) => rolling(stage, "upgrade"),
  restart: (stage) => rolling(stage, "restart"),
  nats: (stage) => rolling(stage, "nats"),
  cuts,
  large,
};

type Line = CommandLine<(typeof OPTIONS)[number], "direct">;

function parseSeconds(line: Line, drill: (typeof DRILLS)[number]): number[] {
  const text = line.text("seconds");
  const all = text === null ? [] : text.split(",").map((each) => (/^\d+$/.test(each) ? Number(each) : 0));
  if (all.every((each) => each >= 1 && each <= 3_600) && (all.length <= 1 || drill === "cuts")) return all;
  const what = drill === "cuts" ? "whole numbers from 1 to 3600 with commas" : "a whole number from 1 to 3600";
  throw new UsageError(`--seconds takes ${what}, not "${text}"`);
}

function parseOptions(line: Line, drill: (typeof DRILLS)[number]): DrillOptions {
  const isLarge = drill === "large";
  const isRolling = ["upgrade", "restart", "nats"].includes(drill);
  return {
    seed: line.number("seed", Math.floor(Math.random() * 2 ** 31), 0, 2 ** 32 - 1),
    seconds: parseSeconds(line, drill),
    clients: isLarge
      ? line.number("clients", 1_000_000, 10, 5_000_000)
      : line.number("clients", isRolling ? 1_000 : 150, 2, 5_000),
    mailboxes: line.number("mailboxes", 100_000, 1, 1_000_000),
    rate: line.number("rate", isRolling ? 100 : 60, 1, 10_000),
    engine: drill === "nats" ? "nats" : line.choice("cluster", ENGINES[0], ENGINES),
    shards: line.number("shards", isLarge ? 1 : 3, 1, isLarge ? 1 : 8),
    steps: line.number("steps", Number.POSITIVE_INFINITY, 1, 1_000),
    isDirect: line.flag("direct"),
    from: line.text("from"),
    replyP99MsMax: line.number("p99", 3_000, 1, 600_000),
  };
}

const { promise: interrupted, reject: interrupt } = Promise.withResolvers<never>();
interrupted.catch(() => {});

/** Runs a drill with a cluster of its own. */
async function perform(options: DrillOptions, drill: (stage: Stage) => Promise<Report>): Promise<boolean> {
  const stage = new Stage(options);
  let isClean = false;
  try {
    const { text, failures } = await Promise.race([drill(stage), interrupted]);
    process.stdout.write(`${text}${failures.map((each) => `FAILED: ${each}\n`).join("")}\n`);
    return (isClean = failures.length === 0);
  } finally {
    await stage.stop(isClean);
  }
}

/** The same command in a network namespace of its own, so that nothing of its network is seen outside. */
async function runInside(): Promise<number> {
  checkHosts();
  const command = ["setpriv", "--pdeathsig=TERM", "unshare", "--net", process.execPath, ...process.argv.slice(1)];
  const child = Bun.spawn(command, {
    env: { ...process.env, [INSIDE]: "1" },
    stdio: ["inherit", "inherit", "inherit"],
  });
  process.once("SIGINT", () => {}); // The terminal sends it to both.
  process.once("SIGTERM", () => child.kill("SIGTERM"));
  return child.exited;
}

async function main(line: Line): Promise<number> {
  if (line.text("drill") === null) throw new UsageError(`--drill is missing: ${DRILLS.join(", ")}`);
  const drill = line.choice("drill", "upgrade", DRILLS);
  const options = parseOptions(line, drill);
  const engine = drill === "promotion" ? "postgres" : options.engine;
  if (engine === "postgres" ? postgresPrograms === null : !hasNats)
    throw new Error(
      `${engine} is not installed; install Debian's package ${engine === "nats" ? "nats-server" : "postgresql"}`,
    );
  if (drill === "cuts" && process.env[INSIDE] === undefined) return runInside();
  process.stderr.write(`seed ${options.seed}\n`);
  for (const signal of ["SIGINT", "SIGTERM"] as const)
    process.once(signal, () => interrupt(new Error(`${signal}: the drill ends without a report`)));
  if (drill !== "promotion") {
    return (await perform(options, RUNS[drill])) ? 0 : 1;
  }
  let isClean = true;
  for (const kind of PROMOTIONS.slice(0, options.steps))
    isClean = (await perform(options, (stage) => promotion(stage, kind))) && isClean;
  return isClean ? 0 : 1;
}

await runProgram({ name: "drill", usage: USAGE, options: OPTIONS, flags: ["direct"], failures: () => true }, main);
process.exit();
