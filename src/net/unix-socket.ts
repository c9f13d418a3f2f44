/** Unix sockets on which the server listens: their path, their permissions, and what can be wrong. */
import { type Stats, lstatSync, unlinkSync } from "node:fs";
import { connect } from "node:net";
import { SOCKET_PATH_BYTES_MAX } from "../limits.ts";
import { connectionRefusal } from "../runtime/kernel.ts";
import { ListenError } from "./listener.ts";

/**
 * Calls `listen`, which must create the socket `path` before it returns. The socket never has more permissions than
 * `mode`. A socket that is there already is replaced only when it refuses connections, as after a kill. Throws
 * ListenError.
 */
export async function listenAtPath<Result>(path: string, mode: number, listen: () => Result): Promise<Result> {
  await removeStale(path);
  const umask = process.umask(0o777 & ~mode);
  try {
    return listen();
  } catch (error) {
    throw pathError(path, error);
  } finally {
    process.umask(umask);
  }
}

async function removeStale(path: string): Promise<void> {
  let stats: Stats | undefined;
  try {
    stats = lstatSync(path, { throwIfNoEntry: false });
  } catch (error) {
    throw pathError(path, error);
  }
  if (stats === undefined) return;
  if (!stats.isSocket()) throw new ListenError(`cannot listen on ${path}: it is not a socket; choose another path`);
  const code = connectionRefusal(path) ?? (await tryToConnect(path));
  if (code === "") throw new ListenError(`cannot listen on ${path}: another program listens there`);
  if (code !== "ECONNREFUSED") throw pathError(path, { code, message: code });
  unlinkSync(path);
}

/** Empty when a program accepts the connection, which is closed at once; else the code of the error. */
function tryToConnect(path: string): Promise<string> {
  const { promise, resolve } = Promise.withResolvers<string>();
  const socket = connect({ path }, () => {
    socket.destroy();
    resolve("");
  });
  socket.on("error", ({ code = "" }: NodeJS.ErrnoException) => resolve(code));
  return promise;
}

export function pathError(path: string, error: unknown): ListenError {
  const { code, message } = error as NodeJS.ErrnoException;
  const reasons: Record<string, string> = {
    ENOENT: "the folder does not exist",
    ENOTDIR: "the folder is a file",
    EACCES: "not allowed",
    EAGAIN: "another program listens there",
    EPROTOTYPE: "another program uses it for something else",
    EADDRINUSE: "another program has just created it",
    ENAMETOOLONG: `the path is too long; a socket's path has at most ${SOCKET_PATH_BYTES_MAX} bytes`,
  };
  return new ListenError(`cannot listen on ${path}: ${reasons[code ?? ""] ?? message}`);
}
