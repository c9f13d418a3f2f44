/** `bun run bench:cluster`: compares clusters of several sizes with one server and with the log of the engine alone. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { FORWARDS_MAX } from "../../src/limits.ts";
import { UsageError } from "../../src/usage-error.ts";
import { NATS, NATS_CLUSTER, POSTGRES, type RunningEngine } from "../../test/support/engines.ts";
import { type CommandLine, Progress, onInterrupt, runProgram } from "../command-line.ts";
import { BenchmarkError, BenchmarkRunner, clientsMax } from "../load/benchmark-runner.ts";
import { COMPILER } from "../program.ts";
import { newResult } from "../report/result.ts";
import { digits, median } from "../report/statistics.ts";
import { measureAppends } from "./raw-append.ts";
import { report } from "./report.ts";
import { type AppendRun, type ClusterResult, EngineResult, type WorkRun } from "./result.ts";
import { measureWork } from "./run.ts";
import { Site, newCluster } from "./site.ts";
import { EMBEDDED, VIAS, type Via, TRAFFICS, type Traffic, type Work, nameOf, shardCount, worksOf } from "./work.ts";

const ENGINES = {
  postgres: { engine: POSTGRES, needs: "postgresql" },
  nats: { engine: NATS, needs: "nats-server" },
  "nats-3": { engine: NATS_CLUSTER, needs: "nats-server" },
};
type EngineName = keyof typeof ENGINES;
const ENGINE_NAMES = Object.keys(ENGINES) as EngineName[];
const SHARDS_DEFAULT = [1, 2, 4, 8];
const SHARDS_MAX = 16;
/** So many that each of SHARDS_MAX shards has enough of them. */
const USERS_MIN = 1024;
const USERS_PER_CLIENT = 4;
/** Of records that show how many bytes the log of an engine takes. */
const LARGE_BYTES = 64 << 10;

const OPTIONS = [
  "engines",
  "shards",
  "traffic",
  "via",
  "clients",
  "window",
  "rate",
  "sessions",
  "rounds",
  "seconds",
  "warmup",
  "json",
] as const;

const USAGE = `Usage: bun run bench:cluster [options]

Compares clusters on this machine with one server that has no cluster, and with the log of the engine alone. The servers
are processes on loopback, each engine is one of its own. In each round every work is measured twice: as fast as
messages arrive, and at a modest rate, which shows latencies. Rounds alternate the order. Needs ${COMPILER.program} (Debian
package ${COMPILER.package}).

  --engines <list>     ${ENGINE_NAMES.join(", ")}: three servers with a copy each (postgres,nats)
  --shards <list>      sizes of the clusters, each from 1 to ${SHARDS_MAX} (${SHARDS_DEFAULT.join(",")})
  --traffic <list>     pairs of users of the same shard, or of different ones (${TRAFFICS.join(",")})
  --via <list>         clients at the owner of their shard, or at another server, which relays (${VIAS.join(",")})
  --clients <number>   number of clients, even (256)
  --window <number>    messages in flight per client, at the highest rate (16)
  --rate <number>      modest rate: messages per second of all clients together (25)
  --sessions <kind>    plain, or resumable with an acknowledgement per second (plain)
  --rounds <number>    number of rounds (5)
  --seconds <number>   duration of each measurement (3)
  --warmup <number>    seconds before each measurement (1.5)
  --json <file>        writes all figures to this file
  --help               prints this page

Exit code: 0; 1 when a run failed or lost messages; 2 for an invalid command line.
`;

interface Options {
  engines: EngineName[];
  shards: number[];
  traffics: Traffic[];
  vias: Via[];
  clients: number;
  window: number;
  rate: number;
  resumable: boolean;
  rounds: number;
  measureMs: number;
  warmupMs: number;
  json: string | null;
}

type Line = CommandLine<(typeof OPTIONS)[number]>;

