import { dlopen, ptr } from "bun:ffi";

const AF_INET = 2;
const SOCK_STREAM = 1;

/**
 * A listening port whose backlog holds one connection, which is never accepted: the kernel drops further SYNs, so that
 * connecting times out. On all IPv4 addresses of this machine. Linux only.
 */
export class FullPort {
  readonly port: number;
  readonly #libc = dlopen("libc.so.6", {
    socket: { args: ["i32", "i32", "i32"], returns: "i32" },
    listen: { args: ["i32", "i32"], returns: "i32" },
    getsockname: { args: ["i32", "ptr", "ptr"], returns: "i32" },
    close: { args: ["i32"], returns: "i32" },
  }).symbols;
  readonly #descriptor: number;

  constructor() {
    this.#descriptor = this.#libc.socket(AF_INET, SOCK_STREAM, 0);
    this.#libc.listen(this.#descriptor, 0); // An unbound socket gets a free port on all addresses.
    const address = Buffer.alloc(16);
    this.#libc.getsockname(this.#descriptor, ptr(address), ptr(new Uint32Array([16])));
    this.port = address.readUInt16BE(2);
  }

  close(): void {
    this.#libc.close(this.#descriptor);
  }
}
