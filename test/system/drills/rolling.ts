/** Rolling upgrades and restarts: all servers, or those of NATS, are replaced or restarted, one after another. */
import { cpSync, existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import own from "../../../package.json";
import { LOOPBACK } from "../../support/hosts.ts";
import type { NatsEngine } from "../../support/nats-engine.ts";
import type { Member } from "../chaos/member.ts";
import { type Judgement, type Report, type Stage, judged, startEngine } from "./stage.ts";
import { percentile, seconds, table } from "./times.ts";

const root = join(import.meta.dir, "../../..");
const SPARES = 1;
/** Seconds of load before, between and after the replacements. */
const SECONDS_BETWEEN = 10;
/** A restarted server of NATS has caught up within this time. */
const CURRENT_MS = 120_000;

/** A server that was replaced, with times of the wall clock. */
interface Step {
  what: string;
  beganMs: number;
  /** Its process has ended. */
  endedMs: number;
}

export async function rolling(stage: Stage, kind: "upgrade" | "restart" | "nats"): Promise<Report> {
  const { engine, shards, from, steps: stepsMax, seconds: between } = stage.options;
  const pauseMs = (between[0] ?? SECONDS_BETWEEN) * 1_000;
  const isUpgrade = kind === "upgrade";
  const old = isUpgrade ? oldVersion(from ?? copyOfThis(stage.folder)) : null;
  const { url, nats } = await startEngine(engine);
  await stage.init(url);
  for (let i = 0; i < shards + SPARES; i++) stage.add(LOOPBACK, old?.program);
  await stage.begin();
  await Bun.sleep(pauseMs);
  const { members } = stage;
  const spares = members.all.filter((member) => !members.isOwner(member));
  const servers = [...spares, ...(members.owners as Member[])];
  const order = (kind === "nats" ? nats : servers).slice(0, stepsMax);
  const steps: Step[] = [];
  for (const [i, server] of order.entries()) {
    const shard = members.owners.indexOf(server as Member);
    const member = shard < 0 ? "a spare" : `the owner of shard ${shard}`;
    const what = kind === "nats" ? `server ${i + 1} of NATS` : member;
    if (isUpgrade) await stage.add().ready();
    const span = members.outages.fault(what);
    const step = { what, beganMs: Date.now(), endedMs: 0 };
    steps.push(step);
    if (kind === "nats") await restartNats(server as NatsEngine);
    else if (isUpgrade) await members.retire(server as Member);
    else await members.restart(server as Member);
    step.endedMs = Date.now();
    members.outages.ended(span);
    await members.served();
    if (kind === "nats") await isCurrent(server as NatsEngine);
    stage.say(`${what} was ${isUpgrade ? "replaced" : "restarted"} within ${seconds(step.endedMs - step.beganMs)}`);
    await Bun.sleep(pauseMs);
  }
  const versions = old === null ? own.version : `${old.version} to ${own.version}`;
  return report(
    stage,
    steps,
    `rolling ${isUpgrade ? "upgrade" : "restart"}${kind === "nats" ? " of NATS" : ""}, ${versions}`,
    await stage.judge(),
  );
}

async function restartNats(server: NatsEngine): Promise<void> {
  await server.kill("SIGTERM");
  await server.restart();
}

/** Returns when each stream has a leader, and both its followers have all of it. */
async function isCurrent(server: NatsEngine): Promise<void> {
  for (const endMs = performance.now() + CURRENT_MS; ; await Bun.sleep(200)) {
    const clusters = (await server.streams().catch(() => [])).map(({ cluster }) => cluster);
    const replicas = clusters.flatMap((cluster) => cluster?.replicas ?? []);
    const isWhole = clusters.length > 0 && clusters.every((each) => each?.leader && each.replicas?.length === 2);
    if (isWhole && replicas.every(({ current, lag }) => current && !lag)) return;
    if (performance.now() > endMs) throw new Error(`the servers of NATS are not current within ${CURRENT_MS} ms`);
  }
}

function report({ members, options }: Stage, steps: readonly Step[], title: string, judgement: Judgement): Report {
  const { text, failures } = judged(judgement);
  const { messages, losses } = judgement.times;
  const rows = [["stopped", "ended after", "clients that lost", "of one client", "p50", "p99", "longest"]];
  const repliedMs = (fromMs: number, toMs: number): number[] =>
    messages
      .filter((each) => each.isAccepted && each.sentMs >= fromMs && each.sentMs < toMs)
      .map((each) => each.repliedMs - each.sentMs);
  const row = (what: string, ended: string, fromMs: number, toMs: number): number => {
    const lost = Map.groupBy(
      losses.filter(({ lostMs }) => lostMs >= fromMs && lostMs < toMs),
      ({ user }) => user,
    );
    const most = Math.max(0, ...lost.values().map((all) => all.length));
    const durations = repliedMs(fromMs, toMs);
    const percentiles = [0.5, 0.99, 1].map((part) => `${percentile(durations, part)} ms`);
    rows.push([what, ended, String(lost.size), String(most), ...percentiles]);
    return most;
  };
  const [first, last] = [steps[0]!, steps.at(-1)!];
  for (const [i, { what, beganMs, endedMs }] of steps.entries()) {
    const most = row(what, seconds(endedMs - beganMs), beganMs, steps[i + 1]?.beganMs ?? Number.POSITIVE_INFINITY);
    if (most > 1) failures.push(`a client lost its connection ${most} times when ${what} stopped`);
  }
  row("all", seconds(last.endedMs - first.beganMs), first.beganMs, Number.POSITIVE_INFINITY);
  const p99 = percentile(repliedMs(first.beganMs, Number.POSITIVE_INFINITY), 0.99);
  if (p99 >= options.replyP99MsMax) failures.push(`the 99th percentile of a reply is ${p99} ms`);
  const before = losses.filter(({ lostMs }) => lostMs < first.beganMs).length;
  if (before > 0) failures.push(`${before} connections were lost before the first server stopped`);
  const outages = members.outages.lines.map((line) => `  ${line}\n`).join("");
  return { text: `${title}\n${table(rows)}times without service of a shard:\n${outages}${text}`, failures };
}

interface Version {
  program: string;
  version: string;
}

function oldVersion(folder: string): Version {
  const { version } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8")) as { version: string };
  return { program: join(folder, "src/main.ts"), version };
}

/** A copy of these sources with another version; its folder. */
function copyOfThis(parent: string): string {
  const folder = join(parent, "old");
  mkdirSync(folder);
  cpSync(join(root, "src"), join(folder, "src"), { recursive: true });
  for (const name of ["node_modules", "dist", "tsconfig.json"])
    if (existsSync(join(root, name))) symlinkSync(join(root, name), join(folder, name));
  writeFileSync(join(folder, "package.json"), JSON.stringify({ ...own, version: "0.0.9" }));
  return folder;
}
