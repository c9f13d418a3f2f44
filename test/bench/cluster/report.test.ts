import { expect, test } from "bun:test";
import { report } from "../../../bench/cluster/report.ts";
import type { AppendRun, ClusterResult, WorkRun } from "../../../bench/cluster/result.ts";
import { sumOf } from "../../../bench/cluster/site.ts";
import { EMBEDDED, type Work, nameOf } from "../../../bench/cluster/work.ts";

const latency = (p50: number) => ({ count: 10, p50, p99: 2 * p50, p999: 3 * p50, max: 3 * p50, buckets: [] });
const WORK: Work = { shards: 1, traffic: "same", via: "owner" };
const CROSS: Work = { shards: 2, traffic: "cross", via: "owner" };

/** A run of an engine with one round, or of the server without a cluster. */
function run(work: Work, load: WorkRun["load"], figures: Partial<WorkRun["figures"]> = {}, round = 0): WorkRun {
  return {
    round,
    engine: work === EMBEDDED ? null : "nats",
    work,
    load,
    figures: {
      accepted: 1000,
      ok: latency(3000),
      delivery: latency(2000),
      lateness: latency(1),
      cost: { server: 4, engine: 1, generator: 5, logBytes: 100 },
      usage: { generator: 0.5, busiestServer: 0.5, machine: 0.99, others: 0.01 },
      recordBytes: 200,
      messagesPerRecord: 2,
      lost: 0,
      twice: 0,
      disordered: 0,
      faults: [],
      ...figures,
    },
  };
}

function append(kind: AppendRun["kind"], p50: number, bytes: number, round = 0): AppendRun {
  const task = { writers: 1, rate: kind === "paced" ? 100 : 0, recordBytes: 200, warmupMs: 0, measureMs: 1000 };
  return { round, engine: "nats", kind, task, outcome: { records: bytes / 200, bytes, latency: latency(p50) } };
}

function reportOf(runs: WorkRun[], appends: AppendRun[] = []): string {
  const engines = { nats: { engine: "NATS", warnings: ["one copy"] } };
  return report({ madeAt: "", commit: "", machine: {}, engines, runs, appends } satisfies ClusterResult);
}

const lineOf = (text: string, begin: string): string =>
  text.split("\n").find((line) => line.trimStart().startsWith(begin))!;

test("rates are relative to the server without a cluster, and those across shards to those in a shard, by round", () => {
  const text = reportOf([
    run(EMBEDDED, "closed", { accepted: 2000 }),
    run(EMBEDDED, "closed", { accepted: 4000 }, 1),
    run({ ...CROSS, traffic: "same" }, "closed", { accepted: 1000 }),
    run({ ...CROSS, traffic: "same" }, "closed", { accepted: 1000 }, 1),
    run(CROSS, "closed", { accepted: 500 }),
    run(CROSS, "closed", { accepted: 250 }, 1),
  ]);
  expect(lineOf(text, nameOf(CROSS))).toMatch(
    / 375 \[250\.\.500\] +0\.156 \[0\.063\.\.0\.25\] +0\.375 \[0\.25\.\.0\.5\] /,
  );
});

test("the bound compares the ok with one append of the same round, and names one that does not hold", () => {
  const appends = [append("paced", 1000, 1e6), append("paced", 2000, 1e6, 1)];
  const holds = reportOf([run(CROSS, "open"), run(CROSS, "open", { ok: latency(7000) }, 1)], appends);
  expect(lineOf(holds, "ok at most 4 appends")).toEndWith("2 shards, cross, owner: 3.25 [3..3.5], holds");
  const broken = reportOf([run(CROSS, "open", { ok: latency(4500) })], appends);
  expect(lineOf(broken, "ok at most 4 appends")).toEndWith("4.5 [4.5..4.5], DOES NOT HOLD");
  const late = reportOf([run(CROSS, "open", { lateness: latency(301) })], appends);
  expect(lineOf(late, "ok at most 4 appends")).toEndWith("not measured");
});

test("the model is marked, and checked against clusters that were measured", () => {
  const runs = [run(WORK, "closed"), run({ ...WORK, shards: 2 }, "closed", { accepted: 90_000 })];
  const text = reportOf(runs, [append("turns", 1000, 1e6), append("large", 1000, 1e7)]);
  expect(lineOf(text, "check of the model, 2 shards, same, owner")).toContain(
    `from 1 shard, same, owner: predicted 100,000/s (engine), measured 90,000/s: -10 %`,
  );
  expect(lineOf(text, "MODEL, not measured: same, 8 cores")).toEndWith(
    ": 100,000/s (engine); with a log that has no limit: 1,600,000/s",
  );
  expect(text).not.toContain("MODEL, not measured: cross");
  expect(reportOf([run(WORK, "closed", { accepted: 0 })])).not.toContain("MODEL, not measured");
});

test("a report says when the machine was busy, and counts losses behind a gateway apart", () => {
  const busy = { usage: { generator: 0.5, busiestServer: 0.5, machine: 0.99, others: 0.4 } };
  const text = reportOf([run(WORK, "closed", busy), run({ ...WORK, via: "gateway" }, "closed", { lost: 3 })]);
  expect(text).toContain("THE MACHINE WAS BUSY: other programs used up to 40 %");
  expect(text).toContain(
    "\nlost 0, twice 0, out of order 0\nbehind a gateway, counted apart for plain sessions: lost 3,",
  );
  expect(reportOf([run(WORK, "closed")])).not.toContain("BUSY");
});

test("a metric is summed over its labels, and not over metrics whose name begins alike", () => {
  const page = '# HELP a x\na{to="b"} 2\na{to="c"} 3\na_total 7\n';
  expect([sumOf(page, "a"), sumOf(page, "a_total"), sumOf(page, "b")]).toEqual([5, 7, 0]);
});
