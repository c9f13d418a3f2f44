/** contrib/cluster: each file is read by the program that it is for, and does what docs/cluster.md says. */
import { SQL } from "bun";
import { afterAll, afterEach, expect, test } from "bun:test";
import { chmodSync, chownSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { initLog, openLog } from "../../src/cluster/open-log.ts";
import type { SharedLog } from "../../src/cluster/shared-log.ts";
import { readClusterCertificate } from "../../src/server/cluster-port.ts";
import { OPTIONS } from "../../src/server/options.ts";
import { ClusterServer } from "../support/cluster-server.ts";
import { NatsEngine, hasNats } from "../support/nats-engine.ts";
import { PostgresEngine, postgresPrograms } from "../support/postgres-engine.ts";
import { ServerProcess, run } from "../support/process.ts";
import { hasSockets, holdPort } from "../support/sockets.ts";
import { WireClient } from "../support/wire.ts";

const LIMIT_MS = 60_000;
const CONTRIB = join(import.meta.dir, "../../contrib");
const OWNER = { address: "10.0.0.1:6010", version: "1.2.3", credentials: "c1" };
const hasOpenssl = Bun.which("openssl") !== null;
if (!hasOpenssl) console.warn("\n  SKIPPED: certificates of contrib/cluster (they need the package openssl)\n");
const folder = mkdtempSync(join(tmpdir(), "heartline-"));
chmodSync(folder, 0o755); // PostgreSQL runs as another user.
const logs: SharedLog[] = [];

afterEach(async () => {
  for (const log of logs.splice(0)) await log.close();
  await ServerProcess.killAll();
});

afterAll(async () => {
  await Promise.all([NatsEngine.closeAll(), PostgresEngine.closeAll()]);
  rmSync(folder, { recursive: true });
}, LIMIT_MS);

function read(name: string): string {
  return readFileSync(join(CONTRIB, "cluster", name), "utf8");
}

async function open(url: string): Promise<SharedLog> {
  const log = await openLog(url);
  logs.push(log);
  return log;
}

/** Makes the certificates of these addresses in that folder. */
function makeCertificates(target: string, ...addresses: string[]): void {
  const { exitCode, stderr } = Bun.spawnSync([join(CONTRIB, "cluster/certificates.sh"), target, ...addresses]);
  expect(stderr.toString()).toBe("");
  expect(exitCode).toBe(0);
}

test.skipIf(!hasOpenssl)(
  "certificates.sh makes certificates that the servers accept, and a second run has the same authority",
  () => {
    const target = join(folder, "made");
    makeCertificates(target, "10.0.0.1", "fd00::1", "n1.example.org");
    const at = (name: string): string => join(target, name);
    const files = (address: string) => ({
      authorities: at("ca.pem"),
      chain: at(`${address}.pem`),
      key: at(`${address}-key.pem`),
    });
    for (const address of ["10.0.0.1", "fd00::1"]) {
      expect(readClusterCertificate(files(address), address).outdated).toBeNull();
      expect(() => readClusterCertificate(files(address), "10.0.0.9")).toThrow("is not valid for 10.0.0.9");
    }
    const named = Bun.spawnSync([
      "openssl",
      "x509",
      "-noout",
      "-checkhost",
      "n1.example.org",
      "-in",
      at("n1.example.org.pem"),
    ]);
    expect(named.stdout.toString()).toContain("does match");
    const authority = readFileSync(at("ca.pem"), "utf8");
    makeCertificates(target, "10.0.0.2");
    expect(readFileSync(at("ca.pem"), "utf8")).toBe(authority);
    for (const name of ["10.0.0.1.pem", "10.0.0.2.pem", "n1.example.org.pem"])
      expect(Bun.spawnSync(["openssl", "verify", "-CAfile", at("ca.pem"), at(name)]).exitCode).toBe(0);
    expect(statSync(at("ca-key.pem")).mode & 0o777).toBe(0o600);
    expect(statSync(at("10.0.0.1-key.pem")).mode & 0o777).toBe(0o600);
    expect(statSync(at("10.0.0.1.pem")).mode & 0o777).toBe(0o644);
    const { exitCode, stderr } = Bun.spawnSync([join(CONTRIB, "cluster/certificates.sh")]);
    expect([exitCode, stderr.toString()]).toEqual([
      2,
      "usage: contrib/cluster/certificates.sh <folder> <address>...\n",
    ]);
  },
);

interface Service {
  image: string;
  build?: { context: string; dockerfile: string };
  environment: Record<string, string>;
  volumes: string[];
  networks: { cluster: { ipv4_address: string } };
  ports?: string[];
  depends_on?: Record<string, unknown>;
}

test.skipIf(!hasOpenssl)(
  "compose.yml has options of the server, files that exist, and certificates for its addresses",
  async () => {
    const text = read("compose.yml");
    const { services, volumes } = Bun.YAML.parse(text) as { services: Record<string, Service>; volumes: object };
    const { out } = await run("src/main.ts", "serve", "--help");
    const nodes = Object.entries(services).filter(([name]) => name.startsWith("node"));
    expect(nodes).toHaveLength(3);
    const addresses = nodes.map(([, { networks }]) => networks.cluster.ipv4_address);
    const made = /certificates\.sh certificates (.*)/.exec(text)![1]!.split(" ");
    expect(made).toEqual(addresses);
    makeCertificates(join(folder, "certificates"), ...made);
    const { ipv4_address: engine } = services.postgres!.networks.cluster;
    for (const [, { build, environment, volumes: mounts, depends_on: needed }] of nodes) {
      expect(existsSync(join(CONTRIB, "cluster", build!.context, build!.dockerfile))).toBe(true);
      for (const name of Object.keys(needed!)) expect(services).toContainKey(name);
      for (const [name, value] of Object.entries(environment)) {
        const option = name.replace("HEARTLINE_", "").toLowerCase().replaceAll("_", "-");
        expect(out).toContain(`  --${option} `);
        OPTIONS[option as "cluster"].read(value.replace(/\$\{.*?\}/, "x"));
      }
      expect(environment.HEARTLINE_CLUSTER).toContain(`@${engine}/${services.postgres!.environment.POSTGRES_DB}`);
      const paths = new Map<string, string>();
      for (const mount of mounts) {
        const [source = "", target = ""] = mount.split(":");
        if (source.startsWith("./")) paths.set(target, join(folder, source));
        else expect(volumes).toContainKey(source);
      }
      const file = (option: string): string => {
        const path = environment[`HEARTLINE_CLUSTER_${option}`]!;
        const found = [...paths].find(([target]) => path.startsWith(`${target}/`))!;
        return path.replace(...found);
      };
      const tls = { authorities: file("CA"), chain: file("CERT"), key: file("KEY") };
      const [address = ""] = environment.HEARTLINE_CLUSTER_LISTEN!.split(":");
      expect(readClusterCertificate(tls, address).outdated).toBeNull();
    }
    const ports = nodes.flatMap(([, each]) => each.ports!);
    expect(new Set(ports).size).toBe(3);
  },
);

test("cluster.env has a valid URL for each engine, and the variables that the unit needs", () => {
  const lines = read("cluster.env").split("\n");
  const names = lines.flatMap((line) => /^#?([A-Z_]+)=/.exec(line)?.[1] ?? []);
  const urls = lines.flatMap((line) => /^#?HEARTLINE_CLUSTER=(.*)$/.exec(line)?.[1] ?? []);
  expect(urls.map((url) => url.split(":")[0])).toEqual(["postgres", "nats"]);
  for (const url of urls) expect(OPTIONS.cluster.read(url)).toBe(url);
  const unit = read("heartline@.service");
  for (const [, name = ""] of unit.matchAll(/\$\{(\w+)\}/g)) expect(names).toContain(name);
});

test.skipIf(!hasNats || !hasOpenssl)("nats-server accepts nats.conf", () => {
  const target = join(folder, "nats");
  makeCertificates(target, "node");
  const text = read("nats.conf")
    .replaceAll('"/etc/nats/', `"${target}/`)
    .replace("/var/lib/nats", join(target, "store"));
  const [, major, minor] = /v(\d+)\.(\d+)/.exec(Bun.spawnSync(["nats-server", "--version"]).stdout.toString())!;
  const hasSync = Number(major) > 2 || Number(minor) >= 10;
  const file = join(target, "nats.conf");
  const check = (content: string): string => {
    writeFileSync(file, content);
    const env = { ...process.env, NATS_PASSWORD: "secret" };
    const { exitCode, stderr } = Bun.spawnSync(["nats-server", "-t", "-c", file], { env });
    return `${exitCode} ${stderr.toString()}`;
  };
  if (!hasSync) {
    console.warn("\n  SKIPPED: sync_interval in nats.conf (it needs nats-server 2.10)\n");
    expect(check(text)).toMatch(/^1 .*unknown field "sync_interval"\n+$/);
  }
  const known = hasSync ? text : text.replace(/^ *sync_interval: always\n/m, "");
  expect(check(known)).toMatch(/^0 /);
  expect(check(known.replace("jetstream {", "jetstreams {"))).toMatch(/^1 .*unknown field "jetstreams"/);
});

test.skipIf(!hasNats)(
  "the user of nats.conf may do what a cluster needs, and nothing else",
  async () => {
    const accounts = /^accounts \{[^]*^\}$/m.exec(read("nats.conf"))![0].replace("$NATS_PASSWORD", "secret");
    const server = await NatsEngine.start(accounts);
    const url = (cluster: string): string => `nats://heartline:secret@${server.address}/${cluster}`;
    await initLog(url("chat"), 1);
    const log = await open(url("chat"));
    expect(await log.claim(0, 0, Buffer.from("1"), OWNER)).toEqual({ stored: true });
    for (let i = 1; i < 30; i++) expect(await log.append(0, i, Buffer.from(`${i + 1}`))).toEqual({ stored: true });
    const parts = async function* () {
      yield Buffer.from("part");
    };
    expect(await log.publishSnapshot(0, { epoch: 1, sequence: 10 }, parts())).toBe(true);
    await log.trim(0);
    const found = [];
    for await (const { sequence } of log.read(0, 11, 30)) found.push(sequence);
    expect(found).toHaveLength(20);
    expect(await log.beat(0, 1, OWNER)).toBe(true);
    const refused = initLog(url("other"), 1).catch((error: Error) => error.message);
    expect(await refused).toStartWith('NATS refused "publish" on other.cluster: the user has no permission');
  },
  LIMIT_MS,
);

/** The configuration of a server of PostgreSQL in that folder, as an option. */
function configured(name: string, target: string): string {
  const file = join(target, `${name}.conf`);
  const text = read("postgresql.conf").replace("cluster_name = 'db1'", `cluster_name = '${name}'`);
  writeFileSync(file, text.replaceAll("/etc/postgresql/15/main/", `${target}/`));
  return `config_file=${file}`;
}

test.skipIf(postgresPrograms === null || !hasOpenssl)(
  "postgresql.conf makes a primary and a synchronous standby, which has every acknowledged record when it is promoted",
  async () => {
    const target = join(folder, "postgres");
    makeCertificates(target, "node", "127.0.0.1");
    for (const name of ["node", "node-key"])
      writeFileSync(
        join(target, `${name}.pem`),
        readFileSync(join(target, `${name.replace("node", "127.0.0.1")}.pem`)),
      );
    const hba = read("pg_hba.conf").replaceAll("10.0.0.0/24 ", "127.0.0.1/32");
    // The administrator's line is not of the file.
    writeFileSync(join(target, "pg_hba.conf"), `${hba}\nhost postgres heartline 127.0.0.1/32 scram-sha-256\n`);
    chmodSync(target, 0o755);
    if (process.getuid!() === 0) {
      const [uid, gid] = ["-u", "-g"].map((flag) => Number(Bun.spawnSync(["id", flag, "postgres"]).stdout.toString()));
      chownSync(join(target, "node-key.pem"), uid!, gid!);
    }
    const access = `hba_file=${join(target, "pg_hba.conf")}`;
    const primary = await PostgresEngine.start(configured("db1", target), access);
    const admin = new SQL(primary.url("postgres"), { max: 1 });
    // The statements of the file; the user heartline is there.
    const statements = [...read("postgresql.conf").matchAll(/^# +((SET|CREATE) [^;]*);/gm)].map(([, text]) => text!);
    expect(statements).toHaveLength(4);
    for (const each of statements)
      if (!each.includes("USER heartline")) await admin.unsafe(each.replace("…", "engine-secret"));
    // The command of the file, with the address and the password of this server.
    const [, command = ""] = /^# +pg_basebackup (.*)$/m.exec(read("postgresql.conf"))!;
    const at = `host=127.0.0.1 port=${primary.port} password=engine-secret`;
    const options = command
      .replace("host=db1.example.org", at)
      .match(/--[\w-]+(=('[^']*'|\S+))?/g)!
      .filter((each) => !each.startsWith("--pgdata"));
    expect(options).toHaveLength(5);
    const standby = await primary.startStandby(
      [configured("db2", target), access],
      options.map((each) => each.replaceAll("'", "")),
    );
    const follower = async () => (await admin`SELECT application_name, sync_state FROM pg_stat_replication`)[0];
    while ((await follower())?.sync_state !== "quorum") await Bun.sleep(20); // It catches up first.
    expect(await follower()).toEqual({ application_name: "db2", sync_state: "quorum" });
    await admin.close({ timeout: 0 });

    const hosts = `${primary.address},${standby.address}`;
    const query = `sslmode=verify-full&sslrootcert=${join(target, "ca.pem")}`;
    const url = `postgres://heartline:engine-secret@${hosts}/chat?${query}`;
    await initLog(url, 1);
    const log = await open(url);
    for (let i = 0; i < 20; i++) expect(await log.append(0, i, Buffer.from(`${i + 1}`))).toEqual({ stored: true });
    await primary.kill();
    standby.promote();
    const { head } = await eventually(() => log.state(0));
    expect(head).toBe(20);
    // The new primary has no standby, and must not wait for one.
    const promoted = new SQL(standby.url("postgres"), { max: 1 });
    await promoted`ALTER SYSTEM SET synchronous_standby_names = ''`;
    await promoted`SELECT pg_reload_conf()`;
    await promoted.close({ timeout: 0 });
    expect(await eventually(() => log.append(0, 20, Buffer.from("21")))).toEqual({ stored: true });
  },
  LIMIT_MS,
);

async function eventually<T>(call: () => Promise<T>): Promise<T> {
  for (const end = performance.now() + LIMIT_MS / 2; ;) {
    try {
      return await call();
    } catch (error) {
      if (performance.now() > end) throw error;
      await Bun.sleep(50);
    }
  }
}

test.skipIf(postgresPrograms === null || !hasSockets)(
  "servers with sockets of heartline@.socket are at one port, and one that restarts refuses no connection",
  async () => {
    expect(read("heartline@.socket")).toContain("\nReusePort=yes\n");
    const engine = await PostgresEngine.start("fsync=off");
    const url = engine.url("postgres");
    await initLog(url, 2);
    const credentials = join(folder, "users.txt");
    writeFileSync(credentials, "alice secret\nbob secret\n");
    const copies = join(folder, "copies");
    mkdirSync(copies);
    const first = holdPort(true, 0);
    const second = holdPort(true, first.port);
    expect(second.port).toBe(first.port);
    const start = (descriptor: number): ClusterServer =>
      new ClusterServer(url, { credentials, copies, sockets: [descriptor] });
    const servers = [start(first.descriptor), start(second.descriptor)];
    for (const server of servers) await server.start();
    expect(servers.map(({ port }) => port)).toEqual([first.port, first.port]);
    for (const server of servers) await server.is("ready");
    const connect = async (name: string): Promise<void> => {
      const client = await WireClient.connect(first.port);
      await client.expectReply(`login ${name} secret`, "ok <token> 35");
      client.sendLines("logout");
      while ((await client.line()) !== "ok"); // Before it others may have left.
    };
    for (let i = 0; i < 8; i++) for (const name of ["alice", "bob"]) await connect(name);
    servers[1]!.process.kill("SIGTERM");
    expect(await servers[1]!.process.exits()).toBe(0);
    const clients = Array.from({ length: 8 }, () => WireClient.connect(first.port)); // Some of them wait.
    servers[1] = await start(second.descriptor).start();
    await servers[1].is("ready");
    for (const client of clients) await (await client).expectReply("alive", "err <words>");
    for (let i = 0; i < 8; i++) for (const name of ["alice", "bob"]) await connect(name);
  },
  LIMIT_MS,
);
