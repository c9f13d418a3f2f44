import { existsSync, lstatSync, rmSync } from "node:fs";
import type { UnixSocketListener } from "bun";
import { ADMIN_CONNECTIONS_MAX, ADMIN_IDLE_MS, SOCKET_PATH_BYTES_MAX } from "../limits.ts";
import type { AdminRequest } from "../protocol/admin.ts";
import { LoopTurn } from "../stream/turn.ts";
import { AdminConnection, type AdminContext, TOO_MANY } from "./connection.ts";
import type { Administered } from "./commands.ts";

/** The admin socket cannot be opened. The message is meant for the operator. */
export class AdminSocketError extends Error {}

/** With this file mode creation mask a new socket has mode 0600 from the beginning. */
const UMASK = 0o177;
const BUSY = { recovering: "recovering; try again in a moment", stopping: "the server stops" } as const;

export interface AdminOptions {
  report: (error: unknown) => void;
  /** A command has changed something; for the log. */
  done?: (request: AdminRequest) => void;
  idleMs?: number;
}

/**
 * The admin socket: a Unix socket that only the user of the server can use. It listens before the server is there, and
 * refuses commands that need it until `serve`.
 */
export class AdminListener implements AdminContext {
  server: Administered | null = null;
  obstacle: string = BUSY.recovering;
  readonly turn;
  readonly idleMs: number;
  readonly report: (error: unknown) => void;
  readonly done: (request: AdminRequest) => void;
  readonly #path: string;
  readonly #connections = new Set<AdminConnection>();
  /** A program accepts connections at the path. */
  readonly #isTaken: boolean;
  #socket: UnixSocketListener<AdminConnection | null> | null = null;

  private constructor(
    path: string,
    isTaken: boolean,
    { report, done = () => {}, idleMs = ADMIN_IDLE_MS }: AdminOptions,
  ) {
    this.#path = path;
    this.#isTaken = isTaken;
    this.report = report;
    this.done = done;
    this.idleMs = idleMs;
    this.turn = new LoopTurn({ failed: report });
  }

  /** Looks who uses the path. `listen` follows, when no other server can take it: after the data folder is locked. */
  static async at(path: string, options: AdminOptions): Promise<AdminListener> {
    return new AdminListener(path, await isAnswered(path), options);
  }

  /** Throws AdminSocketError. A socket of a server that was killed is replaced. */
  listen(): void {
    const path = this.#path;
    const bytes = Buffer.byteLength(path);
    if (bytes > SOCKET_PATH_BYTES_MAX)
      throw this.#failure(`the path has ${bytes} bytes, and a socket has at most ${SOCKET_PATH_BYTES_MAX}`);
    if (this.#isTaken) throw this.#failure("another program listens there");
    const mask = process.umask(UMASK);
    try {
      if (lstatSync(path, { throwIfNoEntry: false })?.isSocket() === true) rmSync(path);
      if (existsSync(path)) throw this.#failure("there is a file that is not a socket");
      this.#socket = Bun.listen<AdminConnection | null>({
        unix: path,
        allowHalfOpen: true,
        data: null,
        socket: {
          open: (socket) => {
            if (this.#connections.size >= ADMIN_CONNECTIONS_MAX) return void socket.end(TOO_MANY);
            socket.data = new AdminConnection(this, socket);
            this.#connections.add(socket.data);
          },
          data: (socket, chunk) => socket.data?.data(chunk),
          drain: (socket) => socket.data?.drain(),
          end: (socket) => {
            if (socket.data === null) socket.end();
            else socket.data.end();
          },
          close: (socket) => {
            if (socket.data === null) return;
            this.#connections.delete(socket.data);
            socket.data.closed();
          },
          error: (socket, error) => {
            this.report(error);
            socket.terminate();
          },
        },
      });
    } catch (error) {
      if (error instanceof AdminSocketError) throw error;
      throw this.#failure((error as NodeJS.ErrnoException).code ?? (error as Error).message);
    } finally {
      process.umask(mask);
    }
  }

  #failure(why: string): AdminSocketError {
    return new AdminSocketError(
      `cannot open the admin socket ${this.#path}: ${why}; --admin-socket <path> chooses another`,
    );
  }

  /** From now on all commands work. */
  serve(server: Administered): void {
    this.server = server;
  }

  /** The server stops: only `help` works from now on. */
  release(): void {
    this.server = null;
    this.obstacle = BUSY.stopping;
  }

  /** Closes the socket and all connections, and removes the file. */
  stop(): void {
    this.release();
    this.#socket?.stop();
    this.#socket = null;
    for (const connection of this.#connections) connection.hangUp();
    rmSync(this.#path, { force: true });
  }
}

/** Whether a program accepts connections at that path. */
async function isAnswered(path: string): Promise<boolean> {
  try {
    const socket = await Bun.connect({ unix: path, socket: { data: () => {} } });
    socket.terminate();
    return true;
  } catch {
    return false;
  }
}
