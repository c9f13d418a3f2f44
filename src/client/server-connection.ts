import type { Socket } from "bun";
import { SERVER_LINE_BYTES_MAX } from "../limits.ts";
import { isThisMachine, nameInCertificate, readHost } from "../runtime/host.ts";
import { LineReader } from "../protocol/line-reader.ts";
import { RECEIVED_CHUNKS } from "../runtime/received-chunk.ts";
import { Outbox } from "../stream/outbox.ts";
import { SocketWriter } from "../stream/socket-writer.ts";
import { LoopTurn, type Sink } from "../stream/turn.ts";
import { encodeText } from "./event.ts";
import { ANSWER_MS, type Address, ChatError, NO_ANSWER } from "./request.ts";
import { handshakeFailure } from "./handshake.ts";

/** The first byte of what TLS answers to anything else. No line begins with it. */
const TLS_ALERT = 0x15;

/** All links of a process end their turns together. */
const turn = new LoopTurn();

/** What a link tells. */
export interface LinkListener {
  /** A line bytes[start..end), valid during the call, of which `lineBytes` came. */
  line(bytes: Uint8Array, start: number, end: number, lineBytes: number): void;
  /** Lines were told, or something is about to be sent: what must be kept is kept now. */
  checkpoint(): void;
  /** Once, whoever closed it. */
  closed(link: ServerConnection): void;
}

/** A connection to a server, seen from the client: lines in, lines out, one write a turn. */
export class ServerConnection implements Sink {
  readonly #listener: LinkListener;
  readonly #reader = new LineReader(SERVER_LINE_BYTES_MAX, RECEIVED_CHUNKS);
  readonly #outbox = new Outbox(turn, true);
  #socket: Socket<undefined> | null = null;
  #writer: SocketWriter | null = null;
  #closing = false;
  #isPaused = false;
  /** Whether an alert of TLS was what it answered, instead of lines; null before it has said anything. */
  speaksTls: boolean | null = null;

  private constructor(listener: LinkListener) {
    this.#listener = listener;
    this.#outbox.sink = this;
  }

  /**
   * Connects. Rejects with the system's error (`code` tells which) when nobody listens there, with `untrusted`, or with
   * `closed`; a link that nobody has yet writes nothing, so that nothing leaves before a handshake is done.
   */
  static async connect({ host, port, tls, connected }: Address, listener: LinkListener): Promise<ServerConnection> {
    const link = new ServerConnection(listener);
    const ready = Promise.withResolvers<void>();
    const hint = tls === false ? "" : "; perhaps there is no TLS at that port";
    const late = new ChatError("closed", `${NO_ANSWER}${hint}`);
    const deadline = setTimeout(() => ready.reject(late), ANSWER_MS);
    try {
      const hostname = readHost(host);
      const serverName = nameInCertificate(hostname);
      const opened = Bun.connect({
        hostname,
        port,
        // Not the default for what is not authorized: an environment variable may turn that off.
        tls: tls === false ? undefined : { ...(tls === true ? {} : tls), serverName, rejectUnauthorized: true },
        socket: {
          open: (socket) => {
            if (link.#closing) return void socket.end();
            link.#socket = socket;
            link.#writer = new SocketWriter(socket);
            const { localAddress, remoteAddress } = socket;
            connected?.(localAddress, isThisMachine(localAddress, remoteAddress));
            if (tls === false) ready.resolve();
          },
          handshake: (socket, isTrusted, error) => {
            if (isTrusted) ready.resolve();
            // An end in the middle of it is told by `close`.
            else if ((error as NodeJS.ErrnoException).code !== "ECONNRESET")
              ready.reject(handshakeFailure({ host, port, tls }, socket, error));
          },
          data: (_socket, chunk) => link.#read(chunk),
          drain: () => link.#drain(),
          close: () => {
            ready.reject(new ChatError("closed", `the connection was closed at once${hint}`));
            link.#closed();
          },
          connectError: () => {},
        },
      });
      await Promise.all([opened, ready.promise]);
    } catch (error) {
      link.close();
      throw error;
    } finally {
      clearTimeout(deadline);
    }
    if (link.#closing) throw new ChatError("closed", "the connection was closed at once");
    return link;
  }

  /** Sends a line, given without its end. */
  send(line: string): void {
    this.#outbox.append(encodeText(`${line}\n`));
  }

  close(): void {
    this.#closing = true;
    this.#socket?.end();
  }

  /** Whether reading is paused. */
  get isPaused(): boolean {
    return this.#isPaused;
  }

  /** Pauses or resumes reading. While it is paused the kernel buffers fill up, and the server waits. */
  set isPaused(isPaused: boolean) {
    if (isPaused === this.#isPaused || this.#closing) return;
    this.#isPaused = isPaused;
    if (isPaused) this.#socket?.pause();
    else this.#socket?.resume();
  }

  #read(chunk: Buffer): void {
    this.speaksTls ??= chunk[0] === TLS_ALERT;
    this.#reader.feed(chunk);
    while (!this.#closing && this.#reader.next()) {
      if (this.#reader.tooLong) return this.close();
      const { bytes, start, end, lineBytes } = this.#reader;
      this.#listener.line(bytes, start, end, lineBytes);
    }
    this.#listener.checkpoint();
  }

  #drain(): void {
    if (this.#writer !== null) this.#writer.isFull = false;
    this.#outbox.markDirty();
  }

  flush(): void {
    this.#listener.checkpoint();
    if (this.#writer?.write(this.#outbox) === false) this.close();
  }

  #closed(): void {
    this.#closing = true;
    this.#socket = this.#writer = null;
    this.#listener.closed(this);
  }
}
