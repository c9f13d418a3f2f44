/** The report of bench:cluster: medians with ranges, the bound of latency, and the model with its check. */
import { ratioText, ratiosByRound } from "../report/result.ts";
import { digits, median, range, spread } from "../report/statistics.ts";
import { APPENDS_MAX, OTHERS_MAX, boundHolds, deviation, limitOf, predict } from "./model.ts";
import type { AppendOutcome } from "./raw-append.ts";
import { type AppendRun, type ClusterResult, EngineResult, type WorkRun } from "./result.ts";
import type { Figures } from "./run.ts";
import { EMBEDDED, type Traffic, type Work, nameOf, shardCount } from "./work.ts";

/** Cores of the machines of the model. */
const MODEL_CORES = [8, 16, 64];
/** Shards whose rates the model predicts from those of fewer ones. */
const CHECKED_SHARDS = [2, 4];

const KINDS = ["paced", "turns", "large"] as const;

const COLUMNS: [title: string, width: number][] = [
  ["", 26],
  ["messages/s", 26],
  ["/ embedded", 22],
  ["/ same", 23],
  ["server µs", 11],
  ["engine µs", 11],
  ["log bytes", 11],
  ["per record", 12],
  ["ok p50 ms", 11],
  ["p99", 7],
  ["delivery p50", 14],
  ["p99", 7],
  ["limit", 18],
];

const rate = ({ figures }: WorkRun): number => figures.accepted;

function row(cells: readonly string[]): string {
  const padded = COLUMNS.map(([, width], i) => (i === 0 ? cells[i]!.padEnd(width) : (cells[i] ?? "").padStart(width)));
  return `  ${padded.join("")}`.trimEnd();
}

export function report(result: ClusterResult): string {
  const lines = Object.entries(result.engines).flatMap(([name, { engine, warnings }]) => {
    const found = new EngineResult(result, name);
    return [
      "",
      engine,
      ...warnings.map((warning) => `  warning: ${warning}`),
      row(COLUMNS.map(([title]) => title)),
      ...found.works.map((work) => workRow(found, work)),
      ...appendLines(found),
      ...boundLines(found),
      ...modelLines(found),
    ];
  });
  return `${[...lines, "", ...remarks(result)].join("\n")}\n`;
}

function workRow(found: EngineResult, work: Work): string {
  const closed = found.of(work, "closed");
  const others = (other: Work): string => ratioText(closed, found.of(other, "closed"), rate);
  const mean = (of: (figures: Figures) => number): string => digits(median(closed.map(({ figures }) => of(figures))));
  const ms = (of: "ok" | "delivery", at: "p50" | "p99"): string =>
    digits(median(found.timely(work, at).map(({ figures }) => figures[of][at] / 1000)));
  return row([
    nameOf(work),
    closed.length === 0 ? "-" : range(spread(closed.map(rate))),
    work.shards === 0 ? "" : others(EMBEDDED),
    work.traffic === "same" ? "" : others({ ...work, traffic: "same" }),
    mean(({ cost }) => cost.server),
    mean(({ cost }) => cost.engine),
    mean(({ cost }) => cost.logBytes),
    mean(({ messagesPerRecord }) => messagesPerRecord),
    ms("ok", "p50"),
    ms("ok", "p99"),
    ms("delivery", "p50"),
    ms("delivery", "p99"),
    [...new Set(closed.map(({ figures }) => limitOf(figures.usage)))].join(", "),
  ]);
}

function appendLines(found: EngineResult): string[] {
  const line = (how: string, runs: readonly AppendRun[]): string => {
    const of = (read: (outcome: AppendOutcome) => number): string =>
      range(spread(runs.map(({ outcome }) => read(outcome))));
    return (
      `  raw append, ${how}, ${digits(median(runs.map(({ task }) => task.recordBytes)))} bytes: ` +
      `p50 ${of(({ latency }) => latency.p50 / 1000)} ms, p99 ${of(({ latency }) => latency.p99 / 1000)} ms, ` +
      `${of(({ records }) => records)} per second, ${of(({ bytes }) => bytes / 1e6)} MB/s`
    );
  };
  const how = ({ kind, task: { writers } }: AppendRun): string => {
    const size = kind === "large" ? "large, " : "";
    return kind === "paced" ? "one at a time" : `back to back, ${size}at ${shardCount(writers)}`;
  };
  const sorted = KINDS.flatMap((kind) => found.appendsOf(kind).sort((a, b) => a.task.writers - b.task.writers));
  return [...Map.groupBy(sorted, how)].map(([name, runs]) => line(name, runs));
}

