import { encodeText } from "./event.ts";
import { ChatError } from "./errors.ts";
import { LineSplitter } from "./line-splitter.ts";
import { refusalIn } from "./reply.ts";
import { NO_REPLY, REPLY_TIMEOUT_MS } from "./retry.ts";
import type { SessionOptions } from "./session.ts";
import { later } from "./timing.ts";
import type { Transport } from "./transport.ts";

/** First byte of the alert that a TLS server sends after plain text. No line begins with it. */
const TLS_ALERT = 0x15;

/** Calls from a connection to its owner. */
export interface ConnectionListener {
  /** A line bytes[start..end), valid during the call. `lineBytes` counts its bytes with the line end. */
  line(bytes: Uint8Array, start: number, end: number, lineBytes: number): void;
  /** Saves the state, after lines were read and before lines are written. The promise resolves when it is saved. */
  checkpoint(): Promise<void> | null;
  /** The turn ends: returns the lines to write, each with LF. They are written when the state is saved. */
  flush(): string;
  /** The connection is closed, by either side. Called once. */
  closed(connection: ServerConnection): void;
}

/** A connection to a server: reads lines, and writes once per turn. */
export class ServerConnection {
  readonly #listener: ConnectionListener;
  readonly #reader = new LineSplitter();
  /** Null before the connection is open, and when it is closed. */
  #transport: Transport | null = null;
  #firstLine: "not expected" | "expected" | "read" = "not expected";
  #isFlushScheduled = false;
  #isClosing = false;
  #isPaused = false;
  /** Whether the first byte of the server was a TLS alert; null before the first byte. */
  speaksTls: boolean | null = null;

  private constructor(listener: ConnectionListener) {
    this.#listener = listener;
  }

  /** Connects. Rejects as `OpenTransport` does, with `signal` or without it, and with `closed` after a timeout. */
  static async connect(
    { open, ...address }: SessionOptions,
    listener: ConnectionListener,
    signal?: AbortSignal,
  ): Promise<ServerConnection> {
    signal?.throwIfAborted();
    const connection = new ServerConnection(listener);
    const abort = new AbortController();
    const onAbort = (): void => abort.abort(signal?.reason);
    signal?.addEventListener("abort", onAbort);
    const hint = address.tls === false ? "" : "; perhaps there is no TLS at that port";
    const timeout = new ChatError("closed", `${NO_REPLY}${hint}`);
    const deadline = setTimeout(() => abort.abort(timeout), REPLY_TIMEOUT_MS);
    const transportListener = {
      data: (chunk: Uint8Array) => connection.#read(chunk),
      closed: () => connection.#closed(),
    };
    try {
      connection.#transport = await open(address, transportListener, abort.signal);
    } finally {
      clearTimeout(deadline);
      signal?.removeEventListener("abort", onAbort);
    }
    if (connection.#isClosing) throw new ChatError("closed", "the connection was closed at once");
    return connection;
  }

  /** The owner has something to write: `flush` is called at the end of the turn. */
  markDirty(): void {
    if (this.#isFlushScheduled || this.#isClosing) return;
    this.#isFlushScheduled = true;
    later(() => this.#flush());
  }

  close(): void {
    this.#isClosing = true;
    this.#transport?.close();
  }

  /**
   * Closes a connection that does not answer, and drops what was not sent. A login that arrives after the next one
   * would end the session of that one.
   */
  abandon(): void {
    this.#isClosing = true;
    this.#transport?.abandon();
  }

  /** Whether it is neither closed nor about to be. */
  get isOpen(): boolean {
    return !this.#isClosing;
  }

  /** Whether reading is paused. */
  get isPaused(): boolean {
    return this.#isPaused;
  }

  /** Pauses or resumes reading. While it is paused the buffers of the network fill up, and the server waits. */
  set isPaused(isPaused: boolean) {
    if (isPaused === this.#isPaused || this.#isClosing) return;
    this.#isPaused = isPaused;
    if (isPaused) this.#transport?.pause();
    else this.#transport?.resume();
  }

  #read(chunk: Uint8Array): void {
    if (this.#isClosing) return;
    this.speaksTls ??= chunk[0] === TLS_ALERT;
    this.#reader.feed(chunk);
    while (!this.#isClosing && this.#reader.next()) {
      if (this.#reader.isTooLong) return this.close();
      const { bytes, start, end, lineBytes } = this.#reader;
      if (this.#firstLine !== "read") this.#readFirst(bytes, start, end);
      this.#listener.line(bytes, start, end, lineBytes);
    }
    this.#listener.checkpoint();
  }

  #readFirst(bytes: Uint8Array, start: number, end: number): void {
    this.#firstLine = "read";
    this.#transport?.verdict(refusalIn(bytes, start, end)?.code !== "busy");
  }

  #flush(): void {
    this.#isFlushScheduled = false;
    if (this.#isClosing) return;
    const lines = this.#listener.flush();
    if (lines === "") return;
    const saving = this.#listener.checkpoint();
    if (saving === null) this.#write(lines);
    else void saving.then(() => this.#write(lines));
  }

  #write(lines: string): void {
    if (this.#isClosing) return;
    if (this.#firstLine === "not expected") this.#firstLine = "expected";
    this.#transport?.write(encodeText(lines));
  }

  #closed(): void {
    if (this.#firstLine === "expected") this.#transport?.verdict(false);
    this.#isClosing = true;
    this.#transport = null;
    this.#listener.closed(this);
  }
}
