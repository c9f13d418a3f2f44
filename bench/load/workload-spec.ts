import type { ProtocolName } from "./protocol-adapter.ts";
import type { Scenario } from "./scenario.ts";

/** Lateness up to here is a machine's own, and no fault of the swarm's. */
const LATE_MICROS = 100;

/** What a swarm is to do: JSON on its standard input. It answers with lines of JSON, the last one an Outcome. */
export interface WorkloadSpec {
  protocol: ProtocolName;
  host: string;
  port: number;
  /** The server's process, whose time and memory are measured; null when it is none of ours. */
  pid: number | null;
  /** The last `crowd` of them say nothing. */
  users: [name: string, password: string][];
  crowd: number;
  scenario: Scenario;
  /** Closed: messages that each client has on their way. Open: so many a second of all together, whatever comes back. */
  window: number;
  rate: number;
  payloadBytes: number;
  /** How often a client of an alive crowd says so. */
  beatMs: number;
  warmupMs: number;
  /** With 0 the swarm is measured slice by slice: a line on standard input is one, and says how many ms. */
  measureMs: number;
  /** Of its sessions none, every other one, or all. */
  resumable: boolean | "half";
  /** A message may be refused with `err internal`: it is said again by nobody, and need not arrive. */
  mayRefuse?: boolean;
  /** Clients that log in at the same time. */
  loginsAtOnce: number;
}

/** Values in µs. */
export interface Latency {
  count: number;
  p50: number;
  p99: number;
  p999: number;
  max: number;
  /** Of a histogram of tenths of µs. */
  buckets: [index: number, count: number][];
}

/** What was measured for a while. */
export interface Slice {
  clients: number;
  seconds: number;
  /** A second: what was accepted and reached all its receivers; and what was received. For `login`: people who came. */
  accepted: number;
  delivered: number;
  /** From when a message was to be sent until it arrived; for a broadcast also until it had arrived at the last one. */
  latency: Latency;
  last: Latency;
  /** How much later than it was due a message of an open loop was sent. */
  lateness: Latency;
  server: {
    /** µs of its processor's time, by delivery or whatever was counted, and the part of one core that it used. */
    cpuMicros: number;
    core: number;
    /** Bytes by client: all that is resident; and without what is a file's. */
    resident: number;
    anonymous: number;
  } | null;
  /** The part of the time in which the swarm had something to do, and of the machine's time that others took. */
  busy: number;
  stolen: number;
  /** By second: deliveries, and the part of a core that the server used. */
  series: { delivered: number; core: number }[];
  /** Since the first message; of those that are lost, some may still be on their way. */
  lost: number;
  twice: number;
  disordered: number;
  /** Connections that the server closed. */
  dropped: number;
}

/** What a swarm came to: what was measured last, and everything since its first message. */
export interface Outcome extends Slice {
  sent: number;
  /** Messages that were refused: as many of those that are lost are not. */
  refused: number;
  /** What went wrong; nothing when all is well. */
  faults: string[];
}

/** Whether everything came once and in order, and nothing else went wrong. */
export function isClean({ lost, twice, disordered, faults }: Outcome): boolean {
  return lost + twice + disordered + faults.length === 0;
}

/** Whether an open loop measured itself: it could not send in time what was due. */
export function isBehind({ lateness, latency }: Slice): boolean {
  return lateness.count > 0 && lateness.p99 > Math.max(LATE_MICROS, latency.p99 / 10);
}
