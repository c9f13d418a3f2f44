/** `bun run bench:report`: a page with pictures and tables from the files that `bench:peers --json` writes. */
import { usageError } from "../../src/usage-error.ts";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { type EChartsOption, init } from "echarts";
import { Histogram } from "./histogram.ts";
import { type Result, type Run, readResult, runsOf, ratioText, ratiosByRound, latencyCells } from "./result.ts";
import { median, range, spread } from "./statistics.ts";
import { isBehind } from "../load/workload-spec.ts";
import { WORKS, WORK_GROUPS, type Work } from "../peers/work.ts";

const USAGE = `Usage: bun run bench:report [options] <file>...

Writes a page (index.html) and pictures (SVG) from files of bench:peers --json. Several files of one machine are merged.

  --out <folder>   the folder for page and pictures (bench/results)
  --help           prints this page
`;

const REFERENCE = "baseline";
/** The work whose percentiles are drawn. */
const CURVE_WORK = "load-20000";
const WIDTH = 960;
/** Heartline in red, the reference in grey. */
const COLORS: Record<string, string> = {
  heartline: "#c8374a",
  "heartline-none": "#e08a94",
  "heartline-resumable": "#f0b8a0",
  "heartline-power": "#8f1f2e",
  baseline: "#6b7280",
  nats: "#2f6db3",
  redis: "#e08e1b",
  inspircd: "#3c8f5a",
  ngircd: "#7fb069",
  "bun-websocket": "#8a5fb0",
  "node-net": "#b59fcb",
};

class Report {
  readonly #result: Result;

  constructor(result: Result) {
    this.#result = result;
  }

  get #peers(): string[] {
    return Object.keys(this.#result.peers);
  }

  #runs(work: string, peer: string): Run[] {
    return runsOf(this.#result, work, peer);
  }

