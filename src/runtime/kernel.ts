import { type Pointer, dlopen, ptr, read } from "bun:ffi";
import { readFileSync } from "node:fs";
import { constants } from "node:os";

/**
 * System calls that the runtime does not offer, by FFI, and the resources of this process. Without Linux and glibc the
 * calls have no effect, except `lock`, which works on each supported system.
 */

const SOL_SOCKET = 1;
const SO_SNDBUF = 7;
const SO_RCVBUF = 8;
const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;
/** Number of the system call sched_setattr, by architecture; the next number is sched_getattr. glibc wraps neither. */
const SCHED_SETATTR = { x64: 314, arm64: 274 }[process.arch as string];
const SCHED_ATTR_BYTES = 48;
const SCHED_OTHER = 0n;
const SCHED_FLAG_RESET_ON_FORK = 1n;
const LOCK_EX = 2;
const LOCK_NB = 4;
/** C libraries with flock: glibc, musl, macOS. */
const LIBRARIES = ["libc.so.6", "libc.musl-x86_64.so.1", "libc.musl-aarch64.so.1", "libSystem.B.dylib"];

const libc = openLibc();
/** The argument of setsockopt. */
const socketOption = new Int32Array(1);

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

/** Sets SO_SNDBUF and SO_RCVBUF. The kernel doubles each value for its own overhead (socket(7)). */
export function setBuffers(descriptor: number, sendBytes: number, receiveBytes: number): void {
  socketOption[0] = sendBytes;
  libc?.setsockopt(descriptor, SOL_SOCKET, SO_SNDBUF, ptr(socketOption), 4);
  socketOption[0] = receiveBytes;
  libc?.setsockopt(descriptor, SOL_SOCKET, SO_RCVBUF, ptr(socketOption), 4);
}

/**
 * Sends bytes[start, start + count) past the runtime's socket, which saves an eighth of the cost of a send. Returns the
 * number of bytes that the kernel took. At 0 or less the caller sends through the runtime's socket, which reports the
 * error or the next drain.
 */
export function send(descriptor: number, bytes: Buffer, start: number, count: number): number {
  return libc === null || descriptor < 0
    ? 0
    : libc.send(descriptor, ptr(bytes, start), count, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/** A new descriptor of the same socket (dup); negative when that failed. */
export function duplicate(descriptor: number): number {
  return libc?.dup(descriptor) ?? -1;
}

/**
 * Sets the time slice of this thread (EEVDF scheduler, Linux 6.12). A thread with a shorter slice is scheduled sooner
 * when it wakes up, so it preempts the runtime's own threads; its share of the CPU stays the same. The nice value
 * stays, and so does a scheduling policy other than SCHED_OTHER.
 */
export function setSlice(micros: number): void {
  if (libc === null || SCHED_SETATTR === undefined) return;
  const attributes = new BigUint64Array(SCHED_ATTR_BYTES / 8);
  const at = ptr(attributes);
  const hasFailed = Number(libc.syscall(SCHED_SETATTR + 1, 0, at, SCHED_ATTR_BYTES, 0)) !== 0;
  const isDefaultPolicy = attributes[0]! >> 32n === SCHED_OTHER;
  if (hasFailed || !isDefaultPolicy) return;
  attributes[1]! |= SCHED_FLAG_RESET_ON_FORK; // Threads that it starts get the default slice.
  attributes[3] = BigInt(1000 * micros);
  libc.syscall(SCHED_SETATTR, 0, at, 0, 0);
}

/** Resident memory of this process; undefined when no descriptor is free to read it. */
export function residentBytes(): number | undefined {
  try {
    return process.memoryUsage.rss();
  } catch {
    return undefined;
  }
}

/** The soft limit of open files; 1024 when it cannot be read. */
export function descriptorsMax(): number {
  try {
    const limit = /^Max open files\s+(\d+)/m.exec(readFileSync("/proc/self/limits", "latin1"));
    return limit === null ? 1024 : Number(limit[1]);
  } catch {
    return 1024;
  }
}

/**
 * Locks the open file of a descriptor until this process closes it (flock). Returns null on success, "taken" when
 * another open file has the lock, and otherwise the reason why it cannot be locked.
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
      continue; // This library belongs to another system.
    }
    if (libc.flock!(descriptor, LOCK_EX | LOCK_NB) === 0) return null;
    const errno = read.i32(libc[location]!() as Pointer);
    return errno === constants.errno.EWOULDBLOCK ? "taken" : `flock: error ${errno}`;
  }
  return "this system has no flock";
}
