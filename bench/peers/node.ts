import { type Socket, createServer } from "node:net";
import type { Peer } from "./peer.ts";

/** The simplest chat on node:net, run by Bun: strings, a map of users, one write per receiver. */
export const node: Peer = {
  name: "node-net",
  about: "a chat of 40 lines on node:net, run by Bun, that stores and checks nothing",
  protocol: "heartline",
  needs: null,
  loginsAtOnce: 64,
  version: null,
  command: ({ port }) => [process.execPath, import.meta.path, String(port)],
};

function serve(port: number): void {
  const users = new Map<string, Socket>();
  const server = createServer((socket) => {
    let user = "";
    let rest = "";
    socket.setNoDelay(true);
    socket.setEncoding("latin1");
    socket.on("error", () => socket.destroy());
    socket.on("close", () => users.delete(user));
    socket.on("data", (chunk) => {
      const lines = (rest + chunk).split("\n");
      rest = lines.pop()!;
      socket.cork();
      for (const line of lines) {
        const [verb, to = ""] = line.split(" ", 2);
        if (verb === "login") {
          users.set((user = to), socket);
          socket.write("ok\n");
        } else if (verb === "message") {
          users.get(to)?.write(`message ${user}${line.slice(verb.length + 1 + to.length)}\n`, "latin1");
          socket.write("ok sent\n");
        } else if (verb === "broadcast") {
          const frame = Buffer.from(`broadcast ${user}${line.slice(verb.length)}\n`, "latin1");
          for (const other of users.values()) if (other !== socket) other.write(frame);
          socket.write(`ok ${users.size - 1}\n`);
        } else socket.write("ok\n");
      }
      socket.uncork();
    });
  });
  server.listen(port, "127.0.0.1", 4096, () => process.stdout.write(`listening on 127.0.0.1:${port}\n`));
}

if (import.meta.main) serve(Number(process.argv[2]));
