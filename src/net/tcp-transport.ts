import type { Socket } from "bun";
import { KERNEL_RECEIVE_BYTES, KERNEL_SEND_BYTES } from "../limits.ts";
import { send, setBuffers } from "../runtime/kernel.ts";
import { release } from "../runtime/received-chunk.ts";
import type { SocketEvents, Transport } from "./transport.ts";

/** A socket that the runtime accepted. Its `data` receives its events. */
export type AcceptedSocket = Socket<SocketEvents | null>;

/**
 * TCP and TLS on the runtime's sockets. It owns what is specific to them: the descriptor, the size of the kernel's
 * buffers, sending by system call, and the memory of received chunks.
 */
export class TcpTransport implements Transport {
  readonly isEncrypted: boolean;
  readonly isWebSocket: boolean;
  readonly #socket: AcceptedSocket;
  /** For `send`; -1 over TLS, and when the socket is closed, since the number may be that of another socket by then. */
  #descriptor: number;

  /** `isTls`: the socket itself uses TLS. The other two are about the client, which another server may relay. */
  constructor(socket: AcceptedSocket, isEncrypted = false, isTls = isEncrypted, isWebSocket = false) {
    const descriptor = (socket as unknown as { fd?: number }).fd ?? -1;
    setBuffers(descriptor, KERNEL_SEND_BYTES, KERNEL_RECEIVE_BYTES);
    this.isEncrypted = isEncrypted;
    this.isWebSocket = isWebSocket;
    this.#socket = socket;
    this.#descriptor = isTls ? -1 : descriptor;
  }

  /**
   * The system call takes an eighth less time than the runtime's `write`: 195,000 instead of 176,000 deliveries/s in
   * `npm run bench -- --scenario broadcast --clients 500 --window 1`. The runtime gets the rest, and reports errors.
   */
  write(bytes: Buffer, start: number, count: number): number {
    const sent = this.send(bytes, start, count);
    if (sent === count) return sent;
    const more = this.#socket.write(bytes, start + sent, count - sent);
    return more < 0 ? more : sent + more;
  }

  send(bytes: Buffer, start: number, count: number): number {
    return Math.max(0, send(this.#descriptor, bytes, start, count));
  }

  pause(): void {
    this.#socket.pause();
  }

  resume(): void {
    this.#socket.resume();
  }

  shutdown(): void {
    this.#socket.shutdown();
  }

  end(): void {
    this.#socket.end();
  }

  reset(): void {
    this.#socket.terminate();
  }

  handOver(receiver: SocketEvents): void {
    this.#socket.data = receiver;
  }

  closed(): void {
    this.#descriptor = -1;
  }

  release(chunk: Uint8Array): void {
    release(chunk);
  }
}
