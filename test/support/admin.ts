import type { Socket } from "bun";

/** A client of an admin socket that knows only bytes and lines. */
export class AdminClient {
  #socket!: Socket<undefined>;
  #received = "";
  #isClosed = false;
  #changed = (): void => {};

  static async connect(path: string): Promise<AdminClient> {
    const client = new AdminClient();
    await Bun.connect({
      unix: path,
      allowHalfOpen: true,
      socket: {
        open: (socket) => void (client.#socket = socket),
        data: (_socket, chunk) => {
          client.#received += chunk.toString("latin1");
          client.#changed();
        },
        end: (socket) => void socket.end(),
        close: () => {
          client.#isClosed = true;
          client.#changed();
        },
      },
    });
    return client;
  }

  /** Sends bytes, as latin1. */
  send(text: string): void {
    this.#socket.write(Buffer.from(text, "latin1"));
  }

  pause(): void {
    this.#socket.pause();
  }

  resume(): void {
    this.#socket.resume();
  }

  /** Closes our side. */
  finish(): void {
    this.#socket.shutdown();
  }

  cut(): void {
    if (!this.#isClosed) this.#socket.terminate();
  }

  /** The next reply: its lines, the last of which begins with `ok` or `err`. */
  async reply(): Promise<string[]> {
    const lines: string[] = [];
    for (;;) {
      const lf = this.#received.indexOf("\n");
      if (lf >= 0) {
        lines.push(this.#received.slice(0, lf));
        this.#received = this.#received.slice(lf + 1);
        if (/^(ok|err)( |$)/.test(lines.at(-1)!)) return lines;
      } else if (this.#isClosed) throw new Error(`closed after ${JSON.stringify(lines)}`);
      else await new Promise<void>((resolve) => (this.#changed = resolve));
    }
  }

  /** Sends a line and returns its reply. */
  ask(line: string): Promise<string[]> {
    this.send(`${line}\n`);
    return this.reply();
  }

  /** Everything until the server closes the connection. */
  async rest(): Promise<string> {
    while (!this.#isClosed) await new Promise<void>((resolve) => (this.#changed = resolve));
    return this.#received;
  }
}
