import { connect } from "node:net";
import { KERNEL_RECEIVE_BYTES, KERNEL_SEND_BYTES } from "../limits.ts";
import { setBuffers } from "../runtime/kernel.ts";

/** Bytes that a socket takes beyond what the kernel has: they are copied, since their memory is used again. */
const WRITE_BYTES_MAX = 16 << 10;

export interface DialHandlers {
  open(): void;
  data(chunk: Buffer): void;
  /** The kernel has taken everything that was written. */
  drain(): void;
  /** The descriptor is closed; called once, also for a connection that was never established. */
  closed(): void;
}

export interface DialedSocket {
  /** Takes the first part of bytes[start..start + count) and returns its length; below 0 when it is closed. */
  write(bytes: Buffer, start: number, count: number): number;
  /** Closes the descriptor; what the kernel has is still delivered. */
  end(): void;
  /** Closes the descriptor and drops what the kernel has, so that a peer that takes nothing costs nothing. */
  terminate(): void;
}

/**
 * Opens a connection to a numeric address. `Bun.connect` cannot be cancelled: its descriptor stays in SYN_SENT for two
 * minutes when nobody answers. A socket of node:net closes its descriptor at once, in every state.
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
    // While it is connecting, `resetAndDestroy` waits until it is connected.
    terminate: () => void (socket.connecting ? socket.destroy() : socket.resetAndDestroy()),
  };
}
