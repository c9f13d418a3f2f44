import { dlopen, ptr } from "bun:ffi";
import { expect, test } from "bun:test";
import { readdirSync } from "node:fs";
import { getPriority, release } from "node:os";
import { join } from "node:path";
import { ServerProcess } from "../support/process.ts";

/** Number of the system call sched_getattr, by architecture. */
const SCHED_GETATTR = { x64: 315, arm64: 275 }[process.arch as string];
const [major = 0, minor = 0] = release().split(".").map(Number);
const hasSlices = process.platform === "linux" && SCHED_GETATTR !== undefined && major * 100 + minor >= 612;
if (!hasSlices) console.warn("\n  SKIPPED: the time slice of the server's thread (it needs Linux 6.12)\n");

/** The time slice of a thread in ns; infinity when the thread has ended. */
function sliceOf(thread: number): number {
  const libc = dlopen("libc.so.6", { syscall: { args: ["i64", "i32", "ptr", "u32", "u32"], returns: "i64" } });
  const attributes = new BigUint64Array(6);
  const hasEnded =
    Number(libc.symbols.syscall(SCHED_GETATTR!, thread, ptr(attributes), attributes.byteLength, 0)) !== 0;
  libc.close();
  return hasEnded ? Number.POSITIVE_INFINITY : Number(attributes[3]);
}

test.skipIf(!hasSlices)(
  "the main thread of the server has a shorter time slice than any other thread of the process",
  async () => {
    const server = new ServerProcess("--host", "127.0.0.1", "--port", "0", "--data", ":memory:");
    await server.port();
    const { pid } = server;
    const threads = readdirSync(`/proc/${pid}/task`).map(Number);
    const others = threads.filter((thread) => thread !== pid).map(sliceOf);
    const slice = sliceOf(pid);
    server.kill("SIGKILL");
    await server.exits();
    expect(others.length).toBeGreaterThan(0);
    expect(slice).toBeLessThan(Math.min(...others));
  },
);

test.skipIf(!hasSlices)("setSlice keeps the nice value of the process", () => {
  const script = 'import { setSlice } from "./src/runtime/kernel.ts"; setSlice(100); console.log(os.getPriority());';
  const child = Bun.spawnSync(["nice", "-n", "7", process.execPath, "-e", script], {
    cwd: join(import.meta.dir, "../.."),
  });
  expect(`${child.stdout}${child.stderr}`).toBe(`${Math.min(getPriority() + 7, 19)}\n`);
});
