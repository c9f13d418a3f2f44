/** The dialogues of the wire, of the client library and of the terminal client, through a gateway. */
import { expect, test } from "bun:test";
import { join } from "node:path";

const root = join(import.meta.dir, "../..");
const LIMIT_MS = 480_000;
const WIRE = ["test/net/wire.test.ts", "test/net/resume.test.ts", "test/net/callback.test.ts"];
const CLIENTS = [
  "test/client/client.test.ts",
  "test/client/stream-session.test.ts",
  "test/client/p2p/private.test.ts",
  "test/terminal/pipe.test.ts",
];
const MORE = ["test/net/admission.test.ts", "test/client/acknowledge.test.ts"];
/** Presence comes later from another shard: too late for a test with sessions that expire after 0.3 seconds. */
const IN_TIME = /a session that is not resumed expires/;

/** Runs these files of tests, except those whose names match. */
async function expectAllPass(gateway: string, files: readonly string[], except?: RegExp): Promise<void> {
  const names = except === undefined ? [] : ["-t", `^(?!.*(${except.source}))`];
  const child = Bun.spawn([process.execPath, "test", "--timeout", "30000", "--parallel=2", ...names, ...files], {
    cwd: root,
    env: { ...process.env, HEARTLINE_TEST_GATEWAY: gateway },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const [out, err, code] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  const failures = `${out}${err}`.split("\n").filter((line) => line.startsWith("(fail)") || line.startsWith("error:"));
  expect(failures).toEqual([]);
  expect(code).toBe(0);
}

test.concurrent(
  "everything that clients can do works through a gateway as at the owner",
  () => expectAllPass("1", [...WIRE, ...CLIENTS, ...MORE]),
  LIMIT_MS,
);

// With four shards most of the users in these dialogues are of different ones.
test.concurrent(
  "every dialogue of the wire works through a gateway of several shards",
  () => expectAllPass("4", WIRE, IN_TIME),
  LIMIT_MS,
);