function parseOptions(line: Line): Options {
  const list = <Word extends string>(name: "engines" | "traffic" | "via", words: readonly Word[], fallback: Word[]) =>
    (line.text(name)?.split(",") ?? fallback).map((word) => {
      if (words.includes(word as Word)) return word as Word;
      throw new UsageError(`--${name} knows no "${word}"`);
    });
  const shards = (line.text("shards")?.split(",") ?? SHARDS_DEFAULT).map(Number);
  if (!shards.every((count) => Number.isInteger(count) && count >= 1 && count <= SHARDS_MAX))
    throw new UsageError(`--shards takes numbers from 1 to ${SHARDS_MAX}, not "${line.text("shards")}"`);
  const clients = line.number("clients", 256, 2, clientsMax());
  if (clients % 2 !== 0) throw new UsageError("--clients takes an even number: clients exchange messages in pairs");
  const window = line.number("window", 16, 1, 1024);
  if (clients * window > FORWARDS_MAX)
    throw new UsageError(
      `--clients times --window is more than ${FORWARDS_MAX}, which a shard may have on the way to another one`,
    );
  if (Bun.which(COMPILER.program) === null)
    throw new UsageError(
      `the load generator needs ${COMPILER.program}: install the Debian package ${COMPILER.package}`,
    );
  return {
    engines: list("engines", ENGINE_NAMES, ["postgres", "nats"]),
    shards,
    traffics: list("traffic", TRAFFICS, [...TRAFFICS]),
    vias: list("via", VIAS, [...VIAS]),
    clients,
    window,
    rate: line.number("rate", 25, 1, 100_000),
    resumable: line.choice("sessions", "plain", ["plain", "resumable"]) === "resumable",
    rounds: line.number("rounds", 5, 1, 1000),
    measureMs: line.number("seconds", 3, 0.1, 600, true) * 1000,
    warmupMs: line.number("warmup", 1.5, 0, 600, true) * 1000,
    json: line.output("json"),
  };
}

class ClusterBenchmark {
  readonly result: ClusterResult;
  isFaulty = false;
  readonly #options: Options;
  readonly #runner: BenchmarkRunner;
  readonly #progress: Progress;
  #round = 0;
  #done = 0;
  readonly #todo: number;

  constructor(options: Options, runner: BenchmarkRunner, progress: Progress) {
    const { engines, rounds, shards, measureMs, warmupMs } = options;
    const { madeAt, commit, machine } = newResult(0);
    this.result = { madeAt, commit, machine: { ...machine, pinned: false }, engines: {}, runs: [], appends: [] };
    this.#options = options;
    this.#runner = runner;
    this.#progress = progress;
    const works = shards.flatMap((count) => this.#works(count));
    const ofEngine = 2 * works.length + 2 + shards.length;
    this.#todo = rounds * (2 + engines.length * ofEngine);
    const runsMs = this.#todo * (measureMs + warmupMs + 1000);
    const startsMs = rounds * engines.length * shards.reduce((sum, count) => sum + 3000 + 500 * count, 0);
    progress.log(`${this.#todo} runs, about ${digits(Math.ceil((runsMs + startsMs) / 60_000))} min`);
  }

  #works(shards: number): Work[] {
    return worksOf(shards, this.#options.traffics, this.#options.vias);
  }

  async run(): Promise<void> {
    const { engines, rounds, json } = this.#options;
    for (; this.#round < rounds; this.#round++) {
      await this.#alternate([() => this.#embedded(), ...engines.map((name) => () => this.#engine(name))]);
      if (json !== null) writeFileSync(json, `${JSON.stringify(this.result)}\n`);
    }
  }

  /** One step after another, in the other order in every second round. A failed one is logged. */
  async #alternate(steps: (() => Promise<void>)[]): Promise<void> {
    for (const step of this.#round % 2 === 0 ? steps : steps.toReversed()) {
      try {
        await step();
      } catch (error) {
        if (!(error instanceof BenchmarkError)) throw error;
        this.isFaulty = true;
        this.#progress.log(`FAILED: ${error.message}`);
      }
    }
  }

