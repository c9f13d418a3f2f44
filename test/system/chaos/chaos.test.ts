import { afterEach, expect, test } from "bun:test";
import { endPrograms, run } from "../../support/process.ts";
import { hasNats } from "../../support/nats-engine.ts";
import { postgresPrograms } from "../../support/postgres-engine.ts";
import { seedFor } from "../../support/random.ts";

afterEach(endPrograms);

/** Runs the program as a user does. */
const chaos = (...args: string[]) => run("test/system/chaos/main.ts", ...args);

test("every message arrives once and in order under cuts, stalls and kills", async () => {
  const seed = seedFor("chaos");
  const args = ["--seed", String(seed), "--seconds", "4", "--clients", "60", "--server-kills", "3"];
  const { code, out, err } = await chaos(...args);
  const count = (what: string): number => Number(new RegExp(`^${what} +(\\d+)$`, "m").exec(out)?.[1]);
  // The whole report is the explanation of a failure.
  if (code !== 0) throw new Error(`${out}${err}`);
  expect(out).toContain("60 clients (5 callback, 5 plain, 20 over WebSocket) in 3 processes");
  for (const never of ["lost", "twice", "disordered", "other faults"]) expect(count(never)).toBe(0);
  // A short run may have no stall and no resume.
  const faults = [
    "cuts",
    "outages",
    "kills",
    "server kills",
    "logins with after=",
    "  that needed received=",
    "callbacks",
    "fetches through a pipe",
  ];
  for (const happened of ["messages", "broadcasts", "blocks, unblocks", ...faults]) {
    expect([happened, count(happened) > 0]).toEqual([happened, true]);
  }
}, 60_000);

test("every message arrives once and in order when the limits per address refuse many connections", async () => {
  const seed = seedFor("chaos with limits");
  const args = ["--seed", String(seed), "--seconds", "2", "--clients", "30", "--server-kills", "1", "--limit-loopback"];
  const { code, out, err } = await chaos(...args);
  if (code !== 0) throw new Error(`${out}${err}`);
}, 60_000);

for (const [engine, isInstalled] of [
  ["postgres", postgresPrograms !== null],
  ["nats", hasNats],
] as const) {
  test.skipIf(!isInstalled)(
    `every message arrives once and in order while servers of a cluster and of ${engine} are killed and paused`,
    async () => {
      const seed = seedFor(`chaos with ${engine}`);
      const args = ["--seed", String(seed), "--seconds", "5", "--clients", "24", "--server-kills", "2"];
      const { code, out, err } = await chaos(...args, "--cluster", engine);
      if (code !== 0) throw new Error(`${out}${err}`);
      expect(out).toMatch(/^times without service of a shard: [1-9]/m); // The owner is killed at the end in any case.
    },
    240_000,
  );
}

test("an invalid command line prints the reason and exits with 2", async () => {
  const { code, out, err } = await chaos("--seconds", "soon");
  expect({ code, out }).toEqual({ code: 2, out: "" });
  expect(err).toBe('chaos: --seconds takes a whole number from 1 to 86400, not "soon" (--help lists the options)\n');
  const { err: engine } = await chaos("--cluster", "redis");
  expect(engine).toBe('chaos: --cluster takes postgres or nats, not "redis" (--help lists the options)\n');
  const { err: reason } = await chaos("--durability", "luck");
  expect(reason).toBe('chaos: --durability takes none, process or power, not "luck" (--help lists the options)\n');
});
