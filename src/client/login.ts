/** The request `login` and its reply (docs/protocol.md, Requests). */
import { ChatError } from "./errors.ts";

/** The longest delay of a timer of this runtime. */
const SILENCE_MS_MAX = 2 ** 31 - 1;

/** The result of a login. */
export interface Login {
  token: string;
  /** The server ends a session that sends no line for this time. The client sends heartbeats by itself before that. */
  silenceMs: number;
}

/** The result of a login, with the options of the reply that only sessions use. */
export interface LoginReply extends Login {
  /** Secret that the server's calls to a callback session begin with; empty in other sessions. */
  secret: string;
  /** Position up to which the server acted on the requests of the earlier session; infinite when it is unknown. */
  actedOn: number;
  /** Where the server that owns the session can be reached without another one in between; null: here. */
  at: { host: string; port: number } | null;
}

/** The beginning of a login request. The options for the kind of session and for `after=` follow. */
export function loginLine(user: string, password: string, listenPort: number): string {
  return `login ${user} ${password}${listenPort > 0 ? ` listen=${listenPort}` : ""}`;
}

/** Parses the words after `ok`. Throws `closed` when they have no valid token and time: this is no Heartline server. */
export function parseLogin(words: string): LoginReply {
  const [token = "", silence = "", ...options] = words.split(" ");
  const silenceMs = Number(silence) * 1000;
  if (!/^[\w-]{22,64}$/.test(token) || !(silenceMs > 0 && silenceMs <= SILENCE_MS_MAX))
    throw new ChatError("closed", "invalid reply to the login: there is no Heartline server at that port");
  const option = (name: string): string | undefined =>
    options.find((word) => word.startsWith(name))?.slice(name.length);
  const actedOn = Number(option("received=") ?? Number.POSITIVE_INFINITY);
  return { token, silenceMs, secret: option("secret=") ?? "", actedOn, at: parseAddress(option("at=") ?? "") };
}

/** `<host>:<port>` with brackets around IPv6; null for anything else. */
function parseAddress(text: string): LoginReply["at"] {
  const [, ipv6, other, port] = /^(?:\[([\da-fA-F:.%]+)\]|([\w.-]+)):(\d{1,5})$/.exec(text) ?? [];
  const host = ipv6 ?? other;
  return host === undefined ? null : { host, port: Number(port) };
}
