import { type Pointer, dlopen, ptr, read } from "bun:ffi";
import { closeSync, readFileSync } from "node:fs";
import { constants } from "node:os";

/**
 * System calls that the runtime does not offer, by FFI, and the resources of this process. Without Linux and glibc the
 * calls have no effect, except `lock`, which works on each supported system.
 */

const AF_UNIX = 1;
const SOCK_STREAM = 1;
const SOCK_DGRAM = 2;
const SOCK_NONBLOCK = 0x800;
const SOCK_CLOEXEC = 0x80000;
const SOL_SOCKET = 1;
const SO_SNDBUF = 7;
const SO_RCVBUF = 8;
const SO_ACCEPTCONN = 30;
const SO_PROTOCOL = 38;
const IPPROTO_TCP = 6;
const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;
/** Number of the system call sched_setattr, by architecture; the next number is sched_getattr. glibc wraps neither. */
const SCHED_SETATTR = { x64: 314, arm64: 274 }[process.arch as string];
const SCHED_ATTR_BYTES = 48;
const SCHED_OTHER = 0n;
const SCHED_FLAG_RESET_ON_FORK = 1n;
const PR_SET_PDEATHSIG = 1;
const LOCK_EX = 2;
const LOCK_NB = 4;
/** C libraries with flock: glibc, musl, macOS. */
const LIBRARIES = ["libc.so.6", "libc.musl-x86_64.so.1", "libc.musl-aarch64.so.1", "libSystem.B.dylib"];

const libc = openLibc();
/** The arguments of setsockopt and getsockopt. */
const socketOption = new Int32Array(1);
const socketOptionBytes = new Uint32Array(1);
/** Connections that wait in a listening socket. The kernel reduces it to net.core.somaxconn. */
const BACKLOG = 4096;

function openLibc() {
  if (process.platform !== "linux") return null;
  try {
    return dlopen("libc.so.6", {
      setsockopt: { args: ["i32", "i32", "i32", "ptr", "u32"], returns: "i32" },
      getsockopt: { args: ["i32", "i32", "i32", "ptr", "ptr"], returns: "i32" },
      listen: { args: ["i32", "i32"], returns: "i32" },
      socket: { args: ["i32", "i32", "i32"], returns: "i32" },
      connect: { args: ["i32", "ptr", "u32"], returns: "i32" },
      __errno_location: { args: [], returns: "ptr" },
      sendto: { args: ["i32", "ptr", "u64", "i32", "ptr", "u32"], returns: "i64" },
      send: { args: ["i32", "ptr", "u64", "i32"], returns: "i32" },
      dup: { args: ["i32"], returns: "i32" },
      prctl: { args: ["i32", "u64"], returns: "i32" },
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

/** Whether the descriptor is a TCP socket that listens. */
export function isListening(descriptor: number): boolean {
  const option = (name: number): number => {
    socketOptionBytes[0] = socketOption.byteLength;
    const failed = libc?.getsockopt(descriptor, SOL_SOCKET, name, ptr(socketOption), ptr(socketOptionBytes)) !== 0;
    return failed ? -1 : socketOption[0]!;
  };
  return option(SO_ACCEPTCONN) === 1 && option(SO_PROTOCOL) === IPPROTO_TCP;
}

/** As many connections as the kernel allows may wait in that listening socket; the runtime sets 511. */
export function setBacklog(descriptor: number): void {
  libc?.listen(descriptor, BACKLOG);
}

/**
 * Sends a datagram to a Unix socket, without waiting: a path, or an abstract name that begins with `@`. False when it
 * was not sent.
 */
export function sendDatagram(name: string, text: string): boolean {
  if (libc === null) return false;
  const address = unixAddress(name.startsWith("@") ? `\0${name.slice(1)}` : `${name}\0`);
  const descriptor = libc.socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (descriptor < 0) return false;
  const bytes = Buffer.from(text);
  const flags = MSG_DONTWAIT | MSG_NOSIGNAL;
  const sent = Number(libc.sendto(descriptor, ptr(bytes), bytes.length, flags, ptr(address), address.length));
  closeSync(descriptor);
  return sent === bytes.length;
}

/** `sockaddr_un` (unix(7)) of a path with a zero byte after it, or of an abstract name with one before it. */
function unixAddress(name: string): Uint8Array {
  return Buffer.concat([new Uint8Array(new Uint16Array([AF_UNIX]).buffer), Buffer.from(name)]);
}

/**
 * Why the socket at that path accepts no stream: `ECONNREFUSED`, `EAGAIN` when too many connections wait, and so on; ""
 * when it accepts one, which is closed at once. The runtime calls most of them ECONNREFUSED. Null when it is unknown.
 */
export function connectionRefusal(path: string): string | null {
  if (libc === null) return null;
  const address = unixAddress(`${path}\0`);
  const descriptor = libc.socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (descriptor < 0) return null;
  const hasFailed = libc.connect(descriptor, ptr(address), address.length) !== 0;
  const errno = hasFailed ? read.i32(libc.__errno_location()!) : 0;
  closeSync(descriptor);
  if (!hasFailed) return "";
  return Object.entries(constants.errno).find(([, number]) => number === errno)?.[0] ?? null;
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

/** SIGTERM when the parent process ends, however it ends. */
export function endWithParent(): void {
  libc?.prctl(PR_SET_PDEATHSIG, constants.signals.SIGTERM);
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
