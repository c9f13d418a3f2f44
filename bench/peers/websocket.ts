import type { ServerWebSocket } from "bun";
import type { Peer } from "./peer.ts";

/** The usual way on Bun: WebSockets, and `publish()` for broadcasts. */
export const websocket: Peer = {
  name: "bun-websocket",
  about: "a chat of 40 lines on Bun.serve with WebSockets and publish(), that stores and checks nothing",
  protocol: "websocket",
  needs: null,
  loginsAtOnce: 64,
  version: null,
  command: ({ port }) => [process.execPath, import.meta.path, String(port)],
};

const LIMIT_BYTES = 64 << 20;

function serve(port: number): void {
  const users = new Map<string, ServerWebSocket<{ user: string }>>();
  const server = Bun.serve({
    hostname: "127.0.0.1",
    port,
    fetch: (request, server) =>
      server.upgrade(request, { data: { user: "" } }) ? undefined : new Response("a chat", { status: 426 }),
    websocket: {
      data: {} as { user: string },
      idleTimeout: 0,
      perMessageDeflate: false,
      sendPings: false,
      publishToSelf: false,
      backpressureLimit: LIMIT_BYTES,
      open: (socket) => void socket.subscribe("all"),
      close: (socket) => void users.delete(socket.data.user),
      message: (socket, message) => {
        const line = message.toString("latin1");
        const [verb, to = ""] = line.trimEnd().split(" ", 2);
        if (verb === "login") {
          users.set((socket.data.user = to), socket);
          socket.sendText("ok\n");
        } else if (verb === "message") {
          users.get(to)?.sendText(`message ${socket.data.user}${line.slice(verb.length + 1 + to.length)}`);
          socket.sendText("ok sent\n");
        } else if (verb === "broadcast") {
          socket.publishText("all", `broadcast ${socket.data.user}${line.slice(verb.length)}`);
          socket.sendText("ok\n");
        } else socket.sendText("ok\n");
      },
    },
  });
  process.stdout.write(`listening on 127.0.0.1:${server.port}\n`);
}

if (import.meta.main) serve(Number(process.argv[2]));