  #worksOf(group: Work["group"]): Work[] {
    return WORKS.filter(
      (work) => work.group === group && this.#peers.some((peer) => this.#runs(work.name, peer).length > 0),
    );
  }

  /** All pictures for which the result has figures, by file name. */
  pictures(): Map<string, string> {
    const pictures = new Map<string, string>();
    const add = (name: string, title: string, height: number, option: EChartsOption | null): void => {
      if (option !== null) pictures.set(`${name}.svg`, picture(title, height, option));
    };
    add("throughput", "Deliveries per second, relative to a plain C server", 620, this.#throughput());
    add("cpu", "Server CPU per delivery, relative to a plain C server (less is better)", 620, this.#cpu());
    add("load", "Latency (p99) by offered load: messages of 64 clients", 420, this.#load("p99"));
    add("load-median", "Latency (median) by offered load: messages of 64 clients", 420, this.#load("p50"));
    add("percentiles", "Latencies at 20,000 messages per second, 64 clients", 420, this.#percentiles());
    add("windows", "Latency (p99): messages of 64 clients; each dot is a run, lines are medians", 420, this.#windows());
    add("users", "Server CPU per message, by number of idle users online", 420, this.#users());
    add("memory", "Resident memory per idle client, in bytes", 360, this.#memory());
    return pictures;
  }

  #throughput(): EChartsOption | null {
    return this.#bars((run) => run.outcome.delivered);
  }

  #cpu(): EChartsOption | null {
    return this.#bars((run) => run.outcome.server!.cpuMicros);
  }

  /** Medians of the ratios to the reference, round by round. */
  #bars(of: (run: Run) => number): EChartsOption | null {
    const works = this.#worksOf("saturation");
    if (works.length === 0 || !this.#peers.includes(REFERENCE)) return null;
    const share = (work: Work, peer: string): number =>
      median(ratiosByRound(this.#runs(work.name, peer), this.#runs(work.name, REFERENCE), of));
    return {
      grid: { left: 290, right: 40, top: 90, bottom: 30 },
      xAxis: { type: "value", max: (value: { max: number }) => Math.min(4, Math.ceil(value.max * 10) / 10) },
      yAxis: { type: "category", inverse: true, data: works.map(({ title }) => title), axisTick: { show: false } },
      series: this.#peers.map((peer) => ({
        type: "bar" as const,
        name: peer,
        color: COLORS[peer],
        barGap: "10%",
        barCategoryGap: "25%",
        data: works.map((work) => Number(share(work, peer).toFixed(3))),
        ...(peer === "heartline" ? { label: { show: true, position: "right" as const, fontSize: 10 } } : {}),
      })),
    };
  }

  #load(which: "p50" | "p99"): EChartsOption | null {
    const works = this.#worksOf("load");
    if (works.length === 0) return null;
    const rates = works.map(({ task }) => task.rate);
    return this.#lines(
      { name: "offered, messages/s", type: "log", min: Math.min(...rates), max: Math.max(...rates) },
      { name: `${which}, µs`, type: "log" },
      (peer) =>
        works.flatMap(({ name, task }) => {
          const valid = this.#runs(name, peer).filter(({ outcome }) => !isBehind(outcome));
          return valid.length === 0 ? [] : [[task.rate, median(valid.map(({ outcome }) => outcome.latency[which]))]];
        }),
    );
  }

  /** By messages in flight; and, with the most of them, by messages that are sent at once. */
  #windows(): EChartsOption | null {
    const works = this.#worksOf("windows");
    if (works.length === 0) return null;
    const most = Math.max(...works.map(({ task }) => task.window));
    const panels = [
      { name: "in flight", works: works.filter(({ task }) => task.chunk === 1), x: ({ task }: Work) => task.window },
      {
        name: `at once, ${most} in flight`,
        works: works.filter(({ task }) => task.window === most),
        x: ({ task }: Work) => task.chunk!,
      },
    ];
    const axis = { type: "log" as const, nameLocation: "middle" as const, nameGap: 30 };
    return {
      grid: [70, 540].map((left) => ({ left, width: 380, top: 90, bottom: 50 })),
      xAxis: panels.map(({ name }, gridIndex) => ({ ...axis, name, gridIndex, logBase: 2, min: 1, max: most })),
      yAxis: panels.map((_, gridIndex) => ({ type: "log" as const, name: "p99, ms", gridIndex })),
      series: panels.flatMap(({ works: points, x }, index) =>
        this.#peers.flatMap((peer) => {
          const place = { name: peer, xAxisIndex: index, yAxisIndex: index, color: COLORS[peer] };
          const p99 = ({ outcome }: Run): number => outcome.latency.p99 / 1000;
          const measured = points
            .map((work) => ({ at: x(work), ms: this.#runs(work.name, peer).map(p99) }))
            .filter(({ ms }) => ms.length > 0);
          const line = measured.map(({ at, ms }) => [at, median(ms)]);
          const dots = measured.flatMap(({ at, ms }) => ms.map((each) => [at, each]));
          return [
            { ...place, type: "line" as const, symbolSize: 0, data: line },
            { ...place, type: "scatter" as const, symbolSize: 5, data: dots },
          ];
        }),
      ),
    };
  }

  #percentiles(): EChartsOption | null {
    const nines = (part: number): number => Math.log10(1 / (1 - part));
    const parts = Array.from({ length: 80 }, (_, i) => 1 - 10 ** (-0.05 * i));
    const shown: Record<number, string> = { 0: "0", 1: "90 %", 2: "99 %", 3: "99.9 %", 4: "99.99 %" };
    const hasRuns = this.#peers.some((peer) => this.#runs(CURVE_WORK, peer).length > 0);
    if (!hasRuns) return null;
    return this.#lines(
      {
        name: "percentile",
        type: "value",
        interval: 1,
        axisLabel: { formatter: (value: number) => shown[value] ?? "" },
      },
      { name: "µs", type: "log" },
      (peer) => {
        const [run] = this.#runs(CURVE_WORK, peer);
        if (run === undefined || isBehind(run.outcome)) return [];
        const histogram = Histogram.from(run.outcome.latency.buckets, run.outcome.latency.max * 10);
        return parts.map((part) => [nines(part), Math.max(1, histogram.percentile(part) / 10)]);
      },
    );
  }

  #users(): EChartsOption | null {
    const works = this.#worksOf("users");
    if (works.length === 0) return null;
    return this.#lines({ name: "users online", type: "value" }, { name: "µs", type: "value", min: 0 }, (peer) =>
      works.flatMap(({ name, clients, crowd }) => {
        const runs = this.#runs(name, peer);
        return runs.length === 0
          ? []
          : [[clients + crowd, median(runs.map(({ outcome }) => outcome.server!.cpuMicros))]];
      }),
    );
  }

  #lines(xAxis: object, yAxis: object, points: (peer: string) => number[][]): EChartsOption {
    return {
      grid: { left: 70, right: 40, top: 90, bottom: 50 },
      xAxis: { nameLocation: "middle", nameGap: 30, ...xAxis },
      yAxis: { ...yAxis },
      series: this.#peers.flatMap((peer) => {
        const data = points(peer);
        const isOurs = peer === "heartline";
        const lineStyle = {
          width: isOurs ? 3 : 1.5,
          type: peer === REFERENCE ? ("dashed" as const) : ("solid" as const),
        };
        if (data.length === 0) return [];
        const symbolSize = data.length > 20 ? 0 : 6;
        return [
          { type: "line" as const, name: peer, color: COLORS[peer], data, lineStyle, symbolSize, z: isOurs ? 3 : 2 },
        ];
      }),
    };
  }

  #memory(): EChartsOption | null {
    const [work] = this.#worksOf("memory");
    if (work === undefined) return null;
    const peers = this.#peers.filter((peer) => this.#runs(work.name, peer).length > 0);
    const bytes = (peer: string): number =>
      Math.round(median(this.#runs(work.name, peer).map(({ outcome }) => outcome.server!.resident)));
    return {
      grid: { left: 130, right: 80, top: 60, bottom: 30 },
      xAxis: { type: "value" },
      yAxis: { type: "category", inverse: true, data: peers, axisTick: { show: false } },
      series: [
        {
          type: "bar",
          label: { show: true, position: "right" },
          data: peers.map((peer) => ({ value: bytes(peer), itemStyle: { color: COLORS[peer] } })),
        },
      ],
    };
  }

  /** The page as one HTML file, with the pictures inside. */
  page(drawn: ReadonlyMap<string, string>): string {
    const { machine, commit, madeAt, peers, leftOut } = this.#result;
    const pictures = [...drawn.values()].map((svg) => `<figure>${svg}</figure>`);
    const machineRows = Object.entries(machine).map(([name, value]) => [name, String(value)]);
    const peerRows = Object.entries(peers).map(([name, { about, version }]) => [name, version, about]);
    const left = Object.entries(leftOut).map(([name, why]) => `<p>Left out: ${escape(name)}: ${escape(why)}.</p>`);
    return `<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Heartline benchmarks</title>
<style>
  body { font: 15px/1.5 system-ui, sans-serif; max-width: ${WIDTH}px; margin: 2rem auto; padding: 0 1rem; color: #1f2430 }
  figure { margin: 2rem 0 } svg { max-width: 100%; height: auto } h2 { margin-top: 3rem }
  table { border-collapse: collapse; font-size: 13px; width: 100%; margin: .5rem 0 1.5rem }
  td, th { text-align: right; padding: .15rem .5rem; border-bottom: 1px solid #e5e7eb; white-space: nowrap }
  td:first-child, th:first-child, .words td { text-align: left; white-space: normal } tr.ours { font-weight: 600 }
</style>
<h1>Heartline benchmarks</h1>
<p>Commit ${escape(commit)}, ${escape(madeAt.slice(0, 10))}. All servers did the same works with the same load
generator, in alternating runs, each with a new server on one core and the load generator on another. Every payload has
a number, so losses, duplicates and wrong order are detected. Ratios are taken round by round. A median is followed by
its range. In flight means sent and not yet received by all receivers. A latency is missing where the load generator was
late. Command:
<code>bun run bench:peers --json results.json &amp;&amp; bun run bench:report results.json</code>.</p>
${table(["machine", ""], machineRows, "words")}
${table(["server", "version", "description"], peerRows, "words")}
${left.join("\n")}
${pictures.join("\n")}
${(Object.keys(WORK_GROUPS) as Work["group"][]).map((group) => this.#tables(group)).join("\n")}
</html>
`;
  }

  #tables(group: Work["group"]): string {
    const works = this.#worksOf(group);
    if (works.length === 0) return "";
    const tables = works.map(({ name, title, task }) => {
      const peers = this.#peers.filter((peer) => this.#runs(name, peer).length > 0);
      if (task.scenario.instead === "idle") {
        const bytes = (peer: string): number[] => this.#runs(name, peer).map(({ outcome }) => outcome.server!.resident);
        const rows = peers.map((peer) => [peer, range(spread(bytes(peer)))]);
        return `<h3>${escape(title)}</h3>${table(["", "bytes per client"], rows)}`;
      }
      const rows = peers.map((peer) => this.#row(name, peer));
      const head = [
        "",
        "deliveries/s",
        "heartline / peer",
        "server µs",
        "heartline / peer",
        "p50 µs",
        "p99 µs",
        "p99.9 µs",
      ];
      return `<h3>${escape(title)}</h3>${table(head, rows)}`;
    });
    return `<h2>${escape(WORK_GROUPS[group])}</h2>${tables.join("\n")}`;
  }

  #row(work: string, peer: string): string[] {
    const runs = this.#runs(work, peer);
    const delivered = ({ outcome }: Run): number => outcome.delivered;
    const cost = ({ outcome }: Run): number => outcome.server!.cpuMicros;
    const share = (of: (run: Run) => number): string =>
      peer === "heartline" ? "" : ratioText(this.#runs(work, "heartline"), runs, of);
    const amounts = [range(spread(runs.map(delivered))), share(delivered), range(spread(runs.map(cost))), share(cost)];
    return [peer, ...amounts, ...latencyCells(runs)];
  }
}

