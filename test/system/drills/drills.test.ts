import { afterEach, expect, test } from "bun:test";
import { hostsObstacle } from "../../support/hosts.ts";
import { hasNats } from "../../support/nats-engine.ts";
import { postgresPrograms } from "../../support/postgres-engine.ts";
import { endPrograms, run } from "../../support/process.ts";

const LIMIT_MS = 240_000;
/** The shortest of each kind. */
const SHORT = ["--seconds", "1", "--steps", "1", "--clients", "24", "--rate", "48", "--shards", "2"];

afterEach(endPrograms);

/** Runs the program as a user does. */
const drill = (...args: string[]) => run("test/system/drills/main.ts", ...args);

async function expectNothingLost(name: string, ...args: string[]): Promise<string> {
  const { code, out, err } = await drill("--drill", name, ...SHORT, ...args);
  if (code !== 0) throw new Error(`${out}${err}`); // The whole report is the explanation of a failure.
  expect(out).toMatch(/^lost 0, twice 0, disordered 0, without a record 0, faults 0$/m);
  return out;
}

test.skipIf(postgresPrograms === null)(
  "a server of an older version is replaced under load: each message arrives once, and its client comes back once",
  async () => {
    const out = await expectNothingLost("upgrade", "--steps", "2", "--p99", "120000"); // A spare, then an owner.
    expect(out).toMatch(/^rolling upgrade, 0\.0\.9 to /);
    expect(out).toMatch(/^the owner of shard 0 +/m);
  },
  LIMIT_MS,
);

test.skipIf(!hasNats)(
  "a server of NATS is restarted under load: each message arrives once, and the server has all streams again",
  async () => {
    const out = await expectNothingLost("nats", "--p99", "120000");
    expect(out).toMatch(/^rolling restart of NATS, /);
    expect(out).toMatch(/^server 1 of NATS +/m);
  },
  LIMIT_MS,
);

test.skipIf(postgresPrograms === null)(
  "the network between two owners drops all packets of one of them for a second: each message arrives once",
  async () => {
    const obstacle = hostsObstacle();
    if (obstacle !== null) return console.warn(`SKIPPED: a network that drops packets (${obstacle})`);
    const out = await expectNothingLost("cuts");
    expect(out).toMatch(/^from the owner of shard 0 to that of shard 1 +1\.0 s/m);
  },
  LIMIT_MS,
);

test.skipIf(postgresPrograms === null)(
  "a synchronous standby is promoted when the primary was killed: each message arrives once",
  async () => {
    const out = await expectNothingLost("promotion");
    expect(out).toMatch(/^PostgreSQL with a synchronous standby, the primary killed$/m);
  },
  LIMIT_MS,
);

test.skipIf(postgresPrograms === null)(
  "a server takes over thousands of accounts, and each user with mail gets it",
  async () => {
    const { code, out, err } = await drill("--drill", "large", "--clients", "2000", "--mailboxes", "200");
    if (code !== 0) throw new Error(`${out}${err}`);
    expect(out).toMatch(/^2000 accounts, 200 with 3 messages each; 1 shards$/m);
    expect(out).toMatch(/^mail of 200 users +\d+\.\d\d +0 wrong$/m);
  },
  LIMIT_MS,
);

test("an invalid command line prints the reason and exits with 2", async () => {
  const { code, out, err } = await drill();
  expect({ code, out }).toEqual({ code: 2, out: "" });
  expect(err).toBe(
    "drill: --drill is missing: upgrade, restart, nats, cuts, promotion, large (--help lists the options)\n",
  );
  const { err: unknown } = await drill("--drill", "fire");
  expect(unknown).toBe(
    'drill: --drill takes upgrade, restart, nats, cuts, promotion or large, not "fire" (--help lists the options)\n',
  );
});
