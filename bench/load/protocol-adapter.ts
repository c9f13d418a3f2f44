/** One thing to say before a user is in, and the line of the server's that ends the waiting. */
export interface Step {
  send: string | Buffer;
  expect: RegExp;
}

/** What stands before and behind a payload that is sent. */
export interface Frame {
  head: Buffer;
  tail: Buffer;
}

/** What a line is that carries no payload, by its first byte. */
export const LINE_KIND = { ignored: 0, reply: 1, closer: 2 } as const;

/**
 * How a kind of server is spoken to. In all of them a payload stands at the end of a line, so that the swarm reads all
 * of them in the same way, at nearly the same cost.
 */
export interface ProtocolAdapter {
  /** To everybody: joins what is needed for that too. */
  steps(user: string, password: string, options: { everybody: boolean; resumable: boolean }): Step[];
  message(to: string, payloadBytes: number): Frame;
  broadcast(payloadBytes: number): Frame;
  alive: Buffer;
  /** What a user says to leave, and is answered; empty where one just goes. */
  logout: string;
  /** Whether each request is answered. Where it is not, what arrives is all that is known. */
  replies: boolean;
  /** Whether who broadcasts hears what other broadcasters say. */
  broadcastersReceive: boolean;
  /** By first byte. */
  kinds: Uint8Array;
  /** What to say to a line that is looked at closer, or that it is a reply; null when it must not come. */
  answer(line: string): string | typeof LINE_KIND.reply | null;
}

function kindsByFirstByte(kinds: Partial<Record<string, number>>, otherwise: number = LINE_KIND.closer): Uint8Array {
  const lines = new Uint8Array(256).fill(otherwise);
  for (const [first, kind] of Object.entries(kinds)) lines[first.charCodeAt(0)] = kind!;
  return lines;
}

const ROOM = "room";
const textFrame = (head: string, tail: string): Frame => ({ head: Buffer.from(head), tail: Buffer.from(tail) });

/** Ours, which the plain servers in C and on node:net speak too. */
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
  // What strangers to the swarm say (m, b, s) carries no payload of ours.
  kinds: kindsByFirstByte({
    o: LINE_KIND.reply,
    j: LINE_KIND.ignored,
    l: LINE_KIND.ignored,
    m: LINE_KIND.ignored,
    b: LINE_KIND.ignored,
    s: LINE_KIND.ignored,
  }),
  answer: () => null,
};

/** RFC 2812. There is no reply to a message; whether it was taken shows when it arrives. */
const irc: ProtocolAdapter = {
  steps: (user, _password, { everybody }) => [
    { send: `NICK ${user}\r\nUSER ${user} 0 * :${user}\r\n`, expect: /^\S+ (376|422) / },
    ...(everybody ? [{ send: `JOIN #${ROOM}\r\n`, expect: /^\S+ 366 / }] : []),
  ],
  message: (to) => textFrame(`PRIVMSG ${to} :`, "\r\n"),
  broadcast: () => textFrame(`PRIVMSG #${ROOM} :`, "\r\n"),
  alive: Buffer.from("PING x\r\n"),
  logout: "",
  replies: false,
  broadcastersReceive: true,
  kinds: kindsByFirstByte({ ":": LINE_KIND.ignored }),
  answer: (line) => (line.startsWith("PING") ? `PONG${line.slice(4)}\r\n` : null),
};

/** RESP3, in which a connection that has subscribed may publish too; each PUBLISH is answered with a number. */
const redis: ProtocolAdapter = {
  steps: (user, _password, { everybody }) => [
    { send: `HELLO 3\r\nSUBSCRIBE ${user}${everybody ? ` ${ROOM}` : ""}\r\nPING\r\n`, expect: /^\+PONG/ },
  ],
  message: (to, bytes) => publish(to, bytes),
  broadcast: (bytes) => publish(ROOM, bytes),
  alive: Buffer.from("PING\r\n"),
  logout: "",
  replies: true,
  broadcastersReceive: false,
  kinds: kindsByFirstByte({ ":": LINE_KIND.reply, "+": LINE_KIND.reply, "-": LINE_KIND.closer }, LINE_KIND.ignored),
  answer: () => null,
};

function publish(channel: string, bytes: number): Frame {
  return textFrame(`*3\r\n$7\r\nPUBLISH\r\n$${channel.length}\r\n${channel}\r\n$${bytes}\r\n`, "\r\n");
}

/** Verbose, so that each request is answered with +OK, as ours are. */
const nats: ProtocolAdapter = {
  steps: (user, _password, { everybody }) => [
    {
      send:
        `CONNECT {"verbose":true,"pedantic":false,"echo":false}\r\nSUB ${user} 1\r\n` +
        `${everybody ? `SUB ${ROOM} 2\r\n` : ""}PING\r\n`,
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
  // A PING of its own is how it finds out how far away a client is.
  answer: (line) => (line === "PONG" ? LINE_KIND.reply : line === "PING" ? "PONG\r\n" : null),
};

/** RFC 6455 with our words inside, one a frame. Frames of the server end with LF here, so they read as lines. */
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
  answer: () => null,
};

function frame(words: string, payloadBytes: number): Frame {
  const head = Buffer.from(words);
  return { head: Buffer.concat([header(head.length + payloadBytes + 1), head]), tail: Buffer.from("\n") };
}

function framed(bytes: Buffer): Buffer {
  return Buffer.concat([header(bytes.length), bytes]);
}

/** Of a binary frame with a mask of zeros, which leaves the bytes as they are. */
function header(bytes: number): Buffer {
  const length = bytes < 126 ? [0x80 | bytes] : [0x80 | 126, bytes >> 8, bytes & 255];
  return Buffer.from([0x82, ...length, 0, 0, 0, 0]);
}

export const PROTOCOLS = { heartline, irc, redis, nats, websocket };
export type ProtocolName = keyof typeof PROTOCOLS;
