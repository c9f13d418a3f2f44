/**
 * The metrics of a server, in the text format of Prometheus. Nothing is counted here: a scrape reads plain numbers, and
 * costs no SQL and no loop over users, sessions or connections. docs/operating.md lists the metrics.
 */
import { statSync, statfsSync } from "node:fs";
import { join } from "node:path";
import { Counter, Gauge, type Metric, Registry } from "prom-client";
import { version } from "../../package.json";
import type { Histogram } from "../histogram.ts";
import type { NeighbourLinks } from "../net/neighbour-links.ts";
import type { Admission } from "../net/admission.ts";
import { descriptorsMax, residentBytes } from "../runtime/kernel.ts";
import type { Store } from "../storage/store.ts";
import { CLUSTER_GAUGES, LINK_COUNTERS, LINK_GAUGES, RELAY_COUNTERS, RELAY_GAUGES } from "./cluster-metrics.ts";
import type { ClusterNode } from "./cluster-node.ts";
import type { Core } from "./core.ts";
import type { Counters } from "./counters.ts";
import type { OwnMetric } from "./own-metric.ts";
import type { Readiness } from "./readiness.ts";

/** The parts of a running server that have numbers. */
export interface Measured {
  counters: Counters;
  core: Core;
  admission: Admission;
  store: Store;
  /** Null without other shards. */
  links: NeighbourLinks | null;
}

type ServerMetric = OwnMetric<[server: Measured]>;

const COUNTERS: ServerMetric[] = [
  {
    name: "heartline_messages_accepted_total",
    help: "Messages that were answered with ok, by outcome.",
    label: "outcome",
    read: ({ counters }) => Object.entries({ sent: counters.messagesSent, stored: counters.messagesStored }),
  },
  {
    name: "heartline_messages_refused_total",
    help: "Messages that were answered with err, by error code.",
    label: "reason",
    read: ({ counters }) => counters.messagesRefused,
  },
  { name: "heartline_broadcasts_total", help: "Broadcasts.", read: ({ counters }) => counters.broadcasts },
  {
    name: "heartline_broadcast_deliveries_total",
    help: "Receivers of all broadcasts together.",
    read: ({ counters }) => counters.broadcastDeliveries,
  },
  {
    name: "heartline_logins_total",
    help: "Logins, by result: ok or the error code.",
    label: "result",
    read: ({ counters }) => [["ok", counters.logins], ...counters.loginsRefused],
  },
  { name: "heartline_lockouts_total", help: "Lockouts of users.", read: ({ counters }) => counters.lockouts },
  {
    name: "heartline_sessions_ended_total",
    help: "Ended sessions, by reason.",
    label: "reason",
    read: ({ counters }) => counters.sessionsEnded,
  },
  {
    name: "heartline_connections_refused_total",
    help: "Connections that were closed before their first request, by reason.",
    label: "reason",
    read: ({ admission }) => admission.refusals,
  },
  {
    name: "heartline_callbacks_total",
    help: "Calls to clients of callback sessions, by result.",
    label: "result",
    read: ({ core: { callbacks } }) => Object.entries({ ok: callbacks.succeeded, failed: callbacks.failed }),
  },
  {
    name: "heartline_journal_bytes_total",
    help: "Bytes of the records that were written to the journal.",
    read: ({ store }) => store.journal?.bytesWritten ?? 0,
  },
];

