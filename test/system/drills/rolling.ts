/** A rolling upgrade and a rolling restart: all servers are replaced or restarted, one after another. */
import { cpSync, existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import own from "../../../package.json";
import { LOOPBACK } from "../../support/hosts.ts";
import type { Member } from "../chaos/member.ts";
import { type Judgement, type Report, type Stage, judged, startEngine } from "./stage.ts";
import { percentile, seconds, table } from "./times.ts";

const root = join(import.meta.dir, "../../..");
const SPARES = 1;
/** Seconds of load before, between and after the replacements. */
const SECONDS_BETWEEN = 10;

/** A server that was replaced, with times of the wall clock. */
interface Step {
  what: string;
  beganMs: number;
  /** Its process has ended. */
  endedMs: number;
}

export async function rolling(stage: Stage, isUpgrade: boolean): Promise<Report> {
  const { engine, shards, from, steps: stepsMax, seconds: between } = stage.options;
  const pauseMs = (between ?? SECONDS_BETWEEN) * 1_000;
  const old = isUpgrade ? oldVersion(from ?? copyOfThis(stage.folder)) : null;
  await stage.init(await startEngine(engine));
  for (let i = 0; i < shards + SPARES; i++) stage.add(LOOPBACK, old?.program);
  await stage.begin();
  await Bun.sleep(pauseMs);
  const { members } = stage;
  const spares = members.all.filter((member) => !members.isOwner(member));
  const order = [...spares, ...(members.owners as Member[])].slice(0, stepsMax);
  const steps: Step[] = [];
  for (const member of order) {
    const shard = members.owners.indexOf(member);
    const what = shard < 0 ? "a spare" : `the owner of shard ${shard}`;
    if (isUpgrade) await isReady(stage.add());
    const span = members.outages.fault(what);
    const step = { what, beganMs: Date.now(), endedMs: 0 };
    steps.push(step);
    if (isUpgrade) await members.retire(member);
    else await members.restart(member);
    step.endedMs = Date.now();
    members.outages.ended(span);
    await members.served();
    stage.say(`${what} was ${isUpgrade ? "replaced" : "restarted"} within ${seconds(step.endedMs - step.beganMs)}`);
    await Bun.sleep(pauseMs);
  }
  const versions = old === null ? own.version : `${old.version} to ${own.version}`;
  return report(stage, steps, `${isUpgrade ? "rolling upgrade" : "rolling restart"}, ${versions}`, await stage.judge());
}

async function isReady(member: Member): Promise<void> {
  while (!(await member.look()).isReady) await Bun.sleep(20);
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
