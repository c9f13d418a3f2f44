/**
 * The HTTP port of `--http`: health, readiness and metrics, for machines. Nothing can be changed there. It is open
 * before the chat's ports, and after them. A connection takes one request.
 */
import { type IncomingMessage, type Server, type ServerResponse, createServer } from "node:http";
import type { AddressInfo, Socket } from "node:net";
import { HTTP_CONNECTIONS_MAX, HTTP_HEADER_BYTES_MAX, HTTP_MS } from "../limits.ts";
import { ListenError, listenFailure } from "../net/listener.ts";
import { listenAtPath, pathError } from "../net/unix-socket.ts";
import { formatAddress } from "../runtime/host.ts";
import type { HttpAddress } from "./options.ts";
import type { Metrics } from "./metrics.ts";
import type { Readiness } from "./readiness.ts";

/** User and group may connect. */
const SOCKET_MODE = 0o660;
const TEXT = "text/plain; charset=utf-8";

const CONNECT_REFUSED = "HTTP/1.1 405 Method Not Allowed\r\nConnection: close\r\nAllow: GET, HEAD\r\n\r\n";

interface Page {
  status: number;
  body: string;
  type?: string;
}

export class HttpServer {
  readonly #readiness: Readiness;
  readonly #metrics: Metrics;
  readonly #server: Server;
  readonly #open = new Set<Socket>();
  /** Connections that one more replaces, the oldest first: their request is not complete, or has its response. */
  readonly #replaceable = new Set<Socket>();

  private constructor(readiness: Readiness, metrics: Metrics) {
    this.#readiness = readiness;
    this.#metrics = metrics;
    this.#server = createServer({ maxHeaderSize: HTTP_HEADER_BYTES_MAX }, (request, response) => {
      this.#replaceable.delete(request.socket);
      void this.#respond(request, response);
    });
    this.#server.on("connection", (socket) => this.#accept(socket));
    // The library passes CONNECT here, without a response to write to.
    this.#server.on("connect", (_request, socket) => socket.end(CONNECT_REFUSED));
  }

  /** Throws ListenError. */
  static async open(address: HttpAddress, readiness: Readiness, metrics: Metrics): Promise<HttpServer> {
    const http = new HttpServer(readiness, metrics);
    await metrics.text(); // Loads what a rendering needs: the first one takes longest.
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    http.#server.on("error", reject);
    const listen = (): void => void http.#server.listen(address, resolve);
    if ("path" in address) {
      await listenAtPath(address.path, SOCKET_MODE, listen);
      await promise.catch((error: unknown) => Promise.reject(pathError(address.path, error)));
    } else {
      listen();
      const { host, port } = address;
      await promise.catch((error: unknown) => {
        const reason = listenFailure(error, host, "--http");
        throw new ListenError(`cannot listen on ${formatAddress(host, port)}: ${reason}`);
      });
    }
    return http;
  }

  /** For people: the address of its pages. */
  get url(): string {
    const address = this.#server.address() as AddressInfo | string;
    return typeof address === "string" ? `unix:${address}` : `http://${formatAddress(address.address, address.port)}`;
  }

  close(): void {
    this.#server.close();
    for (const socket of this.#open) socket.destroy();
  }

  /**
   * For one connection too many, the oldest one is closed whose request is not complete, or whose client does not close
   * it after the response, so that slow clients do not keep others out.
   */
  #accept(socket: Socket): void {
    if (this.#open.size >= HTTP_CONNECTIONS_MAX) {
      const [oldest] = this.#replaceable;
      if (oldest === undefined) return void socket.destroy();
      this.#leave(oldest);
      oldest.destroy();
    }
    this.#open.add(socket);
    this.#replaceable.add(socket);
    const deadline = setTimeout(() => socket.destroy(), HTTP_MS);
    socket.on("error", () => {}); // The client has gone.
    socket.on("close", () => {
      clearTimeout(deadline);
      this.#leave(socket);
    });
  }

  #leave(socket: Socket): void {
    this.#open.delete(socket);
    this.#replaceable.delete(socket);
  }

  async #respond({ method = "", url = "", socket }: IncomingMessage, response: ServerResponse): Promise<void> {
    const { status, body, type = TEXT } = await this.#page(method, url);
    response.writeHead(status, {
      Connection: "close",
      "Content-Type": type,
      "Content-Length": Buffer.byteLength(body),
      ...(status === 405 ? { Allow: "GET, HEAD" } : {}),
    });
    response.end(method === "HEAD" ? "" : body, () => {
      if (this.#open.has(socket)) this.#replaceable.add(socket);
    });
  }

  async #page(method: string, url: string): Promise<Page> {
    if (method !== "GET" && method !== "HEAD") return { status: 405, body: "only GET and HEAD" };
    switch (url.split("?", 1)[0]) {
      case "/healthz":
        return { status: 200, body: "ok" };
      case "/readyz": {
        const { obstacle } = this.#readiness;
        return obstacle === null ? { status: 200, body: "ready" } : { status: 503, body: obstacle };
      }
      case "/metrics":
        return { status: 200, body: await this.#metrics.text(), type: this.#metrics.contentType };
    }
    return { status: 404, body: "not found" };
  }
}
