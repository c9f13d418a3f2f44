import { describe, expect, test } from "bun:test";
import { FrameReader, closeFrame, frameOf, writeHead } from "../../src/net/websocket-frames.ts";
import { frame } from "../support/web.ts";

const hex = (text: string): Buffer => Buffer.from(text.replaceAll(" ", ""), "hex");

/** What a reader makes of these bytes, in chunks of that many. */
function read(bytes: Buffer, chunkBytes = bytes.length): { payload: string; status: number; reader: FrameReader } {
  const reader = new FrameReader();
  let payload = "";
  for (let at = 0; at < bytes.length; at += chunkBytes) {
    const chunk = Buffer.from(bytes.subarray(at, at + chunkBytes));
    payload += chunk.toString("latin1", 0, reader.read(chunk));
  }
  return { payload, status: reader.status, reader };
}

describe("frames of a client", () => {
  test("the examples of RFC 6455 are read: a masked text, a ping, and a text in two fragments", () => {
    expect(read(hex("81 85 37fa213d 7f9f4d5158"))).toMatchObject({ payload: "Hello", status: 0 });
    const ping = read(hex("89 85 37fa213d 7f9f4d5158"));
    expect(ping).toMatchObject({ payload: "", status: 0 });
    expect(ping.reader.ping?.toString()).toBe("Hello");
    expect(read(hex("01 83 37fa213d 7f9f4d 80 82 01020304 6d6d"))).toMatchObject({
      payload: "Hello".slice(0, 3) + "lo",
    });
  });

  test("text and binary frames give the same bytes, also those that are not UTF-8", () => {
    for (const first of [0x81, 0x82]) expect(read(frame("caf\xe9\xff\n", first)).payload).toBe("caf\xe9\xff\n");
  });

  test("the bytes of frames follow one another, wherever frames and chunks end", () => {
    const bytes = Buffer.concat([
      frame("one\ntw", 0x02, [1, 2, 3, 4]),
      frame("", 0x00),
      frame("ping", 0x89),
      frame("o\n", 0x80, [255, 0, 255, 0]),
      frame("x".repeat(200), 0x82, [9, 8, 7, 6]),
      frame("y".repeat(70_000), 0x81),
    ]);
    const payload = `one\ntwo\n${"x".repeat(200)}${"y".repeat(70_000)}`;
    for (const chunkBytes of [1, 2, 3, 7, 64, 4096, bytes.length])
      expect(read(bytes, chunkBytes)).toMatchObject({ payload, status: 0 });
  });

  test("a frame without a mask is refused with 1002, and nothing after it is read", () => {
    expect(read(hex("81 05 48656c6c6f"))).toMatchObject({ payload: "", status: 1002 });
    expect(read(Buffer.concat([frame("a"), hex("82 01 62"), frame("c")]))).toMatchObject({
      payload: "a",
      status: 1002,
    });
  });

  test.each([
    ["a reserved bit, as of a compressed message", "c1 80 00000000"],
    ["another reserved bit", "a1 80 00000000"],
    ["a reserved opcode for data", "83 80 00000000"],
    ["a reserved opcode for control", "8b 80 00000000"],
    ["a ping in fragments", "09 80 00000000"],
    ["a ping of 126 bytes", "89 fe 007e 00000000"],
    ["a continuation of nothing", "80 80 00000000"],
    ["a new message before the end of the last one", "01 80 00000000 81 80 00000000"],
    ["a length of 125 in three bytes", "82 fe 007d 00000000"],
    ["a length of 65535 in nine bytes", "82 ff 000000000000ffff 00000000"],
    ["a length of 2^63", "82 ff 8000000000000000 00000000"],
    ["a close frame of one byte", "88 81 00000000 03"],
    ["a close frame with the status 1005", "88 82 00000000 03ed"],
    ["a close frame with the status 999", "88 82 00000000 03e7"],
    ["a close frame with the status 5000", "88 82 00000000 1388"],
  ])("%s is refused with 1002", (_what, bytes) => {
    for (const chunkBytes of [1, 100])
      expect(read(hex(bytes), chunkBytes)).toMatchObject({ payload: "", status: 1002 });
  });

  test("a length that no number can hold is refused with 1009; a shorter one is no reason to keep anything", () => {
    expect(read(hex("82 ff 4000000000000000 00000000")).status).toBe(1009);
    expect(read(hex("82 ff 0000010000000000 00000000 616263"))).toMatchObject({ payload: "abc", status: 0 });
  });

  test("a close frame gives its status, 1005 without one, and 1007 when its reason is not UTF-8", () => {
    expect(read(frame("\x03\xe8bye", 0x88))).toMatchObject({ status: 1000, reader: { hasClosed: true } });
    expect(read(frame("\x0f\xa0", 0x88)).status).toBe(4000);
    expect(read(frame("", 0x88))).toMatchObject({ status: 1005, reader: { hasClosed: true } });
    expect(read(frame("\x03\xe8\xff", 0x88)).status).toBe(1007);
    expect(read(Buffer.concat([frame("a"), frame("", 0x88), frame("b")])).payload).toBe("a");
  });

  test("a control frame between the fragments of a message does not change it", () => {
    const bytes = Buffer.concat([frame("a", 0x01), frame("p", 0x89), frame("q", 0x8a), frame("b", 0x80)]);
    const { payload, reader } = read(bytes, 1);
    expect({ payload, ping: reader.ping?.toString() }).toEqual({ payload: "ab", ping: "p" });
  });

  test("heads and control frames are counted, payloads of data frames are not", () => {
    const { reader } = read(Buffer.concat([frame("abc"), frame("x".repeat(126)), frame("ping", 0x89)]));
    expect(reader.overheadBytes).toBe(6 + 8 + (6 + 4));
  });
});

describe("frames of the server", () => {
  test("are final, without a mask, and have the shortest length", () => {
    expect(frameOf(2, Buffer.from("Hello"))).toEqual(hex("82 05 48656c6c6f"));
    const head = Buffer.alloc(4);
    expect([writeHead(head, 2, 125), head.toString("hex", 0, 2)]).toEqual([2, "827d"]);
    expect([writeHead(head, 2, 126), head.toString("hex")]).toEqual([4, "827e007e"]);
    expect([writeHead(head, 2, 65_535), head.toString("hex")]).toEqual([4, "827effff"]);
  });

  test("a close frame has its status, and none for 1005", () => {
    expect(closeFrame(1002)).toEqual(hex("88 02 03ea"));
    expect(closeFrame(1005)).toEqual(hex("88 00"));
  });
});
