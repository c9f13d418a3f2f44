/** Sockets that the runtime does not offer, by FFI: what a service manager has (sd_notify(3), sd_listen_fds(3)). */
import { dlopen, ptr } from "bun:ffi";
import { closeSync, read } from "node:fs";
import { promisify } from "node:util";
import { sendDatagram } from "../../src/runtime/kernel.ts";

const AF_UNIX = 1;
const AF_INET = 2;
const SOCK_STREAM = 1;
const SOCK_DGRAM = 2;
const SOCK_CLOEXEC = 0x80000;
const SOL_SOCKET = 1;
const SO_REUSEPORT = 15;
const DATAGRAM_BYTES_MAX = 4096;

export const hasSockets = process.platform === "linux";

const libc = hasSockets
  ? dlopen("libc.so.6", {
      socket: { args: ["i32", "i32", "i32"], returns: "i32" },
      bind: { args: ["i32", "ptr", "u32"], returns: "i32" },
      listen: { args: ["i32", "i32"], returns: "i32" },
      setsockopt: { args: ["i32", "i32", "i32", "ptr", "u32"], returns: "i32" },
      getsockname: { args: ["i32", "ptr", "ptr"], returns: "i32" },
    }).symbols
  : null;

function bound(family: number, type: number, address: Uint8Array, isShared = false): number {
  const descriptor = libc!.socket(family, type | SOCK_CLOEXEC, 0);
  const on = Int32Array.of(1);
  if (isShared) libc!.setsockopt(descriptor, SOL_SOCKET, SO_REUSEPORT, ptr(on), on.byteLength);
  if (descriptor < 0 || libc!.bind(descriptor, ptr(address), address.length) !== 0) throw new Error("cannot bind");
  return descriptor;
}

/** Receives notifications at a path, or at an abstract name that begins with `@`. */
export class NotifySocket {
  readonly name: string;
  readonly #descriptor: number;
  readonly #received: string[] = [];
  #changed = (): void => {};
  #isReading = false;
  #isClosed = false;

  constructor(name: string) {
    this.name = name;
    const path = name.startsWith("@") ? `\0${name.slice(1)}` : `${name}\0`;
    this.#descriptor = bound(AF_UNIX, SOCK_DGRAM, Buffer.concat([Uint8Array.of(AF_UNIX, 0), Buffer.from(path)]));
  }

  async #read(): Promise<void> {
    const bytes = Buffer.alloc(DATAGRAM_BYTES_MAX);
    while (!this.#isClosed) {
      const { bytesRead } = await promisify(read)(this.#descriptor, bytes, 0, bytes.length, null);
      this.#received.push(...bytes.toString("utf8", 0, bytesRead).split("\n").filter(Boolean));
      this.#changed();
    }
    closeSync(this.#descriptor);
  }

  /** All assignments up to the first that matches, which are consumed. It reads nothing before the first call. */
  async until(pattern: RegExp): Promise<string[]> {
    if (!this.#isReading) void this.#read();
    this.#isReading = true;
    for (;;) {
      const index = this.#received.findIndex((each) => pattern.test(each));
      if (index >= 0) return this.#received.splice(0, index + 1);
      await new Promise<void>((resolve) => (this.#changed = resolve));
    }
  }

  /** The thread that waits for a datagram gets a last one. */
  close(): void {
    this.#isClosed = true;
    if (this.#isReading) sendDatagram(this.name, "closed");
    else closeSync(this.#descriptor);
  }
}

/**
 * A TCP socket at a free port of 127.0.0.1, which listens unless `isListening` is false. It accepts nothing. With
 * `shared` (SO_REUSEPORT) further sockets may be at its port: 0, or that of another one.
 */
export function holdPort(isListening = true, shared: number | null = null): { descriptor: number; port: number } {
  const port = shared ?? 0;
  const address = Uint8Array.of(AF_INET, 0, port >> 8, port & 255, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0);
  const descriptor = bound(AF_INET, SOCK_STREAM, address, shared !== null);
  if (isListening && libc!.listen(descriptor, 4096) !== 0) throw new Error("cannot listen");
  const length = Uint32Array.of(address.length);
  libc!.getsockname(descriptor, ptr(address), ptr(length));
  return { descriptor, port: (address[2]! << 8) | address[3]! };
}
