import fc from "fast-check";
import { FrameReader } from "../../src/net/websocket-frames.ts";
import { HttpError, parseRequest } from "../../src/net/http-request.ts";
import { frame } from "../support/web.ts";
import { cut, cuts, expectAlike, expectThat, latin1, target } from "./target.ts";

const byte = fc.nat({ max: 255 });
const payload = fc.oneof(
  { weight: 4, arbitrary: fc.uint8Array({ maxLength: 20 }) },
  {
    weight: 1,
    arbitrary: fc.constantFrom(125, 126, 200, 65_535, 65_536).map((length) => new Uint8Array(length).fill(97)),
  },
);
const mask = fc.tuple(byte, byte, byte, byte);

/** Messages in one or more frames, with control frames in between, and changes to their bytes. */
const frames = fc.record({
  messages: fc.array(
    fc.record({
      isText: fc.boolean(),
      parts: fc.array(fc.tuple(payload, mask, fc.constantFrom(null, 0x89, 0x8a)), { minLength: 1, maxLength: 4 }),
    }),
    { maxLength: 6 },
  ),
  changed: fc.oneof(
    { weight: 2, arbitrary: fc.constant<[number, number][]>([]) },
    { weight: 1, arbitrary: fc.array(fc.tuple(fc.nat({ max: 200 }), byte), { maxLength: 3 }) },
  ),
  cuts,
});

/** What a reader makes of bytes that arrive in these chunks. */
function read(chunks: readonly Buffer[]) {
  const reader = new FrameReader();
  const read: Buffer[] = [];
  for (const chunk of chunks) {
    const count = reader.read(chunk);
    expectThat(count <= chunk.length, () => `${count} bytes of a chunk of ${chunk.length}`);
    read.push(Buffer.from(chunk.subarray(0, count)));
    chunk.fill(0x21); // The reader must not use the chunk any more.
  }
  const { status, hasClosed, overheadBytes, ping } = reader;
  return {
    payload: Buffer.concat(read).toString("latin1"),
    status,
    hasClosed,
    overheadBytes,
    ping: ping?.toString("hex"),
  };
}

export const webSocketFrames = target(
  {
    name: "websocket-frames",
    holds: "frames of a client, cut anywhere, are their payloads in order; changed ones do not depend on the cuts",
  },
  frames,
  ({ messages, changed, cuts }) => {
    const sent: Buffer[] = [];
    let expected = "";
    let data = 0;
    for (const { isText, parts } of messages) {
      for (const [index, [bytes, mask, control]] of parts.entries()) {
        const first = (index === parts.length - 1 ? 0x80 : 0) | (index > 0 ? 0 : isText ? 1 : 2);
        sent.push(frame(bytes, first, mask));
        expected += Buffer.from(bytes).toString("latin1");
        data += bytes.length;
        if (control !== null) sent.push(frame("control", control, mask));
      }
    }
    const bytes = Buffer.concat(sent);
    for (const [at, value] of changed) if (at < bytes.length) bytes[at] = value;
    const found = read(cut(bytes, cuts));
    expectAlike(found, read(bytes.length === 0 ? [] : [Buffer.from(bytes)]), "in other chunks");
    if (changed.length > 0) return expectThat(found.payload.length <= bytes.length, () => "more bytes than were sent");
    expectAlike([found.payload, found.status], [expected, 0], "payloads");
    expectAlike(found.overheadBytes, bytes.length - data, "overhead");
  },
);

const piece = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.constantFrom("GET / HTTP/1.1", "\r\n", "Host: x", "Upgrade: websocket", "Connection: a, b"),
  },
  { weight: 2, arbitrary: fc.constantFrom("GET /chat HTTP/1.0", ": ", " ", "\n", "\r", "Content-Length: 0", "Host") },
  { weight: 1, arbitrary: fc.uint8Array({ maxLength: 6 }).map((bytes) => Buffer.from(bytes).toString("latin1")) },
);

export const httpRequest = target(
  { name: "http-request", holds: "the head of a request, cut anywhere, is a request, too few bytes, or an error" },
  fc.array(piece, { maxLength: 20 }).map((list) => latin1(`${list.join("")}\r\n\r\n`)),
  (bytes) => {
    const parse = (part: Buffer): unknown => {
      try {
        return parseRequest(part);
      } catch (error) {
        if (error instanceof HttpError) return error.status;
        throw error;
      }
    };
    const whole = parse(bytes);
    expectThat(whole !== null, () => "it waits for more than an empty line");
    for (let end = 0; end < bytes.length; end++) {
      const part = parse(bytes.subarray(0, end));
      if (part !== null) expectAlike(part, whole, `the first ${end} bytes`);
    }
    if (typeof whole === "number") return expectThat(whole === 400, () => `status ${whole}`);
    const { method, headers, bytes: length } = whole as NonNullable<ReturnType<typeof parseRequest>>;
    const head = bytes.toString("latin1", 0, length);
    expectThat(head.endsWith("\r\n\r\n") && !/[^\r]\n|\r[^\n]/.test(head), () => "a bare CR or LF");
    expectThat(/^[A-Z]+$/.test(method), () => `method ${method}`);
    for (const [name, value] of headers) expectThat(!/[\0\r\n]/.test(name + value), () => `header ${name}`);
  },
);
