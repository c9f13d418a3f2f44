import { readFileSync, readdirSync } from "node:fs";

/** Nanoseconds that all threads of a process have run; the scheduler's own count, since ticks are 10 ms. */
export function cpuNs(pid: number): number {
  return readdirSync(`/proc/${pid}/task`).reduce((sum, task) => sum + threadNs(pid, task), 0);
}

/** Of one thread; 0 when it has just ended, which others do all the time. */
export function threadNs(pid: number, task: string): number {
  try {
    return Number(readFileSync(`/proc/${pid}/task/${task}/schedstat`, "latin1").split(" ")[0]);
  } catch {
    return 0;
  }
}

/** Bytes that a process has resident, and how many of them are its own and no file's. */
export function memoryOf(pid: number): { resident: number; anonymous: number } {
  const text = readFileSync(`/proc/${pid}/smaps_rollup`, "latin1");
  const bytes = (name: string): number => 1024 * Number(new RegExp(`^${name}:\\s+(\\d+)`, "m").exec(text)?.[1] ?? 0);
  return { resident: bytes("Rss"), anonymous: bytes("Anonymous") };
}

/** Part of the machine's time that a hypervisor took away, since `before`, from 0 to 1. */
export function stolen(before: readonly number[]): number {
  const now = machineTicks();
  const all = now.reduce((sum, each) => sum + each, 0) - before.reduce((sum, each) => sum + each, 0);
  return all > 0 ? (now[7]! - before[7]!) / all : 0;
}

/** User, nice, system, idle, iowait, irq, softirq, steal. */
export function machineTicks(): number[] {
  return readFileSync("/proc/stat", "latin1").split("\n", 1)[0]!.trim().split(/\s+/).slice(1, 9).map(Number);
}
