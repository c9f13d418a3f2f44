/** The dialogues of the wire, of the client library and of the terminal client, through a gateway. */
import { expect, test } from "bun:test";
import { join } from "node:path";

const root = join(import.meta.dir, "../..");
const LIMIT_MS = 480_000;
const DIALOGUES = [
  "test/net/wire.test.ts",
  "test/net/resume.test.ts",
  "test/net/callback.test.ts",
  "test/client/client.test.ts",
  "test/client/stream-session.test.ts",
  "test/client/p2p/private.test.ts",
];
const MORE = ["test/net/admission.test.ts", "test/client/acknowledge.test.ts", "test/terminal/pipe.test.ts"];
/** Of several shards: the drain of one server is another thing, and the others show what users of other shards do. */
const ONE_SHARD = /during a drain a callback|that number 100,000 take|sends heartbeats by itself/;

/** Runs these files of tests, except those whose names match. */
async function expectAllPass(gateway: string, files: readonly string[], except?: RegExp): Promise<void> {
  const names = except === undefined ? [] : ["-t", `^(?!.*(${except.source}))`];
  const child = Bun.spawn([process.execPath, "test", "--timeout", "30000", ...names, ...files], {
    cwd: root,
    env: { ...process.env, HEARTLINE_TEST_GATEWAY: gateway },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const [out, err, code] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  const failures = `${out}${err}`.split("\n").filter((line) => line.startsWith("(fail)") || line.startsWith("error:"));
  expect(failures).toEqual([]);
  expect(code).toBe(0);
}

test(
  "everything that clients can do works through a gateway as at the owner",
  () => expectAllPass("1", [...DIALOGUES, ...MORE]),
  LIMIT_MS,
);

test(
  "everything that clients can do works through a gateway of three shards",
  () => expectAllPass("3", DIALOGUES, ONE_SHARD),
  LIMIT_MS,
);
