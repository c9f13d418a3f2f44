import { afterEach, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { LogFields } from "../../src/runtime/log.ts";
import { parseConfig } from "../../src/server/config.ts";
import { EXIT_LOST_RECORDS, WorkerGroup, forWorker, takeWorker } from "../../src/server/worker-group.ts";
import { UsageError } from "../../src/usage-error.ts";

const CLUSTER = ["--cluster", "postgres://db1/chat", "--cluster-listen", "127.0.0.1:6010"];
const folders: string[] = [];

afterEach(() => {
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true });
});

/** Workers that run that shell script, in which $HEARTLINE_WORKER is the number and $HERE a folder. */
function groupOf(count: number, script: string) {
  const folder = mkdtempSync(join(tmpdir(), "heartline-"));
  folders.push(folder);
  const exits: LogFields[] = [];
  const fatal: string[] = [];
  let exited = (): void => {};
  const { promise: listening, resolve } = Promise.withResolvers<string>();
  const note = (fields: LogFields): void => {
    exits.push(fields);
    exited();
  };
  const group = new WorkerGroup({
    count,
    command: ["sh", "-c", `HERE=${folder}; ${TRAPS}; ${script}`],
    log: { level: "info", info: note, warn: note, error: note, fatal: (_, line) => void fatal.push(line) },
    listening: resolve,
    pauseMinMs: 1,
  });
  const until = async (number: number): Promise<void> => {
    while (exits.length < number) await new Promise<void>((next) => (exited = next));
  };
  return { group, listening, exits, fatal, until, lines: (name: string) => linesIn(join(folder, name)) };
}

function linesIn(file: string): string[] {
  return readFileSync(file, "utf8").trimEnd().split("\n");
}

const TRAPS = 'trap "exit 0" TERM; trap "echo reloaded >> $HERE/signals" HUP';
const WAIT = "while :; do sleep 0.01; done";

test("the line is passed on once all workers listen, and a signal to stop ends all of them", async () => {
  const { group, listening, exits, lines } = groupOf(
    3,
    `echo $HEARTLINE_WORKER >> $HERE/started; echo listening on 127.0.0.1:6001; ${WAIT}`,
  );
  const ended = group.run();
  expect(await listening).toBe("listening on 127.0.0.1:6001\n");
  expect(lines("started").toSorted()).toEqual(["1", "2", "3"]);
  group.stop("SIGTERM");
  expect(await ended).toBe(0);
  expect(exits).toEqual([]);
});

test("a worker that exits starts again, and the others go on", async () => {
  const { group, exits, until, lines } = groupOf(
    2,
    `echo $HEARTLINE_WORKER >> $HERE/started; echo listening; [ $HEARTLINE_WORKER = 2 ] && exit 7; ${WAIT}`,
  );
  const ended = group.run();
  await until(3);
  group.stop("SIGTERM");
  await ended;
  expect(exits.slice(0, 3)).toEqual(Array(3).fill({ event: "worker_exit", worker: 2, code: 7 }));
  expect(lines("started").filter((worker) => worker === "1")).toHaveLength(1);
});

test("a first worker that cannot start ends the group with its exit code, and no other is started", async () => {
  const { group, lines } = groupOf(3, "echo $HEARTLINE_WORKER >> $HERE/started; exit 2");
  expect(await group.run()).toBe(2);
  expect(lines("started")).toEqual(["1"]);
});

test("a later worker that cannot start ends the group with its exit code", async () => {
  const { group } = groupOf(2, `[ $HEARTLINE_WORKER = 2 ] && exit 1; echo listening; ${WAIT}`);
  expect(await group.run()).toBe(1);
});

test("a worker whose engine has lost records ends the group with its exit code, and does not start again", async () => {
  const last = `[ $HEARTLINE_WORKER = 3 ] && exit ${EXIT_LOST_RECORDS}`;
  const { group, exits, fatal, lines } = groupOf(
    3,
    `echo $HEARTLINE_WORKER >> $HERE/started; echo listening; ${last}; ${WAIT}`,
  );
  expect(await group.run()).toBe(65);
  expect(lines("started").filter((worker) => worker === "3")).toHaveLength(1);
  expect(exits).toEqual([]);
  expect(fatal).toEqual([
    "worker 3 has exited with 65: the engine has lost records; all workers stop, and none starts again",
  ]);
});

test("a signal to reload reaches each worker", async () => {
  const { group, listening, lines } = groupOf(2, `: > $HERE/signals; echo listening; ${WAIT}`);
  const ended = group.run();
  await listening;
  group.signal("SIGHUP");
  while (lines("signals").length < 2) await Bun.sleep(1);
  group.stop("SIGTERM");
  expect(await ended).toBe(0);
});

test("each worker has its own ports and its own folder, and the first one the given ports", () => {
  const options = ["--direct-listen", "10.0.0.1:7000", "--http", "9100", "--data", "/srv/chat", "--workers", "4"];
  const config = parseConfig([...CLUSTER, ...options])!;
  expect(forWorker(config, 1)).toMatchObject({
    port: 6001,
    cluster: { listen: { port: 6010 }, direct: { port: 7000 }, folder: "/srv/chat/worker-1" },
    http: { port: 9100 },
    adminSocket: "/srv/chat/worker-1/admin.sock",
  });
  expect(forWorker(config, 4)).toMatchObject({
    port: 6001,
    cluster: { listen: { port: 6013 }, direct: { port: 7003 }, folder: "/srv/chat/worker-4" },
    http: { port: 9103 },
    adminSocket: "/srv/chat/worker-4/admin.sock",
  });
  const other = parseConfig([...CLUSTER, "--http", "unix:/run/http", "--admin-socket", "/run/admin"])!;
  expect(forWorker(other, 2)).toMatchObject({ http: { path: "/run/http.2" }, adminSocket: "/run/admin.2" });
  expect(forWorker(parseConfig(CLUSTER)!, 2)).toMatchObject({ http: null, adminSocket: null });
});

test("ports beyond the last one are refused with one line", () => {
  const config = parseConfig(["--cluster", "nats://n1/chat", "--cluster-listen", "127.0.0.1:65535"])!;
  expect(() => forWorker(config, 2)).toThrow(UsageError);
  expect(() => forWorker(config, 2)).toThrow("--cluster-listen: there is no port 65536 for worker 2; give a lower one");
});

test("the number of a worker is removed from its environment", () => {
  const environment = { HEARTLINE_WORKER: "3", PATH: "/bin" };
  expect(takeWorker(environment)).toBe(3);
  expect(environment).toEqual({ PATH: "/bin" } as never);
  expect(takeWorker(environment)).toBeNull();
});
