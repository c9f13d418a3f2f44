import { SERVER_LINE_BYTES_MAX, SOCKET_PATH_BYTES_MAX } from "../limits.ts";
import { LineReader } from "../protocol/line-reader.ts";
import { connectionRefusal } from "../runtime/kernel.ts";
import { quoted } from "../usage-error.ts";

/** One request over the admin socket of a server. */

/** The lines before the last one, and the last one: after `ok`, or code and words after `err`. Texts are UTF-8. */
export interface AdminReply {
  lines: string[];
  /** Null when the request was done. */
  code: string | null;
  words: string;
}

/** The server cannot be reached or does not answer. The message is for the user. */
export class UnreachableError extends Error {}

/** Each line of a reply begins with a word in lower case, or a metric's name with labels; `ok` may stand alone. */
const LINE = /^(ok$|[a-z_]+[ {])/;
/** No reply has more lines: a program that sends without end would use up the memory. */
const LINES_MAX = 4_000_000;

const HINT = "is it running? --data <folder> or --socket <path> says which server is meant";

/** Sends a line without LF and waits for the whole reply; for at most `silenceMs` without a byte of it. */
export async function ask(path: string, line: string, silenceMs: number): Promise<AdminReply> {
  if (Buffer.byteLength(path) > SOCKET_PATH_BYTES_MAX)
    throw new UnreachableError(`${path} is longer than the ${SOCKET_PATH_BYTES_MAX} bytes of a socket's path`);
  const { promise, resolve, reject } = Promise.withResolvers<AdminReply>();
  const reader = new LineReader(SERVER_LINE_BYTES_MAX);
  const lines: string[] = [];
  let silence: Timer | undefined;
  const listen = (): void => {
    clearTimeout(silence);
    const late = `the server at ${path} does not answer: no reply within ${silenceMs / 1000} seconds`;
    silence = setTimeout(() => reject(new UnreachableError(late)), silenceMs);
  };
  listen();
  const refuse = (sent: string): void =>
    reject(new UnreachableError(`the program at ${path} is not a Heartline server: it sent ${quoted(sent)}`));
  const closed = (): void =>
    reject(new UnreachableError(`the server at ${path} closed the connection before its reply`));
  const connecting = Bun.connect({
    unix: path,
    socket: {
      open: (socket) => void socket.write(`${line}\n`), // Shorter than any send buffer of a socket.
      data: (_socket, chunk) => {
        listen();
        reader.feed(chunk);
        while (reader.next()) {
          const text = Buffer.from(reader.bytes.subarray(reader.start, reader.end)).toString();
          if (!LINE.test(text) || lines.length === LINES_MAX) return refuse(text);
          const [, end, rest = ""] = /^(ok|err)(?: (.*))?$/s.exec(text) ?? [];
          const [, code = "", words = ""] = /^(\S*) ?(.*)$/s.exec(rest) ?? [];
          if (end === undefined) lines.push(text);
          else resolve(end === "ok" ? { lines, code: null, words: rest } : { lines, code, words });
        }
        if (reader.takeSkipped() > 0) refuse(reader.excerpt.toString());
      },
      close: closed,
      error: closed,
    },
  });
  try {
    const socket = await connecting.catch((error: unknown) => Promise.reject(unreachable(path, error)));
    return await promise.finally(() => socket.terminate());
  } finally {
    clearTimeout(silence);
  }
}

function unreachable(path: string, error: unknown): UnreachableError {
  const { code: reported = "", message } = error as NodeJS.ErrnoException;
  const code = connectionRefusal(path) || reported;
  if (code === "EAGAIN")
    return new UnreachableError(`the server at ${path} accepts no connection: it is busy, or it hangs`);
  if (code === "EACCES")
    return new UnreachableError(`cannot use ${path}: permission denied; run it as the server's user or root`);
  const reasons: Record<string, string> = {
    ENOENT: "there is no such socket",
    ENOTDIR: "there is no such socket",
    ECONNREFUSED: "nobody listens there",
    EPROTOTYPE: "another program uses it",
  };
  return new UnreachableError(`no server at ${path}: ${reasons[code] ?? message}; ${HINT}`);
}
