import type { Socket, TCPSocketListener } from "bun";

/** The two sides of a connection through the proxy, and what the kernel would not take yet. */
interface Half {
  other: Socket<Half> | null;
  waiting: Buffer[];
}

/** A TCP proxy before a server that can lose, stall and refuse connections. */
export class Proxy {
  readonly #listener: TCPSocketListener<Half>;
  readonly #open = new Set<Socket<Half>>();
  #port: number;
  /** New connections are closed at once. */
  refuses = false;
  /** How many bytes each direction of the next connections lets through before it is cut; -1 for no limit. */
  bytesLeft = -1;

  constructor(port: number) {
    this.#port = port;
    const pass = (socket: Socket<Half>, chunk: Buffer): void => this.#pass(socket, chunk);
    const close = (socket: Socket<Half>): void => this.#closed(socket);
    const drain = (socket: Socket<Half>): void => this.#drain(socket);
    this.#listener = Bun.listen<Half>({
      hostname: "127.0.0.1",
      port: 0,
      socket: {
        open: (client) => {
          client.data = { other: null, waiting: [] };
          if (this.refuses) return void client.terminate();
          this.#open.add(client);
          Bun.connect<Half>({
            hostname: "127.0.0.1",
            port: this.#port,
            data: { other: client, waiting: [] },
            socket: {
              open: (server) => {
                client.data.other = server;
                this.#open.add(server);
                if (!this.#open.has(client)) return void server.terminate();
                for (const chunk of client.data.waiting.splice(0)) this.#write(server, chunk);
              },
              data: pass,
              close,
              drain,
              connectError: () => void client.terminate(),
            },
          }).catch(() => client.terminate());
        },
        data: pass,
        close,
        drain,
      },
    });
  }

  get port(): number {
    return this.#listener.port;
  }

  /** The server is somewhere else from now on. */
  moveTo(port: number): void {
    this.#port = port;
  }

  get connections(): Socket<Half>[] {
    return [...this.#open];
  }

  /** Cuts every connection, without a word to either side. */
  cut(): void {
    for (const socket of this.connections) socket.terminate();
  }

  stop(): void {
    this.cut();
    this.#listener.stop(true);
  }

  #pass(socket: Socket<Half>, chunk: Buffer): void {
    const { other } = socket.data;
    if (this.bytesLeft >= 0 && chunk.length > this.bytesLeft) {
      // Cut in the middle of what was sent: the bytes before the cut still arrive.
      if (other !== null) this.#write(other, chunk.subarray(0, this.bytesLeft));
      this.bytesLeft = -1;
      socket.end();
      other?.end();
    } else {
      if (this.bytesLeft >= 0) this.bytesLeft -= chunk.length;
      if (other === null) socket.data.waiting.push(chunk);
      else this.#write(other, chunk);
    }
  }

  #write(to: Socket<Half>, chunk: Buffer): void {
    const { waiting } = to.data;
    if (waiting.length > 0) return void waiting.push(chunk);
    const taken = Math.max(0, to.write(chunk));
    if (taken < chunk.length) {
      waiting.push(chunk.subarray(taken));
      to.data.other?.pause();
    }
  }

  #drain(socket: Socket<Half>): void {
    if (socket.data.other === null) return;
    for (const chunk of socket.data.waiting.splice(0)) this.#write(socket, chunk);
    if (socket.data.waiting.length === 0) socket.data.other.resume();
  }

  #closed(socket: Socket<Half>): void {
    this.#open.delete(socket);
    socket.data.other?.end();
  }
}
