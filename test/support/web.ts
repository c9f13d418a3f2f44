import type { Socket } from "bun";
import { once } from "node:events";

/** The key of the example in RFC 6455, section 1.3, and the answer to it. */
export const KEY = "dGhlIHNhbXBsZSBub25jZQ==";
export const ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/** The request of a WebSocket handshake; `headers` replace those of it, or are added. An undefined one is left out. */
export function handshake(headers: Record<string, string | undefined> = {}): string {
  const all = {
    Host: "chat.example.org",
    Upgrade: "websocket",
    Connection: "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Protocol": "heartline.1",
    ...headers,
  };
  return request("GET /chat HTTP/1.1", all);
}

export function request(line: string, headers: Record<string, string | undefined> = { Host: "x" }): string {
  const lines = Object.entries(headers).filter(([, value]) => value !== undefined);
  return `${line}\r\n${lines.map(([name, value]) => `${name}: ${value}\r\n`).join("")}\r\n`;
}

export interface Response {
  status: number;
  /** By names in lower case. */
  headers: Record<string, string>;
  body: Buffer;
}

/** A frame of the server. */
export interface ServerFrame {
  opcode: number;
  payload: Buffer;
}

/** A client frame with a mask. `first`: the first byte, by default that of a final binary frame. */
export function frame(payload: string | Uint8Array, first = 0x82, mask = [0x37, 0xfa, 0x21, 0x3d]): Buffer {
  const bytes = Buffer.from(payload as string, "latin1");
  const { length } = bytes;
  const size = length < 126 ? [0x80 | length] : length < 65_536 ? [0xfe, length >> 8, length & 255] : [0xff];
  const long = Buffer.alloc(length < 65_536 ? 0 : 8);
  if (long.length > 0) long.writeBigUInt64BE(BigInt(length));
  return Buffer.concat([Buffer.from([first, ...size]), long, Buffer.from(mask), bytes.map((b, i) => b ^ mask[i % 4]!)]);
}

/** The first frame of these bytes, and its length; null when it is incomplete. Throws when a server may not send it. */
export function firstFrame(bytes: Buffer): (ServerFrame & { bytes: number }) | null {
  if (bytes.length < 2) return null;
  const isLong = bytes[1] === 126;
  const start = isLong ? 4 : 2;
  if (bytes.length < start) return null;
  const size = isLong ? bytes.readUInt16BE(2) : bytes[1]!;
  const isValid = (bytes[0]! & 0xf0) === 0x80 && (isLong ? size >= 126 : size < 126);
  if (!isValid) throw new Error(`an invalid head of a frame: ${bytes.toString("hex", 0, start)}`);
  const end = start + size;
  if (bytes.length < end) return null;
  return { opcode: bytes[0]! & 15, payload: bytes.subarray(start, end), bytes: end };
}

/** A client that knows only bytes, HTTP responses and frames. */
export class RawWebClient {
  #socket!: Socket<undefined>;
  #received = Buffer.alloc(0);
  #unsent = Buffer.alloc(0);
  /** Payloads of data frames that were not read as lines. */
  #text = "";
  #hasEnded = false;
  readonly #changes = new EventTarget();

  static async connect(port: number, authority?: string): Promise<RawWebClient> {
    const client = new RawWebClient();
    const encrypted = Promise.withResolvers<void>();
    const change = (): boolean => client.#changes.dispatchEvent(new Event("change"));
    await Bun.connect({
      hostname: "127.0.0.1",
      port,
      allowHalfOpen: true,
      ...(authority === undefined ? {} : { tls: { ca: authority, serverName: "localhost" } }),
      socket: {
        open: (socket) => void (client.#socket = socket),
        handshake: (_socket, isWell, error) => (isWell ? encrypted.resolve() : encrypted.reject(error)),
        data: (_socket, chunk) => {
          client.#received = Buffer.concat([client.#received, chunk]);
          change();
        },
        drain: () => client.#flush(),
        end: (socket) => {
          client.#hasEnded = true;
          change();
          socket.end();
        },
        close: () => {
          client.#hasEnded = true;
          change();
        },
      },
    });
    if (authority !== undefined) await encrypted.promise;
    return client;
  }

  /** Connects, and asks for a WebSocket. Throws unless it gets one. */
  static async open(port: number, headers: Record<string, string | undefined> = {}): Promise<RawWebClient> {
    const client = await RawWebClient.connect(port);
    client.send(handshake(headers));
    const { status, body } = await client.response();
    if (status !== 101) throw new Error(`${status} ${body.toString()}`);
    return client;
  }

  /** What the kernel does not take now is sent later. */
  send(bytes: string | Uint8Array): void {
    this.#unsent = Buffer.concat([this.#unsent, Buffer.from(bytes as string, "latin1")]);
    this.#flush();
  }

  #flush(): void {
    if (this.#unsent.length > 0) this.#unsent = this.#unsent.subarray(Math.max(0, this.#socket.write(this.#unsent)));
  }

  /** Sends lines in one frame. */
  say(...lines: string[]): void {
    this.send(frame(lines.map((line) => `${line}\n`).join("")));
  }

  pause(): void {
    this.#socket.pause();
  }

  resume(): void {
    this.#socket.resume();
  }

  cut(): void {
    this.#socket.terminate();
  }

  /** Sends FIN, and continues to read. */
  finish(): void {
    this.#socket.shutdown();
  }

  /** The next response; that of a HEAD request has no body. */
  async response(isHead = false): Promise<Response> {
    const head = await this.#take(() => {
      const end = this.#received.indexOf("\r\n\r\n");
      return end < 0 ? null : end + 4;
    });
    const [first = "", ...lines] = head.toString("latin1").trimEnd().split("\r\n");
    const headers = Object.fromEntries(
      lines.map((line) => {
        const colon = line.indexOf(": ");
        return [line.slice(0, colon).toLowerCase(), line.slice(colon + 2)];
      }),
    );
    const length = isHead ? 0 : Number(headers["content-length"] ?? 0);
    const body = await this.#take(() => (this.#received.length < length ? null : length));
    return { status: Number(first.split(" ")[1]), headers, body };
  }

  /** The next frame. Throws unless it is whole, without a mask, and no longer than needed. */
  async frame(): Promise<ServerFrame> {
    const bytes = await this.#take(() => firstFrame(this.#received)?.bytes ?? null);
    const { opcode, payload } = firstFrame(bytes)!;
    return { opcode, payload };
  }

  async line(): Promise<string> {
    while (!this.#text.includes("\n")) {
      const { opcode, payload } = await this.frame();
      if (opcode !== 2) throw new Error(`a frame with opcode ${opcode}: ${payload.toString("hex")}`);
      this.#text += payload.toString("latin1");
    }
    const end = this.#text.indexOf("\n");
    const line = this.#text.slice(0, end);
    this.#text = this.#text.slice(end + 1);
    return line;
  }

  async ask(line: string): Promise<string> {
    this.say(line);
    return this.line();
  }

  /** All bytes that were not read, until the server closes its side. */
  async rest(): Promise<Buffer> {
    while (!this.#hasEnded) await once(this.#changes, "change");
    return this.#received;
  }

  /** The first bytes, as many as `count` says when it is not null. */
  async #take(count: () => number | null): Promise<Buffer> {
    for (;;) {
      const bytes = count();
      if (bytes !== null) {
        const taken = this.#received.subarray(0, bytes);
        this.#received = this.#received.subarray(bytes);
        return taken;
      }
      if (this.#hasEnded) throw new Error(`the connection ended after ${JSON.stringify(this.#received.toString())}`);
      await once(this.#changes, "change");
    }
  }
}
