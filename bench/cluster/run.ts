/** One run of bench:cluster: the load generator against the servers of a site, and what all processes used meanwhile. */
import { cpus } from "node:os";
import { BenchmarkError, type BenchmarkRunner } from "../load/benchmark-runner.ts";
import { SCENARIOS } from "../load/scenario.ts";
import type { Latency, WorkloadSpec } from "../load/workload-spec.ts";
import { cpuByProcess, cpuSince, machineBusy, machineTicks } from "../process-figures.ts";
import type { Cost, Usage } from "./model.ts";
import type { Site, Totals } from "./site.ts";
import { type Work, pairedUsers, serverOf } from "./work.ts";

export interface Figures {
  /** Messages per second that have arrived. */
  accepted: number;
  /** From the time at which a message was due until the sender had the `ok`, and until the recipient had the message. */
  ok: Latency;
  delivery: Latency;
  lateness: Latency;
  cost: Cost;
  usage: Usage;
  /** Mean size of a record, and messages in it; infinite without a shared log. */
  recordBytes: number;
  messagesPerRecord: number;
  lost: number;
  twice: number;
  disordered: number;
  faults: string[];
}

export interface Load {
  clients: number;
  /** Messages in flight per client; 0 for an open loop. */
  window: number;
  /** Messages per second of all clients together, in an open loop. */
  rate: number;
  resumable: boolean;
  warmupMs: number;
  measureMs: number;
}

const PAYLOAD_BYTES = 64;

/** Measures one work. `enginePids`: the servers of the engine. Throws BenchmarkError. */
export async function measureWork(
  runner: BenchmarkRunner,
  site: Site,
  enginePids: readonly number[],
  work: Work,
  load: Load,
  report: (progress: string) => void,
): Promise<Figures> {
  const { clients, ...rest } = load;
  const placed = pairedUsers(runner.users, clients, Math.max(1, work.shards), work.traffic);
  const spec: WorkloadSpec = {
    ...rest,
    generator: "native",
    sharesCores: true,
    protocol: "heartline",
    host: "127.0.0.1",
    port: site.ports[0]!,
    ports: placed.map(({ shard }) => site.ports[serverOf(shard, work.via, site.ports.length)]!),
    pid: null,
    users: placed.map(({ user }) => user),
    crowd: 0,
    scenario: SCENARIOS.message,
    payloadBytes: PAYLOAD_BYTES,
    beatMs: 30_000,
    loginsAtOnce: 64,
  };
  const read = () => ({
    totals: totalsOf(site),
    cpu: cpuByProcess([process.pid]),
    engine: cpuByProcess(enginePids),
    ticks: machineTicks(),
  });
  const totalsBefore = await totalsOf(site);
  const readings: ReturnType<typeof read>[] = [];
  const outcome = await runner.swarm(spec, report, () => readings.push(read()));
  const [begin, end] = readings as [(typeof readings)[0], (typeof readings)[0]];
  // A server that works all the time answers late. At a modest rate, logins would count for too much.
  const [before, after] =
    load.rate > 0 ? await Promise.all([begin.totals, end.totals]) : [totalsBefore, await totalsOf(site)];
  if (before === null || after === null) throw new BenchmarkError("a server has ended");
  const cpu = cpuSince(begin.cpu, end.cpu);
  const servers = site.pids.map((pid) => cpu.get(pid) ?? 0);
  const ns = outcome.seconds * 1e9;
  const perMessage = (nanoseconds: number): number => nanoseconds / 1000 / (outcome.accepted * outcome.seconds);
  const machine = machineBusy(begin.ticks, end.ticks);
  const [messages, logBytes] = [after.accepted - before.accepted, after.logBytes - before.logBytes];
  const records = after.records - before.records;
  const { accepted, latency, lateness, lost, twice, disordered, faults } = outcome;
  return {
    accepted,
    ok: outcome.reply!,
    delivery: latency,
    lateness,
    cost: {
      server: perMessage(sum(servers)),
      engine: perMessage(sum(cpuSince(begin.engine, end.engine).values())),
      generator: perMessage(outcome.busy * ns),
      logBytes: logBytes / messages,
    },
    usage: {
      generator: outcome.busy,
      busiestServer: Math.max(...servers) / ns,
      machine,
      others: Math.max(0, machine - sum(cpu.values()) / ns / cpus().length),
    },
    recordBytes: logBytes / records,
    messagesPerRecord: messages / records,
    lost,
    twice,
    disordered,
    faults,
  };
}

/** Null when a server has ended. */
async function totalsOf(site: Site): Promise<Totals | null> {
  return site.totals().catch(() => null);
}

function sum(values: Iterable<number>): number {
  return [...values].reduce((all, value) => all + value, 0);
}
