import { FrameReader } from "../../../src/net/websocket-frames.ts";
import { firstFrame } from "../../support/web.ts";
import type { Observer } from "./fault-proxy.ts";

const HEAD_END = "\r\n\r\n";
const BINARY = 2;

/** Shows an observer of lines the bytes in the frames of a WebSocket connection, after its handshake. */
export class WebObserver implements Observer {
  readonly #observer: Observer;
  /** Null after the end of the handshake in that direction. */
  #upHead: Buffer | null = Buffer.alloc(0);
  #downHead: Buffer | null = Buffer.alloc(0);
  readonly #up = new FrameReader();
  /** A frame of the server that is not complete. */
  #down = Buffer.alloc(0);

  constructor(observer: Observer) {
    this.#observer = observer;
  }

  get isLoggingIn(): boolean {
    return this.#observer.isLoggingIn;
  }

  up(chunk: Buffer): Buffer {
    const frames = Buffer.from(this.#upHead === null ? chunk : this.#afterHead("up", chunk));
    const count = this.#up.read(frames);
    if (count > 0) this.#observer.up(frames.subarray(0, count));
    return chunk;
  }

  down(chunk: Buffer): void {
    const frames = this.#downHead === null ? chunk : this.#afterHead("down", chunk);
    this.#down = Buffer.concat([this.#down, frames]);
    for (let next = firstFrame(this.#down); next !== null; next = firstFrame(this.#down)) {
      this.#down = this.#down.subarray(next.bytes);
      if (next.opcode === BINARY) this.#observer.down(next.payload);
    }
  }

  /** What follows the handshake: nothing before its end, and after a response other than 101. */
  #afterHead(way: "up" | "down", chunk: Buffer): Buffer {
    const bytes = Buffer.concat([(way === "up" ? this.#upHead : this.#downHead)!, chunk]);
    const end = bytes.indexOf(HEAD_END);
    const isOver = end >= 0 && (way === "up" || bytes.toString("latin1").startsWith("HTTP/1.1 101 "));
    if (way === "up") this.#upHead = isOver ? null : bytes;
    else this.#downHead = isOver ? null : bytes;
    return isOver ? bytes.subarray(end + HEAD_END.length) : Buffer.alloc(0);
  }
}
