import { afterEach, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Metrics } from "../../src/server/metrics.ts";
import { Readiness } from "../../src/server/readiness.ts";
import { samplesOf } from "../support/http.ts";
import { type Overrides, PASSWORD, WireServer } from "../support/wire.ts";

const root = join(import.meta.dir, "../..");
const promtool = Bun.which("promtool");
if (promtool === null) console.warn("\n  SKIPPED: promtool check metrics (it needs Debian's package prometheus)\n");

const running: WireServer[] = [];
const folders: string[] = [];

afterEach(async () => {
  for (const server of running.splice(0)) {
    server.cut();
    await server.stop();
  }
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true });
});

function start(overrides: Overrides = {}): { server: WireServer; metrics: Metrics } {
  const server = new WireServer(overrides);
  running.push(server);
  const metrics = new Metrics(new Readiness(), overrides.data ?? ":memory:");
  metrics.server = server.server.measured;
  return { server, metrics };
}

function newFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), "heartline-"));
  folders.push(folder);
  return folder;
}

/** The samples of the server itself that are not 0. */
async function figures(metrics: Metrics): Promise<Record<string, number>> {
  const samples = [...samplesOf(await metrics.text())];
  const ignored = /^process_|_seconds|_build_info|_ready|_max\b|_log_bytes/;
  return Object.fromEntries(samples.filter(([name, value]) => value !== 0 && !ignored.test(name)));
}

/** Names of the metrics, without the suffixes of histograms. */
async function names(metrics: Metrics): Promise<string[]> {
  return [...(await metrics.text()).matchAll(/^# TYPE (\S+)/gm)].map(([, name]) => name!);
}

test("a server without clients counts nothing, and its gauges are 0", async () => {
  expect(await figures(start().metrics)).toEqual({});
});

test("each message, broadcast, login and end of a session is counted once, under its outcome", async () => {
  const { server, metrics } = start();
  const [alice, bob] = await server.online("alice", "bob");
  await alice!.expectReply("message bob hello", "ok sent");
  await bob!.expectLines("message alice hello");
  await alice!.expectReply("message carol four", "ok stored");
  await alice!.expectReply("message carol five5", "ok stored");
  await alice!.expectReply("message dave x", "ok stored");
  await alice!.expectReply("message nobody hello", "err unknown_user");
  await bob!.expectReply("broadcast hello", "ok 1");
  await alice!.expectLines("broadcast bob hello");
  const wrong = await server.connect();
  await wrong.expectReply("login carol wrong", "err wrong_password 2");
  await wrong.expectReply("login nobody wrong", "err unknown_user");
  await wrong.expectReply("login carol wrong", "err wrong_password 1");
  await wrong.expectReply("login carol wrong", "err locked_out 60");
  await wrong.expectEnd();
  await bob!.expectReply("logout", "ok");
  await alice!.expectLines("left bob logout");
  const again = await server.connect();
  await again.expectReply(`login alice ${PASSWORD} resumable`, "ok <token> 35");
  await alice!.expectLines("goodbye replaced");
  await again.expectReply("message nobody hello", "err unknown_user");
  await Promise.all([wrong, alice!, bob!].map((client) => client.rest()));
  expect(await figures(metrics)).toEqual({
    'heartline_messages_accepted_total{outcome="sent"}': 1,
    'heartline_messages_accepted_total{outcome="stored"}': 3,
    'heartline_messages_refused_total{reason="unknown_user"}': 2,
    heartline_broadcasts_total: 1,
    heartline_broadcast_deliveries_total: 1,
    'heartline_logins_total{result="ok"}': 3,
    'heartline_logins_total{result="wrong_password"}': 2,
    'heartline_logins_total{result="locked_out"}': 1,
    'heartline_logins_total{result="unknown_user"}': 1,
    heartline_lockouts_total: 1,
    'heartline_sessions_ended_total{reason="logout"}': 1,
    'heartline_sessions_ended_total{reason="replaced"}': 1,
    'heartline_sessions{kind="resumable"}': 1,
    heartline_connections: 1,
    heartline_mailbox_messages: 3,
    heartline_mailbox_bytes: 10,
    heartline_outbox_bytes: 576,
  });
});