  async #embedded(): Promise<void> {
    await this.#atSite(null, [], [EMBEDDED], (folder) => Site.startEmbedded(folder, this.#runner.credentials));
  }

  async #engine(name: EngineName): Promise<void> {
    const { engine } = ENGINES[name];
    this.#show(`${engine.name}: starting`);
    const running = await engine.start();
    try {
      await this.#alternate([
        ...this.#options.shards.map((shards) => () => this.#cluster(name, running, shards)),
        () => this.#appends(name, running),
      ]);
    } finally {
      await engine.closeAll();
    }
  }

  async #cluster(name: EngineName, engine: RunningEngine, shards: number): Promise<void> {
    this.#show(`${name}, ${shardCount(shards)}: starting`);
    const url = await newCluster(engine, shards);
    await this.#atSite(name, engine.pids, this.#works(shards), async (folder) => {
      const site = await Site.startCluster(folder, this.#runner.credentials, url, shards);
      this.result.engines[name] ??= site.engine!;
      return site;
    });
  }

  async #atSite(
    engine: EngineName | null,
    enginePids: number[],
    works: readonly Work[],
    start: (folder: string) => Promise<Site>,
  ): Promise<void> {
    const folder = mkdtempSync(join(this.#runner.folder, "site-"));
    try {
      const site = await start(folder);
      await this.#alternate(works.map((work) => () => this.#work(site, engine, enginePids, work)));
      await site.close();
    } finally {
      await Site.end();
      rmSync(folder, { recursive: true, force: true });
    }
  }

  /** The highest rate comes first, so that the code of the servers is compiled before latencies are measured. */
  async #work(site: Site, engine: EngineName | null, enginePids: number[], work: Work): Promise<void> {
    const { clients, window, rate, resumable, warmupMs, measureMs } = this.#options;
    const common = { clients, resumable, warmupMs, measureMs };
    for (const load of ["closed", "open"] as const) {
      const name = `${engine ?? "no engine"}, ${nameOf(work)}${load === "open" ? `, ${rate} per second` : ""}`;
      this.#done++;
      const show = this.#show(name);
      const how = load === "open" ? { window: 0, rate } : { window, rate: 0 };
      const figures = await measureWork(this.#runner, site, enginePids, work, { ...common, ...how }, show);
      this.result.runs.push({ round: this.#round, engine, work, load, figures });
      const { lost, twice, disordered, faults } = figures;
      if (lost + twice + disordered + faults.length === 0) continue;
      // To a plain session at a gateway the promise ends at the kernel of the owner.
      if (work.via === "owner" || resumable || faults.length > 0) this.isFaulty = true;
      this.#progress.log(
        `${name}: ${[...faults, `lost ${lost}, twice ${twice}, out of order ${disordered}`].join("; ")}`,
      );
    }
  }

  /** Records have the mean size that those of the servers have had so far, or a large one. */
  async #appends(name: EngineName, engine: RunningEngine): Promise<void> {
    const { shards, rate, warmupMs, measureMs } = this.#options;
    const { runs } = new EngineResult(this.result, name);
    const meanBytes = (load: WorkRun["load"], isOf: (work: Work) => boolean): number => {
      const those = runs.filter(({ work, ...run }) => run.load === load && work.shards > 0 && isOf(work));
      return Math.round(median(those.map(({ figures }) => figures.recordBytes)));
    };
    const tasks: Pick<AppendRun, "kind" | "task">[] = [];
    const add = (kind: AppendRun["kind"], writers: number, recordBytes: number): void =>
      void tasks.push({ kind, task: { writers, recordBytes, rate: kind === "paced" ? rate : 0, warmupMs, measureMs } });
    add(
      "paced",
      1,
      meanBytes("open", () => true),
    );
    for (const count of shards)
      add(
        "turns",
        count,
        meanBytes("closed", (work) => work.shards === count),
      );
    add("large", Math.max(...shards), LARGE_BYTES);
    await this.#alternate(
      tasks.map(({ kind, task }) => async () => {
        this.#done++;
        this.#show(`${name}, raw append to ${shardCount(task.writers)}, ${kind}`);
        // Without a size all runs of these servers have failed.
        if (!Number.isFinite(task.recordBytes)) return;
        const outcome = await measureAppends(await newCluster(engine, task.writers), task);
        this.result.appends.push({ round: this.#round, engine: name, kind, task, outcome });
      }),
    );
  }

  /** Shows what begins, and returns a function for its progress. */
  #show(what: string): (text: string) => void {
    const at = `${this.#done} of ${this.#todo}, round ${this.#round + 1}: ${what}`;
    this.#progress.show(at);
    return (text) => this.#progress.show(`${at}: ${text}`);
  }
}

async function main(line: Line): Promise<number> {
  const options = parseOptions(line);
  const progress = new Progress();
  options.engines = options.engines.filter((name) => {
    const { engine, needs } = ENGINES[name];
    if (!engine.isInstalled) progress.log(`SKIPPED: ${name}: needs the Debian package ${needs}`);
    return engine.isInstalled;
  });
  const runner = new BenchmarkRunner(Math.max(USERS_MIN, USERS_PER_CLIENT * options.clients));
  onInterrupt(() => {
    progress.clear();
    Site.kill(); // Engines end with this process.
    runner.remove();
  });
  try {
    const benchmark = new ClusterBenchmark(options, runner, progress);
    await benchmark.run();
    progress.clear();
    const { commit, machine, runs } = benchmark.result;
    const { rounds, measureMs, clients, window, rate, resumable } = options;
    process.stdout.write(
      `${rounds} rounds of ${digits(measureMs / 1000)} s, commit ${commit}: median [range]; ${clients} clients, ` +
        `${resumable ? "resumable" : "plain"} sessions, 64 bytes, ${window} in flight each, or ${rate} per second of all\n`,
    );
    const named = Object.entries(machine).map(([name, value]) => `${name} ${value}`);
    process.stdout.write(`${named.join(", ")}\n${report(benchmark.result)}`);
    return benchmark.isFaulty || runs.length === 0 ? 1 : 0;
  } finally {
    progress.clear();
    runner.remove();
  }
}

const failures = (error: unknown): boolean => error instanceof BenchmarkError;
await runProgram({ name: "bench:cluster", usage: USAGE, options: OPTIONS, failures }, main);
