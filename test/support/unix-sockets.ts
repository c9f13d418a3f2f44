/** Unix sockets that the runtime cannot make, for tests: a datagram socket, and one whose queue is full. Linux only. */
import { dlopen, ptr } from "bun:ffi";
import { closeSync } from "node:fs";

const AF_UNIX = 1;
const SOCK_STREAM = 1;
const SOCK_DGRAM = 2;
const SOCK_NONBLOCK = 0x800;

export const hasUnixSockets = process.platform === "linux";

function openLibc() {
  return dlopen("libc.so.6", {
    socket: { args: ["i32", "i32", "i32"], returns: "i32" },
    bind: { args: ["i32", "ptr", "u32"], returns: "i32" },
    listen: { args: ["i32", "i32"], returns: "i32" },
    connect: { args: ["i32", "ptr", "u32"], returns: "i32" },
  }).symbols;
}

function addressOf(path: string): Uint8Array {
  return Buffer.concat([new Uint8Array(new Uint16Array([AF_UNIX]).buffer), Buffer.from(`${path}\0`)]);
}

/** A socket of another kind at that path. The returned function closes it. */
export function bindDatagramSocket(path: string): () => void {
  const libc = openLibc();
  const descriptor = libc.socket(AF_UNIX, SOCK_DGRAM, 0);
  const address = addressOf(path);
  if (libc.bind(descriptor, ptr(address), address.length) !== 0) throw new Error(`cannot bind ${path}`);
  return () => closeSync(descriptor);
}

/** A socket of a program that accepts nothing, and has as many waiting connections as it takes. */
export function bindFullSocket(path: string): () => void {
  const libc = openLibc();
  const address = addressOf(path);
  const descriptors = [libc.socket(AF_UNIX, SOCK_STREAM, 0)];
  if (libc.bind(descriptors[0]!, ptr(address), address.length) !== 0) throw new Error(`cannot bind ${path}`);
  libc.listen(descriptors[0]!, 0);
  let isTaken = true;
  while (isTaken) {
    const client = libc.socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    descriptors.push(client);
    isTaken = libc.connect(client, ptr(address), address.length) === 0;
  }
  return () => descriptors.forEach((descriptor) => closeSync(descriptor));
}
