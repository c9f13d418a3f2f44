/**
 * How the load generator speaks to each kind of server: the login, the frame around a payload, and the meaning of lines
 * without a payload. An adapter holds no state.
 */

/** One step of a login: the bytes to send, and the line of the server that completes the step. */
export interface Step {
  send: string | Buffer;
  expect: RegExp;
}

/** The bytes before and after a payload. */
export interface Frame {
  head: Buffer;
  tail: Buffer;
}

/**
 * Kinds of lines without a payload. `closer`: the first byte does not decide. Then `PING …` is answered with `PONG …` (IRC,
 * and NATS, which measures round-trip times), `PONG` is a reply (NATS), and any other line is an error.
 */
export const LINE_KIND = { ignored: 0, reply: 1, closer: 2 } as const;

/**
 * The protocol of one kind of server. In all of them a payload is at the end of a line, so the load generator reads all
 * of them in the same way, at nearly the same cost.
 */
export interface ProtocolAdapter {
  /** The login. With `broadcasts` it also subscribes to broadcasts, where the protocol needs that. */
  steps(user: string, password: string, options: { broadcasts: boolean; resumable: boolean }): Step[];
  message(to: string, payloadBytes: number): Frame;
  broadcast(payloadBytes: number): Frame;
  alive: Buffer;
  /** The request that ends a session and has a reply; empty when clients only close the connection. */
  logout: string;
  /** Whether each request has a reply. Otherwise only deliveries are counted. */
  replies: boolean;
  /** Whether clients that broadcast receive the broadcasts of others. */
  broadcastersReceive: boolean;
  /** LINE_KIND of a line without a payload, by its first byte. */
  kinds: Uint8Array;
}

function kindsByFirstByte(kinds: Partial<Record<string, number>>, otherwise: number = LINE_KIND.closer): Uint8Array {
  const lines = new Uint8Array(256).fill(otherwise);
  for (const [first, kind] of Object.entries(kinds)) lines[first.charCodeAt(0)] = kind!;
  return lines;
}

const ROOM = "room";
const textFrame = (head: string, tail: string): Frame => ({ head: Buffer.from(head), tail: Buffer.from(tail) });

/** The protocol of this server, also of the plain servers in C and on node:net. */
const heartline: ProtocolAdapter = {
  steps: (user, password, { resumable }) => [
    { send: `login ${user} ${password}${resumable ? " resumable" : ""}\n`, expect: /^ok/ },
  ],
  message: (to) => textFrame(`message ${to} `, "\n"),
  broadcast: () => textFrame("broadcast ", "\n"),
  alive: Buffer.from("alive\n"),
  logout: "logout\n",
  replies: true,
  broadcastersReceive: true,
  // Messages, broadcasts and stored messages (m, b, s) of other clients have no payload of this format. In a cluster
  // `waiting` (w) precedes a reply that is late.
  kinds: kindsByFirstByte({
    o: LINE_KIND.reply,
    j: LINE_KIND.ignored,
    l: LINE_KIND.ignored,
    m: LINE_KIND.ignored,
    b: LINE_KIND.ignored,
    s: LINE_KIND.ignored,
    w: LINE_KIND.ignored,
  }),
};

/** RFC 2812. A message has no reply. */
const irc: ProtocolAdapter = {
  steps: (user, _password, { broadcasts }) => [
    { send: `NICK ${user}\r\nUSER ${user} 0 * :${user}\r\n`, expect: /^\S+ (376|422) / },
    ...(broadcasts ? [{ send: `JOIN #${ROOM}\r\n`, expect: /^\S+ 366 / }] : []),
  ],
  message: (to) => textFrame(`PRIVMSG ${to} :`, "\r\n"),
  broadcast: () => textFrame(`PRIVMSG #${ROOM} :`, "\r\n"),
  alive: Buffer.from("PING x\r\n"),
  logout: "",
  replies: false,
  broadcastersReceive: true,
  kinds: kindsByFirstByte({ ":": LINE_KIND.ignored }),
};

/** RESP3, where a connection with subscriptions can publish. The reply to PUBLISH is a number. */
const redis: ProtocolAdapter = {
  steps: (user, _password, { broadcasts }) => [
    { send: `HELLO 3\r\nSUBSCRIBE ${user}${broadcasts ? ` ${ROOM}` : ""}\r\nPING\r\n`, expect: /^\+PONG/ },
  ],
  message: (to, bytes) => publish(to, bytes),
  broadcast: (bytes) => publish(ROOM, bytes),
  alive: Buffer.from("PING\r\n"),
  logout: "",
  replies: true,
  broadcastersReceive: false,
  kinds: kindsByFirstByte({ ":": LINE_KIND.reply, "+": LINE_KIND.reply, "-": LINE_KIND.closer }, LINE_KIND.ignored),
};

function publish(channel: string, bytes: number): Frame {
  return textFrame(`*3\r\n$7\r\nPUBLISH\r\n$${channel.length}\r\n${channel}\r\n$${bytes}\r\n`, "\r\n");
}

/** NATS in verbose mode: each request has the reply +OK, as in this server. */
const nats: ProtocolAdapter = {
  steps: (user, _password, { broadcasts }) => [
    {
      send:
        `CONNECT {"verbose":true,"pedantic":false,"echo":false}\r\nSUB ${user} 1\r\n` +
        `${broadcasts ? `SUB ${ROOM} 2\r\n` : ""}PING\r\n`,
      expect: /^PONG/,
    },
  ],
  message: (to, bytes) => textFrame(`PUB ${to} ${bytes}\r\n`, "\r\n"),
  broadcast: (bytes) => textFrame(`PUB ${ROOM} ${bytes}\r\n`, "\r\n"),
  alive: Buffer.from("PING\r\n"),
  logout: "",
  replies: true,
  broadcastersReceive: true,
  kinds: kindsByFirstByte({ "+": LINE_KIND.reply, M: LINE_KIND.ignored, I: LINE_KIND.ignored }),
};

/** RFC 6455 with the lines of this server, one per frame. Frames of the server end with LF, so they are lines. */
const websocket: ProtocolAdapter = {
  steps: (user, password) => [
    {
      send:
        "GET /chat HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n",
      expect: /^$/,
    },
    { send: framed(Buffer.from(`login ${user} ${password}\n`)), expect: /ok$/ },
  ],
  message: (to, bytes) => frame(`message ${to} `, bytes),
  broadcast: (bytes) => frame("broadcast ", bytes),
  alive: framed(Buffer.from("alive\n")),
  logout: "",
  replies: true,
  broadcastersReceive: true,
  kinds: kindsByFirstByte({ "\u0081": LINE_KIND.reply, "\u0082": LINE_KIND.reply }),
};

function frame(words: string, payloadBytes: number): Frame {
  const head = Buffer.from(words);
  return { head: Buffer.concat([header(head.length + payloadBytes + 1), head]), tail: Buffer.from("\n") };
}

function framed(bytes: Buffer): Buffer {
  return Buffer.concat([header(bytes.length), bytes]);
}

/** The header of a binary frame. The mask is zero, so the payload is unchanged. */
function header(bytes: number): Buffer {
  const length = bytes < 126 ? [0x80 | bytes] : [0x80 | 126, bytes >> 8, bytes & 255];
  return Buffer.from([0x82, ...length, 0, 0, 0, 0]);
}

export const PROTOCOLS = { heartline, irc, redis, nats, websocket };
export type ProtocolName = keyof typeof PROTOCOLS;
