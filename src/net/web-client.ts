/**
 * A client of the port of `--web` before it is a connection: it takes HTTP requests, for the page and its files, until
 * one asks for a WebSocket. From then on it is an ordinary connection, whose bytes travel in frames.
 */
import { createHash } from "node:crypto";
import { WEB_HEAD_BYTES_MAX, WEB_REQUEST_MS } from "../limits.ts";
import { type Admitted, type ClientPort, PendingConnection, type RefusalReason } from "./admission.ts";
import { Connection } from "./connection.ts";
import { forwardedAddress } from "./forwarded.ts";
import { HttpError, type HttpRequest, hasToken, parseRequest } from "./http-request.ts";
import type { TcpTransport } from "./tcp-transport.ts";
import type { SocketEvents } from "./transport.ts";
import { WebSocketTransport } from "./websocket-transport.ts";

/** The name of the line protocol over WebSocket. */
export const SUBPROTOCOL = "heartline.1";
const CHAT = "/chat";
/** RFC 6455, section 1.3. */
const HANDSHAKE_KEY = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const ORIGIN_CHARACTERS_SHOWN = 100;
const TOO_MANY = "many requests before the end of a response";
const TOO_LATE = `no request within ${WEB_REQUEST_MS / 1000} seconds`;

const STATUS: Record<number, string> = {
  200: "OK",
  400: "Bad Request",
  403: "Forbidden",
  404: "Not Found",
  405: "Method Not Allowed",
  426: "Upgrade Required",
  431: "Request Header Fields Too Large",
  503: "Service Unavailable",
};

/** No script, style or image of another origin, and nothing inline. */
const CSP = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "connect-src 'self'",
  "img-src 'self'",
  "form-action 'none'",
  "frame-ancestors 'none'",
  "base-uri 'none'",
].join("; ");
const EVERY_RESPONSE = {
  "Content-Security-Policy": CSP,
  "X-Content-Type-Options": "nosniff",
  "Referrer-Policy": "no-referrer",
};
const TEXT = "text/plain; charset=utf-8";
const NO_PAGE = "this server has no page: it was not built\n";

/** A file of the page. */
export interface Asset {
  type: string;
  /** The value of `Cache-Control`. */
  cache: string;
  /** By content coding: `identity`, and those that are shorter. */
  bodies: ReadonlyMap<string, Buffer>;
}

/** The files of the page, by their paths. Null: it was not built. */
export type Page = ReadonlyMap<string, Asset> | null;

/** What the clients of the port get. */
export class WebPort implements ClientPort {
  readonly isWeb = true;
  readonly isEncrypted: boolean;
  readonly page: Page;
  readonly nowMs: () => number;
  /** Pages of these origins may open a WebSocket. */
  origins: ReadonlySet<string> = new Set();

  constructor(isEncrypted: boolean, page: Page, nowMs: () => number) {
    this.isEncrypted = isEncrypted;
    this.page = page;
    this.nowMs = nowMs;
  }

  refusal(tooMany: string): string {
    return headOf(503, { "Content-Type": TEXT, Connection: "close" }) + `too many ${tooMany}\n`;
  }

  begin(admitted: Admitted): SocketEvents {
    return new WebClient(this, admitted);
  }
}

type Headers = Record<string, string | number>;

function headOf(status: number, headers: Headers): string {
  const all = { Date: new Date().toUTCString(), ...EVERY_RESPONSE, ...headers };
  const lines = Object.entries(all).map(([name, value]) => `${name}: ${value}\r\n`);
  return `HTTP/1.1 ${status} ${STATUS[status]}\r\n${lines.join("")}\r\n`;
}

class WebClient extends PendingConnection {
  protected refusal: RefusalReason = "web_request";
  readonly #port: WebPort;
  readonly #transport: TcpTransport;
  /** It counts among the connections of its address. Otherwise a proxy opened it, and each request names its client. */
  readonly #isCounted: boolean;
  /** Bytes of requests that were not taken. */
  #input = Buffer.alloc(0);
  /** What is left of the response: its head, and its body, which other responses share. */
  #output: Buffer[] = [];
  /** The connection takes no further request. */
  #isLast = false;
  #isPaused = false;
  #hasResponded = false;

  constructor(port: WebPort, { admission, socket, transport, address, isCounted }: Admitted) {
    super(admission, socket, address, TOO_LATE, WEB_REQUEST_MS);
    this.#port = port;
    this.#transport = transport;
    this.#isCounted = isCounted;
  }

