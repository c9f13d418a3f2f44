import { afterEach, expect, test } from "bun:test";
import { join } from "node:path";
import { seedFor } from "../../support/random.ts";

const root = join(import.meta.dir, "../../..");
let running: Bun.Subprocess<"ignore", "pipe", "pipe"> | null = null;

afterEach(async () => {
  // At SIGTERM the program ends the processes that it has started.
  running?.kill("SIGTERM");
  await running?.exited;
  running = null;
});

/** Runs the program as a user does. */
async function chaos(...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  const options = { cwd: root, stdin: "ignore", stdout: "pipe", stderr: "pipe" } as const;
  running = Bun.spawn([process.execPath, "test/system/chaos/main.ts", ...args], options);
  const [stdout, stderr, code] = await Promise.all([
    new Response(running.stdout).text(),
    new Response(running.stderr).text(),
    running.exited,
  ]);
  return { code, stdout, stderr };
}

test("every message arrives once and in order under cuts, stalls and kills", async () => {
  const seed = seedFor("chaos");
  const args = ["--seed", String(seed), "--seconds", "4", "--clients", "60", "--server-kills", "3"];
  const { code, stdout, stderr } = await chaos(...args);
  const count = (what: string): number => Number(new RegExp(`^${what} +(\\d+)$`, "m").exec(stdout)?.[1]);
  // The whole report is the explanation of a failure.
  if (code !== 0) throw new Error(`${stdout}${stderr}`);
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
  const { code, stdout, stderr } = await chaos(...args);
  if (code !== 0) throw new Error(`${stdout}${stderr}`);
}, 60_000);

test("an invalid command line prints the reason and exits with 2", async () => {
  const { code, stdout, stderr } = await chaos("--seconds", "soon");
  expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
  expect(stderr).toBe('chaos: --seconds takes a whole number from 1 to 86400, not "soon" (--help lists the options)\n');
  const { stderr: reason } = await chaos("--durability", "luck");
  expect(reason).toBe('chaos: --durability takes none, process or power, not "luck" (--help lists the options)\n');
});
