import type { Socket } from "bun";
import { SERVER_LINE_BYTES_MAX } from "../limits.ts";
import { encode } from "../protocol/ascii.ts";
import { LineReader } from "../protocol/line-reader.ts";
import { Outbox } from "../protocol/outbox.ts";
import { LoopTurn, type Sink } from "../protocol/turn.ts";

/** All links of a process end their turns together. */
const turn = new LoopTurn();

/** What a link tells. */
export interface LinkListener {
  /** A line bytes[start..end), valid during the call, of which `lineBytes` came. */
  line(bytes: Uint8Array, start: number, end: number, lineBytes: number): void;
  /** Lines were told, or something is about to be sent: what must be kept is kept now. */
  checkpoint(): void;
  /** Once, whoever closed it. */
  closed(link: Link): void;
}

/** A connection to a server, seen from the client: lines in, lines out, one write a turn. */
export class Link implements Sink {
  readonly #listener: LinkListener;
  readonly #reader = new LineReader(SERVER_LINE_BYTES_MAX);
  readonly #outbox = new Outbox(turn, true);
  #socket: Socket<undefined> | null = null;
  #full = false;
  #closing = false;

  private constructor(listener: LinkListener) {
    this.#listener = listener;
    this.#outbox.sink = this;
  }

  /** Connects; rejects with the system's error (`code` tells which) when nobody answers there. */
  static async connect(host: string, port: number, listener: LinkListener): Promise<Link> {
    const link = new Link(listener);
    await Bun.connect({
      hostname: host,
      port,
      socket: {
        open: (socket) => {
          link.#socket = socket;
        },
        data: (_socket, chunk) => link.#read(chunk),
        drain: () => link.#drain(),
        close: () => link.#closed(),
        connectError: () => {},
      },
    });
    if (link.#closing) throw new Error("the connection was closed at once");
    return link;
  }

  /** Sends a line, given without its end. */
  send(line: string): void {
    this.#outbox.append(encode(`${line}\n`));
  }

  close(): void {
    this.#closing = true;
    this.#socket?.end();
  }

  #read(chunk: Buffer): void {
    this.#reader.feed(chunk);
    while (!this.#closing && this.#reader.next()) {
      if (this.#reader.tooLong) return this.close();
      const { bytes, start, end, lineBytes } = this.#reader;
      this.#listener.line(bytes, start, end, lineBytes);
    }
    this.#listener.checkpoint();
  }

  #drain(): void {
    this.#full = false;
    this.#outbox.touch();
  }

  flush(): void {
    this.#listener.checkpoint();
    while (this.#socket !== null && !this.#full && this.#outbox.peek()) {
      const count = this.#outbox.pieceEnd - this.#outbox.pieceStart;
      const taken = this.#socket.write(this.#outbox.piece, this.#outbox.pieceStart, count);
      if (taken < 0) return this.close();
      this.#outbox.took(taken);
      this.#full = taken < count;
    }
  }

  #closed(): void {
    this.#closing = true;
    this.#socket = null;
    this.#listener.closed(this);
  }
}
