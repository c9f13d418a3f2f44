/** CPU time and memory of processes, and stolen time of the machine, from /proc (proc(5)). */
import { readFileSync, readdirSync } from "node:fs";

/** CPU time of all threads of a process, in ns. From `schedstat`, since the ticks of `stat` are 10 ms. */
export function cpuNs(pid: number): number {
  return readdirSync(`/proc/${pid}/task`).reduce((sum, task) => sum + threadNs(pid, task), 0);
}

/** CPU time of one thread, in ns; 0 when the thread has ended. */
export function threadNs(pid: number, task: string): number {
  try {
    return Number(readFileSync(`/proc/${pid}/task/${task}/schedstat`, "latin1").split(" ")[0]);
  } catch {
    return 0;
  }
}

/** CPU time by process, in ns: of `roots` that run, and of all processes that they have started. */
export function cpuByProcess(roots: readonly number[]): Map<number, number> {
  const found = new Map<number, number>();
  const visit = (pid: number): void => {
    try {
      const tasks = readdirSync(`/proc/${pid}/task`);
      found.set(pid, cpuNs(pid));
      for (const task of tasks) {
        const children = readFileSync(`/proc/${pid}/task/${task}/children`, "latin1");
        for (const child of children.split(" ").filter(Boolean)) visit(Number(child));
      }
    } catch {
      // It has ended meanwhile.
    }
  };
  for (const root of roots) visit(root);
  return found;
}

/** The part of `after` that is not in `before`; a process that has ended meanwhile does not count. */
export function cpuSince(
  before: ReadonlyMap<number, number>,
  after: ReadonlyMap<number, number>,
): ReadonlyMap<number, number> {
  return new Map([...after].map(([pid, ns]) => [pid, ns - (before.get(pid) ?? 0)]));
}

/** Resident memory of a process in bytes, and the part of it that is not mapped from files. */
export function memoryOf(pid: number): { resident: number; anonymous: number } {
  const text = readFileSync(`/proc/${pid}/smaps_rollup`, "latin1");
  const bytes = (name: string): number => 1024 * Number(new RegExp(`^${name}:\\s+(\\d+)`, "m").exec(text)?.[1] ?? 0);
  return { resident: bytes("Rss"), anonymous: bytes("Anonymous") };
}

/** The share (0 to 1) of the machine's time that the hypervisor gave to others since `before`. */
export function stolen(before: readonly number[]): number {
  const now = machineTicks();
  const all = now.reduce((sum, each) => sum + each, 0) - before.reduce((sum, each) => sum + each, 0);
  return all > 0 ? (now[7]! - before[7]!) / all : 0;
}

/** The share (0 to 1) of the time of all cores in which they were not idle between two readings of `machineTicks`. */
export function machineBusy(before: readonly number[], after: readonly number[]): number {
  const passed = after.map((ticks, kind) => ticks - before[kind]!);
  const all = passed.reduce((sum, ticks) => sum + ticks, 0);
  return all > 0 ? 1 - (passed[3]! + passed[4]!) / all : 0;
}

/** Ticks of the machine: user, nice, system, idle, iowait, irq, softirq, steal. */
export function machineTicks(): number[] {
  return readFileSync("/proc/stat", "latin1").split("\n", 1)[0]!.trim().split(/\s+/).slice(1, 9).map(Number);
}
