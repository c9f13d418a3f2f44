import { expect, test } from "bun:test";
import { encode } from "../../src/protocol/ascii.ts";
import { Outbox } from "../../src/stream/outbox.ts";
import { SocketWriter } from "../../src/stream/socket-writer.ts";

/** A stream with ten durable bytes, and a socket that accepts `room` bytes, or is closed when `room` is negative. */
function setUp(room: number) {
  const stream = new Outbox({ markDirty: () => {} }, true);
  stream.append(encode("0123456789"));
  stream.durable = 10;
  const socket = {
    room,
    written: "",
    calls: 0,
    write(bytes: Buffer, start: number, count: number): number {
      socket.calls++;
      if (socket.room < 0) return -1;
      const taken = Math.min(count, socket.room);
      socket.room -= taken;
      socket.written += bytes.toString("latin1", start, start + taken);
      return taken;
    },
  };
  return { stream, socket, writer: new SocketWriter(socket) };
}

test("a full socket gets no further bytes until the writer is told that it drained", () => {
  const { stream, socket, writer } = setUp(4);
  expect(writer.write(stream)).toBe(true);
  expect([writer.isFull, socket.written]).toEqual([true, "0123"]);
  socket.room = 100;
  writer.write(stream);
  expect(socket.calls).toBe(1);
  writer.isFull = false;
  writer.write(stream);
  expect([writer.isFull, socket.written, stream.sent]).toEqual([false, "0123456789", 10]);
});

test("bytes after the given end and bytes that are not durable are not written", () => {
  const { stream, socket, writer } = setUp(100);
  stream.append(encode("not durable"));
  writer.write(stream, 7);
  expect(socket.written).toBe("0123456");
  writer.write(stream);
  expect(socket.written).toBe("0123456789");
});

test("a closed socket is reported, and the stream keeps its position", () => {
  const { stream, writer } = setUp(-1);
  expect(writer.write(stream)).toBe(false);
  expect(stream.sent).toBe(0);
});
