import { expect, test } from "bun:test";
import { cpuNs, threadNs } from "../../bench/process-figures.ts";

test("the CPU time of an ended thread is 0, and that of an ended process throws", async () => {
  expect(cpuNs(process.pid)).toBeGreaterThan(0);
  expect(threadNs(process.pid, String(process.pid))).toBeGreaterThan(0);
  expect(threadNs(process.pid, "0")).toBe(0);
  const ended = Bun.spawn([process.execPath, "--version"], { stdout: "ignore" });
  await ended.exited;
  expect(() => cpuNs(ended.pid)).toThrow();
});
