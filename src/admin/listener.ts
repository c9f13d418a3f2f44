import type { UnixSocketListener } from "bun";
import { ADMIN_CONNECTIONS_MAX, ADMIN_IDLE_MS, SOCKET_PATH_BYTES_MAX } from "../limits.ts";
import { ListenError } from "../net/listener.ts";
import { listenAtPath } from "../net/unix-socket.ts";
import type { AdminRequest } from "../protocol/admin.ts";
import { LoopTurn } from "../stream/turn.ts";
import type { AcceptedSocket } from "../net/tcp-transport.ts";
import type { SocketEvents } from "../net/transport.ts";
import { AdminConnection, type AdminContext, type AdminOfCluster, type AdminSocket, TOO_MANY } from "./connection.ts";
import type { Administered } from "./commands.ts";

/** Only the user of the server may connect. */
const SOCKET_MODE = 0o600;

export interface AdminOptions {
  /** Why commands cannot use the server at the moment, in words for people; null when they can. */
  obstacle?: () => string | null;
  report: (error: unknown) => void;
  /** Null or missing for a server that is not in a cluster. */
  cluster?: AdminOfCluster | null;
  /** A command has changed something; for the log. */
  done?: (request: AdminRequest) => void;
  idleMs?: number;
}

/**
 * The admin socket: a Unix socket that only the user of the server can use. It listens before the server is there, and
 * refuses commands that need it until `serve`.
 */
export class AdminListener implements AdminContext {
  readonly turn;
  readonly idleMs: number;
  readonly report: (error: unknown) => void;
  readonly done: (request: AdminRequest) => void;
  readonly cluster: AdminOfCluster | null;
  /** Null for a server of a cluster that takes the commands of other servers only. */
  readonly #path: string | null;
  readonly #obstacle: () => string | null;
  #server: Administered | null = null;
  readonly #connections = new Set<AdminConnection>();
  #socket: UnixSocketListener<AdminConnection | null> | null = null;
  /** Commands that continue in a later turn. */
  readonly #waiting: (() => void)[] = [];

  constructor(path: string | null, options: AdminOptions) {
    const { obstacle = () => null, report, cluster = null, done = () => {}, idleMs = ADMIN_IDLE_MS } = options;
    this.#path = path;
    this.#obstacle = obstacle;
    this.report = report;
    this.done = done;
    this.cluster = cluster;
    this.idleMs = idleMs;
    this.turn = new LoopTurn({ failed: report });
  }

  /** Call it when the data folder is locked, so that no two servers do it for one folder. Throws ListenError. */
  async listen(): Promise<void> {
    const path = this.#path;
    if (path === null) return;
    const bytes = Buffer.byteLength(path);
    if (bytes > SOCKET_PATH_BYTES_MAX) {
      const why = `the path has ${bytes} bytes, and that of a socket at most ${SOCKET_PATH_BYTES_MAX}`;
      throw new ListenError(`cannot listen on ${path}: ${why}; choose another one with --admin-socket <path>`);
    }
    this.#socket = await listenAtPath(path, SOCKET_MODE, () => this.#listen(path));
  }

  #listen(unix: string): UnixSocketListener<AdminConnection | null> {
    return Bun.listen<AdminConnection | null>({
      unix,
      allowHalfOpen: true,
      data: null,
      socket: {
        open: (socket) => {
          socket.data = this.#open(socket, true);
        },
        data: (socket, chunk) => socket.data?.data(chunk),
        drain: (socket) => socket.data?.drain(),
        end: (socket) => {
          if (socket.data === null) socket.end();
          else socket.data.end();
        },
        close: (socket) => {
          socket.data?.closed();
        },
        error: (socket, error) => {
          this.report(error);
          socket.terminate();
        },
      },
    });
  }

  /** A connection of another server of the cluster, with a command about users of this one. Null when it is refused. */
  accept(socket: AcceptedSocket): SocketEvents | null {
    return this.#open(socket, false);
  }

  #open(socket: AdminSocket, isOperator: boolean): AdminConnection | null {
    if (this.#connections.size >= ADMIN_CONNECTIONS_MAX) {
      socket.end(TOO_MANY);
      return null;
    }
    const connection = new AdminConnection(this, socket, isOperator, () => this.#connections.delete(connection));
    this.#connections.add(connection);
    return connection;
  }

  /** The server is there: from now on all commands work. */
  serve(server: Administered): void {
    this.#server = server;
  }

  nextTurn(): Promise<void> {
    return new Promise((resolve) => {
      this.#waiting.push(resolve);
      if (this.#waiting.length === 1) setImmediate(this.#wake);
    });
  }

  readonly #wake = (): void => {
    this.#waiting.shift()?.();
    if (this.#waiting.length > 0) setImmediate(this.#wake);
  };

  /** The number of open connections. */
  get size(): number {
    return this.#connections.size;
  }

  get server(): Administered | string {
    return this.#obstacle() ?? this.#server ?? "the server starts";
  }

  /** Closes the socket and all connections, and removes the file. */
  stop(): void {
    this.#server = null;
    this.#socket?.stop(); // The runtime removes the file.
    this.#socket = null;
    for (const connection of this.#connections) connection.hangUp();
  }
}
