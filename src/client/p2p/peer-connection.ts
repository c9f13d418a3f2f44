import type { TLSSocket } from "node:tls";
import { PRIVATE_LINE_BYTES_MAX, PRIVATE_UNSENT_BYTES_MAX } from "../../limits.ts";
import { decode, encodeText } from "../event.ts";
import { ChatError } from "../errors.ts";
import { LineSplitter } from "../line-splitter.ts";
import { resolvesWithin } from "../timing.ts";

/** How long the peer may take to close its side after `end`. */
const CLOSE_TIMEOUT_MS = 1_000;
/** How long a write may wait for a peer that does not read. */
const SEND_TIMEOUT_MS = 10_000;
const KEEP_ALIVE_MS = 15_000;

/** A TLS connection between two clients, as lines of text. The owner authenticates the peer. */
export class PeerConnection {
  /** The lines of the peer. Ends when the connection does. Too long lines are skipped. */
  readonly lines: AsyncGenerator<string, void>;
  readonly closed: Promise<void>;
  readonly #socket: TLSSocket;

  constructor(socket: TLSSocket) {
    this.#socket = socket;
    this.closed = new Promise((resolve) => socket.once("close", () => resolve()));
    socket.on("error", () => {}); // Each error closes the connection, which `closed` reports.
    socket.setKeepAlive(true, KEEP_ALIVE_MS);
    this.lines = this.#read();
  }

  /** The certificate whose key the peer has proved to have, as base64; empty without one. */
  get key(): string {
    return this.#socket.getPeerCertificate()?.raw?.toString("base64") ?? "";
  }

  async *#read(): AsyncGenerator<string, void> {
    const reader = new LineSplitter(PRIVATE_LINE_BYTES_MAX);
    try {
      for await (const chunk of this.#socket) {
        reader.feed(chunk as Buffer);
        while (reader.next()) if (!reader.isTooLong) yield decode(reader.bytes, reader.start, reader.end);
      }
    } catch {
      // A broken connection ends the lines like a closed one.
    }
  }

  /**
   * Sends a line, given without LF. Resolves when the kernel has it. Rejects with `line_too_long`, or with `gone` when
   * the connection has ended or the peer does not read.
   */
  send(line: string): Promise<void> {
    const socket = this.#socket;
    return new Promise((resolve, reject) => {
      const bytes = encodeText(`${line}\n`);
      if (bytes.length > PRIVATE_LINE_BYTES_MAX) {
        const why = `${bytes.length} bytes are more than the ${PRIVATE_LINE_BYTES_MAX} of a line; send less at once`;
        return reject(new ChatError("line_too_long", why));
      }
      const isStuck = socket.writableLength > PRIVATE_UNSENT_BYTES_MAX;
      if (!socket.writable || isStuck) return reject(new ChatError("gone"));
      const deadline = setTimeout(() => this.destroy(), SEND_TIMEOUT_MS);
      socket.write(bytes, (error) => {
        clearTimeout(deadline);
        if (error == null) resolve();
        else reject(new ChatError("gone"));
      });
    });
  }

  /** Closes the connection after everything was sent. */
  async end(): Promise<void> {
    this.#socket.end();
    await resolvesWithin(CLOSE_TIMEOUT_MS, this.closed);
    this.destroy();
  }

  /** Closes the connection at once. */
  destroy(): void {
    this.#socket.destroy();
  }
}
