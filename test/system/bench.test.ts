import { afterAll, describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { BenchmarkRunner } from "../../bench/load/benchmark-runner.ts";
import * as payload from "../../bench/load/payload.ts";
import { COMPILER } from "../../bench/program.ts";
import { Histogram } from "../../bench/report/histogram.ts";
import type { ClusterResult } from "../../bench/cluster/result.ts";
import { nameOf } from "../../bench/cluster/work.ts";
import { isInstalled } from "../../bench/peers/peer.ts";
import { PEERS } from "../../bench/peers/peers.ts";
import { type Run, readResult } from "../../bench/report/result.ts";
import { SCENARIOS, SCENARIO_NAMES } from "../../bench/load/scenario.ts";
import { POSTGRES } from "../support/engines.ts";
import { ServerProcess, run } from "../support/process.ts";
import { PASSWORD, WireServer } from "../support/wire.ts";

const GENERATORS = ["typescript", "native"] as const;

function isSkipped(generator: string): boolean {
  if (generator !== "native" || Bun.which(COMPILER.program) !== null) return false;
  console.warn(`SKIPPED: the native load generator needs ${COMPILER.program} (Debian package ${COMPILER.package})`);
  return true;
}

/** For how long the server below holds each message. */
const HELD_MS = 5;

/** A server that delivers one message of the first user twice, one late and one never. It knows two users. */
function carelessServer(): Bun.TCPSocketListener<{ rest: string }> {
  const sockets = new Map<string, Bun.Socket<{ rest: string }>>();
  let late = "";
  let count = 0;
  return Bun.listen<{ rest: string }>({
    hostname: "127.0.0.1",
    port: 0,
    socket: {
      open: (socket) => void (socket.data = { rest: "" }),
      data: (socket, chunk) => {
        const lines = (socket.data.rest + chunk.toString("latin1")).split("\n");
        socket.data.rest = lines.pop()!;
        for (const line of lines) {
          const [verb, to = "", text = ""] = line.split(" ");
          socket.write("ok\n");
          if (verb === "login") sockets.set(to, socket);
          else {
            const number = to === "u00000" ? count++ : -1;
            const message = `message x ${text}\n`;
            const bytes = number === 2 ? message + message : number === 6 ? message + late : message;
            if (number === 5) late = message;
            else if (number !== 9) setTimeout(() => sockets.get(to)!.write(bytes), HELD_MS);
          }
        }
      },
    },
  });
}

const folder = mkdtempSync(join(tmpdir(), "heartline-"));

afterAll(() => rmSync(folder, { recursive: true }));

/** The programs share two cores, so tests run one at a time. */
const SHORT = ["--clients", "20", "--warmup", "0.1"];
const LIMIT_MS = 20_000;

describe("the benchmark programs", () => {
  test.each([...SCENARIO_NAMES])(
    "bench measures the scenario %s without a loss",
    async (scenario) => {
      const file = join(folder, `${scenario}.json`);
      const more = scenario === "alive" ? ["--beat", "0.2"] : scenario === "login" ? ["--window", "4"] : [];
      const { out, err, code } = await run(
        "src/main.ts",
        "bench",
        "--scenario",
        scenario,
        ...SHORT,
        "--seconds",
        "0.3",
        ...more,
        "--json",
        file,
      );
      if (code !== 0) throw new Error(`${out}${err}`);
      expect(out).toStartWith(`${scenario}: 20 clients, 64 bytes, plain sessions, durability process`);
      const { runs } = readResult(file);
      for (const { outcome } of runs) {
        expect(outcome.faults).toEqual([]);
        expect(outcome.server!.core).toBeGreaterThan(0);
        if (scenario !== "idle") expect(outcome.accepted).toBeGreaterThan(0);
      }
      if (SCENARIOS[scenario].instead !== null) return expect(runs).toHaveLength(1);
      expect(out).toMatch(/lost 0, twice 0, out of order 0 of [\d,]+ messages/);
      expect(runs.map(({ task }) => task.rate > 0)).toEqual([false, true]);
    },
    LIMIT_MS,
  );

  test(
    "bench measures resumable sessions at a given rate and payload length",
    async () => {
      const more = "--sessions resumable --rate 500 --payload 200 --seconds 1.5".split(" ");
      const { out, code } = await run("src/main.ts", "bench", ...SHORT, ...more);
      expect(out).toMatch(/20 clients, 200 bytes, resumable sessions/);
      expect(out).toMatch(/accepted messages\/s +\d{3}\b/);
      expect(code).toBe(0);
    },
    LIMIT_MS,
  );

  test(
    "bench --target measures a server that runs already, with the users of its credentials file",
    async () => {
      const server = new ServerProcess("--host", "127.0.0.1", "--port", "0", "--data", ":memory:");
      const target = ["--target", `127.0.0.1:${await server.port()}`, "--credentials", "credentials.txt"];
      const { out, code } = await run(
        "src/main.ts",
        "bench",
        ...target,
        "--clients",
        "8",
        "--seconds",
        "0.3",
        "--warmup",
        "0",
      );
      server.kill("SIGTERM");
      await server.exits();
      expect(out).toMatch(/mixed: 8 clients, .* at 127\.0\.0\.1:\d+/);
      expect(out).toMatch(/lost 0, twice 0, out of order 0/);
      expect(code).toBe(0);
    },
    LIMIT_MS,
  );

  test.each(GENERATORS)(
    "bench --target ignores the mail of an earlier run, with the load generator %s",
    async (generator) => {
      if (isSkipped(generator)) return;
      const names = ["ada", "bea", "cyd", "dee"];
      const server = new WireServer({}, names);
      const writer = await server.login("ada");
      const text = payload.newPayload(payload.MESSAGE_MARK, 1, 1234, 64).toString("latin1");
      for (const name of names.slice(1)) await writer.expectReply(`message ${name} ${text}`, "ok stored");
      await writer.expectReply("logout", "ok");
      const credentials = join(folder, "users");
      writeFileSync(credentials, names.map((name) => `${name} ${PASSWORD}\n`).join(""));
      const target = ["--target", `127.0.0.1:${server.port}`, "--credentials", credentials];
      const short = ["--seconds", "0.3", "--warmup", "0", "--rate", "200"];
      const { out, err, code } = await run("src/main.ts", "bench", ...target, ...short, "--generator", generator);
      expect(err + out).toMatch(/lost 0, twice 0, out of order 0/);
      expect(code).toBe(0);
      await server.stop();
    },
    LIMIT_MS,
  );

  test(
    "bench --generator native measures scenarios and resumable sessions without a loss",
    async () => {
      if (isSkipped("native")) return;
      for (const scenario of ["mixed", "message", "broadcast", "alive"]) {
        const more = scenario === "alive" ? ["--beat", "0.2"] : ["--sessions", "resumable"];
        const native = ["--generator", "native", "--scenario", scenario, "--seconds", "0.3"];
        const { out, err, code } = await run("src/main.ts", "bench", ...native, ...SHORT, ...more);
        if (code !== 0) throw new Error(`${out}${err}`);
        if (scenario !== "alive") expect(out).toMatch(/lost 0, twice 0, out of order 0 of [\d,]+ messages/);
      }
    },
    LIMIT_MS,
  );

  /** The command line of a program of a folder; the load benchmark is a command of heartline. */
  const programOf = (folder: string): string[] =>
    folder === "bench/load" ? ["src/main.ts", "bench"] : [`${folder}/main.ts`];

  test.concurrent.each<[string, string[], RegExp]>([
    ["bench/load", ["--scenario", "dance"], /--scenario takes mixed, .* or idle, not "dance"/],
    ["bench/load", ["--clients", "3"], /--clients takes an even number/],
    ["bench/load", ["--clients", "1000000"], /--clients takes a whole number from 2 to \d+/],
    ["bench/load", ["--window", "1.5"], /--window takes a whole number/],
    ["bench/load", ["--scenario", "login", "--crowd", "5"], /--crowd is not for login/],
    ["bench/load", ["--json", "/nowhere/x.json"], /cannot write \/nowhere\/x.json/],
    ["bench/load", ["--target", "127.0.0.1:1", "--credentials", "package.json"], /it needs two users/],
    ["bench/load", ["--rate", "5", "--window", "5"], /give one/],
    ["bench/load", ["--target", "127.0.0.1:1"], /--target and --credentials go together/],
    ["bench/load", ["--generator", "cobol"], /--generator takes typescript or native, not "cobol"/],
    ["bench/load", ["--generator", "native", "--scenario", "login"], /--generator native does not measure login/],
    ["bench/load", ["--wat"], /--help lists the options/],
    ["bench/peers", ["--peers", "nobody"], /--peers knows no "nobody"/],
    ["bench/peers", ["--works", "none"], /--works knows no "none"/],
    ["bench/cluster", ["--engines", "redis"], /--engines knows no "redis"/],
    ["bench/cluster", ["--shards", "2,17"], /--shards takes numbers from 1 to 16, not "2,17"/],
    ["bench/cluster", ["--window", "17"], /--clients times --window is more than 4096/],
    ["test/system/hostile", ["--attacks", "kindness"], /--attacks knows no "kindness"/],
    ["test/system/hostile", ["--rounds", "0"], /--rounds takes a whole number from 1 to 1000/],
    ["bench/micro", ["--filter", "nothing like that"], /matches no part/],
    ["bench/report", [], /give a file/],
    ["bench/report", ["package.json"], /is not a file of results/],
  ])(
    "%s with the invalid arguments %p prints one line with the reason and exits with 2",
    async (program, args, why) => {
      const { out, err, code } = await run(...programOf(program), ...args);
      expect(err).toMatch(/^bench[^\n]*\n$/);
      expect(err).toMatch(why);
      expect({ out, code }).toEqual({ out: "", code: 2 });
    },
  );

  test.concurrent.each([
    "bench/load",
    "bench/peers",
    "bench/cluster",
    "test/system/hostile",
    "bench/micro",
    "bench/report",
  ])("%s --help prints its usage", async (program) => {
    const { out, err, code } = await run(...programOf(program), "--help");
    expect(out).toMatch(/^Usage: \S+ (run bench|src\/main\.ts bench )/);
    expect({ err, code }).toEqual({ err: "", code: 0 });
  });
});

describe("the runner of the benchmarks", () => {
  const users = 12;
  const runner = new BenchmarkRunner(users);
  afterAll(() => runner.remove());

  for (const [peer, generator] of PEERS.flatMap((peer) => GENERATORS.map((each) => [peer, each] as const))) {
    test(
      `runs messages and broadcasts of the load generator ${generator} on ${peer.name} without a loss`,
      async () => {
        if (isSkipped(generator)) return;
        if (peer.needs !== null && !isInstalled(peer))
          return console.warn(
            `SKIPPED: ${peer.name}: needs ${peer.needs.program} (Debian package ${peer.needs.package})`,
          );
        for (const scenario of ["message", "broadcast"] as const) {
          const broadcasters = scenario === "broadcast" ? 2 : 0;
          const outcome = await runner.run(
            peer,
            {
              users: runner.users,
              crowd: 0,
              scenario: { ...SCENARIOS[scenario], broadcasters },
              window: 4,
              rate: 0,
              generator,
              payloadBytes: 64,
              beatMs: 1000,
              warmupMs: 0,
              measureMs: 200,
              resumable: false,
            },
            () => {},
          );
          const { lost, twice, disordered, faults, sent, server } = outcome;
          expect({ lost, twice, disordered, faults }).toEqual({ lost: 0, twice: 0, disordered: 0, faults: [] });
          expect(sent).toBeGreaterThan(0);
          expect(server!.cpuMicros).toBeGreaterThan(0);
        }
      },
      LIMIT_MS,
    );
  }

  test.each(GENERATORS)(
    "counts messages that a server loses, repeats and delivers late, with the load generator %s",
    async (generator) => {
      if (isSkipped(generator)) return;
      const server = carelessServer();
      const { lost, twice, disordered, faults, sent, latency, reply } = await runner.swarm(
        {
          generator,
          protocol: "heartline",
          host: "127.0.0.1",
          // The native one can have a port for each user, and sleep.
          ...(generator === "native"
            ? { port: 1, ports: [server.port, server.port], sharesCores: true }
            : { port: server.port }),
          pid: null,
          loginsAtOnce: 2,
          users: runner.users.slice(0, 2),
          crowd: 0,
          scenario: SCENARIOS.message,
          window: 0,
          rate: 200,
          payloadBytes: 64,
          beatMs: 1000,
          warmupMs: 0,
          measureMs: 300,
          resumable: false,
        },
        () => {},
      );
      server.stop(true);
      expect({ lost, twice, disordered, faults }).toEqual({ lost: 1, twice: 1, disordered: 1, faults: [] });
      expect(sent).toBeGreaterThanOrEqual(59);
      expect(latency.count).toBeGreaterThan(0);
      // Both generators have the same buckets.
      const highest = new Histogram();
      highest.record(Math.round(10 * latency.max));
      expect(latency.buckets.at(-1)![0]).toBe(highest.buckets[0]![0]);
      expect(latency.p50).toBeGreaterThanOrEqual(1000 * HELD_MS);
      // The reply to a message is sent before the message.
      if (generator === "native") expect(reply!.count).toBeGreaterThan(latency.count / 2);
    },
    LIMIT_MS,
  );

  test("fails with the name and the output of a server that does not start", async () => {
    const broken = { ...PEERS[0]!, name: "broken", command: () => [process.execPath, "src/main.ts", "serve", "--wat"] };
    const task = { users: runner.users, crowd: 0, scenario: SCENARIOS.message, window: 1, rate: 0, payloadBytes: 64 };
    const generator = "typescript";
    const run = runner.run(
      broken,
      { ...task, generator, beatMs: 1, warmupMs: 0, measureMs: 1, resumable: false },
      () => {},
    );
    await expect(run).rejects.toThrow(/^broken: .*does not listen.*--wat/);
  });
});

test(
  "bench:peers alternates the peers, and bench:report makes a page and pictures of its file",
  async () => {
    const file = join(folder, "peers.json");
    const hasCompiler = Bun.which("cc") !== null;
    const works = `message-64-1,broadcast-1-1,load-120000,users-0${hasCompiler ? ",window-512-63" : ""}`;
    const short = ["--rounds", "2", "--seconds", "0.2", "--warmup", "0.1"];
    const peers = hasCompiler ? "heartline,baseline" : "heartline,node-net";
    const { out, err, code } = await run(
      "bench/peers/main.ts",
      "--peers",
      peers,
      "--works",
      works,
      ...short,
      "--json",
      file,
    );
    if (code !== 0) throw new Error(`${out}${err}`);
    expect(out).toContain("messages, 64 clients, 1 in flight");
    const runsInOrder = readResult(file).runs.filter(({ work }) => work === "message-64-1");
    const [first, second] = peers.split(",") as [string, string];
    expect(runsInOrder.map(({ peer, round }) => `${round} ${peer}`)).toEqual([
      `0 ${first}`,
      `0 ${second}`,
      `1 ${second}`,
      `1 ${first}`,
    ]);
    const made = await run("bench/report/main.ts", "--out", join(folder, "page"), file);
    expect(made).toMatchObject({ err: "", code: 0 });
    const page = readFileSync(join(folder, "page/index.html"), "utf8");
    expect(page).toContain("<h3>messages, 64 clients, 1 in flight</h3>");
    expect(page).not.toMatch(/src=|href=|<script/);
    const pictures = readdirSync(join(folder, "page")).filter((name) => name.endsWith(".svg"));
    expect(pictures).toContain("users.svg");
    if (hasCompiler) {
      expect(pictures).toContain("throughput.svg");
      expect(pictures).toContain("windows.svg");
      const [{ outcome }] = readResult(file).runs.filter(({ work }) => work === "window-512-63") as [Run];
      expect((outcome.sent - 64 * 512) % 63).toBe(0);
    }
    expect(existsSync(join(folder, "page/memory.svg"))).toBe(false);
  },
  3 * LIMIT_MS,
);

test.skipIf(!POSTGRES.isInstalled)(
  "bench:cluster measures clusters in alternation with one server, and prints the bound",
  async () => {
    if (isSkipped("native")) return;
    const short = "--rounds 1 --seconds 0.5 --warmup 0.1 --clients 8 --window 4".split(" ");
    const works = "--engines postgres --shards 2 --traffic cross --via gateway".split(" ");
    const file = join(folder, "cluster.json");
    const { out, err, code } = await run("bench/cluster/main.ts", ...works, ...short, "--json", file);
    if (code !== 0) throw new Error(`${out}${err}`);
    for (const name of ["embedded", "2 shards, cross, gateway"])
      expect(out).toMatch(new RegExp(`^  ${name} +[\\d,]+ \\[`, "m"));
    expect(out).toMatch(/^ {2}raw append, one at a time, \d+ bytes: p50 [\d.]+ /m);
    expect(out).toMatch(
      /^ {2}ok at most 4 appends: 2 shards, cross, gateway: ([\d.]+ \[.*holds|.*NOT HOLD|not measured)$/im,
    );
    expect(out).toContain("\nlost 0, twice 0, out of order 0\n");
    const { runs } = JSON.parse(readFileSync(file, "utf8")) as ClusterResult;
    expect(runs.map(({ work, load }) => `${nameOf(work)} ${load}`)).toEqual(
      ["embedded", "2 shards, cross, gateway"].flatMap((name) => [`${name} closed`, `${name} open`]),
    );
    for (const { figures, engine } of runs) {
      expect(figures.cost.server).toBeGreaterThan(0);
      expect(figures.cost.engine > 0).toBe(engine !== null);
    }
    for (const { figures } of runs.filter(({ load }) => load === "closed")) {
      expect(figures.ok.count).toBeGreaterThan(0);
      expect(figures.cost.logBytes).toBeGreaterThan(64);
    }
  },
  3 * LIMIT_MS,
);

test(
  "bench:hostile prints a row per attack, and no ordinary user loses a message",
  async () => {
    const short = "--attacks drip,disk --seconds 0.3 --rounds 1 --warmup 0.3 --recovery 0".split(" ");
    const { out, err, code } = await run("test/system/hostile/main.ts", ...short, "--", "--rate-limit", "900");
    for (const name of ["drip", "disk"]) {
      expect(out).toMatch(new RegExp(`^  ${name} +[\\d.,]+ .* \\d+/\\d+/\\d+ `, "m"));
      expect(out).toMatch(new RegExp(`^  ${name} .* messages lost 0, twice 0, out of order 0.*; dropped 0$`, "m"));
    }
    // Latencies mean nothing in such a short run next to other tests.
    const failures = out.split("\n").filter((line) => line.includes("HARM"));
    expect(failures.filter((line) => !/p99 is|was late in every/.test(line))).toEqual([]);
    expect([err, code]).toEqual([expect.stringContaining("drip: starting"), failures.length === 0 ? 0 : 1]);
  },
  LIMIT_MS,
);

test(
  "bench:micro ends without an error when the reader of its output has closed the pipe",
  async () => {
    const command = `"${process.execPath}" bench/micro/main.ts --filter "line reader" | true`;
    const shell = Bun.spawn(["sh", "-c", command], { stdin: "ignore", stdout: "ignore", stderr: "pipe" });
    const [errors] = await Promise.all([shell.stderr.text(), shell.exited]);
    expect(errors).not.toContain("EPIPE");
  },
  LIMIT_MS,
);

test(
  "bench:micro --filter measures only the parts whose name matches",
  async () => {
    const { out, code } = await run("bench/micro/main.ts", "--filter", "line reader");
    expect(out).toMatch(/^ns per operation .*\nline reader: a line of 77 bytes +[\d.]+ +[\d.]+ +[\d.,]+\n$/);
    expect(code).toBe(0);
  },
  LIMIT_MS,
);
