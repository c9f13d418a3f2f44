import type { TLSSocket } from "node:tls";
import { PRIVATE_LINE_BYTES_MAX, PRIVATE_UNSENT_BYTES_MAX } from "../../limits.ts";
import { LineReader } from "../../protocol/line-reader.ts";
import { decode, encodeText } from "../event.ts";
import { ChatError } from "../errors.ts";

/** How long the other side may take to close a connection that was ended in good order. */
const FAREWELL_MS = 1_000;
/** How long the other side may leave something unread that does not fit into the kernels any more. */
const SEND_MS = 10_000;
const KEEP_ALIVE_MS = 15_000;

/** A connection from client to client, as lines of text. Who is at its other end, the owner has to find out. */
export class PeerConnection {
  readonly lines: AsyncGenerator<string, void>;
  readonly closed: Promise<void>;
  readonly #socket: TLSSocket;

  constructor(socket: TLSSocket) {
    this.#socket = socket;
    this.closed = new Promise((resolve) => socket.once("close", () => resolve()));
    socket.on("error", () => {}); // Whatever it was, it closes the connection, and that is heard of.
    socket.setKeepAlive(true, KEEP_ALIVE_MS);
    this.lines = this.#read();
  }

  /** The certificate that the other side has shown the key of, as base64; empty when it has shown none. */
  get key(): string {
    return this.#socket.getPeerCertificate()?.raw?.toString("base64") ?? "";
  }

  /** Line after line; it ends with the connection, however that ends. Longer lines than allowed are skipped. */
  async *#read(): AsyncGenerator<string, void> {
    const reader = new LineReader(PRIVATE_LINE_BYTES_MAX);
    try {
      for await (const chunk of this.#socket) {
        reader.feed(chunk as Buffer);
        while (reader.next()) if (!reader.tooLong) yield decode(reader.bytes, reader.start, reader.end);
      }
    } catch {
      // A connection that breaks is one that ends.
    }
  }

  /**
   * Resolves when this machine has sent it. Rejects with `line_too_long`, or with `gone` when the connection has ended:
   * also because the other side does not read, for which it has a while.
   */
  send(line: string): Promise<void> {
    const socket = this.#socket;
    return new Promise((resolve, reject) => {
      const bytes = encodeText(`${line}\n`);
      if (bytes.length > PRIVATE_LINE_BYTES_MAX) return reject(new ChatError("line_too_long"));
      const isStuck = socket.writableLength > PRIVATE_UNSENT_BYTES_MAX;
      if (!socket.writable || isStuck) return reject(new ChatError("gone"));
      const late = setTimeout(() => this.cut(), SEND_MS);
      socket.write(bytes, (error) => {
        clearTimeout(late);
        if (error == null) resolve();
        else reject(new ChatError("gone"));
      });
    });
  }

  /** Ends it when everything was sent. */
  async end(): Promise<void> {
    this.#socket.end();
    await Promise.race([this.closed, Bun.sleep(FAREWELL_MS)]);
    this.cut();
  }

  cut(): void {
    this.#socket.destroy();
  }
}
