/** Outgoing connections, for calls to the clients of callback sessions. */

import { connect } from "node:net";
import { KERNEL_RECEIVE_BYTES, KERNEL_SEND_BYTES } from "../limits.ts";
import { setBuffers } from "../runtime/kernel.ts";

/** Bytes that a socket of node:net buffers in one `write`. They are copied, since the caller uses the memory again. */
const WRITE_BYTES_MAX = 16 << 10;

export interface DialHandlers {
  open(): void;
  data(chunk: Buffer): void;
  /** The kernel has accepted everything that was written. */
  drain(): void;
  /** The descriptor is closed. Called once, also when the connection was never established. */
  closed(): void;
}

export interface DialedSocket {
  /** Returns how many of bytes[start..start + count) were accepted; below 0 when the socket is closed. */
  write(bytes: Buffer, start: number, count: number): number;
  /** Closes the descriptor. Bytes that the kernel has accepted are still delivered. */
  end(): void;
  /** Closes the descriptor and drops what the kernel has accepted: a peer that reads nothing holds no memory. */
  terminate(): void;
}

/**
 * Opens a connection to a numeric address. It uses node:net, whose sockets close their descriptor at once in every
 * state. `Bun.connect` cannot be cancelled: without an answer its descriptor stays in SYN_SENT for two minutes.
 */
export function dial(host: string, port: number, handlers: DialHandlers): DialedSocket {
  const socket = connect({ host, port, noDelay: true });
  let isWriting = false;
  socket.on("connect", () => {
    const { _handle } = socket as unknown as { _handle: { fd: number } | null };
    setBuffers(_handle?.fd ?? -1, KERNEL_SEND_BYTES, KERNEL_RECEIVE_BYTES);
    handlers.open();
  });
  socket.on("data", (chunk) => handlers.data(chunk as Buffer));
  socket.on("error", () => {}); // `close` follows.
  socket.on("close", () => handlers.closed());
  const written = (): void => {
    isWriting = false;
    handlers.drain();
  };
  return {
    write: (bytes, start, count) => {
      if (isWriting) return 0;
      const taken = Math.min(count, WRITE_BYTES_MAX);
      isWriting = true;
      socket.write(Buffer.from(bytes.subarray(start, start + taken)), written);
      return taken;
    },
    end: () => void socket.destroy(),
    // During connecting `resetAndDestroy` would wait for the connection.
    terminate: () => void (socket.connecting ? socket.destroy() : socket.resetAndDestroy()),
  };
}
