import { afterEach, expect, test } from "bun:test";
import { join } from "node:path";
import { seedFor } from "../../support/random.ts";

const root = join(import.meta.dir, "../../..");
let running: Bun.Subprocess<"ignore", "pipe", "pipe"> | null = null;

afterEach(async () => {
  // It ends what it started when it is asked to end.
  running?.kill("SIGTERM");
  await running?.exited;
  running = null;
});

/** The chaos as its users run it: its exit code, and what it wrote. */
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

test("whatever is cut, stalled or killed, every message comes once and in order", async () => {
  const seed = seedFor("chaos");
  const order = ["--seed", String(seed), "--seconds", "4", "--clients", "60", "--server-kills", "3"];
  const { code, stdout, stderr } = await chaos(...order);
  const count = (what: string): number => Number(new RegExp(`^${what} +(\\d+)$`, "m").exec(stdout)?.[1]);
  // The whole report explains a failure best.
  if (code !== 0) throw new Error(`${stdout}${stderr}`);
  for (const never of ["lost", "twice", "disordered", "other faults"]) expect(count(never)).toBe(0);
  // Stalls and resumes are left to chance in so short a run.
  const deeds = [
    "cuts",
    "outages",
    "kills",
    "server kills",
    "logins with after=",
    "  that needed received=",
    "callbacks",
    "fetches through a pipe",
  ];
  for (const happened of ["messages", "broadcasts", "blocks, unblocks", ...deeds]) {
    expect([happened, count(happened) > 0]).toEqual([happened, true]);
  }
}, 60_000);

test("every message comes once and in order when many connections are refused at the door", async () => {
  const seed = seedFor("chaos with limits");
  const order = [
    "--seed",
    String(seed),
    "--seconds",
    "2",
    "--clients",
    "30",
    "--server-kills",
    "1",
    "--limit-loopback",
  ];
  const { code, stdout, stderr } = await chaos(...order);
  if (code !== 0) throw new Error(`${stdout}${stderr}`);
}, 60_000);

test("an invalid command line is refused with the reason", async () => {
  const { code, stdout, stderr } = await chaos("--seconds", "soon");
  expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
  expect(stderr).toBe('chaos: --seconds takes a whole number from 1 to 86400, not "soon" (--help lists the options)\n');
  const { stderr: reason } = await chaos("--durability", "luck");
  expect(reason).toBe('chaos: --durability takes none, process or power, not "luck" (--help lists the options)\n');
});
