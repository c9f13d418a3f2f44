import type { Random } from "../support/random.ts";
import { firstFrame, frame } from "../support/web.ts";
import { Violation } from "./ledger.ts";
import { type ClientEnd, Link, type ServerLife } from "./network.ts";

const FINAL = 0x80;
const BINARY = 0x02;
const CLOSE = 0x08;
const PING = 0x09;
const PONG = 0x0a;

/**
 * A connection over WebSocket: frames of any size in both directions. As a browser does, the client gets the payload of
 * a frame when all of it has arrived.
 */
export class WebLink extends Link {
  override readonly isWeb = true;
  readonly #random: Random;
  /** Bytes of a frame that is not complete. */
  #received = "";
  /** The client's message has further frames. */
  #isFragmented = false;
  /** The client is gone, and what was in transit to it. */
  #hasLeft = false;

  constructor(client: ClientEnd, room: number, life: ServerLife, random: Random) {
    super(client, room, life);
    this.#random = random;
  }

  /** Messages and frames may end anywhere, with pings and empty frames in between. */
  override say(bytes: string): void {
    let at = 0;
    while (at < bytes.length) {
      const size = this.#random.pick([0, 1, 3, 40, bytes.length]);
      const isFinal = this.#random.oneIn(2);
      const first = (isFinal ? FINAL : 0) | (this.#isFragmented ? 0 : BINARY);
      super.say(this.#frame(bytes.slice(at, at + size), first));
      if (this.#random.oneIn(8)) super.say(this.#frame("ping", FINAL | PING));
      this.#isFragmented = !isFinal;
      at += size;
    }
  }

  #frame(payload: string, first: number): string {
    const mask = Array.from({ length: 4 }, () => this.#random.below(256));
    return frame(payload, first, mask).toString("latin1");
  }

  /** Some clients say that they close. */
  override hangUp(): void {
    if (this.#random.oneIn(2)) super.say(this.#frame("\x03\xe8", FINAL | CLOSE));
    this.#hasLeft = true;
    super.hangUp();
  }

  override kill(random: Random): void {
    this.#hasLeft = true;
    super.kill(random);
  }

  override takeDown(count: number): void {
    const { client } = this;
    if (this.#hasLeft) return super.takeDown(count);
    this.#received += this.down.slice(0, count);
    this.down = this.down.slice(count);
    const { payload, rest } = framesOf(this.#received);
    this.#received = rest;
    if (payload !== "") client.data(this, payload);
  }

  /** A close frame or a pong, whole or in part, may follow the last line. */
  override get unread(): string {
    const { payload, rest } = framesOf(this.#received + this.down);
    return rest.charCodeAt(0) === (FINAL | BINARY) ? payload + rest : payload;
  }
}

/** The payloads of all complete frames of a server, and the bytes after these. */
function framesOf(bytes: string): { payload: string; rest: string } {
  let payload = "";
  let rest = Buffer.from(bytes, "latin1");
  for (let next = firstFrame(rest); next !== null; next = firstFrame(rest)) {
    const text = next.payload.toString("latin1");
    if (next.opcode === BINARY) payload += text;
    else if (next.opcode !== CLOSE && (next.opcode !== PONG || text !== "ping"))
      throw new Violation(`a frame ${next.opcode}: ${text}`);
    rest = rest.subarray(next.bytes);
  }
  return { payload, rest: rest.toString("latin1") };
}
