/**
 * What the runtime calls for accepted sockets. Each handler begins a turn and passes the event to the object that the
 * socket belongs to; admission.ts decides which object that is.
 */
import type { Peer } from "../chat/session.ts";
import { type Admission, type ClientPort, PLAIN_PORT, TLS_PORT } from "./admission.ts";
import { Connection } from "./connection.ts";
import type { SocketEvents } from "./transport.ts";
import { WebSocketEvents } from "./websocket-transport.ts";

export type SocketHandlers = Bun.SocketHandler<SocketEvents | null>;

/** The handlers of the ports of one server. */
export interface ServerHandlers {
  plain: SocketHandlers;
  tls: SocketHandlers;
  /** Null without a port for browsers. */
  web: SocketHandlers | null;
  beginTurn: () => void;
}

/** `report` receives what a handler throws. `web`: the port for browsers. */
export function socketHandlers(
  beginTurn: () => void,
  admission: Admission,
  report: (error: unknown, peer?: Peer) => void,
  web: ClientPort | null = null,
): ServerHandlers {
  const opens = (port: ClientPort): SocketHandlers["open"] => {
    return (socket) => {
      beginTurn();
      admission.open(socket, port);
    };
  };
  const plain: SocketHandlers = {
    open: opens(PLAIN_PORT),
    data: (socket, chunk) => {
      beginTurn();
      socket.data?.data(chunk);
    },
    drain: (socket) => {
      beginTurn();
      socket.data?.drain();
    },
    end: (socket) => {
      beginTurn();
      socket.data?.end();
    },
    close: (socket, error) => {
      beginTurn();
      socket.data?.closed(error !== undefined);
    },
    // The runtime calls it with what another handler has thrown.
    error: (socket, error) => {
      const { data } = socket;
      const owner = data instanceof WebSocketEvents ? data.receiver : data;
      report(error, owner instanceof Connection ? owner : undefined);
      socket.end();
    },
  };
  const tls: SocketHandlers = {
    ...plain,
    open: opens(TLS_PORT),
    // Without a client certificate `error` is always set: only `isWell` counts.
    handshake: (socket, isWell, error) => {
      beginTurn();
      socket.data?.handshake?.(isWell ? null : error);
    },
    error: (socket, error) => {
      const isPeerFault = (error as NodeJS.ErrnoException).code === "EPROTO";
      if (!isPeerFault) return plain.error!(socket, error);
      admission.count("tls_handshake", socket.remoteAddress, error.message);
      socket.end();
    },
  };
  const webHandlers = web === null ? null : { ...(web.isEncrypted ? tls : plain), open: opens(web) };
  return { plain, tls, web: webHandlers, beginTurn };
}
