/** The dialogues of the wire, of the client library and of the terminal client, through a gateway. */
import { expect, test } from "bun:test";
import { join } from "node:path";

const root = join(import.meta.dir, "../..");
const LIMIT_MS = 240_000;
const FILES = [
  "test/net/wire.test.ts",
  "test/net/resume.test.ts",
  "test/net/callback.test.ts",
  "test/net/admission.test.ts",
  "test/client/client.test.ts",
  "test/client/stream-session.test.ts",
  "test/client/acknowledge.test.ts",
  "test/client/p2p/private.test.ts",
  "test/terminal/pipe.test.ts",
];

test(
  "everything that clients can do works through a gateway as at the owner",
  async () => {
    const child = Bun.spawn([process.execPath, "test", "--timeout", "30000", ...FILES], {
      cwd: root,
      env: { ...process.env, HEARTLINE_TEST_GATEWAY: "1" },
      stdio: ["ignore", "pipe", "pipe"],
    });
    const [out, err, code] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
    const failures = `${out}${err}`
      .split("\n")
      .filter((line) => line.startsWith("(fail)") || line.startsWith("error:"));
    expect(failures).toEqual([]);
    expect(code).toBe(0);
  },
  LIMIT_MS,
);
