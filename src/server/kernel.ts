import { dlopen, ptr } from "bun:ffi";
import { readFileSync } from "node:fs";

/** What only the kernel can be told or asked. Elsewhere than on Linux with glibc things stay as the kernel has them. */

const SOL_SOCKET = 1;
const SO_SNDBUF = 7;
const SO_RCVBUF = 8;
const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;

const libc = openLibc();
const value = new Int32Array(1);

function openLibc() {
  if (process.platform !== "linux") return null;
  try {
    return dlopen("libc.so.6", {
      setsockopt: { args: ["i32", "i32", "i32", "ptr", "u32"], returns: "i32" },
      send: { args: ["i32", "ptr", "u64", "i32"], returns: "i32" },
      dup: { args: ["i32"], returns: "i32" },
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

/** How many descriptors this process may open. */
export function descriptorsMax(): number {
  try {
    const limit = /^Max open files\s+(\d+)/m.exec(readFileSync("/proc/self/limits", "latin1"));
    return limit === null ? 1024 : Number(limit[1]);
  } catch {
    return 1024;
  }
}
