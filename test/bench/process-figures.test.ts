import { expect, test } from "bun:test";
import { cpuByProcess, cpuNs, cpuSince, machineBusy, threadNs } from "../../bench/process-figures.ts";

test("the CPU time of an ended thread is 0, and that of an ended process throws", async () => {
  expect(cpuNs(process.pid)).toBeGreaterThan(0);
  expect(threadNs(process.pid, String(process.pid))).toBeGreaterThan(0);
  expect(threadNs(process.pid, "0")).toBe(0);
  const ended = Bun.spawn([process.execPath, "--version"], { stdout: "ignore" });
  await ended.exited;
  expect(() => cpuNs(ended.pid)).toThrow();
});

test("the CPU time of a process and of those that it has started is found, without one that has ended", async () => {
  const child = Bun.spawn(["sh", "-c", "cat; true"], { stdin: "pipe", stdout: "pipe" });
  child.stdin.write("x");
  child.stdin.flush();
  await child.stdout.getReader().read();
  const found = cpuByProcess([process.pid]);
  expect(found.get(process.pid)).toBeGreaterThan(0);
  expect(found.has(child.pid)).toBe(true);
  const grandchildren = [...cpuByProcess([child.pid]).keys()].filter((pid) => pid !== child.pid);
  expect(grandchildren).toHaveLength(1);
  expect(found.has(grandchildren[0]!)).toBe(true);
  child.stdin.end();
  await child.exited;
  expect(cpuByProcess([child.pid]).size).toBe(0);
});

test("CPU time counts since a reading, and all of that of a process that has started since", () => {
  const before = new Map([
    [1, 100],
    [2, 50],
  ]);
  const after = new Map([
    [1, 130],
    [3, 7],
  ]);
  expect([...cpuSince(before, after)]).toEqual([
    [1, 30],
    [3, 7],
  ]);
});

test("a machine that was idle or waited for its disk half of the time was half busy", () => {
  expect(machineBusy([5, 0, 5, 100, 7, 0, 0, 0], [35, 5, 15, 140, 12, 0, 0, 0])).toBe(0.5);
  expect(machineBusy([1, 0, 0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0, 0])).toBe(0);
});
