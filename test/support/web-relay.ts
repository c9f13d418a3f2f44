/** A WebSocket server that relays to the TCP port of a chat server: the payloads of frames are the bytes. */
import { type Socket, connect } from "node:net";
import type { ServerWebSocket } from "bun";

export interface WebRelayChoices {
  /** The subprotocol of the reply. */
  subprotocol?: string;
  /** Bytes of a frame to the client at most: frame borders mean nothing. */
  frameBytesMax?: number;
  /** Sends text frames, which need UTF-8. */
  isText?: boolean;
}

export class WebRelay {
  readonly #server: Bun.Server<{ socket: Socket | null }>;
  readonly #open = new Set<ServerWebSocket<{ socket: Socket | null }>>();
  /** Number of connections so far. */
  connections = 0;
  /** Whether new connections are accepted. */
  listens = true;

  constructor(port: number, choices: WebRelayChoices = {}) {
    const { subprotocol = "heartline.1", frameBytesMax = Number.POSITIVE_INFINITY, isText = false } = choices;
    const headers = { "Sec-WebSocket-Protocol": subprotocol };
    this.#server = Bun.serve({
      hostname: "127.0.0.1",
      port: 0,
      fetch: (request, server) => {
        if (this.listens && server.upgrade(request, { headers, data: { socket: null } })) return undefined;
        return new Response(null, { status: 503 });
      },
      websocket: {
        open: (client) => {
          this.connections++;
          this.#open.add(client);
          const socket = connect(port, "127.0.0.1");
          client.data.socket = socket;
          socket.on("data", (chunk: Buffer) => {
            for (let at = 0; at < chunk.length; at += frameBytesMax) {
              const frame = chunk.subarray(at, at + frameBytesMax);
              if (isText) client.sendText(frame.toString());
              else client.sendBinary(frame);
            }
          });
          socket.on("error", () => {});
          socket.on("close", () => client.close());
        },
        message: (client, bytes) => void client.data.socket?.write(bytes),
        close: (client) => {
          this.#open.delete(client);
          client.data.socket?.destroy();
        },
      },
    });
  }

  get port(): number {
    return this.#server.port!;
  }

  get url(): string {
    return `ws://127.0.0.1:${this.port}/chat`;
  }

  /** Cuts all connections without a closing handshake. */
  cut(): void {
    for (const client of this.#open) client.terminate();
  }

  stop(): void {
    void this.#server.stop(true);
  }
}
