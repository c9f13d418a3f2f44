import { dlopen, ptr } from "bun:ffi";
import { readFileSync } from "node:fs";

/** What only the kernel can be told or asked. Elsewhere than on Linux with glibc things stay as the kernel has them. */

const SOL_SOCKET = 1;
const SO_SNDBUF = 7;

const libc = openLibc();
const value = new Int32Array(1);

function openLibc() {
  if (process.platform !== "linux") return null;
  try {
    return dlopen("libc.so.6", { setsockopt: { args: ["i32", "i32", "i32", "ptr", "u32"], returns: "i32" } }).symbols;
  } catch {
    return null;
  }
}

/** How many bytes the kernel may hold for a socket; it takes twice that. */
export function setSendBuffer(descriptor: number, bytes: number): void {
  value[0] = bytes;
  libc?.setsockopt(descriptor, SOL_SOCKET, SO_SNDBUF, ptr(value), 4);
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
