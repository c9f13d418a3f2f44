/** What the runtime calls for the sockets of a server that serves nobody at the moment: each gets one line. */
import type { Socket } from "bun";
import type { SocketHandlers } from "./socket-handlers.ts";
import type { SocketEvents } from "./transport.ts";

/** A client that does not close its side, or makes no TLS handshake, is cut off after this time. */
const FAREWELL_MS = 5_000;
/** For one more connection the oldest is cut off: the runtime spins in accept when there is no free descriptor. */
const CONNECTIONS_MAX = 128;

/** `line` ends with LF. Connections that were accepted are closed also when other handlers are in use. */
export function busyHandlers(line: string): { plain: SocketHandlers; tls: SocketHandlers } {
  const open = new Set<Socket<SocketEvents | null>>();
  const accept = (socket: Socket<SocketEvents | null>): void => {
    const [oldest] = open;
    if (open.size >= CONNECTIONS_MAX) {
      open.delete(oldest!);
      oldest!.terminate();
    }
    open.add(socket);
    setTimeout(() => {
      open.delete(socket);
      socket.terminate();
    }, FAREWELL_MS).unref();
  };
  const plain: SocketHandlers = {
    open: (socket) => {
      accept(socket);
      socket.end(line);
    },
    data: () => {}, // Bytes that are not read would make the kernel reset the connection, and the line would be lost.
    end: (socket) => void socket.end(),
    close: (socket) => void open.delete(socket),
    error: (socket) => socket.terminate(),
  };
  return {
    plain,
    tls: {
      ...plain,
      open: accept,
      handshake: (socket, isWell) => {
        if (isWell) socket.end(line);
        else socket.terminate();
      },
    },
  };
}
