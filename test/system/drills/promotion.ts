/** The primary of PostgreSQL is killed or cut off under load, and its standby is promoted, as an operator does it. */
import { SQL } from "bun";
import { PostgresEngine } from "../../support/postgres-engine.ts";
import { EXPECTED } from "../chaos/member.ts";
import { NO_SYNC, type Report, type Stage, judged } from "./stage.ts";
import { longestGapMs, percentile, seconds } from "./times.ts";

const SPARES = 2;
/** Seconds of load before and after the promotion. */
const SECONDS = 10;
/** The operator needs a moment; then the standby is promoted. */
const OPERATOR_MS = 2_000;
/** So long an asynchronous standby has received nothing when its primary is killed. */
const LAG_MS = 2_000;
/** An old primary that was only cut off comes back so long after the promotion, and is then stopped. */
const RETURN_MS = 15_000;

export const PROMOTIONS = ["killed", "cut off", "asynchronous"] as const;
export type Promotion = (typeof PROMOTIONS)[number];

/** Records that were acknowledged and are gone: servers say so, and exit. */
const EXPECTED_LOSS = new RegExp(
  `${EXPECTED.source}|"event":"(cluster_error|neighbour_error)"|the engine has lost records`,
);

export async function promotion(stage: Stage, kind: Promotion): Promise<Report> {
  const {
    shards,
    seconds: [length],
  } = stage.options;
  const pauseMs = (length ?? SECONDS) * 1_000;
  const isSynchronous = kind !== "asynchronous";
  if (!isSynchronous) stage.expected = EXPECTED_LOSS;
  const primary = await PostgresEngine.start(NO_SYNC);
  const standby = await primary.startStandby();
  if (isSynchronous) await requireStandby(primary);
  await stage.init(PostgresEngine.urlOf("postgres", primary, standby));
  for (let i = 0; i < shards + SPARES; i++) stage.add();
  await stage.begin();
  await Bun.sleep(pauseMs);
  const { members } = stage;
  const span = members.outages.fault(`primary ${kind}`);
  if (!isSynchronous) {
    primary.pauseReplication();
    await Bun.sleep(LAG_MS);
  }
  const beganMs = Date.now();
  if (kind === "cut off") primary.pause();
  else await primary.kill();
  await Bun.sleep(OPERATOR_MS);
  standby.promote();
  const promotedMs = Date.now();
  stage.say(`primary ${kind}; the standby is the primary now`);
  if (kind === "cut off") {
    await Bun.sleep(RETURN_MS);
    primary.resume();
    await Bun.sleep(RETURN_MS);
    await primary.kill();
  }
  members.outages.ended(span);
  await members.served();
  await Bun.sleep(pauseMs);
  const outages = members.outages.lines.map((line) => `  ${line}\n`).join("");
  const judgement = await stage.judge();
  const { messages } = judgement.times;
  const shown = messages.map(({ shownMs }) => shownMs).filter(Number.isFinite);
  const durations = messages.filter(({ isAccepted }) => isAccepted).map(({ sentMs, repliedMs }) => repliedMs - sentMs);
  const { text, failures } = judged(judgement);
  const lines = [
    `PostgreSQL with ${isSynchronous ? "a synchronous" : "an asynchronous"} standby, the primary ${isSynchronous ? kind : "killed"}`,
    `promoted after ${seconds(promotedMs - beganMs)}; no message arrived for ` +
      `${seconds(longestGapMs(shown, beganMs - 1_000, judgement.stoppedMs))}; ` +
      `replies: p99 ${percentile(durations, 0.99)} ms, longest ${percentile(durations, 1)} ms`,
  ];
  if (isSynchronous) return { text: `${lines.join("\n")}\n${outages}${text}`, failures };
  // What was acknowledged while the standby received nothing is gone; nothing else may be.
  const isLost = ({ isAccepted, shownMs }: (typeof messages)[number]): boolean => isAccepted && shownMs === Infinity;
  const lost = messages.filter(isLost);
  const early = lost.filter(({ repliedMs }) => repliedMs < beganMs - LAG_MS);
  const { missing } = judgement.records;
  lines.push(`${missing.length} acknowledged messages are in the log no more; ${lost.length} of them reached nobody`);
  const wrong = early.length > 0 ? [`${early.length} messages were lost that the standby had`] : [];
  return { text: `${lines.join("\n")}\n${outages}${text}`, failures: wrong };
}

/** From now on a commit waits for the standby. */
async function requireStandby(primary: PostgresEngine): Promise<void> {
  const admin = new SQL(primary.url("postgres"), { max: 1 });
  await admin`ALTER SYSTEM SET synchronous_standby_names = '*'`;
  await admin`SELECT pg_reload_conf()`;
  for (let state = ""; state !== "sync"; await Bun.sleep(20))
    state =
      ((await admin`SELECT sync_state FROM pg_stat_replication`) as { sync_state: string }[])[0]?.sync_state ?? "";
  await admin.close();
}
