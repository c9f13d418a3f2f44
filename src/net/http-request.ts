/**
 * The head of an HTTP/1.1 request, read strictly (RFC 9112): what two programs could read differently is refused. No
 * request here has a body.
 */
import { WEB_HEAD_BYTES_MAX } from "../limits.ts";

export interface HttpRequest {
  method: string;
  target: string;
  /** By names in lower case. Several headers of one name are joined by commas (RFC 9110, section 5.3). */
  headers: ReadonlyMap<string, string>;
  /** It is not read. */
  hasBody: boolean;
  /** The connection takes another request after this one. */
  keepsAlive: boolean;
  isHttp11: boolean;
  /** Length of the head. */
  bytes: number;
}

/** The request is refused with this status; the message is for a person. */
export class HttpError extends Error {
  readonly status: number;

  constructor(status: number, message: string) {
    super(message);
    this.status = status;
  }
}

const HEAD_END = Buffer.from("\r\n\r\n");
const REQUEST_LINE = /^([A-Z]{1,16}) ([!-~]{1,2048}) HTTP\/1\.([01])$/;
const HEADER = /^([!#$%&'*+\-.^_`|~\dA-Za-z]+):[\t ]*((?:[!-~\x80-\xff](?:[\t -~\x80-\xff]*[!-~\x80-\xff])?)?)[\t ]*$/;
/** Headers that a request has once at most. */
const SINGLE = new Set([
  "host",
  "origin",
  "content-length",
  "transfer-encoding",
  "upgrade",
  "sec-websocket-key",
  "sec-websocket-version",
]);

/** The request at the beginning of `bytes`; null when it is incomplete. Throws HttpError. */
export function parseRequest(bytes: Buffer): HttpRequest | null {
  const end = bytes.indexOf(HEAD_END);
  if (end > WEB_HEAD_BYTES_MAX || (end < 0 && bytes.length > WEB_HEAD_BYTES_MAX))
    throw new HttpError(431, `the head of the request has more than ${WEB_HEAD_BYTES_MAX} bytes`);
  if (end < 0) return null;
  const [first = "", ...lines] = bytes.toString("latin1", 0, end).split("\r\n");
  const [, method, target, minor] = REQUEST_LINE.exec(first) ?? [];
  if (method === undefined || target === undefined) throw new HttpError(400, "no request line of HTTP/1.1");
  const headers = new Map<string, string>();
  for (const line of lines) {
    const [, given, value] = HEADER.exec(line) ?? [];
    if (given === undefined || value === undefined) throw new HttpError(400, "an invalid header");
    const name = given.toLowerCase();
    const before = headers.get(name);
    if (before !== undefined && SINGLE.has(name)) throw new HttpError(400, `two headers ${name}`);
    headers.set(name, before === undefined ? value : `${before},${value}`);
  }
  const isHttp11 = minor === "1";
  if (isHttp11 && !headers.has("host")) throw new HttpError(400, "no header host");
  const hasBody = headers.has("transfer-encoding") || (headers.get("content-length") ?? "0") !== "0";
  const keepsAlive = isHttp11 && !hasBody && !hasToken(headers.get("connection"), "close");
  return { method, target, headers, hasBody, keepsAlive, isHttp11, bytes: end + HEAD_END.length };
}

/** Whether a comma-separated list has that word, in any case. */
export function hasToken(list: string | undefined, token: string): boolean {
  return list !== undefined && list.split(",").some((each) => each.trim().toLowerCase() === token);
}
