/** One thing to say before a user is in, and the line of the server's that ends the waiting. */
export interface Step {
  say: string | Buffer;
  until: RegExp;
}

/** What stands before and behind a payload that is sent. */
export interface Frame {
  head: Buffer;
  tail: Buffer;
}

/** What a line is that carries no payload, by its first byte. */
export const LINE = { ignored: 0, reply: 1, closer: 2 } as const;

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
  broadcastersHear: boolean;
  /** By first byte. */
  lines: Uint8Array;
  /** What to say to a line that is looked at closer, or that it is a reply; null when it must not come. */
  answer(line: string): string | typeof LINE.reply | null;
}

function linesBy(kinds: Partial<Record<string, number>>, otherwise: number = LINE.closer): Uint8Array {
  const lines = new Uint8Array(256).fill(otherwise);
  for (const [first, kind] of Object.entries(kinds)) lines[first.charCodeAt(0)] = kind!;
  return lines;
}

const ROOM = "room";
const ended = (head: string, tail: string): Frame => ({ head: Buffer.from(head), tail: Buffer.from(tail) });

/** Ours, which the plain servers in C and on node:net speak too. */
const heartline: ProtocolAdapter = {
  steps: (user, password, { resumable }) => [
    { say: `login ${user} ${password}${resumable ? " resumable" : ""}\n`, until: /^ok/ },
  ],
  message: (to) => ended(`message ${to} `, "\n"),
  broadcast: () => ended("broadcast ", "\n"),
  alive: Buffer.from("alive\n"),
  logout: "logout\n",
  replies: true,
  broadcastersHear: true,
  // What strangers to the swarm say (m, b, s) carries no payload of ours.
  lines: linesBy({
    o: LINE.reply,
    j: LINE.ignored,
    l: LINE.ignored,
    m: LINE.ignored,
    b: LINE.ignored,
    s: LINE.ignored,
  }),
  answer: () => null,
};

/** RFC 2812. There is no reply to a message; whether it was taken shows when it arrives. */
const irc: ProtocolAdapter = {
  steps: (user, _password, { everybody }) => [
    { say: `NICK ${user}\r\nUSER ${user} 0 * :${user}\r\n`, until: /^\S+ (376|422) / },
    ...(everybody ? [{ say: `JOIN #${ROOM}\r\n`, until: /^\S+ 366 / }] : []),
  ],
  message: (to) => ended(`PRIVMSG ${to} :`, "\r\n"),
  broadcast: () => ended(`PRIVMSG #${ROOM} :`, "\r\n"),
  alive: Buffer.from("PING x\r\n"),
  logout: "",
  replies: false,
  broadcastersHear: true,
  lines: linesBy({ ":": LINE.ignored }),
  answer: (line) => (line.startsWith("PING") ? `PONG${line.slice(4)}\r\n` : null),
};

/** RESP3, in which a connection that has subscribed may publish too; each PUBLISH is answered with a number. */
const redis: ProtocolAdapter = {
  steps: (user, _password, { everybody }) => [
    { say: `HELLO 3\r\nSUBSCRIBE ${user}${everybody ? ` ${ROOM}` : ""}\r\nPING\r\n`, until: /^\+PONG/ },
  ],
  message: (to, bytes) => publish(to, bytes),
  broadcast: (bytes) => publish(ROOM, bytes),
  alive: Buffer.from("PING\r\n"),
  logout: "",
  replies: true,
  broadcastersHear: false,
  lines: linesBy({ ":": LINE.reply, "+": LINE.reply, "-": LINE.closer }, LINE.ignored),
  answer: () => null,
};

function publish(channel: string, bytes: number): Frame {
  return ended(`*3\r\n$7\r\nPUBLISH\r\n$${channel.length}\r\n${channel}\r\n$${bytes}\r\n`, "\r\n");
}

/** Verbose, so that each request is answered with +OK, as ours are. */
const nats: ProtocolAdapter = {
  steps: (user, _password, { everybody }) => [
    {
      say:
        `CONNECT {"verbose":true,"pedantic":false,"echo":false}\r\nSUB ${user} 1\r\n` +
        `${everybody ? `SUB ${ROOM} 2\r\n` : ""}PING\r\n`,
      until: /^PONG/,
    },
  ],
  message: (to, bytes) => ended(`PUB ${to} ${bytes}\r\n`, "\r\n"),
  broadcast: (bytes) => ended(`PUB ${ROOM} ${bytes}\r\n`, "\r\n"),
  alive: Buffer.from("PING\r\n"),
  logout: "",
  replies: true,
  broadcastersHear: true,
  lines: linesBy({ "+": LINE.reply, M: LINE.ignored, I: LINE.ignored }),
  // A PING of its own is how it finds out how far away a client is.
  answer: (line) => (line === "PONG" ? LINE.reply : line === "PING" ? "PONG\r\n" : null),
};

/** RFC 6455 with our words inside, one a frame. Frames of the server end with LF here, so they read as lines. */
const websocket: ProtocolAdapter = {
  steps: (user, password) => [
    {
      say:
        "GET /chat HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n",
      until: /^$/,
    },
    { say: framed(Buffer.from(`login ${user} ${password}\n`)), until: /ok$/ },
  ],
  message: (to, bytes) => frame(`message ${to} `, bytes),
  broadcast: (bytes) => frame("broadcast ", bytes),
  alive: framed(Buffer.from("alive\n")),
  logout: "",
  replies: true,
  broadcastersHear: true,
  lines: linesBy({ "\u0081": LINE.reply, "\u0082": LINE.reply }),
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
