import { ByteQueue, copy } from "../byte-queue.ts";
import { FRAME_BYTES_MAX, OVERHEAD_BYTES_MAX, OVERHEAD_BYTES_PER_SECOND } from "../limits.ts";
import { TokenBucket } from "../token-bucket.ts";
import type { SocketEvents, Transport } from "./transport.ts";
import {
  BINARY,
  FrameReader,
  NORMAL,
  PONG,
  POLICY_VIOLATION,
  closeFrame,
  frameOf,
  writeHead,
} from "./websocket-frames.ts";

/** A frame on its way to the socket. */
const frame = Buffer.alloc(FRAME_BYTES_MAX + 4);

/**
 * A byte stream in the payloads of WebSocket frames, over another transport, after the handshake. Reading is paused,
 * and writing waits, in that transport. A frame that it accepts in part is complete before anything else is written:
 * its rest is kept here.
 */
export class WebSocketTransport implements Transport {
  readonly isWebSocket = true;
  readonly isEncrypted: boolean;
  /** Receives the events of the socket. */
  readonly events: WebSocketEvents;
  readonly #socket: Transport;
  /** What the socket has not accepted, frames or the rest of one. */
  readonly #rest = new ByteQueue();
  /** Of the close frame that is sent at the end. */
  status = NORMAL;
  /** The close frame was written, or is in `#rest`. */
  #isClosing = false;
  /** Our side of the socket is closed when `#rest` is written. */
  #isShutDue = false;

  /** `receiver` gets the bytes and the other events. */
  constructor(socket: Transport, nowMs: () => number) {
    this.#socket = socket;
    this.isEncrypted = socket.isEncrypted;
    this.events = new WebSocketEvents(this, nowMs);
  }

  write(bytes: Buffer, start: number, count: number): number {
    if (this.#isClosing) return -1;
    let taken = 0;
    while (taken < count && this.#rest.length === 0) {
      const length = Math.min(count - taken, FRAME_BYTES_MAX);
      const headBytes = writeHead(frame, BINARY, length);
      copy(bytes, frame, headBytes, start + taken, start + taken + length);
      if (!this.#push(frame, headBytes + length)) return -1;
      taken += length;
    }
    return taken;
  }

  /** Writes bytes[0..count), or keeps what the socket does not accept. False when the socket is closed. */
  #push(bytes: Buffer, count: number): boolean {
    const taken = this.#rest.length > 0 ? 0 : this.#socket.write(bytes, 0, count);
    if (taken < 0) return false;
    if (taken < count) {
      const at = this.#rest.reserve(count - taken);
      copy(bytes, this.#rest.bytes, at, taken, count);
    }
    return true;
  }

  /** The fast way takes nothing, since it would not lead to `drain` for the rest of a frame. */
  send(): number {
    return 0;
  }

  /** Only the last ping needs an answer, so at most one pong waits. */
  pong(payload: Buffer): boolean {
    if (this.#isClosing || this.#rest.length > 0) return this.#isClosing;
    const pong = frameOf(PONG, payload);
    return this.#push(pong, pong.length);
  }

  /** The socket accepts bytes again. False while some are left. */
  drained(): boolean {
    const rest = this.#rest;
    while (rest.length > 0) {
      const taken = this.#socket.write(rest.bytes, rest.head, rest.length);
      if (taken < 0) return false; // `closed` follows.
      rest.drop(taken);
      if (rest.length > 0) return false;
    }
    if (this.#isShutDue) this.#socket.shutdown();
    this.#isShutDue = false;
    return true;
  }

  pause(): void {
    this.#socket.pause();
  }

  resume(): void {
    this.#socket.resume();
  }

  shutdown(): void {
    this.#sendClose();
    if (this.#rest.length === 0) this.#socket.shutdown();
    else this.#isShutDue = true;
  }

  end(): void {
    if (this.#rest.length === 0) this.#sendClose();
    this.#socket.end();
  }

  #sendClose(): void {
    if (this.#isClosing) return;
    this.#isClosing = true;
    const bytes = closeFrame(this.status);
    this.#push(bytes, bytes.length);
  }

  reset(): void {
    this.#socket.reset();
  }

  handOver(receiver: SocketEvents): void {
    this.events.receiver = receiver;
  }

  closed(): void {
    this.#isClosing = true;
    this.#rest.clear();
    this.#socket.closed();
  }

  release(chunk: Uint8Array): void {
    this.#socket.release(chunk);
  }
}

const NOBODY: SocketEvents = { data: () => {}, drain: () => {}, end: () => {}, closed: () => {}, hangUp: () => {} };

/** The events of the socket, and what becomes of them: bytes without frames for the receiver. */
export class WebSocketEvents implements SocketEvents {
  receiver: SocketEvents = NOBODY;
  readonly #transport: WebSocketTransport;
  readonly #reader = new FrameReader();
  readonly #nowMs: () => number;
  /** Heads and control frames beyond the bytes that came in them; see OVERHEAD_BYTES_PER_SECOND. */
  readonly #overhead: TokenBucket;
  #hasEnded = false;

  constructor(transport: WebSocketTransport, nowMs: () => number) {
    this.#transport = transport;
    this.#nowMs = nowMs;
    this.#overhead = new TokenBucket(OVERHEAD_BYTES_MAX, nowMs());
  }

  data(chunk: Buffer): void {
    const reader = this.#reader;
    if (reader.status !== 0) return;
    const overheadBefore = reader.overheadBytes;
    const count = reader.read(chunk);
    const isSpent = this.#isOverheadSpent(reader.overheadBytes - overheadBefore - count);
    if (count > 0) this.receiver.data(payloadOf(chunk, count));
    this.#answerPing();
    if (reader.hasClosed) {
      this.#transport.status = reader.status;
      this.end();
    } else if (reader.status !== 0 || isSpent) this.#fail(reader.status || POLICY_VIOLATION);
  }

  /** Frames without a payload would cost the server work that no other limit counts. */
  #isOverheadSpent(bytes: number): boolean {
    if (bytes <= 0) return false;
    this.#overhead.earn(OVERHEAD_BYTES_PER_SECOND, OVERHEAD_BYTES_MAX, this.#nowMs());
    return (this.#overhead.tokens -= bytes) < 0;
  }

  #answerPing(): void {
    const { ping } = this.#reader;
    if (ping !== null && this.#transport.pong(ping)) this.#reader.ping = null;
  }

  /** The client violates the protocol. */
  #fail(status: number): void {
    this.#reader.status = this.#transport.status = status;
    this.receiver.hangUp();
  }

  drain(): void {
    if (!this.#transport.drained()) return;
    this.#answerPing();
    this.receiver.drain();
  }

  end(): void {
    if (this.#hasEnded) return;
    this.#hasEnded = true;
    this.receiver.end();
  }

  closed(isReset?: boolean): void {
    this.receiver.closed(isReset);
  }

  hangUp(): void {
    this.receiver.hangUp();
  }
}

/** The first bytes of a chunk; copied when the chunk would hold much more memory than they need. */
function payloadOf(chunk: Buffer, count: number): Buffer {
  const payload = chunk.subarray(0, count);
  return 2 * count < chunk.length ? Buffer.from(payload) : payload;
}
