/** The data that a load generator reads and writes: the workload on its stdin, the outcome on its stdout. */
import type { ProtocolName } from "./protocol-adapter.ts";
import type { Scenario } from "./scenario.ts";

/** Lateness below this is normal for a machine. */
const LATE_MICROS = 100;

/**
 * The workload of a load generator. swarm.ts reads it as JSON on its stdin, and writes lines of JSON, the last of which
 * is the Outcome. For native-swarm.c, native-swarm.ts translates both.
 */
export interface WorkloadSpec {
  generator: "typescript" | "native";
  protocol: ProtocolName;
  host: string;
  port: number;
  /** By user, in place of `port`. Only native. */
  ports?: number[];
  /**
   * The load generator sleeps when it has nothing to do, and runs on any core. Otherwise it never sleeps, so that it is
   * never late, on a core that it has for itself. Only native.
   */
  sharesCores?: boolean;
  /** The server's process, whose CPU time and memory are measured; null for a server that was not started here. */
  pid: number | null;
  /** One client per user. The last `crowd` of them send nothing. */
  users: [name: string, password: string][];
  crowd: number;
  scenario: Scenario;
  /** Closed loop: messages in flight per client. */
  window: number;
  /** A client sends its next messages when so many of its own have arrived, at once; 1 by default. Only native. */
  chunk?: number;
  /** Open loop: messages per second of all clients together; 0 for a closed loop. */
  rate: number;
  payloadBytes: number;
  /** Interval between two `alive` of a client, in the scenario alive. */
  beatMs: number;
  warmupMs: number;
  /** With 0 it measures slices: each further line on stdin is the length of one in ms. */
  measureMs: number;
  /** Which clients have resumable sessions: all, none, or every second one. */
  resumable: boolean | "half";
  /** The server may refuse messages with `err internal`. They are not sent again and need not arrive. */
  mayRefuse?: boolean;
  /** Clients that log in at the same time. */
  loginsAtOnce: number;
}

/** Percentiles in µs. */
export interface Latency {
  count: number;
  p50: number;
  p99: number;
  p999: number;
  max: number;
  /** The buckets of a Histogram in tenths of µs. */
  buckets: [index: number, count: number][];
}

/** What was measured in one period. */
export interface Slice {
  clients: number;
  seconds: number;
  /** Messages and broadcasts per second that reached all their receivers. In `login`: logins per second. */
  accepted: number;
  /** Deliveries per second. */
  delivered: number;
  /** From the time at which a message was due until it arrived; of broadcasts in a scenario without messages. */
  latency: Latency;
  /** From the time at which a broadcast was due until it arrived at its last receiver. */
  last: Latency;
  /** Open loop: from the time at which a message was due until it was sent. */
  lateness: Latency;
  /** From the time at which a message was due until its sender had the reply, one message of each client at a time. */
  reply?: Latency;
  server: {
    /** CPU time per delivery (or per login or `alive`), in µs. */
    cpuMicros: number;
    /** The share of one core that it used. */
    core: number;
    /** Bytes per client: resident memory, and the part of it that is not mapped from files. */
    resident: number;
    anonymous: number;
  } | null;
  /** The share of the time in which the load generator was not idle; with `sharesCores`: of a core that it used. */
  busy: number;
  /** The share of the machine's time that the hypervisor gave to others. */
  stolen: number;
  /** By second: deliveries, and the share of a core that the server used. */
  series: { delivered: number; core: number }[];
  /** These count from the first message. Before the end, messages in flight may count as lost. */
  lost: number;
  twice: number;
  disordered: number;
  /** Connections that the server closed. */
  dropped: number;
}

/** The result of a load generator: its last slice, and totals since its first message. */
export interface Outcome extends Slice {
  sent: number;
  /** Messages that the server refused. They are also counted in `lost`. */
  refused: number;
  /** Other errors; empty for a valid run. */
  faults: string[];
}

/** Whether every message arrived once and in order, without other errors. */
export function isClean({ lost, twice, disordered, faults }: Outcome): boolean {
  return lost + twice + disordered + faults.length === 0;
}

/** Whether the load generator was too slow to send messages on time, so that its latencies are not the server's. */
export function isBehind(
  { lateness, latency }: Pick<Slice, "lateness" | "latency">,
  at: "p50" | "p99" = "p99",
): boolean {
  return lateness.count > 0 && lateness[at] > Math.max(LATE_MICROS, latency[at] / 10);
}