function table(head: string[], rows: string[][], kind = ""): string {
  const cells = (tag: string, values: string[]): string =>
    values.map((value) => `<${tag}>${escape(value)}</${tag}>`).join("");
  const body = rows.map((row) => `<tr${row[0] === "heartline" ? ' class="ours"' : ""}>${cells("td", row)}</tr>`);
  return `<table class="${kind}"><tr>${cells("th", head)}</tr>${body.join("")}</table>`;
}

function escape(text: string): string {
  return Bun.escapeHTML(text);
}

function picture(title: string, height: number, option: EChartsOption): string {
  const chart = init(null, null, { renderer: "svg", ssr: true, width: WIDTH, height });
  chart.setOption({
    animation: false,
    backgroundColor: "#ffffff",
    textStyle: { fontFamily: "system-ui, sans-serif" },
    title: { text: title, left: 10, top: 8, textStyle: { fontSize: 16 } },
    legend: { top: 40, left: 10, icon: "roundRect", itemGap: 22, itemWidth: 14 },
    ...option,
  });
  const svg = chart.renderToSVGString();
  chart.dispose();
  return svg;
}

function main(args: string[]): number {
  const options = {
    out: { type: "string", default: join(import.meta.dir, "../results") },
    help: { type: "boolean", short: "h" },
  } as const;
  let given: { values: { out: string; help?: boolean }; positionals: string[] };
  let result: Result;
  try {
    given = parseArgs({ args, options, allowPositionals: true });
    if (given.values.help === true) {
      process.stdout.write(USAGE);
      return 0;
    }
    const [first, ...others] = given.positionals.map(readResult);
    if (first === undefined) throw new Error("give a file that bench:peers --json has written");
    result = first;
    if (new Set(given.positionals).size < given.positionals.length) throw new Error("a file is given twice");
    for (const { runs, peers, leftOut } of others) {
      result.runs.push(...runs);
      Object.assign(result.peers, peers);
      Object.assign(result.leftOut, leftOut);
    }
  } catch (error) {
    process.stderr.write(`bench:report: ${usageError(error).message} (--help shows how)\n`);
    return 2;
  }
  const { out } = given.values;
  const report = new Report(result);
  const pictures = report.pictures();
  if (pictures.size === 0) {
    process.stderr.write("bench:report: no figures to draw: give a file that bench:peers --json has written\n");
    return 1;
  }
  try {
    mkdirSync(out, { recursive: true });
    writeFileSync(join(out, "index.html"), report.page(pictures));
    for (const [name, svg] of pictures) writeFileSync(join(out, name), `${svg}\n`);
  } catch (error) {
    process.stderr.write(`bench:report: cannot write to ${out}: ${(error as Error).message}\n`);
    return 1;
  }
  process.stdout.write(`${join(out, "index.html")} and ${pictures.size} pictures\n`);
  return 0;
}

process.exitCode = main(process.argv.slice(2));
