import type { Socket, TCPSocketListener } from "bun";

/** One connection to a fake server: which one it is, and what to write there. */
export interface FakeConnection {
  /** 1 for the first. */
  number: number;
  say(text: string): void;
  hangUp(): void;
}

/** A server in literal bytes, which notes every line that clients send, as `<connection>: <line>`. */
export class FakeServer {
  readonly lines: string[] = [];
  readonly #listener: TCPSocketListener<{ connection: FakeConnection; rest: string }>;
  readonly #watchers = new Set<() => void>();
  #connections = 0;

  /** `opens` is called for each connection, `hears` for each of its lines. */
  constructor(
    hears: (line: string, connection: FakeConnection) => void,
    opens: (connection: FakeConnection) => void = () => {},
  ) {
    this.#listener = Bun.listen({
      hostname: "127.0.0.1",
      port: 0,
      socket: {
        open: (socket) => {
          const connection = this.#connect(socket);
          socket.data = { connection, rest: "" };
          opens(connection);
        },
        data: (socket, chunk) => {
          const { data } = socket;
          const lines = (data.rest + chunk.toString()).split("\n");
          data.rest = lines.pop()!;
          for (const line of lines) {
            this.lines.push(`${data.connection.number}: ${line}`);
            hears(line, data.connection);
          }
          for (const watcher of this.#watchers) watcher();
        },
      },
    });
  }

  #connect(socket: Socket<unknown>): FakeConnection {
    return {
      number: ++this.#connections,
      say: (text) => void socket.write(text),
      hangUp: () => void socket.end(),
    };
  }

  get port(): number {
    return this.#listener.port;
  }

  /** Resolves when clients have sent a line like that. */
  async hears(what: RegExp): Promise<string> {
    for (;;) {
      const line = this.lines.find((each) => what.test(each));
      if (line !== undefined) return line;
      await new Promise<void>((resolve) => this.#watchers.add(resolve));
      this.#watchers.clear();
    }
  }

  stop(): void {
    this.#listener.stop(true);
  }
}