const GAUGES: ServerMetric[] = [
  {
    name: "heartline_sessions",
    help: "Sessions that are online, by kind.",
    label: "kind",
    read: ({ counters }) => Object.entries(counters.sessions),
  },
  {
    name: "heartline_connections",
    help: "Open connections, with and without a session.",
    read: ({ admission }) => admission.size,
  },
  {
    name: "heartline_websockets",
    help: "Of the open connections, those over WebSocket.",
    read: ({ core }) => core.connections.open.values().reduce((sum, each) => sum + Number(each.isWebSocket), 0),
  },
  {
    name: "heartline_connections_max",
    help: "Limit of open connections.",
    read: ({ core }) => core.connections.limits.connectionsMax,
  },
  {
    name: "heartline_mailbox_messages",
    help: "Messages in all mailboxes.",
    read: ({ core }) => core.chat.accounts.waiting.messages,
  },
  {
    name: "heartline_mailbox_bytes",
    help: "Bytes of the texts in all mailboxes.",
    read: ({ core }) => core.chat.accounts.waiting.bytes,
  },
  {
    name: "heartline_outbox_bytes",
    help: "Memory of the output that clients have not acknowledged or taken.",
    read: ({ core }) => core.chat.outboxMemory.bytes,
  },
  {
    name: "heartline_outbox_bytes_max",
    help: "Limit of heartline_outbox_bytes.",
    read: ({ core }) => core.chat.limits.streamsBytesMax,
  },
  {
    name: "heartline_broadcast_log_bytes",
    help: "Memory of the broadcasts that some clients have not taken.",
    read: ({ core }) => core.chat.announcements.group.log.bytes,
  },
  {
    name: "heartline_callbacks_active",
    help: "Calls to clients of callback sessions that are in progress.",
    read: ({ core }) => core.callbacks.calls.size,
  },
  {
    name: "heartline_callbacks_waiting",
    help: "Callback sessions that wait for the end of other calls.",
    read: ({ core }) => core.callbacks.waiting.size,
  },
  {
    name: "heartline_disk_error",
    help: "1 while the disk or the data folder refuses writes.",
    read: ({ store }) => Number(store.writeError !== null),
  },
];

const HISTOGRAMS: { name: string; help: string; read: (server: Measured) => Histogram | undefined }[] = [
  {
    name: "heartline_turn_seconds",
    help: "Durations of turns of the event loop.",
    read: ({ core }) => core.turnSeconds,
  },
  {
    name: "heartline_fsync_seconds",
    help: "Durations of syncs of the journal; none without --durability power.",
    read: ({ store }) => store.journal?.syncSeconds,
  },
];

/** How long a rendering holds the event loop at a time, and how long the next one waits. */
const SLICE_MS = 0.5;
const RENDER_PAUSE_MS = 50;

/** It has its own registry: the default metrics of the library hold the event loop for several ms at each scrape. */
export class Metrics {
  /** Null until the data folder is recovered. */
  server: Measured | null = null;
  /** Null for a server with its own journal. */
  node: ClusterNode | null = null;
  readonly #registry = new Registry();
  /** The rendering that has not begun, and the end of the pause after the last one. */
  #next: Promise<string> | null = null;
  #last: Promise<unknown> = Promise.resolve();

