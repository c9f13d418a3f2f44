/** Runs native-swarm.c, the load generator in C: compiles it, writes its input, and makes an Outcome of its output. */
import { join } from "node:path";
import { machineTicks, stolen } from "../process-figures.ts";
import { linesOf } from "../program.ts";
import { Histogram } from "../report/histogram.ts";
import { type Counters, MeasuredServer, latencyOf, pointOf, ratesOf } from "./figures.ts";
import * as payload from "./payload.ts";
import { PROTOCOLS } from "./protocol-adapter.ts";
import type { Scenario } from "./scenario.ts";
import type { Latency, Outcome, WorkloadSpec } from "./workload-spec.ts";

/** Clients that log in and out, or have no latency, are measured by swarm.ts. */
export function isForNative({ instead }: Scenario): boolean {
  return instead === null || instead === "alive";
}

export const NATIVE_SOURCE = join(import.meta.dir, "native-swarm.c");

/**
 * Writes the input of a native swarm and reads its output until it ends. Null when it failed: its stderr has the reason.
 * Calls `measures` when the measurement begins and when it ends.
 */
export async function nativeOutcome(
  spec: WorkloadSpec,
  { stdin, stdout }: { stdin: Bun.FileSink; stdout: ReadableStream<Uint8Array> },
  report: (progress: string) => void,
  measures: () => void = () => {},
): Promise<Outcome | null> {
  const server = new MeasuredServer(spec.pid, () => {});
  const before = server.memory;
  stdin.write(inputOf(spec));
  await stdin.end();
  let ticks: number[] = [];
  let from: Counters | null = null;
  let to: Counters | null = null;
  const series: Outcome["series"] = [];
  const histograms: Record<string, Latency> = {};
  for await (const line of linesOf(stdout)) {
    const [name = "", ...values] = line.split(" ");
    if (name === "online") report(`${values[0]} of ${spec.users.length} clients logged in`);
    else if (name === "warming") report(line);
    else if (name === "measuring" || name === "second") {
      const [micros, accepted, delivered] = values.map(Number) as [number, number, number];
      const now = { ms: micros / 1000, accepted, delivered, cpuNs: server.cpuNs };
      if (to === null) {
        [from, ticks] = [now, machineTicks()];
        measures();
      } else {
        const point = pointOf(to, now);
        series.push(point);
        report(`measuring: ${point.delivered.toLocaleString("en")} per second`);
      }
      to = now;
    } else if (name === "end") {
      const [sent, lost, twice, disordered, missingReplies, busyNs] = values.map(Number) as number[];
      const rates = ratesOf(from!, to!, { before, after: server.memory, clients: spec.users.length });
      return {
        clients: spec.users.length,
        ...rates,
        latency: histograms.latency!,
        last: histograms.last!,
        lateness: histograms.lateness!,
        reply: histograms.reply!,
        busy: busyNs! / 1e9 / rates.seconds,
        stolen: stolen(ticks),
        series,
        lost: lost!,
        twice: twice!,
        disordered: disordered!,
        dropped: 0,
        sent: sent!,
        refused: 0,
        faults: missingReplies === 0 ? [] : [`${missingReplies} requests had no reply`],
      };
    } else {
      if (name === "latency") measures(); // The first line after the measurement.
      histograms[name] = latencyOf(histogramOf(values));
    }
  }
  return null;
}

/** A histogram from `<max> <index>:<count> …` */
function histogramOf([max, ...buckets]: string[]): Histogram {
  return Histogram.from(
    buckets.map((bucket) => bucket.split(":").map(Number) as [number, number]),
    Number(max),
  );
}

/** The input of native-swarm.c, in the order in which its function read_input reads it. */
function inputOf(spec: WorkloadSpec): Buffer {
  const { scenario, users, payloadBytes } = spec;
  const { messages, aliveEach, broadcasters, broadcastEach, instead } = scenario;
  const adapter = PROTOCOLS[spec.protocol];
  const run = payload.newRun();
  const stepsOf = ([user, password]: [string, string], index: number) => {
    const broadcasts = broadcasters > 0 && (adapter.broadcastersReceive || index >= broadcasters);
    return adapter.steps(user, password, { broadcasts, resumable: isResumable(spec, index) });
  };
  const rate = instead === "alive" ? users.length / (spec.beatMs / 1000) : spec.rate;
  const parts: Buffer[] = [];
  const add = (...values: (number | boolean | string | Buffer)[]): void => {
    for (const value of values) {
      if (typeof value === "number" || typeof value === "boolean")
        parts.push(Buffer.from(`${Math.round(Number(value))} `));
      else parts.push(Buffer.from(`${value.length}:`), Buffer.from(value as Buffer));
    }
  };
  const kinds = Array.from(adapter.kinds).join("");
  add(spec.host, adapter.alive, kinds);
  add(
    rate === 0 ? spec.window : 0,
    spec.chunk ?? 1,
    rate === 0 ? 0 : Math.round(1e9 / rate),
    spec.warmupMs,
    spec.measureMs,
    run,
  );
  add(payloadBytes, adapter.message("x", payloadBytes).tail.length - 1, spec.loginsAtOnce);
  add(messages, instead === "alive", aliveEach, broadcasters, broadcastEach);
  add(adapter.replies, adapter.broadcastersReceive, spec.sharesCores === true);
  add(users.length - spec.crowd, users.length);
  const patterns = stepsOf(users[0]!, 0).map(({ expect }) => expect.source);
  add(patterns.length, ...patterns);
  for (const [index, user] of users.entries()) {
    const message = adapter.message((users[index ^ 1] ?? user)[0], payloadBytes);
    const text = payload.newPayload(payload.MESSAGE_MARK, index, run, payloadBytes);
    add(spec.ports?.[index] ?? spec.port, isResumable(spec, index));
    add(Buffer.concat([message.head, text, message.tail]));
    const broadcast = adapter.broadcast(payloadBytes);
    const broadcastText = payload.newPayload(payload.BROADCAST_MARK, index, run, payloadBytes);
    add(index < broadcasters ? Buffer.concat([broadcast.head, broadcastText, broadcast.tail]) : "");
    add(...stepsOf(user, index).map(({ send }) => send));
  }
  return Buffer.concat(parts);
}

function isResumable({ resumable }: WorkloadSpec, index: number): boolean {
  return resumable === "half" ? index % 2 === 1 : resumable;
}
