import type { Socket } from "bun";
import { SERVER_LINE_BYTES_MAX } from "../limits.ts";
import { isThisMachine, nameInCertificate, readHost } from "../runtime/host.ts";
import { LineReader } from "../protocol/line-reader.ts";
import { RECEIVED_CHUNKS } from "../runtime/received-chunk.ts";
import { Outbox } from "../stream/outbox.ts";
import { SocketWriter } from "../stream/socket-writer.ts";
import { LoopTurn, type Sink } from "../stream/turn.ts";
import { encodeText } from "./event.ts";
import { ChatError } from "./errors.ts";
import type { HostAddresses } from "./host-addresses.ts";
import { refusalIn } from "./reply.ts";
import { NO_REPLY, REPLY_TIMEOUT_MS } from "./retry.ts";
import type { ServerAddress } from "./session.ts";
import { handshakeFailure } from "./handshake.ts";

/** First byte of the alert that a TLS server sends after plain text. No line begins with it. */
const TLS_ALERT = 0x15;

/** All connections of a process share a turn, so each is written once per turn. */
const turn = new LoopTurn();

/** Calls from a connection to its owner. */
export interface ConnectionListener {
  /** A line bytes[start..end), valid during the call. `lineBytes` counts its bytes with the line end. */
  line(bytes: Uint8Array, start: number, end: number, lineBytes: number): void;
  /** Lines were read, or bytes are about to be sent: the state must be saved before this returns. */
  checkpoint(): void;
  /** The connection is closed, by either side. Called once. */
  closed(connection: ServerConnection): void;
}

/** A connection to a server, over TCP or TLS: reads lines, and writes what was sent once per turn. */
export class ServerConnection implements Sink {
  readonly #listener: ConnectionListener;
  readonly #addresses: HostAddresses;
  #remoteAddress = "";
  #firstLine: "not expected" | "expected" | "read" = "not expected";
  readonly #reader = new LineReader(SERVER_LINE_BYTES_MAX, RECEIVED_CHUNKS);
  readonly #outbox = new Outbox(turn, true);
  #socket: Socket<undefined> | null = null;
  /** Null before the socket is open, and when it is closed. */
  #writer: SocketWriter | null = null;
  #isClosing = false;
  #isPaused = false;
  /** Whether the first byte of the server was a TLS alert; null before the first byte. */
  speaksTls: boolean | null = null;

  private constructor(listener: ConnectionListener, addresses: HostAddresses) {
    this.#listener = listener;
    this.#addresses = addresses;
    this.#outbox.sink = this;
  }

  /**
   * Connects. Rejects with the system's error (such as `code` "ECONNREFUSED"), with `untrusted`, or with `closed`. The
   * caller gets the connection after the TLS handshake, so nothing is sent before it.
   */
  static async connect(address: ServerAddress, listener: ConnectionListener): Promise<ServerConnection> {
    const { host, port, tls, connected, addresses } = address;
    const target = await addresses.next();
    const connection = new ServerConnection(listener, addresses);
    const ready = Promise.withResolvers<void>();
    const hint = tls === false ? "" : "; perhaps there is no TLS at that port";
    const timeout = new ChatError("closed", `${NO_REPLY}${hint}`);
    const deadline = setTimeout(() => ready.reject(timeout), REPLY_TIMEOUT_MS);
    try {
      const hostname = readHost(target);
      const serverName = nameInCertificate(readHost(host));
      const opened = Bun.connect({
        hostname,
        port,
        // Explicit, because an environment variable can turn the default off.
        tls: tls === false ? undefined : { ...(tls === true ? {} : tls), serverName, rejectUnauthorized: true },
        socket: {
          open: (socket) => {
            if (connection.#isClosing) return void socket.end();
            connection.#socket = socket;
            connection.#writer = new SocketWriter(socket);
            const { localAddress, remoteAddress } = socket;
            connection.#remoteAddress = remoteAddress;
            connected?.(localAddress, isThisMachine(localAddress, remoteAddress));
            if (tls === false) ready.resolve();
          },
          handshake: (socket, isTrusted, error) => {
            if (isTrusted) ready.resolve();
            // When the connection ended during the handshake, `close` follows and rejects.
            else if ((error as NodeJS.ErrnoException).code !== "ECONNRESET")
              ready.reject(handshakeFailure(address, socket, error));
          },
          data: (_socket, chunk) => connection.#read(chunk),
          drain: () => connection.#drain(),
          close: () => {
            ready.reject(new ChatError("closed", `the connection was closed at once${hint}`));
            connection.#closed();
          },
          connectError: () => {},
        },
      });
      await Promise.all([opened, ready.promise]);
    } catch (error) {
      if (target !== host) addresses.refused(target);
      connection.close();
      throw error;
    } finally {
      clearTimeout(deadline);
    }
    if (connection.#isClosing) throw new ChatError("closed", "the connection was closed at once");
    return connection;
  }

  /** Sends a line, given without LF, at the end of the turn. */
  send(line: string): void {
    if (this.#firstLine === "not expected") this.#firstLine = "expected";
    this.#outbox.append(encodeText(`${line}\n`));
  }

  close(): void {
    this.#isClosing = true;
    this.#socket?.end();
  }

  /** Whether reading is paused. */
  get isPaused(): boolean {
    return this.#isPaused;
  }

  /** Pauses or resumes reading. While it is paused the kernel buffers fill up, and the server waits. */
  set isPaused(isPaused: boolean) {
    if (isPaused === this.#isPaused || this.#isClosing) return;
    this.#isPaused = isPaused;
    if (isPaused) this.#socket?.pause();
    else this.#socket?.resume();
  }

  #read(chunk: Buffer): void {
    this.speaksTls ??= chunk[0] === TLS_ALERT;
    this.#reader.feed(chunk);
    while (!this.#isClosing && this.#reader.next()) {
      if (this.#reader.tooLong) return this.close();
      const { bytes, start, end, lineBytes } = this.#reader;
      if (this.#firstLine !== "read") this.#readFirst(bytes, start, end);
      this.#listener.line(bytes, start, end, lineBytes);
    }
    this.#listener.checkpoint();
  }

  #readFirst(bytes: Uint8Array, start: number, end: number): void {
    this.#firstLine = "read";
    const isBusy = refusalIn(bytes, start, end)?.code === "busy";
    if (isBusy) this.#addresses.refused(this.#remoteAddress);
    else this.#addresses.accepted(this.#remoteAddress);
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
    if (this.#firstLine === "expected") this.#addresses.refused(this.#remoteAddress);
    this.#isClosing = true;
    this.#socket = this.#writer = null;
    this.#listener.closed(this);
  }
}
