/** A server for client tests that writes literal bytes and records the lines of its clients. It has no rules. */
import type { Socket, TCPSocketListener } from "bun";

/** One connection to a fake server. */
export interface FakeConnection {
  /** 1 for the first connection. */
  number: number;
  send(text: string): void;
  close(): void;
}

export class FakeServer {
  /** All lines of all clients, as `<connection>: <line>`. */
  readonly lines: string[] = [];
  readonly #listener: TCPSocketListener<{ connection: FakeConnection; rest: string }>;
  /** Called after new lines arrived. */
  readonly #watchers = new Set<() => void>();
  #connections = 0;

  /** `opened` is called for each connection, `received` for each of its lines. */
  constructor(
    received: (line: string, connection: FakeConnection) => void,
    opened: (connection: FakeConnection) => void = () => {},
  ) {
    this.#listener = Bun.listen({
      hostname: "127.0.0.1",
      port: 0,
      socket: {
        open: (socket) => {
          const connection = this.#connect(socket);
          socket.data = { connection, rest: "" };
          opened(connection);
        },
        data: (socket, chunk) => {
          const { data } = socket;
          const lines = (data.rest + chunk.toString()).split("\n");
          data.rest = lines.pop()!;
          for (const line of lines) {
            this.lines.push(`${data.connection.number}: ${line}`);
            received(line, data.connection);
          }
          for (const watcher of this.#watchers) watcher();
        },
      },
    });
  }

  #connect(socket: Socket<unknown>): FakeConnection {
    return {
      number: ++this.#connections,
      send: (text) => void socket.write(text),
      close: () => void socket.end(),
    };
  }

  get port(): number {
    return this.#listener.port;
  }

  /** Resolves with the first recorded line that matches, once there is one. */
  async received(pattern: RegExp): Promise<string> {
    for (;;) {
      const line = this.lines.find((each) => pattern.test(each));
      if (line !== undefined) return line;
      await new Promise<void>((resolve) => this.#watchers.add(resolve));
      this.#watchers.clear();
    }
  }

  stop(): void {
    this.#listener.stop(true);
  }
}