/** The median latency of a cross-shard ok, as a multiple of that of one append of the same round. */
function boundLines(found: EngineResult): string[] {
  const appends = found.appendsOf("paced").map(({ round, outcome }) => ({ round, p50: outcome.latency.p50 }));
  return found.works
    .filter(({ traffic }) => traffic === "cross")
    .map((work) => {
      const oks = found.timely(work, "p50").map(({ round, figures }) => ({ round, p50: figures.ok.p50 }));
      const multiples = ratiosByRound(oks, appends, ({ p50 }) => p50);
      const name = `  ok at most ${APPENDS_MAX} appends: ${nameOf(work)}:`;
      if (multiples.length === 0) return `${name} not measured`;
      return `${name} ${range(spread(multiples))}, ${boundHolds(median(multiples)) ? "holds" : "DOES NOT HOLD"}`;
    });
}

/** The smallest cluster that was measured with that traffic, with its clients at the owners. */
function smallest(found: EngineResult, traffic: Traffic): Work | null {
  const isFit = (work: Work): boolean =>
    work.shards > 0 && work.traffic === traffic && work.via === "owner" && found.cost(work) !== null;
  return found.works.find(isFit) ?? null;
}

function modelLines(found: EngineResult): string[] {
  const lines: string[] = [];
  const { logBytesPerSecond } = found;
  for (const traffic of ["same", "cross"] as const) {
    const base = smallest(found, traffic);
    if (base === null) continue;
    const cost = found.cost(base)!;
    for (const shards of CHECKED_SHARDS) {
      const measured = found.of({ ...base, shards }, "closed").map(rate);
      if (shards <= base.shards || measured.length === 0) continue;
      const cores = navigator.hardwareConcurrency;
      const room = { cores, shards, logBytesPerSecond, hasGenerator: true };
      const { rate: predicted, limit } = predict(cost, room);
      const off = 100 * deviation(median(measured), predicted);
      lines.push(
        `  check of the model, ${nameOf({ ...base, shards })}, ${cores} cores, from ${nameOf(base)}: predicted ` +
          `${digits(predicted)}/s (${limit}), measured ${digits(median(measured))}/s: ${off > 0 ? "+" : ""}${digits(off)} %`,
      );
    }
    for (const cores of MODEL_CORES) {
      const room = { cores, shards: cores, logBytesPerSecond, hasGenerator: false };
      const { rate: predicted, limit } = predict(cost, room);
      const alone = predict(cost, { ...room, logBytesPerSecond: Number.POSITIVE_INFINITY });
      lines.push(
        `  MODEL, not measured: ${traffic}, ${cores} cores: ${digits(predicted)}/s (${limit}); ` +
          `with a log that has no limit: ${digits(alone.rate)}/s`,
      );
    }
  }
  return lines;
}

/** How to read the columns, and why a figure may be wrong. */
function remarks({ runs }: ClusterResult): string[] {
  const lines = [
    "messages/s: highest rate; µs of CPU per message: of all servers, of all processes of the engine; log bytes per message",
    "limit of that rate: generator, cores or others (other programs): those of this machine, not of the servers; server: one",
    "of them used a core; engine: nothing was used up, all waited for acknowledgements",
    "latencies: at a modest rate; -: the load generator was late",
    "MODEL: a message costs what it has cost here on the fewest shards; one shard for each core, clients elsewhere",
  ];
  const others = Math.max(...runs.map(({ figures }) => figures.usage.others));
  if (others > OTHERS_MAX)
    lines.push(`THE MACHINE WAS BUSY: other programs used up to ${digits(100 * others)} % of it during a run`);
  for (const [via, what] of [
    ["owner", "lost"],
    ["gateway", "behind a gateway, counted apart for plain sessions: lost"],
  ] as const) {
    const those = runs.filter(({ work }) => work.via === via).map(({ figures }) => figures);
    if (those.length === 0) continue;
    const sum = (of: (figures: Figures) => number): number => those.reduce((all, figures) => all + of(figures), 0);
    lines.push(
      `${what} ${sum(({ lost }) => lost)}, twice ${sum(({ twice }) => twice)}, ` +
        `out of order ${sum(({ disordered }) => disordered)}`,
    );
  }
  return lines;
}
