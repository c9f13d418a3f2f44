/** The transport over WebSocket, by the global class that browsers, Node 22 and Bun have. */
import { ChatError } from "./errors.ts";
import { type BaseClientOptions, sessionDefaults } from "./base-client.ts";
import type { SessionOptions } from "./session.ts";
import { type Timeout, later } from "./timing.ts";
import type { OpenTransport, ServerAddress, Transport, TransportListener } from "./transport.ts";

const SUBPROTOCOL = "heartline.1";
/** A server may refuse large frames. Their borders mean nothing, so bytes are split anywhere. */
const FRAME_BYTES_MAX = 16 << 10;
/** While the WebSocket has this many unsent bytes, further ones wait here, where `abandon` drops them. */
const UNSENT_BYTES_MAX = 64 << 10;
/** How often that is checked: a WebSocket does not tell when it has sent something. */
const UNSENT_CHECK_MS = 20;

export interface WebSocketOptions extends BaseClientOptions {
  /** Where the server takes WebSockets, such as `wss://chat.example.org/chat`. */
  url: string;
}

/** The options of a session over WebSocket, which is always resumable. Throws `bad_request` for another URL. */
export function webSocketOptions(options: WebSocketOptions): SessionOptions {
  const { url } = options;
  const address = addressOf(url);
  return { ...sessionDefaults(options), ...address, kind: "resumable", callbackPort: 0, open: openWebSocket(url) };
}

/** The address in a URL `ws:` or `wss:`. */
function addressOf(url: string): ServerAddress {
  const { protocol, hostname, port } = URL.canParse(url) ? new URL(url) : { protocol: "", hostname: "", port: "" };
  if (protocol !== "ws:" && protocol !== "wss:")
    throw new ChatError("bad_request", `"${url}" is not a URL such as wss://chat.example.org/chat`);
  const tls = protocol === "wss:";
  return { host: hostname, port: Number(port || (tls ? 443 : 80)), tls };
}

/** Opens WebSockets at a URL. An error has no reason: a browser tells a page none. */
function openWebSocket(url: string): OpenTransport {
  return (_address, listener, signal) =>
    new Promise((resolve, reject) => {
      signal.throwIfAborted();
      const socket = new WebSocket(url, SUBPROTOCOL);
      const fail = (error: unknown): void => {
        signal.removeEventListener("abort", onAbort);
        socket.onopen = socket.onerror = socket.onclose = null;
        socket.close();
        reject(error);
      };
      const onAbort = (): void => fail(signal.reason);
      signal.addEventListener("abort", onAbort);
      // Node 22 does not close a WebSocket that the server refuses.
      socket.onerror = socket.onclose = () => fail(new ChatError("closed", `no WebSocket can be opened at ${url}`));
      socket.onopen = () => {
        if (socket.protocol !== SUBPROTOCOL) return fail(new ChatError("closed", `no Heartline server is at ${url}`));
        signal.removeEventListener("abort", onAbort);
        resolve(new WebSocketTransport(socket, listener));
      };
    });
}

class WebSocketTransport implements Transport {
  readonly #socket: WebSocket;
  readonly #listener: TransportListener;
  /** Frames that the WebSocket did not get yet. */
  #unsent: Uint8Array<ArrayBuffer>[] = [];
  #unsentCheck: Timeout | null = null;
  /**
   * What arrived while reading is paused: a WebSocket cannot stop its peer. It is bounded all the same, because the
   * server ends a session that does not acknowledge (`unackedBytesMax`).
   */
  #unread: Uint8Array[] = [];
  #isPaused = false;
  #isClosed = false;

  constructor(socket: WebSocket, listener: TransportListener) {
    this.#socket = socket;
    this.#listener = listener;
    socket.binaryType = "arraybuffer";
    socket.onmessage = ({ data }: MessageEvent<unknown>) => {
      if (this.#isClosed) return;
      this.#unread.push(data instanceof ArrayBuffer ? new Uint8Array(data) : new TextEncoder().encode(String(data)));
      this.#read();
      this.#send(); // Timers of a hidden page are slow.
    };
    socket.onerror = socket.onclose = () => {
      this.#read();
      this.#closed();
    };
  }

  write(bytes: Uint8Array<ArrayBuffer>): void {
    for (let at = 0; at < bytes.length; at += FRAME_BYTES_MAX)
      this.#unsent.push(bytes.subarray(at, at + FRAME_BYTES_MAX));
    this.#send();
  }

  #send(): void {
    while (this.#unsent.length > 0 && this.#socket.bufferedAmount < UNSENT_BYTES_MAX)
      this.#socket.send(this.#unsent.shift()!);
    if (this.#unsent.length === 0 || this.#unsentCheck !== null) return;
    this.#unsentCheck = setTimeout(() => {
      this.#unsentCheck = null;
      this.#send();
    }, UNSENT_CHECK_MS);
  }

  /** The closing handshake is not waited for: a server that is away would not answer it. */
  close(): void {
    this.#socket.close();
    later(() => this.#closed());
  }

  abandon(): void {
    this.#unsent.length = 0;
    this.close();
  }

  /** A WebSocket does not tell to which address of the host it is connected. */
  verdict(): void {}

  pause(): void {
    this.#isPaused = true;
  }

  /** What has arrived is read later: the caller may be reading. */
  resume(): void {
    this.#isPaused = false;
    later(() => this.#read());
  }

  #read(): void {
    while (!this.#isPaused && !this.#isClosed && this.#unread.length > 0) this.#listener.data(this.#unread.shift()!);
  }

  #closed(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#unsent.length = 0;
    if (this.#unsentCheck !== null) clearTimeout(this.#unsentCheck);
    this.#listener.closed();
  }
}
