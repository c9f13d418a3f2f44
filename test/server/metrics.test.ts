import { afterEach, expect, test } from "bun:test";
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { BlockList } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Metrics } from "../../src/server/metrics.ts";
import { Readiness } from "../../src/server/readiness.ts";
import { makeCertificate, writeCertificate } from "../support/certificate.ts";
import { RawWebClient } from "../support/web.ts";
import { samplesOf } from "../support/http.ts";
import { type Overrides, PASSWORD, WireClient, WireServer } from "../support/wire.ts";

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

test("connections over WebSocket are counted among the others, and apart", async () => {
  const { server, metrics } = start({ web: { host: "127.0.0.1", port: 0, origins: null } });
  await RawWebClient.open(server.webPort);
  await server.connect();
  expect(await figures(metrics)).toMatchObject({ heartline_websockets: 1 });
});

test("a server without clients counts nothing, and the usual series are there with 0", async () => {
  const { metrics } = start();
  expect(await figures(metrics)).toEqual({});
  const samples = samplesOf(await metrics.text());
  expect(samples.get('heartline_sessions_ended_total{reason="slow"}')).toBe(0);
  expect(samples.get('heartline_messages_refused_total{reason="mailbox_full"}')).toBe(0);
  expect(samples.get('heartline_logins_total{result="wrong_password"}')).toBe(0);
  expect(samples.get('heartline_connections_refused_total{reason="address_rate"}')).toBe(0);
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

test("the gauges of mailboxes fall when messages are acknowledged, and count what an earlier run stored", async () => {
  const data = newFolder();
  const { server, metrics } = start({ data, durability: "process" });
  const alice = await server.login("alice");
  await alice.expectReply("message bob one", "ok stored");
  await alice.expectReply("message bob three", "ok stored");
  await alice.expectReply("message carol x", "ok stored");
  expect(await figures(metrics)).toMatchObject({ heartline_mailbox_messages: 3, heartline_mailbox_bytes: 9 });
  server.cut();
  await server.stop();
  const later = start({ data, durability: "process" });
  expect(await figures(later.metrics)).toMatchObject({ heartline_mailbox_messages: 3, heartline_mailbox_bytes: 9 });
  const bob = await later.server.login("bob");
  await bob.expectLines("stored alice <ms> one", "stored alice <ms> three");
  // Acknowledged entries are dropped in the next turns.
  while ((await figures(later.metrics)).heartline_mailbox_messages !== 1) await bob.expectReply("alive", "ok");
  expect(await figures(later.metrics)).toMatchObject({ heartline_mailbox_messages: 1, heartline_mailbox_bytes: 1 });
});

test("refused connections are counted by reason, and all open ones as connections", async () => {
  const limits = { connectionsMax: 2, connectionsPerAddressMax: 1, limitsLoopback: true };
  const { server, metrics } = start({ limits });
  await server.login("alice");
  const second = await server.connect();
  await second.expectLines("err busy <words>");
  await second.expectEnd();
  expect(await figures(metrics)).toMatchObject({
    heartline_connections: 1,
    'heartline_connections_refused_total{reason="address_connections"}': 1,
  });

  const rate = start({ limits: { connectionsPerSecondMax: 1, limitsLoopback: true } });
  const clients = [await rate.server.connect(), await rate.server.connect()];
  await clients[1]!.expectLines("err busy <words>");
  expect(await figures(rate.metrics)).toMatchObject({
    'heartline_connections_refused_total{reason="address_rate"}': 1,
  });

  const full = start({ limits: { connectionsMax: 1 } });
  await full.server.login("alice");
  const late = await full.server.connect();
  await late.expectLines("err busy <words>");
  expect(await figures(full.metrics)).toMatchObject({
    'heartline_connections_refused_total{reason="connections"}': 1,
  });

  const proxyFrom = new BlockList();
  proxyFrom.addAddress("127.0.0.1");
  const proxied = start({ proxyFrom });
  const direct = await proxied.server.connect();
  direct.sendLines("login alice secret");
  await direct.expectEnd();
  expect(await figures(proxied.metrics)).toEqual({
    'heartline_connections_refused_total{reason="proxy_header"}': 1,
  });
});

test("a failed TLS handshake is counted as a refused connection", async () => {
  const tls = { ...writeCertificate(newFolder(), await makeCertificate()), port: 0 };
  const { server, metrics } = start({ tls });
  const client = await WireClient.connect(server.tlsPort);
  client.send("no ClientHello\n".repeat(100));
  await client.rest();
  expect(await figures(metrics)).toEqual({
    'heartline_connections_refused_total{reason="tls_handshake"}': 1,
  });
});

test("calls to callback clients are counted by result", async () => {
  const { server, metrics } = start();
  const alice = await server.connect();
  const refusing = Bun.listen({
    hostname: "127.0.0.1",
    port: 0,
    socket: { open: (socket) => void socket.end(), data() {} },
  });
  await alice.expectReply(`login alice ${PASSWORD} callback=${refusing.port}`, "ok <token> <words>");
  await alice.expectEnd();
  const bob = await server.login("bob");
  while ((await figures(metrics))['heartline_callbacks_total{result="failed"}'] === undefined) {
    await bob.expectReply("alive", "ok");
  }
  expect(await figures(metrics)).toMatchObject({ 'heartline_sessions{kind="callback"}': 1 });
  refusing.stop(true);
});

test("turns, journal bytes and, with power, syncs are measured", async () => {
  for (const durability of ["process", "power"] as const) {
    const { server, metrics } = start({ data: newFolder(), durability });
    const alice = await server.login("alice");
    await alice.expectReply("message bob hello", "ok stored");
    const samples = samplesOf(await metrics.text());
    expect(samples.get("heartline_journal_bytes_total")).toBeGreaterThan(0);
    expect(samples.get("heartline_turn_seconds_count")).toBeGreaterThan(2);
    expect(samples.get("heartline_turn_seconds_sum")).toBeGreaterThan(0);
    expect(samples.get('heartline_turn_seconds_bucket{le="+Inf"}')).toBe(samples.get("heartline_turn_seconds_count"));
    const syncs = samples.get("heartline_fsync_seconds_count")!;
    if (durability === "power") expect(syncs).toBeGreaterThan(0);
    else expect(syncs).toBe(0);
    expect(samples.get("heartline_disk_free_bytes")).toBeGreaterThan(0);
    expect(samples.get("heartline_database_bytes")).toBeGreaterThan(0);
  }
});

test("a data folder that is not there, or is a file, gives no number, and the other metrics are there", async () => {
  const folder = newFolder();
  writeFileSync(join(folder, "file"), "");
  for (const data of [join(folder, "none"), join(folder, "file")]) {
    const text = await new Metrics(new Readiness(), data).text();
    if (data.endsWith("none")) expect(text).toMatch(/^heartline_disk_free_bytes nan$/im);
    else expect(text).toMatch(/^heartline_database_bytes nan$/im);
    expect(text).toContain("\nprocess_cpu_seconds_total ");
  }
});

test("the process has its memory, CPU time, start and descriptors", async () => {
  const { metrics } = start();
  const samples = samplesOf(await metrics.text());
  expect(samples.get("process_resident_memory_bytes")).toBeGreaterThan(1 << 20);
  expect(samples.get("process_cpu_seconds_total")).toBeGreaterThan(0);
  expect(Math.abs(samples.get("process_start_time_seconds")! - Date.now() / 1000)).toBeLessThan(3600);
  expect(samples.get("process_max_fds")).toBeGreaterThan(10);
  if (process.platform !== "linux") return;
  const before = samples.get("process_open_fds")!;
  const files = Array.from({ length: 100 }, () => openSync("/dev/null", "r"));
  const after = samplesOf(await metrics.text()).get("process_open_fds")!;
  expect(Math.abs(after - before - files.length)).toBeLessThan(50); // Other descriptors come and go meanwhile.
  for (const file of files) closeSync(file);
});

test("nothing in the metrics names a user", async () => {
  const { server, metrics } = start();
  const alice = await server.login("alice");
  await alice.expectReply("message bob hello", "ok stored");
  await alice.expectReply("message nobody hello", "err unknown_user");
  const text = await metrics.text();
  for (const word of ["alice", "bob", "nobody", "hello", "127.0.0.1"]) expect(text).not.toContain(word);
});

test("the samples are the lines of the text without its comments", async () => {
  const { metrics } = start();
  const samples = await metrics.samples();
  expect(samples).toContain('heartline_sessions{kind="plain"} 0');
  for (const line of samples) expect(line).toMatch(/^[a-z_]+(\{[a-z]+="[^" ]*"(,[a-z]+="[^" ]*")*\})? [\d.e+-]+$/);
  expect(new Set(samples).size).toBe(samples.length);
});

test("docs/operating.md lists exactly the metrics", async () => {
  const { metrics } = start({ data: newFolder(), durability: "process" });
  const manual = readFileSync(join(root, "docs/operating.md"), "utf8");
  const listed = [...manual.matchAll(/^\| `((?:heartline|process)_\w+)/gm)].map(([, name]) => name!);
  expect(listed.toSorted()).toEqual((await names(metrics)).toSorted());
});

test("every metric in the dashboard and the alerts of contrib exists", async () => {
  const { metrics } = start({ data: newFolder(), durability: "process" });
  const known = new Set(await names(metrics));
  for (const file of ["grafana.json", "prometheus-alerts.yml"]) {
    const used = readFileSync(join(root, "contrib", file), "utf8").match(/\b(heartline|process)_[a-z_]+/g) ?? [];
    const bare = used.map((name) => name.replace(/_seconds_(bucket|sum|count)$/, "_seconds"));
    expect(bare.length).toBeGreaterThan(5);
    expect(bare.filter((name) => !known.has(name))).toEqual([]);
  }
});

test("contrib/grafana.json is a dashboard: each panel has a title, queries and its own place", () => {
  const { panels } = JSON.parse(readFileSync(join(root, "contrib/grafana.json"), "utf8"));
  const places = new Set<string>();
  expect(new Set(panels.map(({ id }: { id: number }) => id)).size).toBe(panels.length);
  for (const { type, title, targets, gridPos } of panels) {
    expect(title).not.toBe("");
    if (type !== "row") expect(targets.length).toBeGreaterThan(0);
    for (let x = gridPos.x; x < gridPos.x + gridPos.w; x++) {
      for (let y = gridPos.y; y < gridPos.y + gridPos.h; y++) {
        expect(x).toBeLessThan(24);
        expect(places.has(`${x} ${y}`)).toBe(false);
        places.add(`${x} ${y}`);
      }
    }
  }
});

test.skipIf(promtool === null)("promtool finds nothing to complain about", async () => {
  const { server, metrics } = start({ data: newFolder(), durability: "power" });
  const alice = await server.login("alice");
  await alice.expectReply("message bob hello", "ok stored");
  await alice.expectReply("message nobody hello", "err unknown_user");
  const check = Bun.spawn([promtool!, "check", "metrics"], {
    stdin: Buffer.from(await metrics.text()),
    stdout: "pipe",
    stderr: "pipe",
  });
  expect([await check.stdout.text(), await check.stderr.text(), await check.exited]).toEqual(["", "", 0]);
  const rules = Bun.spawn([promtool!, "check", "rules", join(root, "contrib/prometheus-alerts.yml")], {
    stdout: "ignore",
    stderr: "pipe",
  });
  expect([await rules.stderr.text(), await rules.exited]).toEqual(["", 0]);
});

test.skipIf(promtool === null)("each alert of a cluster comes when its case does, and not before", async () => {
  const tests = Bun.spawn([promtool!, "test", "rules", join(import.meta.dir, "cluster-alerts.yml")], {
    stdout: "pipe",
    stderr: "pipe",
  });
  expect([await tests.stdout.text(), await tests.stderr.text(), await tests.exited]).toEqual([
    expect.stringContaining("SUCCESS"),
    "",
    0,
  ]);
});