  override data(chunk: Buffer): void {
    if (this.#isLast) return;
    this.#input = Buffer.concat([this.#input, chunk]);
    this.#take();
    if (this.#output.length > 0 && this.#input.length > WEB_HEAD_BYTES_MAX) this.reject(TOO_MANY);
  }

  /** Takes requests, each when the response to the last one was written. */
  #take(): void {
    while (this.#output.length === 0 && !this.#isLast) {
      try {
        const request = parseRequest(this.#input);
        if (request === null) return;
        this.#input = this.#input.subarray(request.bytes);
        this.#respondTo(request);
      } catch (error) {
        if (!(error instanceof HttpError)) throw error;
        this.#refuse("web_request", error.status, error.message);
      }
    }
  }

  #respondTo(request: HttpRequest): void {
    const { method, target, headers, hasBody } = request;
    const methods = target === CHAT ? ["GET"] : ["GET", "HEAD"];
    if (!methods.includes(method))
      return this.#respond(request, 405, `only ${methods.join(" and ")}\n`, { Allow: methods.join(", ") });
    if (hasBody) throw new HttpError(400, "a request with a body");
    if (target === CHAT) return this.#chat(request);
    const { page } = this.#port;
    if (target === "/" && page === null) return this.#respond(request, 503, NO_PAGE);
    const asset = page?.get(target);
    if (asset === undefined) return this.#respond(request, 404, "not found\n");
    const accepted = acceptedCodings(headers.get("accept-encoding"));
    const coding = [...asset.bodies.keys()].find((each) => accepted.has(each)) ?? "identity";
    this.#respond(request, 200, asset.bodies.get(coding)!, {
      "Content-Type": asset.type,
      "Cache-Control": asset.cache,
      Vary: "Accept-Encoding",
      ...(coding === "identity" ? {} : { "Content-Encoding": coding }),
    });
  }

  /** The handshake of WebSocket (RFC 6455, section 4.2). */
  #chat(request: HttpRequest): void {
    const { headers, isHttp11 } = request;
    const isUpgrade = hasToken(headers.get("upgrade"), "websocket") && hasToken(headers.get("connection"), "upgrade");
    if (!isUpgrade || headers.get("sec-websocket-version") !== "13") {
      const more = { Upgrade: "websocket", "Sec-WebSocket-Version": 13 };
      return this.#respond(request, 426, "this is for WebSocket, version 13\n", more);
    }
    const key = headers.get("sec-websocket-key") ?? "";
    if (!isHttp11 || !/^[A-Za-z\d+/]{21}[AQgw]==$/.test(key))
      throw new HttpError(400, "an invalid WebSocket handshake");
    const origin = headers.get("origin");
    if (origin !== undefined && !this.#port.origins.has(origin))
      return this.#refuse(
        "web_origin",
        403,
        `the origin ${origin.slice(0, ORIGIN_CHARACTERS_SHOWN)} is not in --web-origin`,
      );
    if (!hasToken(headers.get("sec-websocket-protocol"), SUBPROTOCOL))
      throw new HttpError(400, `the subprotocol ${SUBPROTOCOL} is needed`);
    this.#upgrade(headers, key);
  }

  #upgrade(headers: HttpRequest["headers"], key: string): void {
    const { connections, proxies } = this.admission;
    let { address } = this;
    if (!this.#isCounted) {
      address = forwardedAddress(headers.get("x-forwarded-for"), proxies, address);
      const tooMany = connections.chat.addresses.connect(address, true);
      if (tooMany !== null) {
        this.admission.countTooMany(address, tooMany);
        return this.#respond(null, 503, `too many ${tooMany}\n`);
      }
    }
    this.leave();
    this.#isLast = true;
    const accept = createHash("sha1").update(`${key}${HANDSHAKE_KEY}`).digest("base64");
    const response = Buffer.from(
      `HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n` +
        `Sec-WebSocket-Accept: ${accept}\r\nSec-WebSocket-Protocol: ${SUBPROTOCOL}\r\n\r\n`,
    );
    const transport = new WebSocketTransport(this.#transport, this.#port.nowMs);
    const connection = new Connection(connections, transport, address);
    transport.handOver(connection);
    this.socket.data = transport.events;
    // The send buffer is empty: every response before this one was written.
    if (this.#transport.write(response, 0, response.length) < response.length) return connection.hangUp();
    if (this.#input.length > 0) transport.events.data(this.#input);
  }

  /** The request is refused, and counted. */
  #refuse(reason: RefusalReason, status: number, why: string): void {
    this.admission.count(reason, this.address, why);
    this.#respond(null, status, `${why}\n`);
  }

  /** `request`: null when none can follow. */
  #respond(request: HttpRequest | null, status: number, body: string | Buffer, headers: Headers = {}): void {
    const keepsAlive = request !== null && request.keepsAlive;
    const bytes = typeof body === "string" ? Buffer.from(body) : body;
    const head = headOf(status, {
      "Content-Type": TEXT,
      "Cache-Control": "no-store",
      ...headers,
      "Content-Length": bytes.length,
      Connection: keepsAlive ? "keep-alive" : "close",
    });
    this.#hasResponded = true;
    this.#isLast ||= !keepsAlive;
    this.#output = [Buffer.from(head), ...(request?.method === "HEAD" ? [] : [bytes])];
    this.#write();
  }

  #write(): void {
    this.prolong(WEB_REQUEST_MS);
    while (this.#output.length > 0) {
      const [piece] = this.#output as [Buffer];
      const taken = this.#transport.write(piece, 0, piece.length);
      if (taken < 0) return; // `closed` follows.
      if (taken === piece.length) this.#output.shift();
      else return this.#wait(piece.subarray(taken));
    }
    if (this.#isPaused) this.#transport.resume();
    this.#isPaused = false;
    if (this.#isLast) this.#transport.shutdown();
  }

  /** The next requests are not read while the client does not take this response. */
  #wait(rest: Buffer): void {
    this.#output[0] = rest;
    if (!this.#isPaused) this.#transport.pause(); // The runtime sends `drain` after each pause.
    this.#isPaused = true;
  }

  override drain(): void {
    if (this.#output.length === 0) return;
    this.#write();
    this.#take();
  }

  /** A client that closes its side gets the response that it waits for. */
  override end(): void {
    this.#isLast = true;
    if (this.#output.length === 0) this.hangUp();
  }

  override late(): void {
    if (this.#hasResponded) this.hangUp();
    else super.late();
  }

  override closed(): void {
    super.closed();
    if (this.#isCounted) this.admission.connections.chat.addresses.disconnect(this.address, true);
  }
}

/** The codings of `Accept-Encoding` that have no weight of 0. */
function acceptedCodings(header: string | undefined): Set<string> {
  const codings = (header ?? "").split(",").map((each) =>
    each
      .trim()
      .toLowerCase()
      .split(/\s*;\s*q=/),
  );
  return new Set(codings.filter(([, weight = "1"]) => Number(weight) > 0).map(([coding = ""]) => coding));
}
