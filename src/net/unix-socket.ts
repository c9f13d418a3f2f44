/** Unix sockets on which the server listens: their path, their permissions, and what can be wrong. */
import { type Stats, lstatSync, unlinkSync } from "node:fs";
import { connect } from "node:net";
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
  const refusal = await tryToConnect(path);
  if (refusal === null) throw new ListenError(`cannot listen on ${path}: another program listens there`);
  if (refusal.code !== "ECONNREFUSED") throw pathError(path, refusal);
  unlinkSync(path);
}

/** Null when a program accepts the connection, which is closed at once. */
function tryToConnect(path: string): Promise<NodeJS.ErrnoException | null> {
  const { promise, resolve } = Promise.withResolvers<NodeJS.ErrnoException | null>();
  const socket = connect({ path }, () => {
    socket.destroy();
    resolve(null);
  });
  socket.on("error", resolve);
  return promise;
}

export function pathError(path: string, error: unknown): ListenError {
  const { code, message } = error as NodeJS.ErrnoException;
  const reasons: Record<string, string> = {
    ENOENT: "the folder does not exist",
    ENOTDIR: "the folder is a file",
    EACCES: "not allowed",
    EADDRINUSE: "another program has just created it",
    ENAMETOOLONG: "the path is too long; a socket's path has at most 107 bytes",
  };
  return new ListenError(`cannot listen on ${path}: ${reasons[code ?? ""] ?? message}`);
}