  /** `data`: the data folder, or ":memory:". */
  constructor(readiness: Readiness, data: string) {
    new Gauge({
      name: "heartline_build_info",
      help: "Always 1.",
      labelNames: ["version", "bun"],
      registers: [this.#registry],
    }).set({ version, bun: Bun.version }, 1);
    this.#add(Gauge, {
      name: "heartline_ready",
      help: "1 while new sessions can begin.",
      read: () => Number(readiness.obstacle === null),
    });
    for (const [Kind, metrics] of [[Gauge, GAUGES] as const, [Counter, COUNTERS] as const]) {
      for (const { read, ...metric } of metrics) {
        this.#add(Kind, { ...metric, read: () => (this.server === null ? [] : read(this.server)) });
      }
    }
    for (const { read, ...metric } of CLUSTER_GAUGES) {
      this.#add(Gauge, { ...metric, read: () => (this.node === null ? [] : read(this.node)) });
    }
    for (const [Kind, metrics] of [[Gauge, RELAY_GAUGES] as const, [Counter, RELAY_COUNTERS] as const]) {
      for (const { read, ...metric } of metrics) {
        this.#add(Kind, { ...metric, read: () => (this.node === null ? [] : read(this.node.relayCounts)) });
      }
    }
    for (const [Kind, metrics] of [[Gauge, LINK_GAUGES] as const, [Counter, LINK_COUNTERS] as const]) {
      for (const { read, ...metric } of metrics) {
        this.#add(Kind, { ...metric, read: () => (this.server?.links == null ? [] : read(this.server.links)) });
      }
    }
    for (const metric of HISTOGRAMS) this.#addHistogram(metric);
    if (data !== ":memory:") for (const metric of diskGauges(data)) this.#add(Gauge, metric);
    for (const metric of processGauges()) this.#add(Gauge, metric);
    this.#add(Counter, {
      name: "process_cpu_seconds_total",
      help: "CPU time of the process, user and system.",
      read: cpuSeconds,
    });
  }

  #add(Kind: typeof Gauge | typeof Counter, { name, help, label, read }: OwnMetric): void {
    const labelNames = label === undefined ? [] : [label];
    const collect = (): void => {
      metric.reset();
      const values = read();
      if (typeof values === "number") metric.inc(values);
      else for (const [each, value] of values) metric.inc({ [label!]: each }, value);
    };
    const metric: Gauge | Counter = new Kind({ name, help, labelNames, registers: [this.#registry], collect });
  }

  /** The library's histograms count each value themselves; these only show what was counted. */
  #addHistogram({ name, help, read }: (typeof HISTOGRAMS)[number]): void {
    const get = async (): Promise<object> => {
      const { bounds = [], counts = [], seconds = 0 } = (this.server !== null && read(this.server)) || {};
      const values: { metricName: string; labels: object; value: number }[] = [];
      let total = 0;
      for (const [i, count] of counts.entries()) {
        total += count;
        values.push({ metricName: `${name}_bucket`, labels: { le: bounds[i] ?? "+Inf" }, value: total });
      }
      values.push({ metricName: `${name}_sum`, labels: {}, value: seconds });
      values.push({ metricName: `${name}_count`, labels: {}, value: total });
      return { name, help, type: "histogram", aggregator: "sum", values };
    };
    this.#registry.registerMetric({ name, help, get } as unknown as Metric);
  }

  get contentType(): string {
    return this.#registry.contentType;
  }

  /** The text for Prometheus. Requests that wait share one rendering, so that many of them cost the chat little. */
  text(): Promise<string> {
    if (this.#next !== null) return this.#next;
    const next = this.#last.then(() => {
      this.#next = null;
      return this.#render();
    });
    const pause = (): Promise<void> => Bun.sleep(RENDER_PAUSE_MS);
    this.#last = next.then(pause, pause);
    return (this.#next = next);
  }

  /** The event loop runs between slices of about SLICE_MS: all at once takes up to 2 ms, and 5 ms the first time. */
  async #render(): Promise<string> {
    const texts: string[] = [];
    let sliceMs = performance.now();
    for (const { name } of this.#registry.getMetricsAsArray()) {
      texts.push(await this.#registry.getSingleMetricAsString(name));
      if (performance.now() - sliceMs < SLICE_MS) continue;
      await new Promise(setImmediate);
      sliceMs = performance.now();
    }
    return `${texts.join("\n\n")}\n`;
  }

  /** The same figures as lines `name value`; a name may have labels. */
  async samples(): Promise<string[]> {
    const text = await this.text();
    return text.split("\n").filter((line) => line !== "" && !line.startsWith("#"));
  }
}

function diskGauges(data: string): OwnMetric[] {
  const sizeOf = (name: string): number => statSync(join(data, name), { throwIfNoEntry: false })?.size ?? 0;
  return [
    {
      name: "heartline_disk_free_bytes",
      help: "Free space of the file system with the data folder.",
      read: () =>
        orNaN(() => {
          const { bavail, bsize } = statfsSync(data);
          return bavail * bsize;
        }),
    },
    {
      name: "heartline_database_bytes",
      help: "Size of the database and its write-ahead log.",
      read: () => orNaN(() => sizeOf("heartline.sqlite") + sizeOf("heartline.sqlite-wal")),
    },
  ];
}

/** NaN when the folder is not there, or is no folder. */
function orNaN(read: () => number): number {
  try {
    return read();
  } catch {
    return Number.NaN;
  }
}

/** What Prometheus expects of each process. */
function processGauges(): OwnMetric[] {
  const descriptors = descriptorsMax();
  const gauges: OwnMetric[] = [
    {
      name: "process_resident_memory_bytes",
      help: "Resident memory of the process.",
      read: () => residentBytes() ?? Number.NaN,
    },
    {
      name: "process_start_time_seconds",
      help: "Start of the process in Unix time.",
      read: () => performance.timeOrigin / 1000,
    },
    { name: "process_max_fds", help: "Limit of open file descriptors.", read: () => descriptors },
  ];
  if (openDescriptors() > 0) {
    gauges.push({ name: "process_open_fds", help: "Open file descriptors.", read: openDescriptors });
  }
  return gauges;
}

/** Linux 6.2 shows the number as the size of the folder, 0 before. With many, a list of the folder takes some 20 ms. */
function openDescriptors(): number {
  return statSync("/proc/self/fd", { throwIfNoEntry: false })?.size ?? 0;
}

function cpuSeconds(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1e6;
}
