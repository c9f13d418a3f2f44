import { type Pointer, dlopen, ptr, read } from "bun:ffi";
import { readFileSync } from "node:fs";
import { constants } from "node:os";

/**
 * System calls that the runtime does not offer. On other systems than Linux with glibc they do nothing, except locks,
 * which must hold everywhere.
 */

const SOL_SOCKET = 1;
const SO_SNDBUF = 7;
const SO_RCVBUF = 8;
const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;
/** System calls that libc has no functions for: sched_setattr, and behind it sched_getattr. */
const SCHED_SETATTR = { x64: 314, arm64: 274 }[process.arch as string];
const SCHED_ATTR_BYTES = 48;
const SCHED_FLAG_RESET_ON_FORK = 1n;
const LOCK_EX = 2;
const LOCK_NB = 4;
/** C libraries that have flock: those of glibc, musl and macOS. */
const LIBRARIES = ["libc.so.6", "libc.musl-x86_64.so.1", "libc.musl-aarch64.so.1", "libSystem.B.dylib"];

const libc = openLibc();
const value = new Int32Array(1);

function openLibc() {
  if (process.platform !== "linux") return null;
  try {
    return dlopen("libc.so.6", {
      setsockopt: { args: ["i32", "i32", "i32", "ptr", "u32"], returns: "i32" },
      send: { args: ["i32", "ptr", "u64", "i32"], returns: "i32" },
      dup: { args: ["i32"], returns: "i32" },
      syscall: { args: ["i64", "i32", "ptr", "u32", "u32"], returns: "i64" },
    }).symbols;
  } catch {
    return null;
  }
}

/** How many bytes the kernel may hold for a socket, each way; it takes twice that. */
export function setBuffers(descriptor: number, sendBytes: number, receiveBytes: number): void {
  value[0] = sendBytes;
  libc?.setsockopt(descriptor, SOL_SOCKET, SO_SNDBUF, ptr(value), 4);
  value[0] = receiveBytes;
  libc?.setsockopt(descriptor, SOL_SOCKET, SO_RCVBUF, ptr(value), 4);
}

/**
 * Sends bytes[start..start + count) without the runtime's socket, which costs an eighth of a send. Returns how many the
 * kernel took; 0 or less when the runtime's socket must be asked why, and when it takes more.
 */
export function send(descriptor: number, bytes: Buffer, start: number, count: number): number {
  return libc === null || descriptor < 0
    ? 0
    : libc.send(descriptor, ptr(bytes, start), count, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/** Another descriptor of the same socket; below 0 when there is none. */
export function duplicate(descriptor: number): number {
  return libc?.dup(descriptor) ?? -1;
}

/**
 * For how long at a time this thread has its core while others want it too (Linux 6.12, EEVDF): the shorter, the sooner
 * it gets it. So the runtime's own threads give way to it as soon as there is something to do, and on the whole it gets
 * no more than before. An operator's niceness stays, and so does any other policy.
 */
export function setSlice(micros: number): void {
  if (libc === null || SCHED_SETATTR === undefined) return;
  const attributes = new BigUint64Array(SCHED_ATTR_BYTES / 8);
  const at = ptr(attributes);
  const hasFailed = Number(libc.syscall(SCHED_SETATTR + 1, 0, at, SCHED_ATTR_BYTES, 0)) !== 0;
  const isOrdinary = attributes[0]! >> 32n === 0n;
  if (hasFailed || !isOrdinary) return;
  attributes[1]! |= SCHED_FLAG_RESET_ON_FORK; // Threads that it starts have ordinary slices.
  attributes[3] = BigInt(1000 * micros);
  libc.syscall(SCHED_SETATTR, 0, at, 0, 0);
}

/** Bytes of memory that this process has; undefined when no descriptor is free to read them. */
export function residentBytes(): number | undefined {
  try {
    return process.memoryUsage.rss();
  } catch {
    return undefined;
  }
}

/** How many descriptors this process may open. */
export function descriptorsMax(): number {
  try {
    const limit = /^Max open files\s+(\d+)/m.exec(readFileSync("/proc/self/limits", "latin1"));
    return limit === null ? 1024 : Number(limit[1]);
  } catch {
    return 1024;
  }
}

/**
 * Locks what an open descriptor refers to, for as long as this process has it open (flock). Returns null when it is
 * locked, "taken" when another descriptor has the lock, and otherwise why there can be no lock.
 */
export function lock(descriptor: number): string | null {
  const location = process.platform === "darwin" ? "__error" : "__errno_location";
  for (const library of LIBRARIES) {
    let libc: Record<string, (...numbers: number[]) => unknown>;
    try {
      libc = dlopen(library, {
        flock: { args: ["i32", "i32"], returns: "i32" },
        [location]: { args: [], returns: "ptr" },
      }).symbols;
    } catch {
      continue; // It is the library of another system.
    }
    if (libc.flock!(descriptor, LOCK_EX | LOCK_NB) === 0) return null;
    const errno = read.i32(libc[location]!() as Pointer);
    return errno === constants.errno.EWOULDBLOCK ? "taken" : `flock: error ${errno}`;
  }
  return "this system has no flock";
}
