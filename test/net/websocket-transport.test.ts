import { expect, test } from "bun:test";
import { FRAME_BYTES_MAX, OVERHEAD_BYTES_MAX, OVERHEAD_BYTES_PER_SECOND } from "../../src/limits.ts";
import type { SocketEvents, Transport } from "../../src/net/transport.ts";
import { WebSocketTransport } from "../../src/net/websocket-transport.ts";
import { frame } from "../support/web.ts";

function repeated(bytes: Buffer, count: number): Buffer {
  return Buffer.alloc(count * bytes.length, bytes);
}

/** A WebSocket on a socket that accepts `room` bytes, and a receiver that notes what happens. */
class Web {
  room = Number.POSITIVE_INFINITY;
  nowMs = 0;
  /** What the socket has accepted, in hexadecimal digits, and calls of its other methods. */
  readonly happened: string[] = [];
  readonly received: string[] = [];
  readonly transport: WebSocketTransport;

  constructor() {
    const note = (what: string) => (): void => void this.happened.push(what);
    const socket: Transport = {
      isEncrypted: true,
      isWebSocket: false,
      write: (bytes, start, count) => {
        const taken = Math.min(this.room, count);
        this.room -= taken;
        if (taken > 0) this.happened.push(bytes.toString("hex", start, start + taken));
        return taken;
      },
      send: () => 0,
      pause: note("pause"),
      resume: note("resume"),
      shutdown: note("shutdown"),
      end: note("end"),
      reset: note("reset"),
      handOver: note("handOver"),
      closed: note("closed"),
      release: () => {},
    };
    this.transport = new WebSocketTransport(socket, () => this.nowMs);
    const receive = (what: string) => (): void => void this.received.push(what);
    const receiver: SocketEvents = {
      data: (chunk) => void this.received.push(chunk.toString()),
      drain: receive("drain"),
      end: receive("end"),
      closed: receive("closed"),
      hangUp: () => this.transport.end(),
    };
    this.transport.handOver(receiver);
  }

  write(text: string): number {
    const bytes = Buffer.from(`##${text}##`);
    return this.transport.write(bytes, 2, bytes.length - 4);
  }

  /** The socket accepts `room` bytes more. */
  drain(room: number): void {
    this.room = room;
    this.transport.events.drain();
  }

  /** What happened since the last call. */
  take(): string[] {
    return this.happened.splice(0);
  }
}

test("a write is one frame, and one write of the socket", () => {
  const web = new Web();
  expect(web.write("ok\n")).toBe(3);
  expect(web.take()).toEqual(["82036f6b0a"]);
});

test("a long write is frames of FRAME_BYTES_MAX, with their lengths in two bytes", () => {
  const web = new Web();
  expect(web.write("x".repeat(FRAME_BYTES_MAX + 1))).toBe(FRAME_BYTES_MAX + 1);
  const [first = "", second] = web.take();
  expect([first.slice(0, 8), first.length, second]).toEqual(["827e4000", 2 * (4 + FRAME_BYTES_MAX), "820178"]);
});

test("a frame that the socket accepts in part is complete before the next one begins", () => {
  const web = new Web();
  web.room = 3;
  expect(web.write("hello\n")).toBe(6); // The rest of the frame is kept.
  expect(web.write("next\n")).toBe(0);
  web.drain(2);
  expect(web.received).toEqual([]);
  web.drain(100);
  expect(web.received).toEqual(["drain"]);
  expect(web.write("next\n")).toBe(5);
  expect(web.take()).toEqual(["820668", "656c", "6c6f0a", "82056e6578740a"]);
});

test("with a full socket a long write is accepted up to the frame that was begun", () => {
  const web = new Web();
  web.room = 10;
  expect(web.write("x".repeat(3 * FRAME_BYTES_MAX))).toBe(FRAME_BYTES_MAX);
});

test("a pong waits for the end of a frame, and only the last ping gets one", () => {
  const web = new Web();
  web.room = 3;
  web.write("hello\n");
  web.transport.events.data(frame("one", 0x89));
  web.transport.events.data(frame("two", 0x89));
  web.take();
  web.drain(100);
  expect(web.take()).toEqual(["656c6c6f0a", "8a0374776f"]);
  web.drain(100);
  expect(web.take()).toEqual([]);
});

test("our side is closed after the rest of a frame and a close frame", () => {
  const web = new Web();
  web.room = 3;
  web.write("hello\n");
  web.transport.shutdown();
  web.transport.shutdown();
  expect(web.take()).toEqual(["820668"]);
  web.drain(100);
  expect(web.take()).toEqual(["656c6c6f0a880203e8", "shutdown"]);
  expect(web.write("late\n")).toBe(-1);
});

test("end sends a close frame, unless it would be in the middle of a frame", () => {
  const whole = new Web();
  whole.transport.end();
  expect(whole.take()).toEqual(["880203e8", "end"]);
  const cut = new Web();
  cut.room = 3;
  cut.write("hello\n");
  cut.room = 100;
  cut.transport.end();
  expect(cut.take()).toEqual(["820668", "end"]);
});

test("a close frame is an end for the receiver, once, and its status is sent back", () => {
  const web = new Web();
  web.transport.events.data(Buffer.concat([frame("bye\n"), frame("\x03\xe9", 0x88), frame("lost")]));
  web.transport.events.data(frame("lost"));
  web.transport.events.end();
  expect(web.received).toEqual(["bye\n", "end"]);
  web.transport.end();
  expect(web.take()).toEqual(["880203e9", "end"]);
});

test("a violation ends the connection with its status, and what came before it was received", () => {
  const web = new Web();
  web.transport.events.data(Buffer.concat([frame("a\n"), Buffer.from("8101", "hex"), frame("lost")]));
  expect(web.received).toEqual(["a\n"]);
  expect(web.take()).toEqual(["880203ea", "end"]);
});

test("reading is paused in the socket, so nothing collects here", () => {
  const web = new Web();
  web.transport.pause();
  web.transport.resume();
  web.transport.reset();
  web.transport.events.closed();
  web.transport.closed();
  expect(web.take()).toEqual(["pause", "resume", "reset", "closed"]);
  expect(web.received).toEqual(["closed"]);
});

test("frames with more overhead than bytes of lines close the connection with 1008, above a rate", () => {
  const web = new Web();
  const perSecond = Math.floor(OVERHEAD_BYTES_PER_SECOND / 6);
  const pings = (count: number): void => {
    web.take();
    web.transport.events.data(repeated(frame("", 0x8a), count));
  };
  for (let second = 0; second < 60; second++, web.nowMs += 1000) pings(perSecond);
  expect(web.take()).toEqual([]);
  pings(Math.floor(OVERHEAD_BYTES_MAX / 6));
  expect(web.take()).toEqual([]);
  pings(1);
  expect(web.take()).toEqual(["880203f0", "end"]);
});

test("frames of one byte cost more than their bytes, and ordinary ones never do", () => {
  const tiny = new Web();
  const count = Math.ceil(OVERHEAD_BYTES_MAX / 5) + 1;
  tiny.transport.events.data(repeated(frame("x"), count));
  expect(tiny.take()).toEqual(["880203f0", "end"]);
  const ordinary = new Web();
  ordinary.transport.events.data(repeated(frame("alive 1234\n"), count));
  expect(ordinary.take()).toEqual([]);
});
